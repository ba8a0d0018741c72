//! Requests and answers.
#![forbid(unsafe_code)]

mod about;
mod answer;
mod docs;
mod exec;
mod fields;
mod files;
mod guard;
mod history;
mod openapi;
mod page;
mod sessions;
mod ships;
mod terminal;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use axum::routing::{any, delete, get, post};

use super::fleet::Fleet;
use super::problem::Problem;
use answer::Trouble;
use guard::Guard;
pub(super) use guard::{Hosts, TwoLengths};

/// Everything that is answered.
pub(super) fn router(fleet: &Arc<Fleet>, hosts: Hosts) -> Router {
    let guard = Arc::new(Guard::new(hosts, fleet.config()));
    Router::new()
        .merge(protected().route_layer(from_fn_with_state(Arc::clone(fleet), guard::token)))
        .merge(open())
        .fallback(async || Trouble::from(Problem::new(404, "Not Found")))
        .method_not_allowed_fallback(async || Trouble::from(Problem::new(405, "Method Not Allowed")))
        // The files of uploads are counted where they are written.
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn_with_state(guard, guard::check))
        .layer(from_fn_with_state(Arc::clone(fleet), guard::tell))
        .with_state(Arc::clone(fleet))
}

/// What needs no token.
fn open() -> Router<Arc<Fleet>> {
    Router::new()
        .route("/", get(page::root))
        .route("/page/{name}", get(page::part))
        .route("/health", get(about::health))
        .route("/stat", get(about::stat))
        .route("/openapi.json", get(openapi::document))
        .route("/docs", get(docs::page))
        // Browsers cannot give a token but in the address.
        .route("/ship/{ship_id}/term", get(terminal::connect))
}

/// What needs one.
fn protected() -> Router<Arc<Fleet>> {
    Router::new()
        .route("/stat/overview", get(about::overview))
        .route("/metrics", get(about::metrics))
        .route("/ships", get(ships::list))
        .route("/ship", post(ships::create))
        .route("/ship/{ship_id}", get(ships::get).delete(ships::delete))
        .route("/ship/{ship_id}/permanent", delete(ships::delete_for_ever))
        .route("/ship/{ship_id}/start", post(ships::start))
        .route("/ship/{ship_id}/extend-ttl", post(ships::extend))
        .route("/ship/logs/{ship_id}", get(ships::logs))
        .route("/ship/{ship_id}/exec", post(exec::exec))
        .route("/ship/{ship_id}/api/upload", post(files::upload_directly))
        .route("/ship/{ship_id}/api/download", get(files::download_directly))
        .route("/ship/{ship_id}/api/shell/processes/{process_id}", delete(exec::kill))
        .route("/ship/{ship_id}/api", get(exec::greets))
        .route("/ship/{ship_id}/api/", get(exec::greets))
        .route("/ship/{ship_id}/api/{*operation}", any(exec::directly))
        .route("/ship/{ship_id}/upload", post(files::upload))
        .route("/ship/{ship_id}/download", get(files::download))
        .route("/ship/{ship_id}/sessions", get(sessions::of_ship))
        .route("/ship/{ship_id}/snapshots", get(history::list).post(history::create))
        .route("/ship/{ship_id}/snapshots/{snapshot_id}/restore", post(history::restore))
        .route("/ship/{ship_id}/fork", post(history::fork))
        .route("/ship/{ship_id}/diff", get(history::diff))
        .route("/sessions", get(sessions::list))
        .route("/sessions/{session_id}", get(sessions::get).delete(sessions::delete))
        .route("/sessions/{session_id}/extend-ttl", post(sessions::extend))
}

/// A status that is one of ours.
fn status(number: u16) -> StatusCode {
    StatusCode::from_u16(number).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}
