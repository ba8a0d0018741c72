//! Sessions.
#![forbid(unsafe_code)]

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use super::answer::{Detail, Trouble};
use super::fields;
use super::ships::ExtendTtl;
use crate::serve::fleet::Fleet;
use crate::serve::fleet::view::SessionView;
use crate::serve::problem::Problem;

/// Sessions.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Sessions {
    /// Newest first.
    sessions: Vec<SessionView>,
    total: usize,
}

/// The sessions of a ship.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ShipSessions {
    #[schema(format = "uuid")]
    ship_id: String,
    /// Newest first.
    sessions: Vec<SessionView>,
    total: usize,
}

/// Lists all sessions that are remembered.
#[utoipa::path(get, path = "/sessions", tag = "sessions", responses((status = 200, body = Sessions, description = "All sessions")))]
pub(super) async fn list(State(fleet): State<Arc<Fleet>>) -> Json<Sessions> {
    let sessions = fleet.sessions();
    Json(Sessions { total: sessions.len(), sessions })
}

/// Shows a session; where it has been on several ships, where it is or was last.
#[utoipa::path(get, path = "/sessions/{session_id}", tag = "sessions", params(("session_id" = String, Path, description = "The session")),
    responses((status = 200, body = SessionView, description = "The session"), (status = 404, body = Detail, description = "Session not found")))]
pub(super) async fn get(
    State(fleet): State<Arc<Fleet>>,
    Path(name): Path<String>,
) -> Result<Json<SessionView>, Trouble> {
    Ok(Json(fleet.session(&name)?))
}

/// Lists the sessions of a ship.
#[utoipa::path(get, path = "/ship/{ship_id}/sessions", tag = "sessions", params(("ship_id" = String, Path, description = "The ship")),
    responses((status = 200, body = ShipSessions, description = "Its sessions"), (status = 404, body = Detail, description = "Ship not found")))]
pub(super) async fn of_ship(
    State(fleet): State<Arc<Fleet>>,
    Path(id): Path<String>,
) -> Result<Json<ShipSessions>, Trouble> {
    let sessions = fleet.sessions_of(&id)?;
    Ok(Json(ShipSessions { ship_id: id, total: sessions.len(), sessions }))
}

/// Lets a session stay for so long from now.
#[utoipa::path(post, path = "/sessions/{session_id}/extend-ttl", tag = "sessions", request_body = ExtendTtl,
    params(("session_id" = String, Path, description = "The session")),
    responses((status = 200, body = SessionView, description = "The session"), (status = 400, body = Detail, description = "TTL must be greater than 0"), (status = 404, body = Detail, description = "Session not found, or expired")))]
pub(super) async fn extend(
    State(fleet): State<Arc<Fleet>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<SessionView>, Trouble> {
    let body = fields::read(&headers, body).await?;
    // The only place where the original has another status for it.
    if body.as_ref().and_then(|body| body["ttl"].as_f64()).is_some_and(|ttl| ttl <= 0.0) {
        return Err(Problem::new(400, "TTL must be greater than 0").into());
    }
    let ttl = fields::ttl(body)?;
    Ok(Json(fleet.extend_session(&name, ttl).await?))
}

/// Ends a session: its processes end, what it has written stays on its ship. A ship that nobody else is aboard of is stopped.
#[utoipa::path(delete, path = "/sessions/{session_id}", tag = "sessions", params(("session_id" = String, Path, description = "The session")),
    responses((status = 204, description = "It is ended"), (status = 404, body = Detail, description = "Session not found")))]
pub(super) async fn delete(
    State(fleet): State<Arc<Fleet>>,
    Path(name): Path<String>,
) -> Result<StatusCode, Trouble> {
    fleet.delete_session(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}
