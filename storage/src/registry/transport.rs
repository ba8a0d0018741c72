//! [`Transport`]: one HTTP exchange with a registry, with redirects, authorization, limits and retries.
//!
//! Redirects are followed for reads only, at most five times, never from https to http, and authorization is
//! shown to nobody but the registry itself (scheme, host and port). Source: OCI distribution-spec 1.1.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use oci_distribution::errors::OciEnvelope;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};

use super::auth::{Wanted, denied, is_configured};
use super::body::CallBody;
use super::client::ClientOptions;
use super::config::RegistryConfig;
use super::credentials::Credential;
use super::endpoint::Endpoint;
use super::error::{RegistryError, Result, host_port, shown};
use super::retry;

const MAX_REDIRECTS: usize = 5;
/// How often a registry may say 401 to one request.
const MAX_CHALLENGES: usize = 2;
/// The most of an error's body that is read, in bytes, and shown, in characters.
const MAX_DETAIL: u64 = 64 * 1024;
const SHOWN_DETAIL: usize = 300;

/// Credentials, and whether they were found, by host and repository.
type Credentials = HashMap<(String, String), Option<Credential>>;

/// All registries that a client talks to.
#[derive(Debug)]
pub(super) struct Transport {
    pub(super) config: RegistryConfig,
    pub(super) options: ClientOptions,
    endpoints: Mutex<HashMap<String, Arc<Endpoint>>>,
    credentials: tokio::sync::Mutex<Credentials>,
}

/// A request.
#[derive(Debug, Clone)]
pub(super) struct Call<'a> {
    pub(super) method: Method,
    pub(super) target: Target,
    pub(super) headers: HeaderMap,
    pub(super) body: CallBody,
    pub(super) wanted: Wanted<'a>,
    /// What is asked for, for messages.
    pub(super) what: String,
    /// How often it may be sent again.
    pub(super) retries: u32,
}

/// Where a request goes.
#[derive(Debug, Clone)]
pub(super) enum Target {
    /// An absolute path, with query, of the registry.
    Path(String),
    /// A place that the registry named.
    Url(Url),
}

/// A response and where it came from.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) response: Response,
    pub(super) url: Url,
}

impl<'a> Call<'a> {
    pub(super) fn new(method: Method, path: String, wanted: Wanted<'a>, what: String) -> Self {
        let (headers, body) = (HeaderMap::new(), CallBody::None);
        Self { method, target: Target::Path(path), headers, body, wanted, what, retries: u32::MAX }
    }

    fn is_read(&self) -> bool {
        matches!(self.method, Method::GET | Method::HEAD)
    }
}

impl Transport {
    pub(super) fn new(config: RegistryConfig, options: ClientOptions) -> Self {
        Self { config, options, endpoints: Mutex::default(), credentials: tokio::sync::Mutex::default() }
    }

    /// The registry called `host`.
    pub(super) fn endpoint(&self, host: &str) -> Result<Arc<Endpoint>> {
        let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = endpoints.get(host) {
            return Ok(known.clone());
        }
        let made = Arc::new(Endpoint::new(host, &self.config, &self.options)?);
        endpoints.insert(host.to_owned(), made.clone());
        Ok(made)
    }

    /// The credentials for `path` at the registry; looked for once.
    pub(super) async fn credential(&self, endpoint: &Endpoint, path: &str) -> Result<Option<Credential>> {
        let key = (endpoint.host.clone(), path.to_owned());
        let mut known = self.credentials.lock().await;
        if let Some(found) = known.get(&key) {
            return Ok(found.clone());
        }
        let helper = endpoint.settings.credential_helper.as_deref();
        let found = self.config.keyring.find(&endpoint.host, path, helper).await?;
        known.insert(key, found.clone());
        Ok(found)
    }

    /// The client for `url`, to which `endpoint` led.
    pub(super) fn client_for(&self, endpoint: &Endpoint, url: &Url) -> Result<reqwest::Client> {
        if endpoint.is_home(url) {
            return Ok(endpoint.own().clone());
        }
        let host = host_port(url);
        if self.config.knows(&host) || is_configured(endpoint, url) {
            let other = self.endpoint(&host)?;
            // Who speaks plain HTTP has no certificate that need not be verified.
            if url.scheme() == "http" || !other.is_plain() {
                return Ok(other.own().clone());
            }
        }
        endpoint.elsewhere(&self.config, &self.options, url).cloned()
    }

