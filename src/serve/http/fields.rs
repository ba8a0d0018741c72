//! What is wrong with a request, in the words of FastAPI: all of it, and where.
#![forbid(unsafe_code)]

mod asked;

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, header};
use serde_json::{Map, Value, json};

use super::answer::Trouble;
use crate::serve::problem::Problem;
pub(super) use asked::{read_or_empty, ttl};

/// Bytes of a body of JSON, at most.
const LARGEST: usize = 16 << 20;
/// How long a body may take to arrive.
const SLOWEST: Duration = Duration::from_secs(60);
/// Characters of a session's name.
const LONGEST_SESSION: usize = 256;
/// The header with the session.
pub(super) const SESSION: &str = "X-SESSION-ID";

/// Everything that is wrong with a request.
#[derive(Debug, Default)]
pub(super) struct Invalid(Vec<Value>);

impl Invalid {
    pub(super) fn json(self) -> Value {
        json!({ "detail": self.0 })
    }

    /// Adds what is wrong at `loc`.
    pub(super) fn add(&mut self, kind: &str, loc: &[&str], msg: &str, input: &Value) {
        self.0.push(json!({ "type": kind, "loc": loc, "msg": msg, "input": input }));
    }

    fn add_with(&mut self, kind: &str, loc: &[&str], msg: &str, input: &Value, ctx: &Value) {
        self.0.push(json!({ "type": kind, "loc": loc, "msg": msg, "input": input, "ctx": ctx }));
    }

    pub(super) fn missing(&mut self, loc: &[&str], input: &Value) {
        self.add("missing", loc, "Field required", input);
    }

    /// Whether nothing is.
    ///
    /// # Errors
    /// All that was added.
    pub(super) fn check(self) -> Result<(), Trouble> {
        if self.0.is_empty() { Ok(()) } else { Err(self.into()) }
    }
}

/// The session of a request; empty if something is wrong with it.
pub(super) fn session(headers: &HeaderMap, wrong: &mut Invalid) -> String {
    let Some(value) = headers.get(SESSION) else {
        wrong.missing(&["header", SESSION], &Value::Null);
        return String::new();
    };
    let Ok(text) = std::str::from_utf8(value.as_bytes()) else {
        let msg = "Input should be a valid string, unable to parse raw data as a unicode string";
        let shown = String::from_utf8_lossy(value.as_bytes());
        wrong.add("string_unicode", &["header", SESSION], msg, &json!(shown));
        return String::new();
    };
    name(text, &["header", SESSION], wrong)
}

/// A session's name, wherever it comes from.
pub(super) fn name(text: &str, loc: &[&str], wrong: &mut Invalid) -> String {
    if text.is_empty() {
        let ctx = json!({ "min_length": 1 });
        let msg = "String should have at least 1 character";
        wrong.add_with("string_too_short", loc, msg, &json!(text), &ctx);
    } else if text.chars().count() > LONGEST_SESSION {
        let ctx = json!({ "max_length": LONGEST_SESSION });
        let msg = format!("String should have at most {LONGEST_SESSION} characters");
        wrong.add_with("string_too_long", loc, &msg, &json!(text), &ctx);
    } else if text.chars().any(char::is_control) {
        wrong.add("value_error", loc, "Value error, control characters are not allowed", &json!(text));
    }
    text.to_owned()
}

/// Reads a body of JSON; null if there is none.
///
/// # Errors
/// 413, 408, 400 for what did not arrive whole; 422 for what is no JSON.
pub(super) async fn read(headers: &HeaderMap, body: Body) -> Result<Option<Value>, Trouble> {
    let bytes = match tokio::time::timeout(SLOWEST, to_bytes(body, LARGEST)).await {
        Err(_) => return Err(Problem::new(408, "The request body did not arrive in time").into()),
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) => return Err(unread(&error).into()),
    };
    if bytes.is_empty() {
        return Ok(None);
    }
    if !is_json(headers) {
        // As the original has it: some text, which has no fields.
        return Ok(Some(Value::String(String::from_utf8_lossy(&bytes).into_owned())));
    }
    serde_json::from_slice(&bytes).map(Some).map_err(|error| {
        let mut wrong = Invalid::default();
        let ctx = json!({ "error": error.to_string() });
        wrong.add_with("json_invalid", &["body"], "JSON decode error", &json!({}), &ctx);
        wrong.into()
    })
}

