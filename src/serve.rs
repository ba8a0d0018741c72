//! The service: ships over HTTP, as clients of Shipyard's Bay know them (`vesselrt serve`).
//!
//! A ship is a vessel that sessions share; a session has a user, a Python and processes of its own in it. Ships live until
//! the last of their sessions has expired; what was written stays and can be had again.
//!
//! ```text
//!  listen ── guard ── http ──── fleet ────── ship ── Vessel
//!  TCP, TLS,  Host,    routes,   who has      what sessions do in it
//!  unix       token    checks    which ship ─ ledger (redb)
//! ```
#![forbid(unsafe_code)]

mod clock;
mod config;
mod fleet;
mod http;
mod ledger;
mod listen;
mod metrics;
mod problem;
pub mod ship;
mod spec;
mod token;

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::manager::Manager;
pub use config::{Listen, ServeConfig, TlsFiles, WhenFull};
use fleet::Fleet;
use listen::Listener;
pub use spec::{parse_size, valid_cpus};
pub use token::Token;

/// A service that listens, and whose ships are known.
pub struct Service {
    listener: Listener,
    fleet: Arc<Fleet>,
    token_file: Option<std::path::PathBuf>,
}

impl Service {
    /// Opens the state of the service and its listener. Nothing is answered before [`Self::run`].
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for an address that others reach and no token;
    /// [`Unsupported`](crate::ErrorKind::Unsupported) in a store with a single user id;
    /// [`Conflict`](crate::ErrorKind::Conflict) when another service has this state;
    /// [`IntegrityViolation`](crate::ErrorKind::IntegrityViolation) for a state that is damaged; those of the listener.
    pub async fn start(manager: Manager, config: ServeConfig) -> Result<Self> {
        config.check()?;
        if manager.id_count() == 1 {
            let what =
                "ships in a store whose vessels have a single user id, as each session is a user of its own";
            let remedy = "give this user ranges in /etc/subuid and /etc/subgid, install uidmap, and use a new store: `vesselrt doctor` tells what is missing";
            let kind = ErrorKind::Unsupported { what: what.to_owned(), remedy: remedy.to_owned() };
            return Err(Error::new(kind, what));
        }
        let data = config.data.clone();
        crate::offload::blocking(move || config::prepare(&data)).await?;
        let (token, token_file) = token::obtain(&config)?;
        let listener = Listener::bind(&config).await?;
        let fleet = Fleet::open(manager, config, token).await?;
        Ok(Self { listener, fleet, token_file })
    }

    /// Where it listens, as a URL.
    #[must_use]
    pub fn url(&self) -> String {
        self.listener.url()
    }

    /// The file with the token, when it was not given one.
    #[must_use]
    pub fn token_file(&self) -> Option<&std::path::Path> {
        self.token_file.as_deref()
    }

    /// Answers until `shutdown` is ready; then what was begun is finished, ships are closed, and go on when the service
    /// runs again.
    ///
    /// # Errors
    /// Those of the listener.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<()> {
        self.fleet.begin().await?;
        let router = http::router(&self.fleet, self.listener.hosts());
        let served = self.listener.serve(router, shutdown, || self.fleet.hang_up()).await;
        self.fleet.close().await;
        served
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("url", &self.url()).finish_non_exhaustive()
    }
}
