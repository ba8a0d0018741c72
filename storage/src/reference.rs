//! [`Reference`]: the name of an image, in the grammar and with the defaults of docker.
//!
//! Source: the package `reference` of the distribution project (grammar in its `reference.go`, defaults in its
//! `normalize.go`).
#![forbid(unsafe_code)]

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::digest::{Digest, DigestError};

const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DOMAIN: &str = "index.docker.io";
const OFFICIAL: &str = "library/";
const DEFAULT_TAG: &str = "latest";
/// The longest path (an implied `library/` does not count), and the longest domain, in bytes.
const MAX_NAME: usize = 255;
/// The longest tag, in bytes.
const MAX_TAG: usize = 128;

/// What is wrong with a reference.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ReferenceError {
    /// There is no name.
    #[error("it has no name")]
    NoName,
    /// The domain or the path has more than 255 bytes.
    #[error("its name is longer than {MAX_NAME} bytes")]
    NameTooLong,
    /// The registry's host name, address or port is malformed.
    #[error("its registry is not a host name with an optional port")]
    BadDomain,
    /// A component of the repository path is malformed.
    #[error(
        "its repository may only have lower-case letters and digits, separated by '.', '_', '__' or dashes"
    )]
    BadPath,
    /// 64 hexadecimal digits, which docker reserves for ids.
    #[error("it could be mistaken for an image id")]
    LooksLikeId,
    /// The tag is malformed or longer than 128 bytes.
    #[error("its tag may only have up to {MAX_TAG} letters, digits, '_', '.' and '-'")]
    BadTag,
    /// What follows the `@` is not a digest.
    #[error("its digest is malformed")]
    BadDigest(#[source] DigestError),
}

/// A normalised image reference: `docker.io/library/alpine:latest` when the user said `alpine`.
///
/// Always has a tag or a digest; with both, the digest decides what is meant. [`fmt::Display`] is the canonical
/// form, which parses to the same value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Parses what a user types: `[domain[:port]/]path[:tag][@digest]`.
    ///
    /// # Errors
    /// [`ReferenceError`] says which rule is broken.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(Digest::parse(digest).map_err(ReferenceError::BadDigest)?)),
            None => (text, None),
        };
        // A colon before the last slash belongs to the port of the domain.
        let last = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest[last..].find(':') {
            Some(colon) => (&rest[..last + colon], Some(&rest[last + colon + 1..])),
            None => (rest, None),
        };
        check_not_id(text)?;
        if name.is_empty() {
            return Err(ReferenceError::NoName);
        }
        if let Some(tag) = tag {
            check_tag(tag)?;
        }
        let (domain, path) = split_domain(name);
        check_domain(&domain)?;
        check_path(&path)?;
        let tag = tag.or(if digest.is_none() { Some(DEFAULT_TAG) } else { None });
        Ok(Self { domain, path, tag: tag.map(str::to_owned), digest })
    }

    /// The registry: `docker.io` by default; with the port if there is one.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository in the registry, e.g. `library/alpine`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag, if any.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if any; it takes precedence over the tag.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Domain and path, without tag and digest.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The short form people use: without `docker.io/` and `library/`. It parses to the same value.
    #[must_use]
    pub fn familiar(&self) -> String {
        let name = match (self.domain.as_str(), self.path.strip_prefix(OFFICIAL)) {
            (DEFAULT_DOMAIN, Some(short)) if !short.contains('/') => short.to_owned(),
            (DEFAULT_DOMAIN, _) if !self.path.split('/').next().is_some_and(is_domain_like) => {
                self.path.clone()
            }
            _ => self.name(),
        };
        self.with_suffixes(name)
    }

    fn with_suffixes(&self, mut name: String) -> String {
        if let Some(tag) = &self.tag {
            name = format!("{name}:{tag}");
        }
        if let Some(digest) = &self.digest {
            name = format!("{name}@{digest}");
        }
        name
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with_suffixes(self.name()))
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;
    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Reference {
    type Error = ReferenceError;
    fn try_from(text: String) -> Result<Self, ReferenceError> {
        Self::parse(&text)
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.to_string()
    }
}

fn check_not_id(text: &str) -> Result<(), ReferenceError> {
    let hex = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if hex && text.len() == 64 { Err(ReferenceError::LooksLikeId) } else { Ok(()) }
}

/// The first component is a domain if it could not be a path on docker.io: it has a dot, a colon or capitals,
/// or is `localhost`.
fn split_domain(name: &str) -> (String, String) {
    let (domain, path) = match name.split_once('/') {
        Some((first, rest)) if is_domain_like(first) => (first, rest),
        _ => (DEFAULT_DOMAIN, name),
    };
    let domain = if domain == LEGACY_DOMAIN { DEFAULT_DOMAIN } else { domain };
    let official = domain == DEFAULT_DOMAIN && !path.contains('/');
    (domain.to_owned(), format!("{}{path}", if official { OFFICIAL } else { "" }))
}

fn is_domain_like(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.bytes().any(|b| b.is_ascii_uppercase())
}

fn check_domain(domain: &str) -> Result<(), ReferenceError> {
    if domain.len() > MAX_NAME {
        return Err(ReferenceError::NameTooLong);
    }
    let (host, port) = match domain.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            let valid = !address.is_empty() && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
            (valid, port)
        }
        None => {
            let at = domain.find(':').unwrap_or(domain.len());
            (domain[..at].split('.').all(is_host_label), &domain[at..])
        }
    };
    let port = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
    if host && port { Ok(()) } else { Err(ReferenceError::BadDomain) }
}

fn is_host_label(label: &str) -> bool {
    let inner = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    inner && !label.is_empty() && !label.starts_with('-') && !label.ends_with('-')
}

fn is_port(port: &str) -> bool {
    port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
}

fn check_path(path: &str) -> Result<(), ReferenceError> {
    if path.strip_prefix(OFFICIAL).unwrap_or(path).len() > MAX_NAME {
        return Err(ReferenceError::NameTooLong);
    }
    if path.split('/').all(is_path_component) { Ok(()) } else { Err(ReferenceError::BadPath) }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(component: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut rest = component.as_bytes();
    loop {
        let word = rest.iter().take_while(|b| alphanumeric(**b)).count();
        let after = &rest[word..];
        if word == 0 || after.is_empty() {
            return word > 0;
        }
        let separator = after.iter().take_while(|b| !alphanumeric(**b)).count();
        let valid = matches!(&after[..separator], b"." | b"_" | b"__")
            || after[..separator].iter().all(|b| *b == b'-');
        if !valid {
            return false;
        }
        rest = &after[separator..];
    }
}

fn check_tag(tag: &str) -> Result<(), ReferenceError> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let valid = tag.len() <= MAX_TAG
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-');
    if valid { Ok(()) } else { Err(ReferenceError::BadTag) }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;
