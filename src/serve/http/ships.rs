//! Ships.
#![forbid(unsafe_code)]

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::answer::{Detail, Trouble};
use super::fields::{self, Fields, Invalid, SESSION};
use crate::serve::fleet::view::ShipView;
use crate::serve::fleet::{Ask, Fleet};
use crate::serve::problem::Problem;
use crate::serve::spec::{ShipSpec, parse_size, valid_cpus};

/// What a ship that is started again gets unless told otherwise, in seconds.
const DEFAULT_TTL: u64 = 3600;

/// A ship to be made, or found.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "it is read field by field, and described by this")]
pub(super) struct CreateShip {
    /// Seconds that the session has, and that each command gives it anew.
    #[schema(minimum = 1, maximum = 315_360_000)]
    ttl: u64,
    /// What it may use.
    #[schema(additional_properties = false)]
    spec: Option<ShipSpec>,
    /// Sessions that may be aboard at once.
    #[schema(minimum = 1, maximum = 10_000, default = 1)]
    #[serde(default)]
    max_session_num: u32,
    /// Make a new one in any case.
    #[serde(default)]
    #[schema(default = false)]
    force_create: bool,
}

/// More time.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "it is read field by field, and described by this")]
pub(super) struct ExtendTtl {
    /// Seconds from now.
    #[schema(minimum = 1, maximum = 315_360_000)]
    ttl: u64,
}

/// A ship to be started again.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "it is read field by field, and described by this")]
pub(super) struct StartShip {
    /// Seconds that those who were aboard get.
    #[schema(minimum = 1, maximum = 315_360_000, default = 3600)]
    #[serde(default)]
    ttl: u64,
}

/// What a ship logged.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Logs {
    logs: String,
}

/// Lists all ships, those that are stopped too, newest first.
#[utoipa::path(get, path = "/ships", tag = "ships", responses((status = 200, body = Vec<ShipView>, description = "All ships")))]
pub(super) async fn list(State(fleet): State<Arc<Fleet>>) -> Json<Vec<ShipView>> {
    Json(fleet.list())
}

/// Finds a ship for the session, or makes one: the one that it is aboard of; the one that it was aboard of, which is
/// started again; one with room; a new one.
#[utoipa::path(post, path = "/ship", tag = "ships", request_body = CreateShip,
    params(("X-SESSION-ID" = String, Header, description = "The session", min_length = 1, max_length = 256, pattern = "^[!-~]([ -~]*[!-~])?$")),
    responses((status = 201, body = ShipView, description = "The ship"), (status = 408, body = Detail, description = "No ship has gone in time")))]
pub(super) async fn create(
    State(fleet): State<Arc<Fleet>>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<ShipView>), Trouble> {
    let body = fields::read(&headers, body).await?;
    let mut wrong = Invalid::default();
    let session = fields::session(&headers, &mut wrong);
    let ask = Fields::of(body, &mut wrong).map(|mut fields| {
        let ttl = fields.ttl(None);
        let spec = fields.within("spec", spec);
        let max_sessions = fields.seats();
        let new = fields.boolean("force_create", false);
        fields.end();
        Ask { ttl, spec, max_sessions, new }
    });
    wrong.check()?;
    // Nothing is wrong, so it was there.
    let ask = ask.ok_or_else(|| Problem::new(422, "Field required"))?;
    Ok((StatusCode::CREATED, Json(fleet.create(&session, ask).await?)))
}

fn spec(fields: &mut Fields<'_>) -> ShipSpec {
    let cpus = fields.number("cpus");
    if let Some(cpus) = cpus.filter(|cpus| !valid_cpus(*cpus)) {
        let (kind, msg, ctx) = match cpus > 0.0 {
            true => ("less_than_equal", "Input should be less than or equal to 4096", json!({ "le": 4096 })),
            false => ("greater_than", "Input should be greater than 0", json!({ "gt": 0 })),
        };
        fields.refuse("cpus", kind, msg, &json!(cpus), Some(&ctx));
    }
    let mut size = |name| {
        let text = fields.optional_text(name);
        if let Some(text) = text.as_deref().filter(|text| parse_size(text).is_none()) {
            let msg = "Value error, a size is a number with a unit, such as 512m or 1g";
            fields.refuse(name, "value_error", msg, &json!(text), None);
        }
        text
    };
    let (memory, disk) = (size("memory"), size("disk"));
    ShipSpec { cpus, memory, disk }
}

