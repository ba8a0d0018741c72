//! Answers to `WWW-Authenticate`: basic, and tokens of a token server.
//!
//! Sources: distribution's "Token Authentication Specification" and "OAuth2 Token Authentication"; RFC 9110,
//! section 11.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_auth::parser::ChallengeParser;
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::credentials::{Credential, Secret};
use super::endpoint::Endpoint;
use super::error::{RegistryError, Result, host_port, shown};
use super::transport::Transport;
use crate::json;

/// The longest answer of a token server, in bytes.
const MAX_ANSWER: u64 = 256 * 1024;
/// How long a token lives that does not say so, and at least (the specification).
const LIFETIME: Duration = Duration::from_secs(60);
/// Nobody keeps a token for longer.
const LONGEST: Duration = Duration::from_secs(3600);
/// Registries whose token servers are elsewhere, and known to be theirs.
const KNOWN: [(&str, &str); 3] = [
    ("docker.io", "auth.docker.io"),
    ("registry-1.docker.io", "auth.docker.io"),
    ("registry.gitlab.com", "gitlab.com"),
];

/// What a registry is shown, by scope.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    basic: AtomicBool,
    kept: Mutex<HashMap<String, Token>>,
}

#[derive(Debug)]
struct Token {
    value: HeaderValue,
    until: Instant,
}

/// What a registry asks for.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// Whose authorization for what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// The repository: credentials may be for it alone.
    pub(super) path: &'a str,
    /// The scope, `repository:PATH:ACTIONS`; several are separated by spaces; may be empty.
    pub(super) scope: &'a str,
}

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

impl Transport {
    /// The authorization that is there already.
    pub(super) async fn authorization(
        &self,
        endpoint: &Endpoint,
        wanted: Wanted<'_>,
    ) -> Result<Option<HeaderValue>> {
        if let Some(token) = endpoint.tokens.kept.lock().await.get(wanted.scope)
            && token.until > Instant::now()
        {
            return Ok(Some(token.value.clone()));
        }
        if endpoint.tokens.basic.load(Ordering::Relaxed) {
            let credential = self.credential(endpoint, wanted.path).await?;
            return Ok(credential.as_ref().and_then(basic));
        }
        Ok(None)
    }

    /// Answers the challenge in `headers`. `failed` is the authorization that was not enough.
    pub(super) async fn answer(
        &self,
        endpoint: &Endpoint,
        wanted: Wanted<'_>,
        headers: &HeaderMap,
        failed: Option<&HeaderValue>,
    ) -> Result<HeaderValue> {
        let denied = |detail: &str| denied(endpoint, wanted.path, detail);
        let challenge = challenge(headers).ok_or_else(|| denied(" without saying how to log in"))?;
        let credential = self.credential(endpoint, wanted.path).await?;
        let answer = match (challenge, &credential) {
            (Challenge::Basic, Some(credential)) => {
                endpoint.tokens.basic.store(true, Ordering::Relaxed);
                basic(credential).ok_or_else(|| denied(" and takes passwords only"))?
            }
            (Challenge::Basic, None) => return Err(denied(" without credentials")),
            (Challenge::Bearer { .. }, Some(Credential::Bearer(token))) => {
                bearer(token).ok_or_else(|| denied(": the configured token has impossible characters"))?
            }
            (Challenge::Bearer { realm, service, scope }, _) => {
                let scopes = scopes(wanted.scope, scope.as_deref());
                // Held while a token is fetched: all who wait for it need one only.
                let mut kept = endpoint.tokens.kept.lock().await;
                let known = kept.get(wanted.scope).filter(|token| token.until > Instant::now());
                match known.filter(|token| Some(&token.value) != failed) {
                    Some(token) => token.value.clone(),
                    None => {
                        let service = service.as_deref();
                        let token = self
                            .fetch_token(endpoint, wanted, &realm, service, &scopes, credential.as_ref())
                            .await?;
                        let value = token.value.clone();
                        kept.insert(wanted.scope.to_owned(), token);
                        value
                    }
                }
            }
        };
        // The same again would not help.
        if Some(&answer) == failed { Err(denied("")) } else { Ok(answer) }
    }

    async fn fetch_token(
        &self,
        endpoint: &Endpoint,
        wanted: Wanted<'_>,
        realm: &str,
        service: Option<&str>,
        scopes: &[&str],
        credential: Option<&Credential>,
    ) -> Result<Token> {
        let realm = check_realm(endpoint, realm)?;
        let shows = may_see(endpoint, &realm);
        let mut url = realm.clone();
        let client = self.client_for(endpoint, &url)?;
        let request = match credential.filter(|_| shows) {
            Some(Credential::IdentityToken(token)) => {
                let mut form = vec![("grant_type", "refresh_token"), ("refresh_token", token.reveal())];
                form.push(("client_id", "vesselrt"));
                form.extend(service.map(|service| ("service", service)));
                let joined = scopes.join(" ");
                form.push(("scope", joined.as_str()));
                let body = form_urlencoded(&form);
                let kind = "application/x-www-form-urlencoded";
                client.post(url.clone()).header(reqwest::header::CONTENT_TYPE, kind).body(body)
            }
            other => {
                let pairs = service.map(|service| ("service", service)).into_iter();
                url.query_pairs_mut().extend_pairs(pairs.chain(scopes.iter().map(|scope| ("scope", *scope))));
                let request = client.get(url.clone());
                match other.and_then(basic) {
                    Some(header) => request.header(reqwest::header::AUTHORIZATION, header),
                    None => request,
                }
            }
        };
        let response = self.exchange(&realm, request).await?;
        let status = response.status();
        if matches!(status.as_u16(), 400 | 401 | 403) {
            let detail = match (credential.is_some(), shows) {
                (true, false) => format!(
                    ": its token server {} may not see the credentials unless token_hosts of \
                     [registry.\"{}\"] has it",
                    host_port(&realm),
                    endpoint.host
                ),
                _ => format!(": its token server answers {status}"),
            };
            return Err(denied(endpoint, wanted.path, &detail));
        }
        self.check_status(endpoint, "a token", &realm, &response)?;
        let body = self.document(&realm, response, "a token", MAX_ANSWER).await?;
        let answer: Answer = json::parse(&body, MAX_ANSWER).map_err(|_| malformed(&realm))?;
        let text = answer.token.or(answer.access_token).filter(|token| !token.is_empty());
        let value = text.and_then(|text| bearer(&Secret::new(text))).ok_or_else(|| malformed(&realm))?;
        let lifetime = answer.expires_in.map_or(LIFETIME, Duration::from_secs).clamp(LIFETIME, LONGEST);
        // A little less: clocks run while requests do.
        Ok(Token { value, until: Instant::now() + lifetime.mul_f64(0.9) })
    }
}

