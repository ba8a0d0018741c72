//! [`ServeConfig`]: what a service is started with.
#![forbid(unsafe_code)]

use std::fs::DirBuilder;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use vesselrt_runtime::settings::{Limits, Settings};

use super::token::Token;
use crate::error::{Error, Result};

/// Where uploads are kept while they arrive.
pub(super) const UPLOADS: &str = "uploads";

/// Where a service listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// On a TCP port; 0 is any that is free.
    Tcp(SocketAddr),
    /// On a unix socket, which only this user can connect to.
    Unix(PathBuf),
}

impl Listen {
    /// Whether nobody but this machine reaches it.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => Err("unix: wants a path".to_owned()),
                path => Ok(Self::Unix(path.into())),
            };
        }
        let numeric = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
        numeric
            .as_deref()
            .unwrap_or(text)
            .parse()
            .map(Self::Tcp)
            .map_err(|_| format!("{text:?} is neither ADDRESS:PORT nor unix:PATH"))
    }
}

/// What becomes of a request for a ship when there are as many as may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenFull {
    /// It waits until one has gone.
    #[default]
    Wait,
    /// It is refused.
    Reject,
}

/// A certificate and its key, as PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, followed by those that lead to its root.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// What a service is started with; [`ServeConfig::new`] has the defaults.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ServeConfig {
    /// Where it listens. Default: 127.0.0.1:8156.
    pub listen: Listen,
    /// Directory of its state, created (0700) if missing.
    pub data: PathBuf,
    /// What clients must know; `None`: a random one, kept in `token` of [`data`](Self::data), if nobody but this machine reaches
    /// it.
    pub token: Option<Token>,
    /// The image of new ships. Default: `ship:latest`.
    pub image: String,
    /// How many ships there may be at once, those of the pool not counted. Default: 10.
    pub max_ships: usize,
    /// What happens when there are as many. Default: wait.
    pub when_full: WhenFull,
    /// How long a request waits then. Default: 300 s.
    pub wait: Duration,
    /// What ships get besides what their creators ask for. Default: no limits that would have to be enforced, no network.
    pub settings: Settings,
    /// Bytes of a file that is uploaded, at most. Default: 100 MiB.
    pub max_upload: u64,
    /// How many vessels are kept ready for new ships. Default: none.
    pub pool: usize,
    /// Names that requests may be meant for, besides that of the listener.
    pub allow_hosts: Vec<String>,
    /// Origins of pages that may use the service from a browser; `*`: all.
    pub cors: Vec<String>,
    /// TLS, unless it is plain HTTP.
    pub tls: Option<TlsFiles>,
    /// How long what a stopped ship has written is kept. Default: 30 days.
    pub keep_stopped: Duration,
    /// How long the head of a request may take to arrive, counted from the end of the answer before. Default: 30 s; clients
    /// keep connections for 15 s, as aiohttp does, and must not find them closed.
    pub head_time: Duration,
    /// How many connections there may be at once. Default: 1024.
    pub max_connections: usize,
}

impl ServeConfig {
    /// The defaults, with the state in `data`.
    #[must_use]
    pub fn new(data: impl Into<PathBuf>) -> Self {
        Self {
            listen: Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 8156))),
            data: data.into(),
            token: None,
            image: "ship:latest".to_owned(),
            max_ships: 10,
            when_full: WhenFull::default(),
            wait: Duration::from_secs(300),
            settings: Settings { limits: Limits::new().best_effort(true), ..Settings::default() },
            max_upload: 100 << 20,
            pool: 0,
            allow_hosts: Vec::new(),
            cors: Vec::new(),
            tls: None,
            keep_stopped: Duration::from_secs(30 * 24 * 3600),
            head_time: Duration::from_secs(30),
            max_connections: 1024,
        }
    }

    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for what cannot be meant.
    pub(super) fn check(&self) -> Result<()> {
        if self.token.is_none() && !self.listen.is_local() {
            let message = "a token is needed on an address that others reach";
            return Err(Error::invalid(message).with_remedy("set ACCESS_TOKEN, or listen on 127.0.0.1"));
        }
        if self.max_ships == 0 || self.max_ships > tokio::sync::Semaphore::MAX_PERMITS {
            return Err(Error::invalid(format!("cannot have {} ships at most", self.max_ships)));
        }
        if self.max_connections == 0 || self.max_connections > tokio::sync::Semaphore::MAX_PERMITS {
            let most = self.max_connections;
            return Err(Error::invalid(format!("cannot have {most} connections at most")));
        }
        if self.tls.is_some() && matches!(self.listen, Listen::Unix(_)) {
            return Err(Error::invalid("TLS is for TCP, not for a unix socket"));
        }
        self.settings.limits.check()?;
        self.settings.network.check().map_err(|e| Error::invalid(e.to_string()))
    }
}

/// Makes the directory of the state, without what a crash left of uploads.
pub(super) fn prepare(data: &Path) -> Result<()> {
    let failed = |what: &Path, e| Error::io(format!("failed to create the directory {}", what.display()), e);
    let uploads = data.join(UPLOADS);
    DirBuilder::new().recursive(true).mode(0o700).create(&uploads).map_err(|e| failed(&uploads, e))?;
    let leftovers = std::fs::read_dir(&uploads).map_err(|e| Error::io("failed to read the uploads", e))?;
    for leftover in leftovers.flatten() {
        let _ = std::fs::remove_file(leftover.path());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_others_reach_needs_a_token() {
        let mut config = ServeConfig::new("/nowhere");
        config.check().unwrap();
        config.listen = "0.0.0.0:1".parse().unwrap();
        assert!(config.check().unwrap_err().to_string().contains("token"));
        config.token = Some(Token::new("t"));
        config.check().unwrap();
        config.max_ships = 0;
        assert!(config.check().is_err());
    }

    #[test]
    fn places_to_listen_are_told_apart() {
        assert_eq!("unix:/run/x".parse(), Ok(Listen::Unix("/run/x".into())));
        assert!("localhost:80".parse::<Listen>().unwrap().is_local());
        assert!("[::1]:80".parse::<Listen>().unwrap().is_local());
        assert!(!"10.0.0.1:80".parse::<Listen>().unwrap().is_local());
        for wrong in ["", "unix:", "host:80", "127.0.0.1", "127.0.0.1:99999"] {
            assert!(wrong.parse::<Listen>().is_err(), "{wrong}");
        }
    }
}
