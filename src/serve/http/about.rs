//! What the service says about itself.
#![forbid(unsafe_code)]

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::serve::fleet::Fleet;

/// Who clients of the original expect to talk to.
const SERVICE: &str = "bay";
const AUTHOR: &str = "AstrBot Team";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A status with a sentence.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Status {
    /// `ok`.
    status: &'static str,
    message: &'static str,
}

/// What this is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Stat {
    service: &'static str,
    version: &'static str,
    status: &'static str,
    author: &'static str,
}

/// How many ships there are.
#[derive(Debug, Serialize, ToSchema)]
struct ShipCounts {
    total: usize,
    running: usize,
    stopped: usize,
    creating: usize,
}

/// How many sessions there are.
#[derive(Debug, Serialize, ToSchema)]
struct SessionCounts {
    total: usize,
    active: usize,
}

/// What there is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Overview {
    service: &'static str,
    version: &'static str,
    status: &'static str,
    ships: ShipCounts,
    sessions: SessionCounts,
}

/// Greets.
#[utoipa::path(get, path = "/", tag = "service", responses((status = 200, body = Status, description = "It answers")))]
pub(super) async fn root() -> Json<Status> {
    Json(Status { status: "ok", message: "Welcome to Bay API" })
}

/// Says that it is there.
#[utoipa::path(get, path = "/health", tag = "service", responses((status = 200, body = Status, description = "It answers")))]
pub(super) async fn health() -> Json<Status> {
    Json(Status { status: "ok", message: "Bay service is running" })
}

/// Says what it is.
#[utoipa::path(get, path = "/stat", tag = "service", responses((status = 200, body = Stat, description = "What it is")))]
pub(super) async fn stat() -> Json<Stat> {
    Json(Stat { service: SERVICE, version: VERSION, status: "running", author: AUTHOR })
}

/// What a ship says that it is.
pub(super) fn of_ship() -> Value {
    json!({ "service": "ship", "version": VERSION, "status": "running", "author": AUTHOR })
}

/// Counts ships and sessions.
#[utoipa::path(get, path = "/stat/overview", tag = "service", responses((status = 200, body = Overview, description = "How many there are")))]
pub(super) async fn overview(State(fleet): State<Arc<Fleet>>) -> Json<Overview> {
    let counts = fleet.counts();
    let total = counts.running + counts.stopped + counts.creating;
    Json(Overview {
        service: SERVICE,
        version: VERSION,
        status: "running",
        ships: ShipCounts {
            total,
            running: counts.running,
            stopped: counts.stopped,
            creating: counts.creating,
        },
        sessions: SessionCounts { total: counts.sessions, active: counts.active },
    })
}

/// Counts for Prometheus, in the OpenMetrics format.
#[utoipa::path(get, path = "/metrics", tag = "service", responses((status = 200, body = String, content_type = "application/openmetrics-text", description = "Counters and gauges")))]
pub(super) async fn metrics(State(fleet): State<Arc<Fleet>>) -> impl IntoResponse {
    let text = fleet.metrics().text(fleet.counts(), fleet.pooled());
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
}
