//! The flags of a vessel's network.
#![forbid(unsafe_code)]

use std::net::IpAddr;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use vesselrt::settings::network::{Allow, Network, NetworkMode, Publish};

const HEADING: &str = "Network";

/// Flags of a vessel's network.
#[derive(Debug, Args)]
#[group(skip)]
pub(in crate::cli) struct NetworkFlags {
    /// Which network the commands are in
    #[arg(help_heading = HEADING, long, value_enum, value_name = "MODE", default_value_t)]
    network: Mode,
    /// Let a port of this host lead to a server inside; on the loopback address unless ADDR says otherwise
    #[arg(help_heading = HEADING, short, long, value_name = "[ADDR:]HOST:GUEST[/udp]")]
    publish: Vec<Publish>,
    /// Let commands connect to HOST and nothing else, through a proxy; HOST is a name, *.NAME or an address
    #[arg(help_heading = HEADING, long, value_name = "HOST[=ADDR][:PORT,…]")]
    allow: Vec<Allow>,
    /// Let allowed names lead to addresses that are not public
    #[arg(help_heading = HEADING, long)]
    allow_private: bool,
    /// Ask this name server instead of the host's
    #[arg(help_heading = HEADING, long, value_name = "ADDR")]
    dns: Vec<IpAddr>,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Mode {
    /// One of their own without a way out
    #[default]
    None,
    /// This host's, with all that listens on its loopback interface and its abstract sockets
    Host,
    /// One of their own with a way out, through pasta or slirp4netns
    Isolated,
}

impl From<NetworkFlags> for Network {
    fn from(flags: NetworkFlags) -> Self {
        let mut network = Self::new(match flags.network {
            Mode::None => NetworkMode::None,
            Mode::Host => NetworkMode::Host,
            Mode::Isolated => NetworkMode::Isolated,
        });
        network.publish = flags.publish;
        network.allow = flags.allow;
        network.allow_private = flags.allow_private;
        network.dns = flags.dns;
        network
    }
}

/// The lines of `inspect`.
pub(super) fn rows(network: &Network) -> Vec<[String; 2]> {
    let row = |name: &str, value: String| [name.to_owned(), value];
    let mut rows = vec![row("network", network.mode.as_str().to_owned())];
    rows.extend(network.publish.iter().map(|port| row("publish", port.to_string())));
    rows.extend(network.allow.iter().map(|allow| row("allow", allow.to_string())));
    if network.allow_private {
        rows.push(row("allow", "private addresses".to_owned()));
    }
    rows.extend(network.dns.iter().map(|server| row("dns", server.to_string())));
    rows
}

/// What `inspect --json` says, in the words of the command line.
pub(super) fn to_json(network: &Network) -> Value {
    json!({
        "mode": network.mode.as_str(),
        "publish": network.publish.iter().map(Publish::to_string).collect::<Vec<_>>(),
        "allow": network.allow.iter().map(Allow::to_string).collect::<Vec<_>>(),
        "allow_private": network.allow_private,
        "dns": network.dns,
    })
}
