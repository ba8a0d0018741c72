//! Errors as FastAPI has them: `{"detail": …}`.
#![forbid(unsafe_code)]

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::fields::Invalid;
use crate::serve::problem::Problem;

/// Why a request was not done.
#[derive(Debug)]
pub(super) enum Trouble {
    Problem(Problem),
    Invalid(Invalid),
}

/// An error.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Detail {
    /// What is wrong.
    detail: String,
}

/// What is wrong with a request, field by field.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Invalidity {
    detail: Vec<Wrong>,
}

/// What is wrong with one field.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Wrong {
    /// A name for what is wrong, such as `missing` or `extra_forbidden`.
    #[serde(rename = "type")]
    kind: String,
    /// Where it is, from `body`, `header`, `query` or `path` on.
    loc: Vec<Step>,
    /// The same in words.
    msg: String,
    /// What was there.
    #[schema(value_type = Value)]
    input: Option<Value>,
    /// The numbers in the words.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    ctx: Option<Value>,
}

/// A step of a location.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "it is only described")]
enum Step {
    Name(String),
    Index(u64),
}

impl From<Problem> for Trouble {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<Invalid> for Trouble {
    fn from(invalid: Invalid) -> Self {
        Self::Invalid(invalid)
    }
}

impl IntoResponse for Trouble {
    fn into_response(self) -> Response {
        match self {
            Self::Problem(Problem { status, detail }) => {
                if status >= 500 {
                    tracing::warn!(status, detail, "a request failed");
                }
                (super::status(status), Json(json!({ "detail": detail }))).into_response()
            }
            Self::Invalid(invalid) => (super::status(422), Json(invalid.json())).into_response(),
        }
    }
}
