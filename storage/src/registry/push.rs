//! Writing: blobs and manifests.
//!
//! Source: OCI distribution-spec 1.1, "Pushing blobs", "Mounting a blob from another repository", "Pushing
//! manifests".
#![forbid(unsafe_code)]

mod upload;

use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, Url};

use self::upload::Upload;
use super::auth::Wanted;
use super::body::{CallBody, Sent};
use super::client::{Client, Place, header, mismatch};
use super::error::{RegistryError, Result, shown};
use super::transport::{Call, Reply};
use crate::digest::{Digest, Hasher};
use crate::error::StorageError;
use crate::image::descriptor::Descriptor;
use crate::reference::Reference;
use crate::verify::VerifyError;

/// What became of a request to mount a blob.
#[derive(Debug)]
#[non_exhaustive]
pub enum Mount {
    /// The repository has the blob now.
    Mounted,
    /// It does not, but waits for an upload: give it to [`Client::upload_blob_in`].
    Session(UploadSession),
}

/// An upload that the registry has opened.
#[derive(Debug)]
pub struct UploadSession {
    location: Url,
}

/// The source of an upload: bytes that can be read more than once.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum BlobSource {
    /// In memory.
    Bytes(Bytes),
    /// A file, from its beginning.
    File(Arc<File>),
}

/// Who is told how many bytes of a blob left.
type Told<'a> = &'a (dyn Fn(u64) + Send + Sync);

impl Client {
    /// Asks the registry to take the blob over from the repository of `from`, which must be at the same registry.
    ///
    /// # Errors
    /// [`RegistryError`]; `Setting` if `from` is elsewhere.
    pub async fn mount_blob(&self, to: &Reference, blob: &Descriptor, from: &Reference) -> Result<Mount> {
        let (place, source) = (self.origin(to)?, self.origin(from)?);
        if source.route.host != place.route.host {
            let why = format!("it is not at {}", place.route.host);
            return Err(RegistryError::Setting { what: format!("{from} as a source"), source: why.into() });
        }
        let scope = format!("{} repository:{}:pull", push_scope(&place), source.route.path);
        let path = format!(
            "/v2/{}/blobs/uploads/?mount={}&from={}",
            place.route.path, blob.digest, source.route.path
        );
        let wanted = Wanted { path: &place.route.path, scope: &scope };
        let mut call = Call::new(Method::POST, path, wanted, format!("an upload to {}", place.route.path));
        call.headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        let reply = self.transport.retrying(&place.endpoint, &call).await?;
        match reply.response.status().as_u16() {
            201 => Ok(Mount::Mounted),
            202 => Ok(Mount::Session(UploadSession { location: self.location(&place, &reply)? })),
            status => Err(odd(&reply, status)),
        }
    }

    /// Sends a blob, unless the repository has it already: false if it had. `told` hears how many bytes left.
    ///
    /// # Errors
    /// [`RegistryError`]; `Mismatch` if the source is not what the descriptor says.
    pub async fn upload_blob(
        &self,
        repository: &Reference,
        blob: &Descriptor,
        source: &BlobSource,
        told: impl Fn(u64) + Send + Sync,
    ) -> Result<bool> {
        // With the scope of a push: a repository that is yet to be made has no other.
        let place = self.origin(repository)?;
        let scope = push_scope(&place);
        if self.exists_at(&place, blob, Wanted { path: &place.route.path, scope: &scope }).await? {
            return Ok(false);
        }
        self.upload(repository, blob, source, None, &told).await?;
        Ok(true)
    }

    /// [`Client::upload_blob`] into a session that [`Client::mount_blob`] opened.
    ///
    /// # Errors
    /// Those of [`Client::upload_blob`].
    pub async fn upload_blob_in(
        &self,
        repository: &Reference,
        blob: &Descriptor,
        source: &BlobSource,
        session: UploadSession,
        told: impl Fn(u64) + Send + Sync,
    ) -> Result<()> {
        self.upload(repository, blob, source, Some(session), &told).await
    }

