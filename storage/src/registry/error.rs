//! [`RegistryError`]: why a registry could not be used, and whether to try again.
#![forbid(unsafe_code)]

use std::error::Error as StdError;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;
use thiserror::Error;

use crate::error::{Cause, StorageError, StorageErrorKind};
use crate::verify::VerifyError;

/// The result of everything that talks to a registry.
pub type Result<T, E = RegistryError> = std::result::Result<T, E>;

/// Why an operation on a registry failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The registry does not have it.
    #[error("find {what} in the registry{detail}")]
    NotFound {
        /// What was looked for.
        what: String,
        /// What the registry says, with a separator; may be empty.
        detail: String,
    },
    /// The registry wants other credentials than there are.
    #[error("access {what}: {registry} denies it{detail}; log in with `vesselrt login {registry}`")]
    Unauthorized {
        /// The registry.
        registry: String,
        /// What was to be done.
        what: String,
        /// What the registry says, with a separator; may be empty.
        detail: String,
    },
    /// `registries.conf` blocks the registry.
    #[error("use {registry}, which registries.conf blocks")]
    Blocked {
        /// The registry.
        registry: String,
    },
    /// The registry led to a place that is not gone to.
    #[error("follow {registry} to {place}: {why}")]
    Refused {
        /// The registry that led there.
        registry: String,
        /// Where it leads, without query.
        place: String,
        /// The rule that it breaks, and what may be done about it.
        why: String,
    },
    /// The registry has had enough of us.
    #[error("access {registry}: too many requests{}; log in with `vesselrt login {registry}` for a higher limit, \
             configure a mirror, or try again later", wait(.after))]
    RateLimited {
        /// The registry.
        registry: String,
        /// When it may work again, if the registry says so.
        after: Option<Duration>,
    },
    /// The registry cannot be reached, or breaks off.
    #[error("reach {place}")]
    Unreachable {
        /// The address, without query.
        place: String,
        /// What happened.
        #[source]
        source: Cause,
    },
    /// The registry sends too slowly, or nothing at all.
    #[error("read from {place}: less than {rate} bytes per second for {} s", .window.as_secs())]
    Stalled {
        /// The address, without query.
        place: String,
        /// The lowest rate that is accepted, in bytes per second.
        rate: u64,
        /// For how long.
        window: Duration,
    },
    /// The registry answers with a status that is none of the above.
    #[error("access {place}: the answer is {status}{detail}")]
    Status {
        /// The address, without query.
        place: String,
        /// The HTTP status.
        status: u16,
        /// What the registry says, with a separator; may be empty.
        detail: String,
        /// When it may work again, if the registry says so.
        after: Option<Duration>,
    },
    /// The registry's answer breaks the protocol.
    #[error("understand {place}: {why}")]
    Protocol {
        /// The address, without query.
        place: String,
        /// What is wrong with the answer.
        why: String,
    },
    /// Something is larger than allowed.
    #[error("handle {what}: the limit is {limit}")]
    TooLarge {
        /// What is too large.
        what: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// The bytes are not the promised ones.
    #[error("verify {what} of the registry")]
    Mismatch {
        /// What was read.
        what: String,
        /// How it differs.
        #[source]
        source: VerifyError,
    },
    /// Nothing that this version can do.
    #[error("handle {what}, which is not supported")]
    Unsupported {
        /// What is not supported.
        what: String,
    },
    /// A configuration file cannot be used.
    #[error("read configuration {path:?}")]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Cause,
    },
    /// A value of the configuration cannot be used.
    #[error("accept {what}")]
    Setting {
        /// The setting, with its value.
        what: String,
        /// What is wrong with it.
        #[source]
        source: Cause,
    },
    /// A credential helper cannot be used.
    #[error("get credentials from docker-credential-{helper}: {why}")]
    Helper {
        /// The name of the helper, without prefix.
        helper: String,
        /// What is wrong.
        why: String,
    },
    /// The content store failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

fn wait(after: &Option<Duration>) -> String {
    after.map_or_else(String::new, |after| format!(" (wait {} s)", after.as_secs().max(1)))
}

impl RegistryError {
    /// There is no `what`.
    pub(super) fn not_found(what: impl Into<String>) -> Self {
        Self::NotFound { what: what.into(), detail: String::new() }
    }

    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> StorageErrorKind {
        match self {
            Self::NotFound { .. } => StorageErrorKind::NotFound,
            Self::Unauthorized { .. } | Self::Blocked { .. } | Self::Refused { .. } => {
                StorageErrorKind::PermissionDenied
            }
            Self::RateLimited { .. } | Self::TooLarge { .. } => StorageErrorKind::LimitExceeded,
            Self::Unreachable { .. } | Self::Stalled { .. } | Self::Helper { .. } => {
                StorageErrorKind::Unavailable
            }
            Self::Status { status: 400..=499, .. } => StorageErrorKind::InvalidArgument,
            Self::Status { .. } => StorageErrorKind::Unavailable,
            Self::Protocol { .. } | Self::Mismatch { .. } => StorageErrorKind::IntegrityViolation,
            Self::Unsupported { .. } => StorageErrorKind::Unsupported,
            Self::Config { .. } | Self::Setting { .. } => StorageErrorKind::InvalidArgument,
            Self::Storage(error) => error.kind(),
        }
    }