    /// Sends `call`, and again if that may help and does no harm. The status of the answer is a good one.
    pub(super) async fn retrying(&self, endpoint: &Endpoint, call: &Call<'_>) -> Result<Reply> {
        let mut attempt = 0;
        loop {
            let error = match self.once(endpoint, call).await {
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
            let repeatable =
                call.method.is_idempotent() || matches!(error, RegistryError::RateLimited { .. });
            let more = repeatable && attempt < call.retries;
            match self.pause(&error, attempt).filter(|_| more) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(error),
            }
            attempt += 1;
        }
    }

    /// How long to wait before the retry `attempt` after `error`; `None` if there is none.
    pub(super) fn pause(&self, error: &RegistryError, attempt: u32) -> Option<Duration> {
        let asked = error.transient().filter(|_| attempt < self.options.retries)?;
        let bearable = asked.is_none_or(|asked| asked <= self.options.max_retry_after);
        bearable.then(|| retry::delay(attempt, self.options.retry_base, asked))
    }

    /// Sends `call` and answers challenges.
    pub(super) async fn once(&self, endpoint: &Endpoint, call: &Call<'_>) -> Result<Reply> {
        let mut authorization = self.authorization(endpoint, call.wanted).await?;
        for round in 0.. {
            let reply = match self.follow(endpoint, call, authorization.as_ref()).await {
                Err(RegistryError::Unreachable { .. }) if endpoint.fall_back() => {
                    self.follow(endpoint, call, authorization.as_ref()).await?
                }
                other => other?,
            };
            let asks = reply.response.status() == StatusCode::UNAUTHORIZED && endpoint.is_home(&reply.url);
            if !asks {
                return self.judge(endpoint, call, reply).await;
            }
            if round == MAX_CHALLENGES {
                break;
            }
            let headers = reply.response.headers().clone();
            // Read and dropped: the connection can be used again.
            let detail = self.detail(reply).await;
            let answer = self.answer(endpoint, call.wanted, &headers, authorization.as_ref()).await;
            authorization = Some(answer.map_err(|error| with_detail(error, &detail))?);
        }
        Err(denied(endpoint, call.wanted.path, " again and again"))
    }

    /// Sends `call`, following redirects of reads.
    async fn follow(
        &self,
        endpoint: &Endpoint,
        call: &Call<'_>,
        auth: Option<&HeaderValue>,
    ) -> Result<Reply> {
        let mut url = match &call.target {
            Target::Path(path) => endpoint.url(path)?,
            Target::Url(url) => url.clone(),
        };
        for _ in 0..=MAX_REDIRECTS {
            let client = self.client_for(endpoint, &url)?;
            let mut request = client.request(call.method.clone(), url.clone()).headers(call.headers.clone());
            if let Some(auth) = auth.filter(|_| endpoint.is_home(&url)) {
                request = request.header(AUTHORIZATION, auth.clone());
            }
            let response = self.exchange_body(&url, request, &call.body).await?;
            if !response.status().is_redirection() || response.status() == StatusCode::NOT_MODIFIED {
                return Ok(Reply { response, url });
            }
            if !call.is_read() {
                let why = format!("a redirect ({}) of what is written", response.status());
                return Err(RegistryError::Protocol { place: shown(&url), why });
            }
            url = self.next_hop(endpoint, &url, &response)?;
        }
        Err(endpoint.refused(&url, format!("there are more than {MAX_REDIRECTS} redirects")))
    }

    /// Where a response leads to, if that is acceptable.
    pub(super) fn next_hop(&self, endpoint: &Endpoint, from: &Url, response: &Response) -> Result<Url> {
        let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let protocol = |why: &str| RegistryError::Protocol { place: shown(from), why: why.to_owned() };
        let location = location.ok_or_else(|| protocol("there is no Location"))?;
        let next = from.join(location).map_err(|_| protocol("the Location is not a URL"))?;
        let why = match (from.scheme(), next.scheme()) {
            (_, "https") | ("http", "http") => None,
            ("https", "http") => Some("that would leave https for http"),
            _ => Some("it is neither http nor https"),
        };
        let named = !next.username().is_empty() || next.password().is_some();
        match why.or(named.then_some("the address has a user name")) {
            Some(why) => Err(endpoint.refused(&next, why)),
            None => Ok(next),
        }
    }

    /// One request without a body, one response.
    pub(super) async fn exchange(&self, url: &Url, request: RequestBuilder) -> Result<Response> {
        self.exchange_body(url, request, &CallBody::None).await
    }

