//! Where connections may go: names are resolved once, the addresses are judged, and exactly those that passed
//! are connected to, so a name server that answers differently the second time gains nothing.
//!
//! A registry is wherever the user's name for it leads. Wherever *the registry* leads (token realms, redirects,
//! upload locations) must be a public address, or of a kind of which all addresses of the registry itself are.
//! Sources: RFC 6890 and the IANA special-purpose address registries.
#![forbid(unsafe_code)]

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use thiserror::Error;

/// A name's addresses, when they are known.
pub type Lookup = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;

/// Resolves host names.
pub trait NameService: Send + Sync + fmt::Debug {
    /// All addresses of `host`.
    fn lookup(&self, host: &str) -> Lookup;
}

/// The name service of the system: getaddrinfo(3).
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemNames;

impl NameService for SystemNames {
    fn lookup(&self, host: &str) -> Lookup {
        let host = host.to_owned();
        Box::pin(async move {
            let found = tokio::net::lookup_host((host.as_str(), 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    }
}

/// What kind of network an address belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scope {
    Public,
    Private,
    Loopback,
    /// Link-local, cloud metadata, unspecified, multicast, reserved: nothing that anybody is led to.
    Special,
}

/// Metadata services outside of the link-local networks: AWS (IPv6), Alibaba, Azure, Oracle.
const METADATA: [IpAddr; 4] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
];

pub(super) fn scope(address: IpAddr) -> Scope {
    if METADATA.contains(&address) {
        return Scope::Special;
    }
    match address {
        IpAddr::V4(v4) => scope_v4(v4),
        IpAddr::V6(v6) => embedded_v4(v6).map_or_else(|| scope_v6(v6), |v4| scope(IpAddr::V4(v4))),
    }
}

fn scope_v4(address: Ipv4Addr) -> Scope {
    match address.octets() {
        [127, ..] => Scope::Loopback,
        [0 | 224..=255, ..] | [169, 254, ..] => Scope::Special,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] | [198, 18..=19, ..] => {
            Scope::Private
        }
        [192, 0, 0, _] | [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => Scope::Special,
        _ => Scope::Public,
    }
}

fn scope_v6(address: Ipv6Addr) -> Scope {
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 1] => Scope::Loopback,
        [first, ..] if first & 0xfe00 == 0xfc00 => Scope::Private,
        [0x2001, 0xdb8, ..] => Scope::Special,
        [first, ..] if first & 0xe000 == 0x2000 => Scope::Public,
        _ => Scope::Special,
    }
}

/// The IPv4 address that is really meant: mapped, compatible, NAT64 (RFC 6052) and 6to4 (RFC 3056).
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Some(Ipv4Addr::new(a, b, c, d))
    };
    match address.segments() {
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] if (high, low) > (0, 1) => v4(high, low),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        _ => None,
    }
}

/// An address that a registry may not lead to.
#[derive(Debug, Clone, Error)]
#[error("{host} is at {address}, a {kind} address, and {registry} is not")]
pub(super) struct AddressError {
    pub(super) registry: String,
    host: String,
    address: IpAddr,
    kind: &'static str,
}

/// The addresses of one registry, and the judge of all others.
#[derive(Debug)]
pub(super) struct Neighbourhood {
    registry: String,
    /// Kinds and, for the special ones, the addresses themselves; empty until the registry was first resolved.
    own: Mutex<(BTreeSet<Scope>, HashSet<IpAddr>)>,
}

impl Neighbourhood {
    pub(super) fn new(registry: &str) -> Self {
        Self { registry: registry.to_owned(), own: Mutex::default() }
    }

    /// The addresses of the registry itself. The first answer decides: later ones of another kind do not count.
    pub(super) fn settle(&self, host: &str, found: Vec<IpAddr>) -> Result<Vec<IpAddr>, AddressError> {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        if own.0.is_empty() {
            own.0.extend(found.iter().map(|address| scope(*address)));
            own.1.extend(found.iter().filter(|address| scope(**address) == Scope::Special));
        }
        let known = |address: &IpAddr| match scope(*address) {
            Scope::Special => own.1.contains(address),
            kind => own.0.contains(&kind),
        };
        self.pick(host, found, known)
    }

    /// Of the addresses of another host those that the registry may lead to.
    pub(super) fn judge(&self, host: &str, found: Vec<IpAddr>) -> Result<Vec<IpAddr>, AddressError> {
        let own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        // A public registry that also claims an inner address does not get to use it.
        let inner = !own.0.contains(&Scope::Public);
        let allowed = |address: &IpAddr| match scope(*address) {
            Scope::Public => true,
            Scope::Special => inner && own.1.contains(address),
            kind => inner && own.0.contains(&kind),
        };
        self.pick(host, found, allowed)
    }