fn unread(error: &axum::Error) -> Problem {
    let too_long = |e: &(dyn std::error::Error + 'static)| e.to_string().contains("length limit exceeded");
    let mut causes = std::iter::successors(Some(error as &(dyn std::error::Error + 'static)), |e| e.source());
    match causes.any(too_long) {
        true => Problem::new(413, format!("Request body exceeds {LARGEST} bytes")),
        false => Problem::new(400, "The request body did not arrive whole"),
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(header::CONTENT_TYPE) else { return true };
    let kind = kind.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    let kind = kind.to_ascii_lowercase();
    kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
}

/// The fields of an object, each taken once; what is left is forbidden.
pub(super) struct Fields<'a> {
    map: Map<String, Value>,
    whole: Value,
    loc: Vec<String>,
    wrong: &'a mut Invalid,
}

impl<'a> Fields<'a> {
    /// Of a body. One that is no object has no fields, and that is what is wrong.
    pub(super) fn of(body: Option<Value>, wrong: &'a mut Invalid) -> Option<Self> {
        match body {
            Some(Value::Object(map)) => Some(Self::new(map, vec!["body".to_owned()], wrong)),
            Some(other) => {
                let msg = "Input should be a valid dictionary or object to extract fields from";
                wrong.add("model_attributes_type", &["body"], msg, &other);
                None
            }
            None => {
                wrong.missing(&["body"], &Value::Null);
                None
            }
        }
    }

    fn new(map: Map<String, Value>, loc: Vec<String>, wrong: &'a mut Invalid) -> Self {
        Self { whole: Value::Object(map.clone()), map, loc, wrong }
    }

    fn add(&mut self, kind: &str, name: &str, msg: &str, input: &Value, ctx: Option<&Value>) {
        let loc: Vec<&str> = self.loc.iter().map(String::as_str).chain([name]).collect();
        match ctx {
            None => self.wrong.add(kind, &loc, msg, input),
            Some(ctx) => self.wrong.add_with(kind, &loc, msg, input, ctx),
        }
    }

    /// What is there, or `None` with a complaint if it must be.
    fn take(&mut self, name: &str, required: bool) -> Option<Value> {
        let value = self.map.remove(name);
        if value.is_none() && required {
            let whole = self.whole.clone();
            self.add("missing", name, "Field required", &whole, None);
        }
        value
    }

    /// A whole number above 0 and not above `most`; 0 if something is wrong with it.
    fn positive(&mut self, name: &str, most: u64, default: Option<u64>) -> u64 {
        let Some(value) = self.take(name, default.is_none()) else { return default.unwrap_or_default() };
        let Some(number) = value.as_f64().filter(|_| value.is_number()) else {
            self.add("int_type", name, "Input should be a valid integer", &value, None);
            return 0;
        };
        if number.fract() != 0.0 {
            let msg = "Input should be a valid integer, got a number with a fractional part";
            self.add("int_from_float", name, msg, &value, None);
        } else if number <= 0.0 {
            let ctx = json!({ "gt": 0 });
            self.add("greater_than", name, "Input should be greater than 0", &value, Some(&ctx));
        } else if let Some(number) = whole(&value, number).filter(|number| *number <= most) {
            return number;
        } else {
            let msg = format!("Input should be less than or equal to {most}");
            self.add("less_than_equal", name, &msg, &value, Some(&json!({ "le": most })));
        }
        0
    }

    /// A number, or nothing.
    pub(super) fn number(&mut self, name: &str) -> Option<f64> {
        let value = self.take(name, false).filter(|value| !value.is_null())?;
        if !value.is_number() {
            self.add("float_type", name, "Input should be a valid number", &value, None);
        }
        value.as_f64()
    }

    /// Complains about the value of a field.
    pub(super) fn refuse(&mut self, name: &str, kind: &str, msg: &str, input: &Value, ctx: Option<&Value>) {
        self.add(kind, name, msg, input, ctx);
    }

    /// Yes or no.
    pub(super) fn boolean(&mut self, name: &str, default: bool) -> bool {
        match self.take(name, false) {
            None => default,
            Some(Value::Bool(value)) => value,
            Some(other) => {
                self.add("bool_type", name, "Input should be a valid boolean", &other, None);
                default
            }
        }
    }

    /// A text that must be there; empty if something is wrong with it.
    pub(super) fn text(&mut self, name: &str) -> String {
        match self.take(name, true) {
            None => String::new(),
            Some(Value::String(text)) => text,
            Some(other) => {
                self.add("string_type", name, "Input should be a valid string", &other, None);
                String::new()
            }
        }
    }

    /// A text, or nothing.
    pub(super) fn optional_text(&mut self, name: &str) -> Option<String> {
        match self.take(name, false) {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(text),
            Some(other) => {
                self.add("string_type", name, "Input should be a valid string", &other, None);
                None
            }
        }
    }

    /// An object whatever is in it, or nothing.
    pub(super) fn dictionary(&mut self, name: &str) -> Option<Value> {
        match self.take(name, false) {
            None | Some(Value::Null) => None,
            Some(object @ Value::Object(_)) => Some(object),
            Some(other) => {
                self.add("dict_type", name, "Input should be a valid dictionary", &other, None);
                None
            }
        }
    }

    /// The fields of an object in this one, if it is there.
    pub(super) fn within<T: Default>(&mut self, name: &str, read: impl FnOnce(&mut Fields<'_>) -> T) -> T {
        match self.take(name, false) {
            None | Some(Value::Null) => T::default(),
            Some(Value::Object(map)) => {
                let loc = self.loc.iter().cloned().chain([name.to_owned()]).collect();
                let mut inner = Fields::new(map, loc, self.wrong);
                let value = read(&mut inner);
                inner.end();
                value
            }
            Some(other) => {
                let msg = "Input should be a valid dictionary or object to extract fields from";
                self.add("model_attributes_type", name, msg, &other, None);
                T::default()
            }
        }
    }

    /// Forbids what was not taken.
    pub(super) fn end(mut self) {
        for (name, value) in std::mem::take(&mut self.map) {
            self.add("extra_forbidden", &name, "Extra inputs are not permitted", &value, None);
        }
    }
}

/// A whole number that JSON has as one, or as one with a fraction of 0.
fn whole(value: &Value, number: f64) -> Option<u64> {
    // Above 2^53 only what was written as a whole number is exact, and nobody asks for that much.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    value.as_u64().or_else(|| (number < 9e15).then_some(number as u64))
}

#[cfg(test)]
mod tests;
