//! What every request passes: its name and its line in the log, who it is meant for, where it comes from, the token.
#![forbid(unsafe_code)]

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::answer::Trouble;
use crate::serve::config::ServeConfig;
use crate::serve::fleet::Fleet;
use crate::serve::problem::Problem;

/// The name of a request, in its answer and in the log.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Headers of which a second one could mean something else to somebody between.
const SINGLE: [&str; 6] =
    ["host", "authorization", "content-type", "x-session-id", "origin", "transfer-encoding"];

/// Which hosts requests may name.
#[derive(Debug, Clone)]
pub(in crate::serve) enum Hosts {
    /// Any: whoever reaches a unix socket is no browser that was misled.
    Any,
    /// This address; of one that stands for all, any address, as names are what can be made to lead here.
    Address(IpAddr),
}

/// Of a request that says more than once how long it is, of which the headers do not show all.
#[derive(Debug, Clone, Copy)]
pub(in crate::serve) struct TwoLengths;

/// What is checked of requests.
#[derive(Debug)]
pub(super) struct Guard {
    hosts: Hosts,
    allowed: Vec<String>,
    cors: Vec<String>,
    scheme: &'static str,
}

impl Guard {
    pub(super) fn new(hosts: Hosts, config: &ServeConfig) -> Self {
        Self {
            hosts,
            allowed: config.allow_hosts.iter().map(|host| host.to_ascii_lowercase()).collect(),
            cors: config.cors.clone(),
            scheme: if config.tls.is_some() { "https" } else { "http" },
        }
    }

    /// Whether a request for this host is meant for us: a page of another site whose name was made to lead here (DNS
    /// rebinding) names that site.
    fn expects(&self, host: &str) -> bool {
        let Hosts::Address(address) = self.hosts else { return true };
        let name = without_port(host).to_ascii_lowercase();
        if name == "localhost" || self.allowed.contains(&name) {
            return true;
        }
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        bare.parse::<IpAddr>().is_ok_and(|named| {
            named == address || named.is_loopback() || (address.is_unspecified() && !named.is_unspecified())
        })
    }

    /// Whether a page of this origin may use the service: our own, or one that was allowed.
    fn admits(&self, origin: &str, host: &str) -> bool {
        let own = origin.strip_prefix(self.scheme).and_then(|rest| rest.strip_prefix("://"));
        own.is_some_and(|own| own.eq_ignore_ascii_case(host))
            || self.cors.iter().any(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(origin))
    }

    fn judge(&self, request: &Request) -> Result<Option<HeaderValue>, Problem> {
        let headers = request.headers();
        if let Some(twice) = SINGLE.iter().find(|name| headers.get_all(**name).iter().count() > 1) {
            return Err(Problem::new(400, format!("Duplicate header: {twice}")));
        }
        if request.extensions().get::<TwoLengths>().is_some() {
            return Err(Problem::new(400, "More than one Content-Length or Transfer-Encoding"));
        }
        let host = match headers.get(header::HOST).map(HeaderValue::to_str) {
            Some(Ok(host)) => host,
            Some(Err(_)) => return Err(Problem::new(400, "Host is not ASCII")),
            // An absolute form names it as well; without any it is HTTP/1.0, which no browser speaks.
            None => request.uri().host().unwrap_or("localhost"),
        };
        if !self.expects(host) {
            return Err(Problem::new(403, "Host is not allowed"));
        }
        let Some(origin) = headers.get(header::ORIGIN) else { return Ok(None) };
        let text = origin.to_str().unwrap_or_default();
        if !self.admits(text, host) {
            return Err(Problem::new(403, "Origin is not allowed"));
        }
        Ok(Some(origin.clone()))
    }
}

fn without_port(host: &str) -> &str {
    match host.rfind(':') {
        Some(colon) if !host[colon..].contains(']') => &host[..colon],
        _ => host,
    }
}

