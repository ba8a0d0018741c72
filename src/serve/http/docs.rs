//! A page about the API that needs nothing from anywhere else.
#![forbid(unsafe_code)]

use std::fmt::Write;
use std::sync::LazyLock;

use axum::http::header;
use axum::response::{Html, IntoResponse};

use super::openapi;

const HEAD: &str = "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
<title>vesselrt serve</title><style>\
:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}\
table{border-collapse:collapse;width:100%}td{padding:.4rem .6rem;border-top:1px solid #8884;vertical-align:top}\
code{font:14px ui-monospace,monospace}.m{font-weight:600}</style></head><body><h1>vesselrt serve</h1>\
<p>Requests carry <code>Authorization: Bearer TOKEN</code>, and <code>X-SESSION-ID</code> where a session does something. \
The whole description, with every field and status, is <a href=\"openapi.json\">openapi.json</a> (OpenAPI 3.1).</p><table>\n";

/// The page.
pub(super) async fn page() -> impl IntoResponse {
    static PAGE: LazyLock<String> = LazyLock::new(|| {
        let mut page = HEAD.to_owned();
        for (method, path, summary) in openapi::summary() {
            let (path, summary) = (escaped(&path), escaped(&summary));
            let row = format_args!(
                "<tr><td class=\"m\">{method}</td><td><code>{path}</code></td><td>{summary}</td></tr>\n"
            );
            // Writing to a string does not fail.
            let _ = page.write_fmt(row);
        }
        page.push_str("</table></body></html>\n");
        page
    });
    let policy = "default-src 'none'; style-src 'unsafe-inline'";
    ([(header::CONTENT_SECURITY_POLICY, policy)], Html(PAGE.as_str()))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