    async fn upload(
        &self,
        repository: &Reference,
        blob: &Descriptor,
        source: &BlobSource,
        session: Option<UploadSession>,
        told: Told<'_>,
    ) -> Result<()> {
        source.check_size(blob)?;
        let slot = self.slots.acquire().await;
        let _slot = slot.map_err(|_| StorageError::Cancelled { what: "an upload" })?;
        let place = self.origin(repository)?;
        let scope = push_scope(&place);
        let wanted = Wanted { path: &place.route.path, scope: &scope };
        let upload = Upload { client: self, place: &place, wanted, blob, source, told };
        upload.run(session).await
    }

    /// Stores a manifest or index under the tag or digest of `reference`, and returns its digest.
    ///
    /// # Errors
    /// [`RegistryError`]; `Mismatch` if `reference` has another digest, or the registry announces one.
    pub async fn put_manifest(
        &self,
        reference: &Reference,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<Digest> {
        let digest = Digest::sha256(&bytes);
        if let Some(expected) = reference.digest() {
            let mut hasher = Hasher::new(expected.algorithm());
            hasher.update(&bytes);
            let actual = hasher.finish();
            if actual != *expected {
                let expected = expected.clone();
                return Err(mismatch("the manifest", VerifyError::Digest { expected, actual }));
            }
        }
        let place = self.origin(reference)?;
        // Of a name with both, the tag is what is to be set; the digest has been checked.
        let pinned = || reference.digest().map_or_else(|| digest.to_string(), ToString::to_string);
        let which = reference.tag().map_or_else(pinned, str::to_owned);
        let scope = push_scope(&place);
        let mut call = place.call(Method::PUT, "manifests", &which);
        call.wanted = Wanted { path: &place.route.path, scope: &scope };
        let kind = HeaderValue::try_from(media_type).map_err(|e| RegistryError::Setting {
            what: format!("media type {}", crate::error::quoted(media_type)),
            source: e.into(),
        })?;
        call.headers.insert(CONTENT_TYPE, kind);
        call.body = CallBody::Bytes(bytes);
        let reply = self.transport.retrying(&place.endpoint, &call).await?;
        check_announced(&reply, &digest)?;
        Ok(digest)
    }

    /// Where an upload goes on.
    fn location(&self, place: &Place, reply: &Reply) -> Result<Url> {
        // The same rules as for a redirect.
        self.transport.next_hop(&place.endpoint, &reply.url, &reply.response)
    }
}

impl BlobSource {
    fn part(&self, offset: u64, length: u64) -> CallBody {
        match self {
            Self::Bytes(bytes) => {
                // Checked against the descriptor before.
                let (from, to) = (offset, offset.saturating_add(length).min(bytes.len() as u64));
                let at = |at: u64| usize::try_from(at).unwrap_or(bytes.len()).min(bytes.len());
                CallBody::Bytes(bytes.slice(at(from)..at(to)))
            }
            Self::File(file) => CallBody::File { file: file.clone(), offset, length, sent: Sent::default() },
        }
    }

    fn check_size(&self, blob: &Descriptor) -> Result<()> {
        let actual = match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(file) => {
                let meta =
                    file.metadata().map_err(|e| StorageError::io("stat", "the source of an upload", e))?;
                meta.len()
            }
        };
        let expected = blob.size;
        match actual.cmp(&expected) {
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Less => Err(VerifyError::TooShort { expected, actual }),
            std::cmp::Ordering::Greater => Err(VerifyError::TooLong { expected }),
        }
        .map_err(|source| {
            RegistryError::Storage(StorageError::corrupt(format!("blob {}", blob.digest), source))
        })
    }
}

fn push_scope(place: &Place) -> String {
    format!("repository:{}:pull,push", place.route.path)
}

fn odd(reply: &Reply, status: u16) -> RegistryError {
    RegistryError::Protocol {
        place: shown(&reply.url),
        why: format!("the status {status} has no meaning here"),
    }
}

/// A registry that says which digest it stored must have stored the right one.
fn check_announced(reply: &Reply, expected: &Digest) -> Result<()> {
    let announced = header(reply.response.headers(), "docker-content-digest").map(Digest::parse);
    match announced {
        Some(Ok(actual)) if actual.algorithm() == expected.algorithm() && actual != *expected => {
            let expected = expected.clone();
            Err(mismatch("what was stored", VerifyError::Digest { expected, actual }))
        }
        _ => Ok(()),
    }
}
