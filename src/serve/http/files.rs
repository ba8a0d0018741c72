//! Files of ships: what comes is written to disk before it is passed on, what goes is passed on as it is read.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::io::SeekFrom;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::multipart::{Field, MultipartError};
use axum::extract::{FromRequest, Multipart, Path, Query, Request, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::fs::File;
use tokio::io::{AsyncSeekExt, AsyncWriteExt};
use tokio_util::io::ReaderStream;
use utoipa::ToSchema;

use super::answer::{Detail, Trouble};
use super::fields::{self, Invalid};
use crate::serve::config::UPLOADS;
use crate::serve::fleet::Fleet;
use crate::serve::problem::Problem;

/// Bytes of a path.
const LONGEST_PATH: usize = 4096;
/// What a form has besides the file.
const FORM: u64 = 64 << 10;
/// How long a client may send nothing.
const SILENCE: Duration = Duration::from_secs(30);
/// Bytes a second that an upload must have brought on the whole, once that long has passed: who sends one now and then
/// would keep a connection for ever.
const SLOWEST: u64 = 1024;

/// A file that arrived.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Uploaded {
    success: bool,
    message: &'static str,
    /// Where it is, from `/` on.
    file_path: String,
    /// Always null.
    error: Option<String>,
}

/// A file to be put on a ship.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "it is read part by part, and described by this")]
pub(super) struct Upload {
    /// Its content.
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
    /// Where to put it; a relative path begins at the session's workspace.
    file_path: String,
}

/// Puts a file on a ship, as the session.
#[utoipa::path(post, path = "/ship/{ship_id}/upload", tag = "files", request_body(content = Upload, content_type = "multipart/form-data"),
    params(("ship_id" = String, Path, description = "The ship"), ("X-SESSION-ID" = String, Header, description = "The session", min_length = 1, max_length = 256, pattern = "^[!-~]([ -~]*[!-~])?$")),
    responses((status = 200, body = Uploaded, description = "It is there"), (status = 400, body = Detail, description = "It cannot be put there"), (status = 403, body = Detail, description = "The session is not aboard, or the path is outside"),
        (status = 404, body = Detail, description = "Ship not found or not running"), (status = 408, body = Detail, description = "It did not arrive in time"), (status = 413, body = Detail, description = "It is too large")))]
pub(super) async fn upload(
    State(fleet): State<Arc<Fleet>>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Json<Uploaded>, Trouble> {
    let (path, _size) = receive(&fleet, &id, request).await?;
    Ok(Json(Uploaded { success: true, message: "File uploaded successfully", file_path: path, error: None }))
}

/// [`upload`] as a Ship answers it.
pub(super) async fn upload_directly(
    State(fleet): State<Arc<Fleet>>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Json<Value>, Trouble> {
    let (path, size) = receive(&fleet, &id, request).await?;
    let message = "File uploaded successfully";
    Ok(Json(json!({ "success": true, "message": message, "file_path": path, "size": size, "error": null })))
}

async fn receive(fleet: &Arc<Fleet>, id: &str, request: Request) -> Result<(String, u64), Trouble> {
    let mut wrong = Invalid::default();
    let session = fields::session(request.headers(), &mut wrong);
    let most = fleet.config().max_upload;
    let announced = announced(request.headers()).unwrap_or_default();
    if announced > most.saturating_add(FORM) {
        return Err(too_large(announced, most).into());
    }
    let mut form = Form { most, ..Form::default() };
    match Multipart::from_request(request, &()).await {
        Ok(mut parts) => form.read(&mut parts, fleet).await?,
        // Nothing that could have fields.
        Err(_) => tracing::debug!("an upload without a form"),
    }
    form.check(&mut wrong);
    wrong.check()?;
    let (mut file, size) = form.file.ok_or_else(|| Problem::new(422, "Field required"))?;
    let lost = |e: std::io::Error| Problem::new(500, format!("failed to keep an upload: {e}"));
    file.seek(SeekFrom::Start(0)).await.map_err(lost)?;
    Ok((fleet.upload(id, &session, &form.path.unwrap_or_default(), file).await?, size))
}

fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn too_large(size: u64, most: u64) -> Problem {
    Problem::new(413, format!("File size ({size} bytes) exceeds maximum allowed size ({most} bytes)"))
}

/// What arrived of a form.
#[derive(Default)]
struct Form {
    most: u64,
    file: Option<(File, u64)>,
    /// The part of the file is a text.
    file_is_text: bool,
    path: Option<String>,
}

/// How an upload comes along.
struct Pace {
    began: Instant,
    bytes: u64,
}

impl Form {
    async fn read(&mut self, parts: &mut Multipart, fleet: &Fleet) -> Result<(), Problem> {
        let mut pace = Pace { began: Instant::now(), bytes: 0 };
        while let Some(mut part) = in_time(parts.next_field()).await? {
            match part.name() {
                Some("file") if part.file_name().is_none() => self.file_is_text = true,
                Some("file") => self.file = Some(self.keep(&mut part, fleet, &mut pace).await?),
                Some("file_path") => self.path = Some(text(&mut part, &mut pace).await?),
                _ => {}
            }
            // What nobody asked for is read as well, and is not for ever either.
            while pace.next(&mut part).await?.is_some() {
                if pace.bytes > self.most.saturating_add(FORM) {
                    return Err(too_large(pace.bytes, self.most));
                }
            }
        }
        Ok(())
    }

    /// Writes the file to disk, where nobody finds it by name.
    async fn keep(
        &self,
        part: &mut Field<'_>,
        fleet: &Fleet,
        pace: &mut Pace,
    ) -> Result<(File, u64), Problem> {
        let name = fleet.config().data.join(UPLOADS).join(uuid::Uuid::new_v4().simple().to_string());
        let lost = |e: std::io::Error| Problem::new(500, format!("failed to keep an upload: {e}"));
        let mut options = File::options();
        let mut file = options.read(true).write(true).create_new(true).open(&name).await.map_err(lost)?;
        tokio::fs::remove_file(&name).await.map_err(lost)?;
        let mut size: u64 = 0;
        while let Some(chunk) = pace.next(part).await? {
            size += chunk.len() as u64;
            if size > self.most {
                return Err(too_large(size, self.most));
            }
            file.write_all(&chunk).await.map_err(lost)?;
        }
        file.flush().await.map_err(lost)?;
        Ok((file, size))
    }

    fn check(&self, wrong: &mut Invalid) {
        if self.file_is_text {
            let msg = "Value error, Expected UploadFile, received: <class 'str'>";
            wrong.add("value_error", &["body", "file"], msg, &Value::Null);
        } else if self.file.is_none() {
            wrong.missing(&["body", "file"], &Value::Null);
        }
        if self.path.is_none() {
            wrong.missing(&["body", "file_path"], &Value::Null);
        }
    }
}

async fn text(part: &mut Field<'_>, pace: &mut Pace) -> Result<String, Problem> {
    let mut bytes = Vec::new();
    while let Some(chunk) = pace.next(part).await? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > LONGEST_PATH {
            return Err(Problem::new(400, "The path is too long"));
        }
    }
    String::from_utf8(bytes).map_err(|_| Problem::new(400, "The path is not UTF-8"))
}

/// What comes next of a form, unless the client is silent.
async fn in_time<T>(next: impl Future<Output = Result<T, MultipartError>>) -> Result<T, Problem> {
    match tokio::time::timeout(SILENCE, next).await {
        Ok(Ok(next)) => Ok(next),
        Ok(Err(error)) => Err(Problem::new(400, format!("There was an error parsing the body: {error}"))),
        Err(_) => Err(late()),
    }
}

fn late() -> Problem {
    Problem::new(408, "The request body did not arrive in time")
}

impl Pace {
    /// What comes next of a part, unless the client is silent or slow.
    async fn next(&mut self, part: &mut Field<'_>) -> Result<Option<Bytes>, Problem> {
        let chunk = in_time(part.chunk()).await?;
        self.bytes += chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        match self.is_enough(self.began.elapsed()) {
            true => Ok(chunk),
            false => Err(late()),
        }
    }

    fn is_enough(&self, passed: Duration) -> bool {
        self.bytes / SLOWEST >= passed.saturating_sub(SILENCE).as_secs()
    }
}

/// Fetches a file from a ship, as the session.
#[utoipa::path(get, path = "/ship/{ship_id}/download", tag = "files",
    params(("ship_id" = String, Path, description = "The ship"), ("X-SESSION-ID" = String, Header, description = "The session", min_length = 1, max_length = 256, pattern = "^[!-~]([ -~]*[!-~])?$"),
        ("file_path" = String, Query, min_length = 1, max_length = 4096, description = "The file; a relative path begins at the session's workspace")),
    responses((status = 200, body = Vec<u8>, content_type = "application/octet-stream", description = "Its content"), (status = 400, body = Detail, description = "It is no file"),
        (status = 403, body = Detail, description = "The session is not aboard, or the path is outside"), (status = 404, body = Detail, description = "Ship or file not found")))]
