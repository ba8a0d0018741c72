//! What operations are asked for, and what they answer: as the original does, which is FastAPI and pydantic.
#![forbid(unsafe_code)]

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{Error, ErrorKind};

/// What an operation answers: a status as HTTP has it, and a body; of errors `{"detail": …}`.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// 200, 400, 403, 404, 422, 500.
    pub status: u16,
    /// The JSON.
    pub body: Value,
}

/// Why an upload, a download or a terminal is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// 400, 403, 404, 413, 500.
    pub status: u16,
    /// The reason, for a person.
    pub detail: String,
}

impl Refusal {
    pub(super) fn new(status: u16, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into() }
    }

    /// What failed while `doing` ("Failed to …").
    pub(super) fn failed(doing: &str, error: &Error) -> Self {
        let status = match error.kind() {
            ErrorKind::PermissionDenied => 403,
            ErrorKind::NotFound => 404,
            ErrorKind::InvalidArgument | ErrorKind::AlreadyExists => 400,
            _ => 500,
        };
        Self::new(status, format!("{doing}: {}", error.chain()))
    }
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        Self { status: refusal.status, body: json!({"detail": refusal.detail}) }
    }
}

impl Answer {
    pub(super) fn ok(body: Value) -> Self {
        Self { status: 200, body }
    }
}

/// The fields of a request. A null is a field that is not there; fields that nobody knows do not matter.
///
/// # Errors
/// 422, in the words of the original for a field that is missing.
pub(super) fn take<T: DeserializeOwned>(payload: &Value) -> Result<T, Answer> {
    let known = match payload {
        Value::Object(fields) => fields
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect(),
        Value::Null => serde_json::Map::new(),
        _ => {
            return Err(invalid(
                "model_attributes_type",
                &["body"],
                "Input should be a valid dictionary",
                payload,
            ));
        }
    };
    serde_json::from_value(Value::Object(known)).map_err(|error| {
        let message = error.to_string();
        match message.strip_prefix("missing field `").and_then(|rest| rest.split('`').next()) {
            Some(field) => invalid("missing", &["body", field], "Field required", payload),
            None => invalid("value_error", &["body"], &message, payload),
        }
    })
}

fn invalid(kind: &str, place: &[&str], message: &str, input: &Value) -> Answer {
    Answer {
        status: 422,
        body: json!({"detail": [{"type": kind, "loc": place, "msg": message, "input": input}]}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize, PartialEq)]
    struct Fields {
        path: String,
        #[serde(default)]
        limit: Option<u32>,
    }

    #[test]
    fn nulls_and_unknown_fields_do_not_matter_and_missing_ones_are_told() {
        let fields: Fields = take(&json!({"path": "a", "limit": null, "other": 1})).unwrap();
        assert_eq!(fields, Fields { path: "a".into(), limit: None });
        let missing = take::<Fields>(&json!({"path": null})).unwrap_err();
        assert_eq!(missing.status, 422);
        assert_eq!(missing.body["detail"][0]["loc"], json!(["body", "path"]));
        assert_eq!(missing.body["detail"][0]["msg"], "Field required");
        for wrong in [json!({"path": 1}), json!([1]), json!({"path": "a", "limit": -1}), json!("x")] {
            assert_eq!(take::<Fields>(&wrong).unwrap_err().status, 422, "{wrong}");
        }
    }
}
