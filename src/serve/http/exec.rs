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
    params(("ship_id" = String, Path, description = "The ship"), ("X-SESSION-ID" = String, Header, description = "The session", min_length = 1, max_length = 256, pattern = "^[!-~]+$")),
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

/// Does an operation as a Ship answers it, with its own status: `GET` for what only looks, `POST` with a body otherwise.
pub(super) async fn directly(
    State(fleet): State<Arc<Fleet>>,
    Path((id, operation)): Path<(String, String)>,
    method: Method,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Trouble> {
    let mut wrong = Invalid::default();
    let session = fields::session(&headers, &mut wrong);
    wrong.check()?;
    let payload = match method {
        Method::GET | Method::DELETE => json!({}),
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