fn malformed(realm: &Url) -> RegistryError {
    RegistryError::Protocol { place: shown(realm), why: "the answer has no token".into() }
}

pub(super) fn denied(endpoint: &Endpoint, path: &str, detail: &str) -> RegistryError {
    RegistryError::Unauthorized {
        registry: endpoint.host.clone(),
        what: if path.is_empty() { "the registry".to_owned() } else { format!("repository {path}") },
        detail: detail.to_owned(),
    }
}

/// A realm is a URL, of https unless the registry is not.
fn check_realm(endpoint: &Endpoint, realm: &str) -> Result<Url> {
    let bad = |why: &str| RegistryError::Refused {
        registry: endpoint.host.clone(),
        place: Url::parse(realm).map_or_else(|_| crate::error::quoted(realm), |url| shown(&url)),
        why: why.to_owned(),
    };
    let url = Url::parse(realm).map_err(|_| bad("the token server's address is not a URL"))?;
    match url.scheme() {
        "https" => {}
        "http" if endpoint.is_plain() => {}
        _ => return Err(bad("a token server must be reached by https")),
    }
    if !url.username().is_empty() || url.password().is_some() || url.host_str().is_none() {
        return Err(bad("the token server's address has a user name"));
    }
    Ok(url)
}

/// Whether a token server may see the credentials for the registry.
fn may_see(endpoint: &Endpoint, realm: &Url) -> bool {
    let host = realm.host_str().unwrap_or_default();
    let own = endpoint.url("/").ok();
    let own_host = own.as_ref().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default();
    let https = realm.scheme() == "https";
    // By https, a certificate shows that another port, or a subdomain, is of the same people.
    let same = endpoint.is_home(realm) || https && !endpoint.settings.skip_tls_verify && host == own_host;
    let below = https
        && own_host.contains('.')
        && host.strip_suffix(&own_host).is_some_and(|rest| rest.ends_with('.'));
    let known = https && KNOWN.contains(&(endpoint.host.as_str(), host)) && realm.port().is_none();
    same || below || known || is_configured(endpoint, realm)
}

/// Whether the settings of the registry name the token server.
pub(super) fn is_configured(endpoint: &Endpoint, url: &Url) -> bool {
    let (host, full) = (url.host_str().unwrap_or_default(), host_port(url));
    endpoint.settings.token_hosts.iter().any(|known| *known == full || url.port().is_none() && known == host)
}

fn sensitive(text: String) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn bearer(token: &Secret) -> Option<HeaderValue> {
    sensitive(format!("Bearer {}", token.reveal()))
}

fn basic(credential: &Credential) -> Option<HeaderValue> {
    match credential {
        Credential::Password { username, password } => {
            sensitive(format!("Basic {}", STANDARD.encode(format!("{username}:{}", password.reveal()))))
        }
        Credential::IdentityToken(_) | Credential::Bearer(_) => None,
    }
}

fn form_urlencoded(pairs: &[(&str, &str)]) -> String {
    let mut url = Url::parse("http://form/").expect("a constant URL");
    url.query_pairs_mut().extend_pairs(pairs);
    url.query().unwrap_or_default().to_owned()
}

/// What is needed, and what the registry says in addition.
fn scopes<'a>(wanted: &'a str, asked: Option<&'a str>) -> Vec<&'a str> {
    let mut scopes: Vec<&str> = wanted.split_ascii_whitespace().collect();
    for scope in asked.unwrap_or_default().split_ascii_whitespace().take(8) {
        if !scopes.contains(&scope) {
            scopes.push(scope);
        }
    }
    scopes
}

/// The best challenge that we can answer.
fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let mut found = None;
    for value in headers.get_all(WWW_AUTHENTICATE).iter().take(8).filter_map(|value| value.to_str().ok()) {
        for parsed in ChallengeParser::new(value).map_while(Result::ok) {
            let param = |name: &str| {
                let found = parsed.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.to_unescaped()).filter(|value| !value.is_empty())
            };
            if parsed.scheme.eq_ignore_ascii_case("bearer") {
                if let Some(realm) = param("realm") {
                    return Some(Challenge::Bearer {
                        realm,
                        service: param("service"),
                        scope: param("scope"),
                    });
                }
            } else if parsed.scheme.eq_ignore_ascii_case("basic") {
                found = Some(Challenge::Basic);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests;