/// Refuses what is not meant for us, or comes from a page that may not.
pub(super) async fn check(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let origin = match guard.judge(&request) {
        Ok(origin) => origin,
        Err(problem) => return refused(&request, problem),
    };
    let asks = request.method() == Method::OPTIONS
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut response =
        if asks && origin.is_some() { super::status(204).into_response() } else { next.run(request).await };
    let headers = response.headers_mut();
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::VARY, HeaderValue::from_static("Origin"));
        if asks {
            let allowed = HeaderValue::from_static("authorization, content-type, x-session-id");
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
            let methods = HeaderValue::from_static("GET, POST, DELETE");
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
        }
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// After a request whose end is not certain the connection ends.
fn refused(request: &Request, problem: Problem) -> Response {
    let mut response = Trouble::from(problem).into_response();
    if request.extensions().get::<TwoLengths>().is_some() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Refuses whoever does not know the token.
pub(super) async fn token(State(fleet): State<Arc<Fleet>>, request: Request, next: Next) -> Response {
    match given(request.headers()) {
        Err(problem) => Trouble::from(problem).into_response(),
        Ok(token) if !fleet.knows(token) => {
            Trouble::from(Problem::new(401, "Invalid access token")).into_response()
        }
        Ok(_) => next.run(request).await,
    }
}

/// The token of a request.
///
/// # Errors
/// 403, as FastAPI has it.
pub(super) fn given(headers: &HeaderMap) -> Result<&str, Problem> {
    let value = headers.get(header::AUTHORIZATION).map(|value| value.to_str().unwrap_or_default());
    match value.unwrap_or_default().split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim()),
        Some((_, token)) if !token.is_empty() => Err(Problem::new(403, "Invalid authentication credentials")),
        _ => Err(Problem::new(403, "Not authenticated")),
    }
}

/// An error that was found before one of our handlers was asked (an address that is not UTF-8) is told as all others are.
fn told(response: Response) -> Response {
    let kind = response.headers().get(header::CONTENT_TYPE);
    let is_text = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/plain"));
    if !(response.status().is_client_error() && is_text) {
        return response;
    }
    let reason = response.status().canonical_reason().unwrap_or("Bad Request");
    Trouble::from(Problem::new(response.status().as_u16(), reason)).into_response()
}

/// Names a request, times it, and tells of it.
pub(super) async fn tell(State(fleet): State<Arc<Fleet>>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let name = uuid::Uuid::new_v4().simple().to_string();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let mut response = told(next.run(request).await);
    let (status, took) = (response.status().as_u16(), began.elapsed());
    // A method is any text as well.
    let common = [Method::GET, Method::POST, Method::DELETE, Method::PUT, Method::HEAD].contains(&method);
    let known = if common { method.as_str() } else { "OTHER" };
    fleet.metrics().request(known, route.as_deref().unwrap_or("other"), status, took);
    tracing::info!(request = name, %method, path, status, us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX), "request");
    if let Ok(value) = HeaderValue::from_str(&name) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(address: &str, config: impl FnOnce(&mut ServeConfig)) -> Guard {
        let mut settings = ServeConfig::new("/nowhere");
        config(&mut settings);
        Guard::new(Hosts::Address(address.parse().unwrap()), &settings)
    }

    #[test]
    fn only_our_own_names_are_expected() {
        let local = guard("127.0.0.1", |config| config.allow_hosts = vec!["Bay.example".to_owned()]);
        for host in ["localhost", "LOCALHOST:8156", "127.0.0.1:1", "[::1]:80", "bay.example:9", "bay.example"]
        {
            assert!(local.expects(host), "{host}");
        }
        for host in ["evil.example", "127.0.0.1.evil.example", "10.0.0.1", "", "localhost.evil.example:80"] {
            assert!(!local.expects(host), "{host}");
        }
        let everywhere = guard("0.0.0.0", |_| {});
        assert!(everywhere.expects("10.0.0.1:8156") && !everywhere.expects("evil.example"));
    }

    #[test]
    fn only_our_own_pages_are_admitted_and_those_that_were_allowed() {
        let plain = guard("127.0.0.1", |_| {});
        assert!(plain.admits("http://127.0.0.1:8156", "127.0.0.1:8156"));
        for origin in ["https://127.0.0.1:8156", "http://127.0.0.1", "http://evil.example", "null", ""] {
            assert!(!plain.admits(origin, "127.0.0.1:8156"), "{origin}");
        }
        let allowed = guard("127.0.0.1", |config| config.cors = vec!["https://page.example".to_owned()]);
        assert!(allowed.admits("https://page.example", "127.0.0.1"));
        assert!(!allowed.admits("https://other.example", "127.0.0.1"));
        assert!(guard("127.0.0.1", |config| config.cors = vec!["*".to_owned()]).admits("null", "x"));
    }

    #[test]
    fn a_token_is_bearers() {
        let mut headers = HeaderMap::new();
        let mut with = |value: &'static str| {
            headers.insert(header::AUTHORIZATION, HeaderValue::from_static(value));
            given(&headers).map(str::to_owned).map_err(|problem| problem.detail)
        };
        assert_eq!(with("Bearer secret"), Ok("secret".to_owned()));
        assert_eq!(with("bearer secret"), Ok("secret".to_owned()));
        assert_eq!(with("Basic dXNlcjo="), Err("Invalid authentication credentials".to_owned()));
        assert_eq!(with("secret"), Err("Not authenticated".to_owned()));
        assert_eq!(given(&HeaderMap::new()).unwrap_err().detail, "Not authenticated");
    }
}
