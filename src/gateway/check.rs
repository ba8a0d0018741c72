//! Where a client of the proxy may be connected to. Names are resolved once, here, and the address that was checked is the
//! one that is connected to: an answer of the DNS that changes makes no difference.
#![forbid(unsafe_code)]

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::TcpStream;
use vesselrt_runtime::settings::network::{Destination, Network, Refusal, Route, is_public};

/// How long a name may take to be resolved, and a server to accept.
const PATIENCE: Duration = Duration::from_secs(20);
/// Most addresses of a name that are tried.
const MAX_ADDRESSES: usize = 8;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoConnection {
    /// It is not allowed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The name leads nowhere.
    #[error("failed to resolve the name")]
    Unresolved(#[source] io::Error),
    /// Nobody answers there.
    #[error("failed to connect")]
    Unreachable(#[source] io::Error),
}

/// Connects to an allowed destination.
pub(super) async fn connect(
    network: &Network,
    to: &Destination,
    port: u16,
) -> Result<TcpStream, NoConnection> {
    let addresses = addresses(network, to, port, resolve).await?;
    let mut last = io::ErrorKind::NotFound.into();
    for address in addresses {
        match tokio::time::timeout(PATIENCE, TcpStream::connect(SocketAddr::new(address, port))).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(elapsed) => last = elapsed.into(),
        }
    }
    Err(NoConnection::Unreachable(last))
}

async fn resolve(name: String) -> io::Result<Vec<IpAddr>> {
    let found =
        tokio::time::timeout(PATIENCE, tokio::net::lookup_host((name, 0))).await.map_err(io::Error::from)?;
    Ok(found?.map(|address| address.ip()).collect())
}

/// The addresses that may be connected to.
async fn addresses(
    network: &Network,
    to: &Destination,
    port: u16,
    resolve: impl AsyncFnOnce(String) -> io::Result<Vec<IpAddr>>,
) -> Result<Vec<IpAddr>, NoConnection> {
    let route = network.route(to, port)?;
    if let Route::To(address) = route {
        return Ok(vec![address]);
    }
    let mut found = resolve(to.to_string()).await.map_err(NoConnection::Unresolved)?;
    found.truncate(MAX_ADDRESSES);
    let Some(&first) = found.first() else {
        return Err(NoConnection::Unresolved(io::ErrorKind::NotFound.into()));
    };
    if route == Route::Public {
        found.retain(|&address| is_public(address));
    }
    if found.is_empty() { Err(Refusal::Private(first).into()) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(allow: &str) -> Network {
        Network::default().allow(allow.parse().unwrap())
    }

    async fn check(network: &Network, host: &str, answer: &[&str]) -> Result<Vec<String>, NoConnection> {
        let answer = answer.iter().map(|text| text.parse().unwrap()).collect();
        let found = addresses(network, &Destination::parse(host)?, 443, async |_| Ok(answer)).await?;
        Ok(found.iter().map(IpAddr::to_string).collect())
    }

    #[tokio::test]
    async fn a_name_that_leads_to_this_host_or_its_network_is_refused() {
        let network = network("a.test");
        let private = [
            "127.0.0.1",
            "169.254.169.254",
            "10.1.2.3",
            "::1",
            "fd00:ec2::254",
            "::ffff:127.0.0.1",
            "0.0.0.0",
        ];
        for address in private {
            let refused = check(&network, "a.test", &[address]).await.unwrap_err();
            assert!(matches!(refused, NoConnection::Refused(Refusal::Private(_))), "{address}");
        }
        let mixed = check(&network, "a.test", &["127.0.0.1", "1.1.1.1", "10.0.0.1"]).await.unwrap();
        assert_eq!(mixed, ["1.1.1.1"]);
        let open = network.allow_private(true);
        assert_eq!(check(&open, "a.test", &["127.0.0.1"]).await.unwrap(), ["127.0.0.1"]);
    }

    #[tokio::test]
    async fn a_name_with_an_address_is_not_resolved_and_a_refused_one_neither() {
        let never = async |_| panic!("resolved");
        let pinned = network("a.test=127.0.0.1");
        let to = Destination::parse("a.test").unwrap();
        assert_eq!(addresses(&pinned, &to, 443, never).await.unwrap(), [IpAddr::from([127, 0, 0, 1])]);
        for host in ["b.test", "127.0.0.1", "1.1.1.1"] {
            let never = async |_| panic!("resolved");
            let to = Destination::parse(host).unwrap();
            assert!(
                matches!(addresses(&pinned, &to, 443, never).await, Err(NoConnection::Refused(_))),
                "{host}"
            );
        }
    }

    #[tokio::test]
    async fn a_name_without_addresses_is_unresolved() {
        assert!(matches!(check(&network("a.test"), "a.test", &[]).await, Err(NoConnection::Unresolved(_))));
    }
}
