//! The page for a person: files in the program that need nothing from anywhere else, and talk to the API as any client does.
#![forbid(unsafe_code)]

use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};

use super::about;
use super::answer::Trouble;
use crate::serve::problem::Problem;

const INDEX: &str = include_str!("../page/index.html");
const SCRIPT: &str = "text/javascript; charset=utf-8";
/// Name, type and content.
const FILES: [(&str, &str, &str); 7] = [
    ("style.css", "text/css; charset=utf-8", include_str!("../page/style.css")),
    ("app.js", SCRIPT, include_str!("../page/app.js")),
    ("api.js", SCRIPT, include_str!("../page/api.js")),
    ("dom.js", SCRIPT, include_str!("../page/dom.js")),
    ("screen.js", SCRIPT, include_str!("../page/screen.js")),
    ("ship.js", SCRIPT, include_str!("../page/ship.js")),
    ("terminal.js", SCRIPT, include_str!("../page/terminal.js")),
];
/// What the page may do: nothing that did not come from here. Elements get their colours by script, never by markup.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page for who asks for one, as browsers do, and the greeting for everybody else.
pub(super) async fn root(headers: HeaderMap) -> Response {
    let mut response = if wants_a_page(&headers) {
        file("text/html; charset=utf-8", INDEX)
    } else {
        about::root().await.into_response()
    };
    response.headers_mut().append(header::VARY, HeaderValue::from_static("Accept"));
    response
}

/// A file of the page.
pub(super) async fn part(Path(name): Path<String>) -> Response {
    match FILES.iter().find(|(known, ..)| *known == name) {
        Some((_, kind, content)) => file(kind, content),
        None => Trouble::from(Problem::new(404, "Not Found")).into_response(),
    }
}

fn wants_a_page(headers: &HeaderMap) -> bool {
    let mut accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.any(|value| {
        value.split(',').any(|kind| kind.split(';').next().unwrap_or_default().trim() == "text/html")
    })
}

fn file(kind: &'static str, content: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, content).into_response()
}
