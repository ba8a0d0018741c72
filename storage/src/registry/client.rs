//! [`Client`]: the operations of the OCI distribution API.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::{
    ACCEPT, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, IF_RANGE, RANGE,
};
use serde::Deserialize;

use super::address::{NameService, SystemNames};
use super::auth::Wanted;
use super::body::BlobStream;
use super::config::{RegistryConfig, Route};
use super::endpoint::Endpoint;
use super::error::{RegistryError, Result, shown};
use super::transport::{Call, Reply, Target, Transport};
use crate::digest::{Digest, Hasher};
use crate::image::descriptor::Descriptor;
use crate::image::{MAX_JSON_BYTES, media_type};
use crate::json;
use crate::reference::Reference;
use crate::verify::VerifyError;

const DIGEST_HEADER: &str = "docker-content-digest";
const SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1";
/// The most tags that are listed, and how many are asked for at once.
const MAX_TAGS: usize = 100_000;
const TAGS_PER_PAGE: usize = 1000;

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
        Call::new(method, format!("/v2/{}/{kind}/{which}", self.route.path), self.wanted(), what)
    }
}

impl Client {
    /// A client. Nothing is connected to, and no credentials are looked for, before they are needed.
    #[must_use]
    pub fn new(config: RegistryConfig, options: ClientOptions) -> Self {
        let slots = Arc::new(tokio::sync::Semaphore::new(options.concurrency.max(1)));
        Self { transport: Arc::new(Transport::new(config, options)), slots }
    }

    /// What `reference` leads to at the moment: one HEAD request. `None` if the registry does not have it.
    ///
    /// # Errors
    /// [`RegistryError`], but not `NotFound`.
    pub async fn head(&self, reference: &Reference) -> Result<Option<Descriptor>> {
        let mut last = None;
        for place in self.places(reference)? {
            match self.head_at(&place, reference).await {
                Ok(found) => return Ok(Some(found)),
                Err(error) => last = Some(error),
            }
        }
        match last {
            Some(RegistryError::NotFound { .. }) | None => Ok(None),
            Some(error) => Err(error),
        }
    }

    async fn head_at(&self, place: &Place, reference: &Reference) -> Result<Descriptor> {
        let mut call = place.call(Method::HEAD, "manifests", &which(reference));
        call.headers.insert(ACCEPT, accepted());
        let reply = self.transport.retrying(&place.endpoint, &call).await?;
        let headers = reply.response.headers();
        let size = header(headers, CONTENT_LENGTH.as_str()).and_then(|text| text.parse::<u64>().ok());
        let digest = header(headers, DIGEST_HEADER).and_then(|text| Digest::parse(text).ok());
        match (content_type(headers), digest, size) {
            (Some(kind), Some(digest), Some(size)) => {
                check_pin(reference, &digest, &reply)?;
                Ok(Descriptor::new(refuse_schema_1(kind)?, digest, size))
            }
            // Such headers are recommended only.
            _ => Ok(self.manifest_at(place, reference, None).await?.1),
        }
    }

