//! [`Client`]: the operations of the OCI distribution API.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use reqwest::header::{CONTENT_RANGE, HeaderMap, HeaderValue, IF_RANGE, RANGE};
use serde::Deserialize;

use super::address::{NameService, SystemNames};
use super::auth::Wanted;
use super::body::BlobStream;
use super::config::{RegistryConfig, Route};
use super::endpoint::Endpoint;
use super::error::{RegistryError, Result, shown};
use super::transport::{Call, Reply, Target, Transport};
use crate::image::MAX_JSON_BYTES;
use crate::image::descriptor::Descriptor;
use crate::json;
use crate::reference::Reference;
use crate::verify::VerifyError;

/// The most tags that are listed, and how many are asked for at once.
const MAX_TAGS: usize = 100_000;
const TAGS_PER_PAGE: usize = 1000;
/// The most that all lists of tags of a repository may have, in bytes.
const MAX_TAG_BYTES: u64 = 4 * MAX_JSON_BYTES;

/// How a [`Client`] behaves.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// What the client calls itself.
    pub user_agent: String,
    /// How often something that may work later is tried again.
    pub retries: u32,
    /// The pause before the first retry; it doubles.
    pub retry_base: Duration,
    /// The longest `Retry-After` that is waited for; a longer one is an error at once.
    pub max_retry_after: Duration,
    /// For a connection, TLS included.
    pub connect_timeout: Duration,
    /// The longest time without any byte.
    pub idle_timeout: Duration,
    /// For the whole of a manifest, configuration or token.
    pub document_timeout: Duration,
    /// The lowest rate of a blob, in bytes per second, over each `rate_window`.
    pub min_rate: u64,
    /// See `min_rate`.
    pub rate_window: Duration,
    /// How many blobs are transferred at once.
    pub concurrency: usize,
    /// Blobs larger than this, in bytes, are sent in several requests.
    pub chunk_above: u64,
    /// The size of those requests, in bytes.
    pub chunk_size: u64,
    /// Resolves names.
    pub names: Arc<dyn NameService>,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            user_agent: concat!("vesselrt/", env!("CARGO_PKG_VERSION")).to_owned(),
            retries: 4,
            retry_base: Duration::from_millis(250),
            max_retry_after: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(30),
            document_timeout: Duration::from_secs(60),
            min_rate: 1024,
            rate_window: Duration::from_secs(30),
            concurrency: 6,
            chunk_above: 128 << 20,
            chunk_size: 32 << 20,
            names: Arc::new(SystemNames),
        }
    }
}

/// A client of any number of registries. Clones share connections, tokens and limits.
#[derive(Debug, Clone)]
pub struct Client {
    pub(super) transport: Arc<Transport>,
    pub(super) slots: Arc<tokio::sync::Semaphore>,
}

/// A place that may have an image, and its endpoint.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) route: Route,
    pub(super) endpoint: Arc<Endpoint>,
    pull: String,
}

impl Place {
    pub(super) fn wanted(&self) -> Wanted<'_> {
        Wanted { path: &self.route.path, scope: &self.pull }
    }

    /// `/v2/PATH/KIND/WHICH`.
    pub(super) fn call(&self, method: Method, kind: &str, which: &str) -> Call<'_> {
        let what = format!("{which} of {}/{}", self.route.host, self.route.path);
        let path = format!("/v2/{}/{kind}/{which}", self.route.path);
        Call { retries: self.retries(), ..Call::new(method, path, self.wanted(), what) }
    }

    /// A mirror has one more chance; after it there is the registry.
    pub(super) fn retries(&self) -> u32 {
        if self.route.origin { u32::MAX } else { 1 }
    }
}

impl Client {
    /// A client. Nothing is connected to, and no credentials are looked for, before they are needed.
    #[must_use]
    pub fn new(config: RegistryConfig, options: ClientOptions) -> Self {
        let slots = Arc::new(tokio::sync::Semaphore::new(options.concurrency.max(1)));
        Self { transport: Arc::new(Transport::new(config, options)), slots }
    }

