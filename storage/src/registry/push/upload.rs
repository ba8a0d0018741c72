//! [`Upload`]: the upload of one blob, in one request or in several.
#![forbid(unsafe_code)]

use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderValue, LOCATION, RANGE};
use reqwest::{Method, Url};

use super::{BlobSource, Told, UploadSession, check_announced, odd};
use crate::image::descriptor::Descriptor;
use crate::registry::auth::Wanted;
use crate::registry::client::{Client, Place, header, mismatch};
use crate::registry::error::Result;
use crate::registry::transport::{Call, Reply, Target};
use crate::verify::VerifyError;

const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// One blob on its way.
pub(super) struct Upload<'a> {
    pub(super) client: &'a Client,
    pub(super) place: &'a Place,
    pub(super) wanted: Wanted<'a>,
    pub(super) blob: &'a Descriptor,
    pub(super) source: &'a BlobSource,
    pub(super) told: Told<'a>,
}

impl Upload<'_> {
    pub(super) async fn run(&self, session: Option<UploadSession>) -> Result<()> {
        let mut session = session;
        let mut attempt = 0;
        loop {
            let location = match session.take() {
                Some(session) => session.location,
                None => self.open().await?,
            };
            let options = &self.client.transport.options;
            let sent = if self.blob.size > options.chunk_above {
                self.chunked(location).await
            } else {
                self.whole(location).await
            };
            let error = match sent {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let Some(pause) = self.client.transport.pause(&error, attempt) else { return Err(error) };
            tokio::time::sleep(pause).await;
            attempt += 1;
        }
    }

    async fn open(&self) -> Result<Url> {
        let path = format!("/v2/{}/blobs/uploads/", self.place.route.path);
        let mut call = self.call(Method::POST, Target::Path(path));
        call.headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        // To open an upload twice does no harm: what is not finished goes away.
        let mut attempt = 0;
        loop {
            match self.client.transport.once(&self.place.endpoint, &call).await {
                Ok(reply) if reply.response.status().as_u16() == 202 => {
                    return self.client.location(self.place, &reply);
                }
                Ok(reply) => return Err(odd(&reply, reply.response.status().as_u16())),
                Err(error) => match self.client.transport.pause(&error, attempt) {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => return Err(error),
                },
            }
            attempt += 1;
        }
    }

    /// All in one PUT.
    async fn whole(&self, location: Url) -> Result<()> {
        let mut call = self.call(Method::PUT, Target::Url(self.closing(location)));
        call.headers.insert(CONTENT_TYPE, OCTETS);
        call.body = self.source.part(0, self.blob.size);
        let reply = self.client.transport.once(&self.place.endpoint, &call).await?;
        (self.told)(self.blob.size);
        self.done(&reply)
    }

    /// Several PATCHes and an empty PUT; a PATCH that fails is continued where the registry says it got to.
    async fn chunked(&self, mut location: Url) -> Result<()> {
        let options = &self.client.transport.options;
        let (mut offset, mut failures) = (0, 0);
        while offset < self.blob.size {
            let length = options.chunk_size.max(1).min(self.blob.size - offset);
            match self.patch(&location, offset, length).await {
                Ok(next) => {
                    (location, offset, failures) = (next, offset + length, 0);
                    (self.told)(offset);
                }
                Err(error) => {
                    let Some(pause) = self.client.transport.pause(&error, failures) else {
                        return Err(error);
                    };
                    tokio::time::sleep(pause).await;
                    failures += 1;
                    (location, offset) = self.resume(&location).await?;
                }
            }
        }
        let mut call = self.call(Method::PUT, Target::Url(self.closing(location)));
        call.headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        let reply = self.client.transport.once(&self.place.endpoint, &call).await?;
        self.done(&reply)
    }

    async fn patch(&self, location: &Url, offset: u64, length: u64) -> Result<Url> {
        let mut call = self.call(Method::PATCH, Target::Url(location.clone()));
        let range = format!("{offset}-{}", offset + length - 1);
        call.headers.insert(CONTENT_RANGE, HeaderValue::try_from(range).expect("digits"));
        call.headers.insert(CONTENT_TYPE, OCTETS);
        call.body = self.source.part(offset, length);
        let reply = self.client.transport.once(&self.place.endpoint, &call).await?;
        match reply.response.status().as_u16() {
            202 => self.client.location(self.place, &reply),
            status => Err(odd(&reply, status)),
        }
    }

    /// Where the registry is with the upload: `Range: 0-LAST`.
    async fn resume(&self, location: &Url) -> Result<(Url, u64)> {
        let call = self.call(Method::GET, Target::Url(location.clone()));
        let reply = self.client.transport.retrying(&self.place.endpoint, &call).await?;
        let last = header(reply.response.headers(), RANGE.as_str())
            .and_then(|range| range.rsplit_once('-')?.1.parse().ok());
        // Distribution says 0-0 for nothing, and for one byte: one byte too few does not go unnoticed in the digest,
        // and the whole upload is tried again.
        let offset = last.map_or(0, |last: u64| if last == 0 { 0 } else { last.saturating_add(1) });
        if offset > self.blob.size {
            let source = VerifyError::TooLong { expected: self.blob.size };
            return Err(mismatch(&format!("the upload of {}", self.blob.digest), source));
        }
        let next = reply.response.headers().contains_key(LOCATION);
        let location = if next { self.client.location(self.place, &reply)? } else { location.clone() };
        Ok((location, offset))
    }

    fn call(&self, method: Method, target: Target) -> Call<'_> {
        let what = format!("the upload of {} to {}", self.blob.digest, self.place.route.path);
        Call { target, ..Call::new(method, String::new(), self.wanted, what) }
    }

    fn closing(&self, mut location: Url) -> Url {
        location.query_pairs_mut().append_pair("digest", &self.blob.digest.to_string());
        location
    }

    fn done(&self, reply: &Reply) -> Result<()> {
        match reply.response.status().as_u16() {
            200 | 201 | 204 => check_announced(reply, &self.blob.digest),
            status => Err(odd(reply, status)),
        }
    }
}
