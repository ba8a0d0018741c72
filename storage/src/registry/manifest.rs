//! Reading manifests and indexes.
#![forbid(unsafe_code)]

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};
use serde::Deserialize;

use super::client::{Client, Place, header, mismatch};
use super::error::{RegistryError, Result, shown};
use super::transport::Reply;
use crate::digest::{Digest, Hasher};
use crate::image::descriptor::Descriptor;
use crate::image::{MAX_JSON_BYTES, media_type};
use crate::json;
use crate::reference::Reference;
use crate::verify::VerifyError;

const DIGEST_HEADER: &str = "docker-content-digest";
const SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1";

impl Client {
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
        let mut last = RegistryError::not_found(reference.to_string());
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
