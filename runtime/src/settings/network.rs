//! What the commands of a vessel can reach, and from where they can be reached.
#![forbid(unsafe_code)]

mod address;
mod allow;
mod publish;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

pub use address::is_public;
pub use allow::{Allow, AllowedHost, Destination, Refusal, Route};
pub use publish::{Protocol, Publish};

/// Most ports that one vessel publishes: each is a descriptor that is handed to its shim.
pub const MAX_PUBLISHED: usize = 32;
/// Most destinations that are allowed one by one.
pub const MAX_ALLOWED: usize = 1024;
/// Most name servers: as many as a resolver of glibc asks (MAXNS, resolv.conf(5)).
pub const MAX_DNS: usize = 3;
/// Where the proxy is, inside of a vessel with [`Network::allow`]: HTTP and SOCKS5 both.
pub const PROXY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 3128);

/// Which network the commands of a vessel are in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum NetworkMode {
    /// One of their own with a loopback interface and no way out.
    #[default]
    None,
    /// The host's. They reach whatever listens on its loopback interface, and its abstract unix sockets.
    Host,
    /// One of their own with a way out, by pasta or slirp4netns of the host.
    Isolated,
}

impl NetworkMode {
    /// The name, as on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Host => "host",
            Self::Isolated => "isolated",
        }
    }
}

/// What the commands of a vessel can reach, and from where they can be reached. The default is each other only.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Network {
    /// Which network they are in.
    pub mode: NetworkMode,
    /// Ports of the host that lead to servers inside.
    pub publish: Vec<Publish>,
    /// Name servers instead of the host's own.
    pub dns: Vec<IpAddr>,
    /// What they reach through a proxy of ours, and nothing else; with [`NetworkMode::None`].
    pub allow: Vec<Allow>,
    /// An allowed name may lead to an address that is not public: of this host, its network, a cloud's metadata.
    pub allow_private: bool,
}

/// Why a [`Network`] makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// Not a published port.
    #[error("not a published port: {text:?}: {problem}")]
    Publish {
        /// What was given.
        text: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Not a destination.
    #[error("not an allowed destination: {text:?}: {problem}")]
    Allow {
        /// What was given.
        text: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Two settings that exclude each other.
    #[error("{first} and {second} exclude each other: {reason}")]
    Excluded {
        /// One of them.
        first: String,
        /// The other one.
        second: &'static str,
        /// Why.
        reason: &'static str,
    },
    /// The same port of the host twice.
    #[error("the port {port} is published twice")]
    Twice {
        /// The port, with its address and protocol.
        port: String,
    },
    /// More than can be.
    #[error("{count} {what}, {limit} at most")]
    TooMany {
        /// How many there are.
        count: usize,
        /// Of what.
        what: &'static str,
        /// How many there can be.
        limit: usize,
    },
}

impl Network {
    /// This network, and nothing else of it.
    #[must_use]
    pub fn new(mode: NetworkMode) -> Self {
        Self { mode, ..Self::default() }
    }

    /// Publishes one more port.
    #[must_use]
    pub fn publish(mut self, port: Publish) -> Self {
        self.publish.push(port);
        self
    }

    /// Adds a name server.
    #[must_use]
    pub fn dns(mut self, server: IpAddr) -> Self {
        self.dns.push(server);
        self
    }

    /// Allows one more destination.
    #[must_use]
    pub fn allow(mut self, destination: Allow) -> Self {
        self.allow.push(destination);
        self
    }

    /// Sets whether allowed names may lead to addresses that are not public.
    #[must_use]
    pub fn allow_private(mut self, allow: bool) -> Self {
        self.allow_private = allow;
        self
    }

    /// Whether all of it can be at once.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub fn check(&self) -> Result<(), NetworkError> {
        let mode = format!("network {}", self.mode.as_str());
        let excluded = |second, reason| Err(NetworkError::Excluded { first: mode.clone(), second, reason });
        match self.mode {
            NetworkMode::Host if !self.publish.is_empty() => {
                return excluded("published ports", "its servers listen on the host itself");
            }
            NetworkMode::Host | NetworkMode::Isolated if !self.allow.is_empty() => {
                return excluded("allowed destinations", "everything can be reached already");
            }
            NetworkMode::None if !self.dns.is_empty() => {
                return excluded("name servers", "there is no way to them");
            }
            _ => {}
        }
        if self.allow_private && self.allow.is_empty() {
            return excluded("allowed private addresses", "no name is allowed that could lead to them");
        }
        let within = |count, what, limit| match count > limit {
            true => Err(NetworkError::TooMany { count, what, limit }),
            false => Ok(()),
        };
        within(self.publish.len(), "published ports", MAX_PUBLISHED)?;
        within(self.allow.len(), "allowed destinations", MAX_ALLOWED)?;
        within(self.dns.len(), "name servers", MAX_DNS)?;
        self.check_twice()
    }

    fn check_twice(&self) -> Result<(), NetworkError> {
        for (index, port) in self.publish.iter().enumerate() {
            if self.publish[..index].iter().any(|other| other.is_same_on_host(port)) {
                return Err(NetworkError::Twice { port: port.host_side() });
            }
        }
        Ok(())
    }

    /// Something outside has to run while the vessel does.
    #[must_use]
    pub fn needs_gateway(&self) -> bool {
        self.mode == NetworkMode::Isolated || !self.publish.is_empty() || self.is_proxied()
    }

    /// The way out is the proxy.
    #[must_use]
    pub fn is_proxied(&self) -> bool {
        !self.allow.is_empty()
    }

    /// Variables that lead commands to the proxy, if there is one. Upper and lower case, because programs differ; Node.js
    /// looks at them when it is told to, since 22.21 and 24.
    #[must_use]
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        if !self.is_proxied() {
            return Vec::new();
        }
        let proxy = format!("http://{PROXY}");
        let local = "localhost,127.0.0.1,::1";
        let leads = PROXY_VARIABLES.map(|name| match name {
            "NO_PROXY" | "no_proxy" => (name, local.to_owned()),
            _ => (name, proxy.clone()),
        });
        leads.into_iter().chain([("NODE_USE_ENV_PROXY", "1".to_owned())]).collect()
    }
}

/// Names of the variables that programs look for a proxy in.
pub const PROXY_VARIABLES: [&str; 8] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
];

#[cfg(test)]
mod tests;
