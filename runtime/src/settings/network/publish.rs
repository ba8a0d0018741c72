//! A port of the host that leads to a server inside.
#![forbid(unsafe_code)]

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::NetworkError;

/// What a published port speaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    /// Connections.
    #[default]
    Tcp,
    /// Datagrams.
    Udp,
}

/// A port of the host that leads to a server inside: `[ADDR:]HOST:GUEST[/udp]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publish {
    /// What is spoken.
    pub protocol: Protocol,
    /// Address of the host that it listens on.
    pub address: IpAddr,
    /// Port of the host.
    pub host: u16,
    /// Port inside.
    pub guest: u16,
}

impl Publish {
    /// A TCP port on the host's loopback address.
    #[must_use]
    pub fn new(host: u16, guest: u16) -> Self {
        Self { protocol: Protocol::Tcp, address: IpAddr::V4(Ipv4Addr::LOCALHOST), host, guest }
    }

    /// Where it listens.
    #[must_use]
    pub fn listens_on(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.host)
    }

    pub(super) fn is_same_on_host(&self, other: &Self) -> bool {
        (self.protocol, self.listens_on()) == (other.protocol, other.listens_on())
    }

    /// The host's side of it, for messages.
    #[must_use]
    pub fn host_side(&self) -> String {
        format!("{}{}", self.listens_on(), self.suffix())
    }

    fn suffix(&self) -> &'static str {
        match self.protocol {
            Protocol::Tcp => "",
            Protocol::Udp => "/udp",
        }
    }
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}{}", self.listens_on(), self.guest, self.suffix())
    }
}

impl FromStr for Publish {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let wrong = |problem| NetworkError::Publish { text: text.to_owned(), problem };
        let (ports, protocol) = match text.split_once('/') {
            None | Some((_, "tcp")) => (text.split('/').next().unwrap_or(text), Protocol::Tcp),
            Some((ports, "udp")) => (ports, Protocol::Udp),
            Some(_) => return Err(wrong("what follows / must be tcp or udp")),
        };
        let (host, guest) = ports.rsplit_once(':').ok_or_else(|| wrong("it must be [ADDR:]HOST:GUEST"))?;
        let (address, host) = match host.rsplit_once(':') {
            None => (IpAddr::V4(Ipv4Addr::LOCALHOST), host),
            Some((address, host)) => {
                let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
                let parsed = bare.map_or_else(
                    || address.parse::<Ipv4Addr>().map(IpAddr::V4).ok(),
                    |v6| v6.parse().map(IpAddr::V6).ok(),
                );
                (parsed.ok_or_else(|| wrong("the address must be 192.0.2.1 or [2001:db8::1]"))?, host)
            }
        };
        let port = |text: &str| text.parse().ok().filter(|&port: &u16| port != 0 && !text.starts_with('+'));
        let (Some(host), Some(guest)) = (port(host), port(guest)) else {
            return Err(wrong("ports are numbers from 1 to 65535"));
        };
        Ok(Self { protocol, address, host, guest })
    }
}
