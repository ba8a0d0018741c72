//! Snapshots, forks and changes of ships.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::json;
use utoipa::ToSchema;

use super::answer::{Detail, Trouble};
use super::fields::{self, Fields, Invalid};
use crate::serve::fleet::view::ShipView;
use crate::serve::fleet::{ChangesView, Fleet, ForkAsk, SnapshotView, SnapshotsView};
use crate::serve::problem::Problem;

/// Characters of a message.
const LONGEST_MESSAGE: usize = 4096;
/// Changes that are told, unless fewer are asked for.
const MOST_CHANGES: usize = 10_000;

/// A snapshot to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "it is read field by field, and described by this")]
pub(super) struct CreateSnapshot {
    /// What to say about it.
    #[schema(max_length = 4096)]
    message: Option<String>,
}

/// A ship to be made of another.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "it is read field by field, and described by this")]
pub(super) struct ForkShip {
    /// Seconds that the session has.
    #[schema(minimum = 1, maximum = 315_360_000)]
    ttl: u64,
    /// Sessions that may be aboard at once.
    #[schema(minimum = 1, maximum = 10_000, default = 1)]
    #[serde(default)]
    max_session_num: u32,
    /// The snapshot that it begins at; what the ship is now, if there is none.
    snapshot: Option<String>,
}

/// Makes a snapshot of what a ship is now; commands that run stand still meanwhile.
#[utoipa::path(post, path = "/ship/{ship_id}/snapshots", tag = "history", request_body(content = Option<CreateSnapshot>), params(("ship_id" = String, Path, description = "The ship")),
    responses((status = 201, body = SnapshotView, description = "The snapshot"), (status = 404, body = Detail, description = "Ship not found"), (status = 409, body = Detail, description = "It cannot be made now")))]
pub(super) async fn create(
    State(fleet): State<Arc<Fleet>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<SnapshotView>), Trouble> {
    let body = fields::read_or_empty(&headers, body).await?;
    let mut wrong = Invalid::default();
    let message = Fields::of(Some(body), &mut wrong).and_then(|mut fields| {
        let message = fields.optional_text("message");
        if let Some(long) = message.as_ref().filter(|text| text.chars().count() > LONGEST_MESSAGE) {
            let msg = format!("String should have at most {LONGEST_MESSAGE} characters");
            let ctx = json!({ "max_length": LONGEST_MESSAGE });
            fields.refuse("message", "string_too_long", &msg, &json!(long), Some(&ctx));
        }
        fields.end();
        message
    });
    wrong.check()?;
    Ok((StatusCode::CREATED, Json(fleet.snapshot(&id, message.unwrap_or_default()).await?)))
}

/// Lists the snapshots of a ship.
#[utoipa::path(get, path = "/ship/{ship_id}/snapshots", tag = "history", params(("ship_id" = String, Path, description = "The ship")),
    responses((status = 200, body = SnapshotsView, description = "Its snapshots"), (status = 404, body = Detail, description = "Ship not found")))]
pub(super) async fn list(
    State(fleet): State<Arc<Fleet>>,
    Path(id): Path<String>,
) -> Result<Json<SnapshotsView>, Trouble> {
    Ok(Json(fleet.snapshots(&id).await?))
}

/// Takes a ship back to a snapshot. What was written since is gone, what runs ends, sessions stay aboard.
#[utoipa::path(post, path = "/ship/{ship_id}/snapshots/{snapshot_id}/restore", tag = "history",
    params(("ship_id" = String, Path, description = "The ship"), ("snapshot_id" = String, Path, description = "The snapshot")),
    responses((status = 200, body = ShipView, description = "The ship"), (status = 404, body = Detail, description = "Ship or snapshot not found"), (status = 409, body = Detail, description = "Something else uses it")))]
pub(super) async fn restore(
    State(fleet): State<Arc<Fleet>>,
    Path((id, snapshot)): Path<(String, String)>,
) -> Result<Json<ShipView>, Trouble> {
    Ok(Json(fleet.rewind(&id, &snapshot).await?))
}

/// Makes a ship for the session that begins where another one is, or was. They do not depend on each other.
#[utoipa::path(post, path = "/ship/{ship_id}/fork", tag = "history", request_body = ForkShip,
    params(("ship_id" = String, Path, description = "The ship"), ("X-SESSION-ID" = String, Header, description = "The session", min_length = 1, max_length = 256, pattern = "^[!-~]([ -~]*[!-~])?$")),
    responses((status = 201, body = ShipView, description = "The new ship"), (status = 404, body = Detail, description = "Ship or snapshot not found"), (status = 408, body = Detail, description = "No ship has gone in time"), (status = 409, body = Detail, description = "It cannot be made now")))]
pub(super) async fn fork(
    State(fleet): State<Arc<Fleet>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<ShipView>), Trouble> {
    let body = fields::read(&headers, body).await?;
    let mut wrong = Invalid::default();
    let session = fields::session(&headers, &mut wrong);
    let ask = Fields::of(body, &mut wrong).map(|mut fields| {
        let (ttl, max_sessions) = (fields.ttl(None), fields.seats());
        let snapshot = fields.optional_text("snapshot");
        fields.end();
        ForkAsk { ttl, max_sessions, snapshot }
    });
    wrong.check()?;
    let ask = ask.ok_or_else(|| Problem::new(422, "Field required"))?;
    Ok((StatusCode::CREATED, Json(fleet.fork(&id, &session, ask).await?)))
}

/// Tells what changed on a ship, since its last snapshot unless told otherwise.
#[utoipa::path(get, path = "/ship/{ship_id}/diff", tag = "history",
    params(("ship_id" = String, Path, description = "The ship"), ("from" = Option<String>, Query, description = "A snapshot, `@image`, `@last` or `@now`; default: `@last`"), ("to" = Option<String>, Query, description = "Likewise; default: `@now`")),
    responses((status = 200, body = ChangesView, description = "What changed"), (status = 404, body = Detail, description = "Ship or snapshot not found"), (status = 409, body = Detail, description = "Something else changes it, or too much has changed")))]
pub(super) async fn diff(
    State(fleet): State<Arc<Fleet>>,
    Path(id): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Json<ChangesView>, Trouble> {
    let side = |name| query.get(name).map(String::as_str);
    Ok(Json(fleet.diff(&id, side("from"), side("to"), MOST_CHANGES).await?))
}