/// Shows a ship.
#[utoipa::path(get, path = "/ship/{ship_id}", tag = "ships", params(("ship_id" = String, Path, description = "The ship")),
    responses((status = 200, body = ShipView, description = "The ship"), (status = 404, body = Detail, description = "Ship not found")))]
pub(super) async fn get(
    State(fleet): State<Arc<Fleet>>,
    Path(id): Path<String>,
) -> Result<Json<ShipView>, Trouble> {
    Ok(Json(fleet.get(&id).ok_or_else(Problem::no_ship)?))
}

/// Stops a ship. What was written is kept, and is there when it is started again.
#[utoipa::path(delete, path = "/ship/{ship_id}", tag = "ships", params(("ship_id" = String, Path, description = "The ship")),
    responses((status = 204, description = "It is stopped"), (status = 404, body = Detail, description = "Ship not found")))]
pub(super) async fn delete(
    State(fleet): State<Arc<Fleet>>,
    Path(id): Path<String>,
) -> Result<StatusCode, Trouble> {
    fleet.delete(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Deletes a ship with everything that was written.
#[utoipa::path(delete, path = "/ship/{ship_id}/permanent", tag = "ships", params(("ship_id" = String, Path, description = "The ship")),
    responses((status = 204, description = "It is gone"), (status = 404, body = Detail, description = "Ship not found")))]
pub(super) async fn delete_for_ever(
    State(fleet): State<Arc<Fleet>>,
    Path(id): Path<String>,
) -> Result<StatusCode, Trouble> {
    fleet.delete_for_ever(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Starts a ship that was stopped: for the session of the request, or else for all that were aboard.
#[utoipa::path(post, path = "/ship/{ship_id}/start", tag = "ships", request_body(content = Option<StartShip>),
    params(("ship_id" = String, Path, description = "The ship"), ("X-SESSION-ID" = Option<String>, Header, description = "The session", min_length = 1, max_length = 256, pattern = "^[!-~]([ -~]*[!-~])?$")),
    responses((status = 200, body = ShipView, description = "The ship"), (status = 404, body = Detail, description = "Ship not found"), (status = 408, body = Detail, description = "No ship has gone in time")))]
pub(super) async fn start(
    State(fleet): State<Arc<Fleet>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<ShipView>, Trouble> {
    let body = fields::read_or_empty(&headers, body).await?;
    let mut wrong = Invalid::default();
    let session = headers.contains_key(SESSION).then(|| fields::session(&headers, &mut wrong));
    let ttl = Fields::of(Some(body), &mut wrong).map_or(DEFAULT_TTL, |mut fields| {
        let ttl = fields.ttl(Some(DEFAULT_TTL));
        fields.end();
        ttl
    });
    wrong.check()?;
    Ok(Json(fleet.start(&id, session.as_deref(), ttl).await?))
}

/// Lets everybody aboard stay for so long from now.
#[utoipa::path(post, path = "/ship/{ship_id}/extend-ttl", tag = "ships", request_body = ExtendTtl,
    params(("ship_id" = String, Path, description = "The ship")),
    responses((status = 200, body = ShipView, description = "The ship"), (status = 404, body = Detail, description = "Ship not found, or stopped")))]
pub(super) async fn extend(
    State(fleet): State<Arc<Fleet>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<ShipView>, Trouble> {
    let ttl = fields::ttl(fields::read(&headers, body).await?)?;
    Ok(Json(fleet.extend(&id, ttl).await?))
}

/// What a ship logged; nothing for one that is not up.
#[utoipa::path(get, path = "/ship/logs/{ship_id}", tag = "ships", params(("ship_id" = String, Path, description = "The ship")),
    responses((status = 200, body = Logs, description = "The end of its log")))]
pub(super) async fn logs(
    State(fleet): State<Arc<Fleet>>,
    Path(id): Path<String>,
) -> Result<Json<Logs>, Trouble> {
    Ok(Json(Logs { logs: fleet.logs(&id).await? }))
}