pub(super) async fn download(
    State(fleet): State<Arc<Fleet>>,
    Path(id): Path<String>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
) -> Result<Response, Trouble> {
    let mut wrong = Invalid::default();
    let session = fields::session(&headers, &mut wrong);
    let Some(path) = query.get("file_path") else {
        wrong.missing(&["query", "file_path"], &Value::Null);
        return Err(wrong.into());
    };
    wrong.check()?;
    if path.len() > LONGEST_PATH {
        return Err(Problem::new(400, "The path is too long").into());
    }
    let file = fleet.download(&id, &session, path).await?;
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, file.size.to_string()),
        (header::CONTENT_DISPOSITION, attachment(&file.name)),
    ];
    Ok((headers, Body::from_stream(ReaderStream::with_capacity(file.content, 64 << 10))).into_response())
}

/// [`download`] as a Ship answers it, which is the same.
pub(super) async fn download_directly(
    state: State<Arc<Fleet>>,
    path: Path<String>,
    query: Query<HashMap<String, String>>,
    headers: HeaderMap,
) -> Result<Response, Trouble> {
    download(state, path, query, headers).await
}

/// A name as RFC 6266 has it: for those who read ASCII only, and as it is (RFC 8187).
fn attachment(name: &str) -> String {
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '\\' | '%') || c == ' ';
    let ascii: String = name.chars().map(|c| if plain(c) { c } else { '_' }).collect();
    if ascii == name {
        return format!("attachment; filename=\"{ascii}\"");
    }
    let mut escaped = String::new();
    for byte in name.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                escaped.push(char::from(byte));
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    format!("attachment; filename=\"{ascii}\"; filename*=UTF-8''{escaped}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_may_be_slow_at_first_but_not_for_ever() {
        let after =
            |bytes, seconds| Pace { began: Instant::now(), bytes }.is_enough(Duration::from_secs(seconds));
        assert!(after(0, 30) && after(1024, 31) && after(100 << 20, 100_000));
        assert!(!after(0, 31) && !after(1000, 40) && !after(1 << 20, 2000));
    }

    #[test]
    fn any_name_can_be_told() {
        assert_eq!(attachment("a b.txt"), "attachment; filename=\"a b.txt\"");
        let odd = attachment("grün\"\r\n.txt");
        assert_eq!(odd, "attachment; filename=\"gr_n___.txt\"; filename*=UTF-8''gr%C3%BCn%22%0D%0A.txt");
    }
}