    /// The content of a blob from byte `offset` on. The stream starts there, or at 0 if the registry does not
    /// do ranges. One attempt, mirrors first.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn blob(&self, repository: &Reference, blob: &Descriptor, offset: u64) -> Result<BlobStream> {
        let mut last = RegistryError::not_found(format!("blob {}", blob.digest));
        for place in self.places(repository)? {
            match self.blob_at(&place, blob, offset, None).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    pub(super) async fn blob_at(
        &self,
        place: &Place,
        blob: &Descriptor,
        offset: u64,
        etag: Option<HeaderValue>,
    ) -> Result<BlobStream> {
        let mut call = place.call(Method::GET, "blobs", &blob.digest.to_string());
        if offset > 0 {
            call.headers.insert(RANGE, HeaderValue::try_from(format!("bytes={offset}-")).expect("ASCII"));
            call.headers.extend(etag.map(|etag| (IF_RANGE, etag)));
        }
        let reply = match self.transport.once(&place.endpoint, &call).await {
            // Nothing to give from there on: what we have is not what it has.
            Err(RegistryError::Status { status: 416, .. }) if offset > 0 => {
                let whole = place.call(Method::GET, "blobs", &blob.digest.to_string());
                self.transport.once(&place.endpoint, &whole).await?
            }
            other => other?,
        };
        let start = match reply.response.status().as_u16() {
            206 if offset > 0 && is_range(reply.response.headers(), offset, blob.size) => offset,
            200 => 0,
            // Another range than asked for: as if there were none.
            206 if offset > 0 => return Box::pin(self.blob_at(place, blob, 0, None)).await,
            status => {
                let why = format!("the status of a blob is {status}");
                return Err(RegistryError::Protocol { place: shown(&reply.url), why });
            }
        };
        Ok(BlobStream::new(self.transport.clone(), reply, start))
    }

    /// Whether the repository has the blob.
    ///
    /// # Errors
    /// [`RegistryError`], but not `NotFound`.
    pub async fn exists_blob(&self, repository: &Reference, blob: &Descriptor) -> Result<bool> {
        let place = self.origin(repository)?;
        self.exists_at(&place, blob, place.wanted()).await
    }

    pub(super) async fn exists_at(
        &self,
        place: &Place,
        blob: &Descriptor,
        wanted: Wanted<'_>,
    ) -> Result<bool> {
        let call = Call { wanted, ..place.call(Method::HEAD, "blobs", &blob.digest.to_string()) };
        match self.transport.retrying(&place.endpoint, &call).await {
            Ok(_) => Ok(true),
            Err(RegistryError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The tags of a repository, at most 100,000.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn list_tags(&self, repository: &Reference) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        struct Tags {
            tags: Option<Vec<String>>,
        }
        let place = self.origin(repository)?;
        let mut call = place.call(Method::GET, "tags", &format!("list?n={TAGS_PER_PAGE}"));
        let (mut tags, mut size) = (Vec::new(), 0);
        for _ in 0..MAX_TAGS / TAGS_PER_PAGE {
            let Reply { response, url } = self.transport.retrying(&place.endpoint, &call).await?;
            let next = header(response.headers(), "link").and_then(next_link).map(|link| url.join(&link));
            let bytes = self.transport.document(&url, response, "a list of tags", MAX_JSON_BYTES).await?;
            size += bytes.len() as u64;
            if size > MAX_TAG_BYTES {
                return Err(RegistryError::TooLarge { what: "a list of tags".into(), limit: MAX_TAG_BYTES });
            }
            let protocol = |why: &str| RegistryError::Protocol { place: shown(&url), why: why.into() };
            let page: Tags =
                json::parse(&bytes, MAX_JSON_BYTES).map_err(|_| protocol("it is no list of tags"))?;
            let page = page.tags.unwrap_or_default();
            let empty = page.is_empty();
            tags.extend(page);
            match next {
                Some(Ok(next)) if !place.endpoint.is_home(&next) => {
                    return Err(place
                        .endpoint
                        .refused(&next, "a list of tags goes on at the registry itself"));
                }
                Some(Ok(next)) if !empty => call.target = Target::Url(next),
                Some(Err(_)) => return Err(protocol("its Link is not a URL")),
                _ => return Ok(tags),
            }
        }
        Err(RegistryError::TooLarge { what: "a list of tags".into(), limit: MAX_TAGS as u64 })
    }

    /// All places to read `reference` from, best first.
    pub(super) fn places(&self, reference: &Reference) -> Result<Vec<Place>> {
        self.transport.config.routes(reference)?.into_iter().map(|route| self.place(route)).collect()
    }

    /// The registry itself.
    pub(super) fn origin(&self, reference: &Reference) -> Result<Place> {
        self.place(self.transport.config.origin(reference)?)
    }

    fn place(&self, route: Route) -> Result<Place> {
        let endpoint = self.transport.endpoint(&route.host)?;
        let pull = format!("repository:{}:pull", route.path);
        Ok(Place { route, endpoint, pull })
    }
}

pub(super) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

pub(super) fn mismatch(what: &str, source: VerifyError) -> RegistryError {
    RegistryError::Mismatch { what: what.to_owned(), source }
}

/// Whether a partial answer has the bytes from `offset` on of a content of `size`.
fn is_range(headers: &HeaderMap, offset: u64, size: u64) -> bool {
    let expected = format!("bytes {offset}-{}/", size.saturating_sub(1));
    let rest = header(headers, CONTENT_RANGE.as_str()).and_then(|text| text.strip_prefix(expected.as_str()));
    rest.is_some_and(|total| total == "*" || total.parse() == Ok(size))
}

/// The target of `<target>; rel="next"` (RFC 8288).
fn next_link(value: &str) -> Option<String> {
    let (target, params) = value.strip_prefix('<')?.split_once('>')?;
    params.contains("next").then(|| target.to_owned())
}