    /// The command or setting that helps, if one does.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        match self {
            Self::Unauthorized { registry, .. } => Some(format!("vesselrt login {registry}")),
            Self::RateLimited { registry, .. } => Some(format!(
                "vesselrt login {registry}, or [registry.\"{registry}\"] mirrors = [..] in vesselrt/config.toml"
            )),
            Self::Unreachable { place, source } if speaks_no_tls(source.as_ref()) => {
                let host = Url::parse(place).map(|url| host_port(&url)).ok()?;
                Some(format!(
                    "if {host} speaks plain HTTP, and the network to it is trusted: [registry.{host:?}] plain_http = true in \
                     ~/.config/vesselrt/config.toml"
                ))
            }
            _ => None,
        }
    }

    /// Whether the same may work if it is tried again, and how long to wait at least if the registry says so.
    pub(super) fn transient(&self) -> Option<Option<Duration>> {
        match self {
            // A certificate does not get better.
            Self::Unreachable { source, .. } if is_tls(source.as_ref()) => None,
            Self::Unreachable { .. } | Self::Stalled { .. } => Some(None),
            Self::RateLimited { after, .. } => Some(*after),
            Self::Status { status: 408 | 500 | 502 | 503 | 504, after, .. } => Some(*after),
            _ => None,
        }
    }

    /// `url` is where the registry may not lead.
    pub(super) fn led_astray(url: &Url, error: &super::address::AddressError) -> Self {
        let why = format!("{error}; configure [registry.{:?}] if that is meant", host_port(url));
        Self::Refused { registry: error.registry.clone(), place: shown(url), why }
    }

    /// A failed exchange with `url`. An error that a resolver of ours made is handed out as it was.
    pub(super) fn exchange(url: &Url, error: reqwest::Error) -> Self {
        let place = shown(url);
        let error = error.without_url();
        let mut cause: Option<&(dyn StdError + 'static)> = Some(&error);
        while let Some(inner) = cause {
            if let Some(refused) = inner.downcast_ref::<super::address::AddressError>() {
                return Self::led_astray(url, refused);
            }
            cause = inner.source();
        }
        Self::Unreachable { place, source: Box::new(error) }
    }
}

/// `host[:port]`, as it is in references and settings.
pub(super) fn host_port(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Whether TLS refused the other side.
fn is_tls(error: &(dyn StdError + 'static)) -> bool {
    of_tls(error).is_some()
}

/// Whether the other side answered with something that is no TLS at all.
fn speaks_no_tls(error: &(dyn StdError + 'static)) -> bool {
    matches!(of_tls(error), Some(rustls::Error::InvalidMessage(_)))
}

fn of_tls<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let mut cause = Some(error);
    while let Some(inner) = cause {
        // An I/O error has its inner error's source for its source, not that error itself.
        let io = inner.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if let Some(found) = inner.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        cause = io.map_or_else(|| inner.source(), |inner| Some(inner as &(dyn StdError + 'static)));
    }
    None
}

/// A URL for messages: queries have signatures in them, and user information passwords.
pub(super) fn shown(url: &Url) -> String {
    let origin = url.origin().ascii_serialization();
    let path: String = url.path().chars().take(300).collect();
    format!("{origin}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_a_url_are_not_shown() {
        let url = Url::parse("https://user:word@cdn.example:444/a/b?X-Signature=secret#f").unwrap();
        assert_eq!(shown(&url), "https://cdn.example:444/a/b");
    }

    #[test]
    fn messages_say_what_to_do() {
        let limited =
            RegistryError::RateLimited { registry: "docker.io".into(), after: Some(Duration::ZERO) };
        assert!(limited.to_string().contains("vesselrt login docker.io"));
        assert!(limited.to_string().contains("(wait 1 s)") && limited.to_string().contains("mirror"));
        assert!(limited.remedy().unwrap().contains("mirrors"));
        assert_eq!(limited.kind(), StorageErrorKind::LimitExceeded);
    }

    #[test]
    fn what_is_tried_again() {
        let status = |status| RegistryError::Status {
            place: String::new(),
            status,
            detail: String::new(),
            after: None,
        };
        assert!([500, 502, 503, 504, 408].into_iter().all(|code| status(code).transient().is_some()));
        assert!([400, 404, 409, 501].into_iter().all(|code| status(code).transient().is_none()));
    }
}