    /// The manifest or index that `reference` leads to, verified against its digest if it has one, and against
    /// the one that the registry announces.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn manifest(&self, reference: &Reference) -> Result<(Bytes, Descriptor)> {
        self.first_manifest(reference, None).await
    }

    /// The manifest or index of that digest and size in the repository of `repository`.
    ///
    /// # Errors
    /// [`RegistryError`]; `Mismatch` if it is not as promised.
    pub async fn manifest_by_digest(&self, repository: &Reference, descriptor: &Descriptor) -> Result<Bytes> {
        let pinned = format!("{}@{}", repository.name(), descriptor.digest);
        let pinned = Reference::parse(&pinned)
            .map_err(|e| RegistryError::Setting { what: format!("reference {pinned}"), source: e.into() })?;
        Ok(self.first_manifest(&pinned, Some(descriptor)).await?.0)
    }

    async fn first_manifest(
        &self,
        reference: &Reference,
        promised: Option<&Descriptor>,
    ) -> Result<(Bytes, Descriptor)> {
        let mut last = RegistryError::NotFound { what: reference.to_string() };
        for place in self.places(reference)? {
            match self.manifest_at(&place, reference, promised).await {
                Ok(found) => return Ok(found),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn manifest_at(
        &self,
        place: &Place,
        reference: &Reference,
        promised: Option<&Descriptor>,
    ) -> Result<(Bytes, Descriptor)> {
        let which = which(reference);
        let mut call = place.call(Method::GET, "manifests", &which);
        call.headers.insert(ACCEPT, accepted());
        let limit = promised.map_or(MAX_JSON_BYTES, |promised| promised.size.min(MAX_JSON_BYTES));
        let mut attempt = 0;
        loop {
            let reply = self.transport.retrying(&place.endpoint, &call).await?;
            let (headers, url) = (reply.response.headers().clone(), reply.url.clone());
            match self.transport.document(&url, reply.response, "a manifest", limit).await {
                Ok(bytes) => {
                    let descriptor = describe(&bytes, &headers, reference, &which, promised)?;
                    return Ok((bytes, descriptor));
                }
                Err(RegistryError::TooLarge { .. }) if promised.is_some_and(|d| d.size <= MAX_JSON_BYTES) => {
                    return Err(mismatch(&which, VerifyError::TooLong { expected: limit }));
                }
                Err(error) => match self.transport.pause(&error, attempt) {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => return Err(error),
                },
            }
            attempt += 1;
        }
    }

    /// The content of a blob from byte `offset` on. The stream starts there, or at 0 if the registry does not
    /// do ranges. One attempt, mirrors first.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn blob(&self, repository: &Reference, blob: &Descriptor, offset: u64) -> Result<BlobStream> {
        let mut last = RegistryError::NotFound { what: format!("blob {}", blob.digest) };
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
        let mut tags = Vec::new();
        for _ in 0..MAX_TAGS / TAGS_PER_PAGE {
            let Reply { response, url } = self.transport.retrying(&place.endpoint, &call).await?;
            let next = header(response.headers(), "link").and_then(next_link).map(|link| url.join(&link));
            let bytes = self.transport.document(&url, response, "a list of tags", MAX_JSON_BYTES).await?;
            let protocol = |why: &str| RegistryError::Protocol { place: shown(&url), why: why.into() };
            let page: Tags =
                json::parse(&bytes, MAX_JSON_BYTES).map_err(|_| protocol("it is no list of tags"))?;
            let page = page.tags.unwrap_or_default();
            let empty = page.is_empty();
            tags.extend(page);
            match next {
                Some(Ok(next)) if place.endpoint.is_home(&next) && !empty => call.target = Target::Url(next),
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

/// What the registry is asked for: the digest, or the tag.
fn which(reference: &Reference) -> String {
    let digest = reference.digest().map(ToString::to_string);
    digest.unwrap_or_else(|| reference.tag().unwrap_or("latest").to_owned())
}

fn accepted() -> HeaderValue {
    let types = [
        media_type::OCI_INDEX,
        media_type::DOCKER_LIST,
        media_type::OCI_MANIFEST,
        media_type::DOCKER_MANIFEST,
    ];
    HeaderValue::try_from(types.join(", ")).expect("media types are ASCII")
}

pub(super) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The type that was announced, without parameters; nothing if it says nothing.
fn content_type(headers: &HeaderMap) -> Option<String> {
    let text = header(headers, CONTENT_TYPE.as_str())?.split(';').next()?.trim();
    let vague = ["", "text/plain", "application/json", "application/octet-stream", "text/html"];
    (!vague.contains(&text) && text.len() < 256).then(|| text.to_owned())
}

fn refuse_schema_1(kind: String) -> Result<String> {
    if kind.starts_with(SCHEMA_1) {
        let what =
            "an image of docker's manifest schema 1 (made before 2017; push it again with a newer tool)";
        return Err(RegistryError::Unsupported { what: what.to_owned() });
    }
    Ok(kind)
}

/// The descriptor of a manifest that came, if it is what was promised and announced.
fn describe(
    bytes: &[u8],
    headers: &HeaderMap,
    reference: &Reference,
    which: &str,
    promised: Option<&Descriptor>,
) -> Result<Descriptor> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Typed {
        schema_version: Option<u64>,
        media_type: Option<String>,
    }
    let size = bytes.len() as u64;
    if let Some(expected) = promised.map(|promised| promised.size).filter(|expected| size != *expected) {
        return Err(mismatch(which, VerifyError::TooShort { expected, actual: size }));
    }
    let announced = header(headers, DIGEST_HEADER).map(Digest::parse);
    let announced = match announced.transpose() {
        Ok(announced) => announced,
        Err(error) => {
            let why = format!("the digest that the registry announces is malformed: {error}");
            return Err(RegistryError::Protocol { place: which.to_owned(), why });
        }
    };
    for expected in reference.digest().into_iter().chain(&announced) {
        let mut hasher = Hasher::new(expected.algorithm());
        hasher.update(bytes);
        let actual = hasher.finish();
        if actual != *expected {
            return Err(mismatch(which, VerifyError::Digest { expected: expected.clone(), actual }));
        }
    }
    let digest = reference.digest().cloned().unwrap_or_else(|| Digest::sha256(bytes));
    let typed: Typed = json::parse(bytes, MAX_JSON_BYTES).map_err(|e| RegistryError::Protocol {
        place: which.to_owned(),
        why: format!("the manifest cannot be decoded: {e}"),
    })?;
    if typed.schema_version == Some(1) {
        refuse_schema_1(SCHEMA_1.to_owned())?;
    }
    let kind = content_type(headers).or(promised.map(|d| d.media_type.clone())).or(typed.media_type);
    let kind = kind
        .ok_or_else(|| RegistryError::Unsupported { what: format!("{which}, a manifest without a type") })?;
    Ok(Descriptor::new(refuse_schema_1(kind)?, digest, size))
}

fn check_pin(reference: &Reference, announced: &Digest, reply: &Reply) -> Result<()> {
    match reference.digest() {
        Some(expected) if expected != announced => {
            let (expected, actual) = (expected.clone(), announced.clone());
            Err(mismatch(&shown(&reply.url), VerifyError::Digest { expected, actual }))
        }
        _ => Ok(()),
    }
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