    async fn exchange_body(&self, url: &Url, request: RequestBuilder, body: &CallBody) -> Result<Response> {
        let (request, sent) = body.attach(request);
        let patience = self.options.idle_timeout;
        let sending = request.send();
        tokio::pin!(sending);
        let mut before = 0;
        loop {
            match tokio::time::timeout(patience, &mut sending).await {
                Ok(done) => return done.map_err(|e| RegistryError::exchange(url, e)),
                // Something left in the meantime: it is slow, but not stuck.
                Err(_) if sent.count() > before => before = sent.count(),
                Err(_) => return Err(self.stalled(url, patience)),
            }
        }
    }

    pub(super) fn stalled(&self, url: &Url, window: Duration) -> RegistryError {
        RegistryError::Stalled { place: shown(url), rate: self.options.min_rate, window }
    }

    /// Passes answers of success, and makes errors of the others.
    async fn judge(&self, endpoint: &Endpoint, call: &Call<'_>, reply: Reply) -> Result<Reply> {
        if reply.response.status().is_success() {
            return Ok(reply);
        }
        let error = self.check_status(endpoint, &call.what, &reply.url, &reply.response).err();
        let place = shown(&reply.url);
        let home = endpoint.is_home(&reply.url);
        let forbidden = reply.response.status() == StatusCode::FORBIDDEN && home;
        let detail = self.detail(reply).await;
        match error {
            _ if forbidden => Err(denied(endpoint, call.wanted.path, &detail)),
            Some(error) => Err(with_detail(error, &detail)),
            None => Err(RegistryError::Protocol { place, why: "the status has no meaning here".into() }),
        }
    }

    /// The error that a status is.
    pub(super) fn check_status(
        &self,
        endpoint: &Endpoint,
        what: &str,
        url: &Url,
        response: &Response,
    ) -> Result<()> {
        let after = retry::asked(response.headers());
        match response.status() {
            status if status.is_success() => Ok(()),
            StatusCode::NOT_FOUND => Err(RegistryError::not_found(what.to_owned())),
            StatusCode::TOO_MANY_REQUESTS => {
                Err(RegistryError::RateLimited { registry: endpoint.host.clone(), after })
            }
            status => Err(RegistryError::Status {
                place: shown(url),
                status: status.as_u16(),
                detail: String::new(),
                after,
            }),
        }
    }

    /// What an error's body says, for a message: `": …"`, or nothing.
    async fn detail(&self, reply: Reply) -> String {
        let read = self.document(&reply.url, reply.response, "an error", MAX_DETAIL).await;
        let envelope = read.ok().and_then(|bytes| serde_json::from_slice::<OciEnvelope>(&bytes).ok());
        let texts = envelope.map(|envelope| {
            let texts = envelope.errors.into_iter().take(3).map(|error| error.message);
            texts.filter(|text| !text.is_empty()).collect::<Vec<_>>().join("; ")
        });
        let text = texts.unwrap_or_default();
        let clean: String = text.chars().filter(|c| !c.is_control()).take(SHOWN_DETAIL).collect();
        if clean.is_empty() { clean } else { format!(": {clean}") }
    }

    /// All of a body that must be small and come soon.
    pub(super) async fn document(
        &self,
        url: &Url,
        mut response: Response,
        what: &str,
        limit: u64,
    ) -> Result<Bytes> {
        let too_large = || RegistryError::TooLarge { what: format!("{what} from {}", shown(url)), limit };
        if response.content_length().is_some_and(|length| length > limit) {
            return Err(too_large());
        }
        let deadline = Instant::now() + self.options.document_timeout;
        let mut bytes = BytesMut::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now()).min(self.options.idle_timeout);
            let next = tokio::time::timeout(left, response.chunk()).await;
            let next = next.map_err(|_| self.stalled(url, self.options.idle_timeout))?;
            match next.map_err(|e| RegistryError::exchange(url, e))? {
                None => return Ok(bytes.freeze()),
                Some(chunk) if (bytes.len() + chunk.len()) as u64 > limit => return Err(too_large()),
                Some(chunk) => bytes.extend_from_slice(&chunk),
            }
        }
    }
}

/// Adds what the registry said to an error that has a place for it.
fn with_detail(mut error: RegistryError, said: &str) -> RegistryError {
    use RegistryError::{NotFound, Status, Unauthorized};
    if let Unauthorized { detail, .. } | Status { detail, .. } | NotFound { detail, .. } = &mut error {
        detail.push_str(said);
    }
    error
}
