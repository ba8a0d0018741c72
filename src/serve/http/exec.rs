//! Operations on ships: through `exec` as the Bay has it, and directly as a Ship has them.
#![forbid(unsafe_code)]

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::about;
use super::answer::{Detail, Trouble};
use super::fields::{self, Fields, Invalid};
use crate::serve::fleet::Fleet;
use crate::serve::problem::Problem;

/// An operation.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "it is read field by field, and described by this")]
pub(super) struct Exec {
    /// Which, such as `shell/exec`, `ipython/exec` or `fs/read_file`.
    #[serde(rename = "type")]
    kind: String,
    /// What it is given.
    #[schema(value_type = Option<std::collections::BTreeMap<String, Value>>)]
    payload: Option<Value>,
}

/// What came of an operation.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Executed {
    /// Always true: what failed is an error.
    success: bool,
    /// What the operation answered.
    data: Value,
    /// Always null.
    #[schema(value_type = Option<String>)]
    error: Option<String>,
}

/// Does an operation as the session, which may stay longer then.
#[utoipa::path(post, path = "/ship/{ship_id}/exec", tag = "operations", request_body = Exec,
    params(("ship_id" = String, Path, description = "The ship"), ("X-SESSION-ID" = String, Header, description = "The session", min_length = 1, max_length = 256, pattern = "^[!-~]([ -~]*[!-~])?$")),
    responses((status = 200, body = Executed, description = "What the operation answered"), (status = 400, body = Detail, description = "It failed, or the session is not aboard")))]
pub(super) async fn exec(
    State(fleet): State<Arc<Fleet>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Executed>, Trouble> {
    let body = fields::read(&headers, body).await?;
    let mut wrong = Invalid::default();
    let session = fields::session(&headers, &mut wrong);
    let asked = Fields::of(body, &mut wrong).map(|mut fields| {
        let asked = (fields.text("type"), fields.dictionary("payload"));
        fields.end();
        asked
    });
    wrong.check()?;
    let (operation, payload) = asked.unwrap_or_default();
    let payload = payload.unwrap_or_else(|| json!({}));
    let answer = fleet.operate(&id, &session, &operation, payload).await?;
    match answer.status {
        200 => Ok(Json(Executed { success: true, data: answer.body, error: None })),
        status => Err(Problem::new(400, format!("Ship returned {status}: {}", answer.body)).into()),
    }
}

/// Operations that only look, which is what `GET` is for.
const LOOKS: [&str; 4] = ["ipython/kernels", "ipython/kernel/status", "shell/processes", "shell/cwd"];

/// What a Ship says about itself, to everybody.
fn greeting(operation: &str) -> Option<Value> {
    match operation {
        "" => Some(json!({ "message": "Ship API is running" })),
        "health" => Some(json!({ "status": "healthy" })),
        "stat" => Some(about::of_ship()),
        _ => None,
    }
}

/// Does an operation as a Ship answers it, with its own status: `GET` for what only looks, `DELETE` for what ends
/// something, `POST` with a body for all others.
pub(super) async fn directly(
    State(fleet): State<Arc<Fleet>>,
    Path((id, operation)): Path<(String, String)>,
    method: Method,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Trouble> {
    if let (&Method::GET, Some(greeting)) = (&method, greeting(&operation)) {
        return match fleet.is_running(&id) {
            true => Ok(Json(greeting).into_response()),
            false => Err(Problem::not_running().into()),
        };
    }
    let mut wrong = Invalid::default();
    let session = fields::session(&headers, &mut wrong);
    wrong.check()?;
    let payload = match method {
        Method::GET if LOOKS.contains(&operation.as_str()) => json!({}),
        Method::DELETE if operation == "ipython/kernel" => json!({}),
        Method::POST => match fields::read(&headers, body).await? {
            None => json!({}),
            Some(payload @ Value::Object(_)) => payload,
            other => {
                let mut wrong = Invalid::default();
                let _ = Fields::of(other, &mut wrong);
                return Err(wrong.into());
            }
        },
        _ => return Err(Problem::new(405, "Method Not Allowed").into()),
    };
    let answer = fleet.operate(&id, &session, &operation, payload).await?;
    Ok((super::status(answer.status), Json(answer.body)).into_response())
}

/// [`directly`] for the address of the API itself.
pub(super) async fn greets(
    state: State<Arc<Fleet>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Trouble> {
    directly(state, Path((id, String::new())), Method::GET, headers, Body::empty()).await
}

/// A process that was ended.
#[derive(Debug, Serialize, ToSchema)]
#[allow(dead_code, reason = "it is described by this")]
pub(super) struct Killed {
    /// Always true.
    success: bool,
    process_id: String,
    /// Its number in `vesselrt process`.
    pid: u64,
    command: String,
    /// `completed`, `failed`; `running` if it takes its time.
    status: String,
}

/// Ends a process that a session left running in the background, with all that it started. The original has nothing of the
/// kind. The same is `exec` of `shell/kill` with `process_id`, and `signal` for one that is not SIGKILL.
#[utoipa::path(delete, path = "/ship/{ship_id}/api/shell/processes/{process_id}", tag = "operations",
    params(("ship_id" = String, Path, description = "The ship"), ("process_id" = String, Path, description = "As `shell/exec` told it"),
        ("X-SESSION-ID" = String, Header, description = "The session", min_length = 1, max_length = 256, pattern = "^[!-~]([ -~]*[!-~])?$")),
    extensions(("x-extension" = json!("not in Shipyard's API"))),
    responses((status = 200, body = Killed, description = "What became of it, which may have been before"), (status = 400, body = Detail, description = "The session is not aboard"), (status = 404, body = Detail, description = "Process not found")))]
pub(super) async fn kill(
    State(fleet): State<Arc<Fleet>>,
    Path((id, process)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Trouble> {
    let mut wrong = Invalid::default();
    let session = fields::session(&headers, &mut wrong);
    wrong.check()?;
    let answer = fleet.operate(&id, &session, "shell/kill", json!({ "process_id": process })).await?;
    Ok((super::status(answer.status), Json(answer.body)).into_response())
}
