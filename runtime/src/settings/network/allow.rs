//! A destination that is allowed, and whether one that is asked for is among those that are. Pure.
#![forbid(unsafe_code)]

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Network, NetworkError};

/// Ports of a destination that names none: those of the web.
const DEFAULT_PORTS: [u16; 2] = [80, 443];
/// Longest name and label of the DNS, RFC 1035 section 2.3.4.
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// Whom an [`Allow`] is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AllowedHost {
    /// This name.
    Name(String),
    /// All names below this one, and not the name itself.
    Below(String),
    /// This address, when it is asked for by number.
    Address(IpAddr),
}

/// A destination that is allowed: `HOST[=ADDR][:PORT[,PORT…]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allow {
    /// Whom it is about.
    pub host: AllowedHost,
    /// Where a name leads, instead of asking the DNS.
    pub address: Option<IpAddr>,
    /// On which ports.
    pub ports: Vec<u16>,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// A name, in lower case and without a dot at its end.
    Name(String),
    /// An address.
    Address(IpAddr),
}

/// How an allowed destination is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// At this address.
    To(IpAddr),
    /// At the public addresses that its name leads to.
    Public,
    /// At any address that its name leads to.
    Any,
}

/// Why a destination is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such name is allowed.
    #[error("the name is not allowed")]
    Name,
    /// No such address is allowed.
    #[error("the address is not allowed")]
    Address,
    /// The host is allowed on other ports.
    #[error("the port is not allowed")]
    Port,
    /// The name leads to this address.
    #[error("the name leads to an address that is not public: {0}")]
    Private(IpAddr),
    /// Neither a name nor an address.
    #[error("it is not a name")]
    NotAName,
}

impl Destination {
    /// What a client asks for. Numbers that the C library would take for an address are no names.
    ///
    /// # Errors
    /// [`Refusal::NotAName`].
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if let Ok(address) = bare.map_or_else(|| text.parse(), |v6| v6.parse::<Ipv6Addr>().map(IpAddr::V6)) {
            return Ok(Self::Address(address.to_canonical()));
        }
        normal_name(text).map(Self::Name).ok_or(Refusal::NotAName)
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(address) => write!(f, "{address}"),
        }
    }
}

/// A name as it is compared, if it is one: letters, digits, `-`, `_` and dots.
fn normal_name(text: &str) -> Option<String> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let fits = |label: &str| {
        (1..=MAX_LABEL).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let number = |label: &str| {
        let hexadecimal =
            label.strip_prefix("0x").is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_hexdigit()));
        hexadecimal || label.bytes().all(|b| b.is_ascii_digit())
    };
    let last = name.rsplit('.').next()?;
    (name.len() <= MAX_NAME && name.split('.').all(fits) && !number(last)).then_some(name)
}

impl Allow {
    fn is_about(&self, destination: &Destination) -> bool {
        match (&self.host, destination) {
            (AllowedHost::Name(own), Destination::Name(asked)) => own == asked,
            (AllowedHost::Below(own), Destination::Name(asked)) => {
                asked.strip_suffix(own.as_str()).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
            }
            (AllowedHost::Address(own), Destination::Address(asked)) => own == asked,
            _ => false,
        }
    }
}

impl Network {
    /// How `destination` is reached, if it is allowed on `port`.
    ///
    /// # Errors
    /// Why it is not.
    pub fn route(&self, destination: &Destination, port: u16) -> Result<Route, Refusal> {
        let mut about = self.allow.iter().filter(|allow| allow.is_about(destination)).peekable();
        if about.peek().is_none() {
            return Err(match destination {
                Destination::Name(_) => Refusal::Name,
                Destination::Address(_) => Refusal::Address,
            });
        }
        let mut route = Err(Refusal::Port);
        for allow in about.filter(|allow| allow.ports.contains(&port)) {
            let pinned = match (destination, allow.address) {
                (Destination::Address(address), _) => Some(*address),
                (Destination::Name(_), address) => address,
            };
            match pinned {
                Some(address) => return Ok(Route::To(address)),
                None => route = Ok(if self.allow_private { Route::Any } else { Route::Public }),
            }
        }
        route
    }
}

impl fmt::Display for Allow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = |f: &mut fmt::Formatter<'_>, address: &IpAddr| match address {
            IpAddr::V4(v4) => write!(f, "{v4}"),
            IpAddr::V6(v6) => write!(f, "[{v6}]"),
        };
        match &self.host {
            AllowedHost::Name(name) => f.write_str(name)?,
            AllowedHost::Below(name) => write!(f, "*.{name}")?,
            AllowedHost::Address(own) => address(f, own)?,
        }
        if let Some(pinned) = &self.address {
            f.write_str("=")?;
            address(f, pinned)?;
        }
        if self.ports != DEFAULT_PORTS {
            let ports: Vec<String> = self.ports.iter().map(u16::to_string).collect();
            write!(f, ":{}", ports.join(","))?;
        }
        Ok(())
    }
}

impl FromStr for Allow {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let wrong = |problem| NetworkError::Allow { text: text.to_owned(), problem };
        let (name, place) = match text.split_once('=') {
            Some((name, place)) => (Some(name), place),
            None => (None, text),
        };
        let (host, ports) = split_ports(place).map_err(wrong)?;
        let ports = ports.map_or_else(|| Ok(DEFAULT_PORTS.to_vec()), read_ports).map_err(wrong)?;
        let Some(name) = name else {
            return Ok(Self { host: read_host(host).map_err(wrong)?, address: None, ports });
        };
        let address = match Destination::parse(host) {
            Ok(Destination::Address(address)) => address,
            _ => return Err(wrong("what follows = must be an address")),
        };
        match read_host(name).map_err(wrong)? {
            AllowedHost::Address(_) => Err(wrong("an address leads to itself")),
            host => Ok(Self { host, address: Some(address), ports }),
        }
    }
}

/// `HOST[:PORTS]`, where an address of IPv6 is in brackets, or alone.
fn split_ports(text: &str) -> Result<(&str, Option<&str>), &'static str> {
    if let Some(end) = text.starts_with('[').then(|| text.find(']')).flatten() {
        return match &text[end + 1..] {
            "" => Ok((text, None)),
            rest => rest
                .strip_prefix(':')
                .map(|ports| (&text[..=end], Some(ports)))
                .ok_or("what follows ] must be :PORT"),
        };
    }
    match text.rsplit_once(':') {
        None => Ok((text, None)),
        Some((host, _)) if host.contains(':') => Ok((text, None)),
        Some((host, ports)) => Ok((host, Some(ports))),
    }
}

fn read_ports(text: &str) -> Result<Vec<u16>, &'static str> {
    let port = |text: &str| text.parse().ok().filter(|&port: &u16| port != 0 && !text.starts_with('+'));
    text.split(',').map(port).collect::<Option<_>>().ok_or("ports are numbers from 1 to 65535")
}

fn read_host(text: &str) -> Result<AllowedHost, &'static str> {
    if let Some(below) = text.strip_prefix("*.") {
        return normal_name(below).map(AllowedHost::Below).ok_or("what follows *. must be a name");
    }
    match Destination::parse(text) {
        Ok(Destination::Name(name)) => Ok(AllowedHost::Name(name)),
        Ok(Destination::Address(address)) => Ok(AllowedHost::Address(address)),
        Err(_) => Err("it must be a name, *.NAME or an address"),
    }
}