    fn pick(
        &self,
        host: &str,
        found: Vec<IpAddr>,
        allowed: impl Fn(&IpAddr) -> bool,
    ) -> Result<Vec<IpAddr>, AddressError> {
        let (good, bad): (Vec<IpAddr>, Vec<IpAddr>) = found.into_iter().partition(allowed);
        match bad.first() {
            Some(address) if good.is_empty() => Err(AddressError {
                registry: self.registry.clone(),
                host: host.to_owned(),
                address: *address,
                kind: match scope(*address) {
                    Scope::Public => "public",
                    Scope::Private => "private",
                    Scope::Loopback => "loopback",
                    Scope::Special => "link-local or special",
                },
            }),
            _ => Ok(good),
        }
    }
}

/// Whom a resolver serves.
#[derive(Debug, Clone, Copy)]
pub(super) enum Side {
    /// The registry itself.
    Registry,
    /// Whatever the registry leads to.
    Elsewhere,
}

/// The resolver of one HTTP client.
#[derive(Debug, Clone)]
pub(super) struct Resolver {
    pub(super) names: Arc<dyn NameService>,
    pub(super) around: Arc<Neighbourhood>,
    pub(super) side: Side,
    /// Proxies are where the user says; they and their addresses say nothing about the registry.
    pub(super) proxies: Arc<HashSet<String>>,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let this = self.clone();
        Box::pin(async move {
            let host = name.as_str();
            let found = this.names.lookup(host).await?;
            let passed = match this.side {
                _ if this.proxies.contains(host) => found,
                Side::Registry => this.around.settle(host, found)?,
                Side::Elsewhere => this.around.judge(host, found)?,
            };
            let addresses: Addrs = Box::new(passed.into_iter().map(|ip| SocketAddr::new(ip, 0)));
            Ok(addresses)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn addresses_have_kinds() {
        for (kind, texts) in [
            (Scope::Public, &["8.8.8.8", "100.63.0.1", "2606:4700::1", "::ffff:8.8.8.8", "172.32.0.1"][..]),
            (
                Scope::Private,
                &["10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "fd00::1", "::ffff:10.0.0.1"],
            ),
            (Scope::Loopback, &["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1"]),
            (
                Scope::Special,
                &[
                    "169.254.169.254",
                    "0.0.0.0",
                    "::",
                    "fe80::1",
                    "224.0.0.1",
                    "255.255.255.255",
                    "fd00:ec2::254",
                    "::ffff:169.254.169.254",
                    "2002:a9fe:a9fe::",
                    "100.100.100.200",
                    "ff02::1",
                ],
            ),
        ] {
            for address in ips(texts) {
                assert_eq!(scope(address), kind, "{address}");
            }
        }
    }

    #[test]
    fn a_registry_leads_to_its_own_kind_or_outside() {
        for (own, allowed, refused) in [
            (&["8.8.8.8"][..], &["9.9.9.9"][..], &["10.0.0.1", "127.0.0.1", "169.254.169.254", "::1"][..]),
            (&["127.0.0.1"], &["127.0.0.1", "::1", "8.8.8.8"], &["10.0.0.1", "169.254.169.254", "0.0.0.0"]),
            (&["10.0.0.1"], &["10.9.9.9", "8.8.8.8"], &["127.0.0.1", "169.254.169.254", "fd00:ec2::254"]),
            (&["8.8.8.8", "127.0.0.1"], &["8.8.8.8"], &["127.0.0.1"]),
            (&["169.254.1.1"], &["169.254.1.1"], &["169.254.169.254"]),
        ] {
            let around = Neighbourhood::new("r");
            around.settle("r", ips(own)).unwrap();
            for address in ips(allowed) {
                assert!(around.judge("h", vec![address]).is_ok(), "{own:?} {address}");
            }
            for address in ips(refused) {
                assert!(around.judge("h", vec![address]).is_err(), "{own:?} {address}");
            }
            let mixed = [ips(&["8.8.8.8"]), ips(refused)].concat();
            assert_eq!(around.judge("h", mixed).unwrap(), ips(&["8.8.8.8"]));
        }
    }

    #[test]
    fn a_name_that_changes_its_kind_is_not_followed() {
        let around = Neighbourhood::new("r");
        around.settle("r", ips(&["8.8.8.8"])).unwrap();
        assert!(around.settle("r", ips(&["127.0.0.1"])).is_err());
        assert_eq!(around.settle("r", ips(&["8.8.4.4", "10.0.0.1"])).unwrap(), ips(&["8.8.4.4"]));
    }

    #[test]
    fn nothing_inside_before_the_registry_is_known() {
        assert!(Neighbourhood::new("r").judge("h", ips(&["10.0.0.1"])).is_err());
    }
}
