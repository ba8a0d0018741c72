//! What commands reach, and from where they are reached: the loopback interface alone, the host's network, one of their own
//! with a way out, published ports, and an allowlist.
#![forbid(unsafe_code)]

mod allow;
mod debian;
mod ending;
mod host;
mod isolated;
mod publish;

use vesselrt::settings::Settings;
use vesselrt::settings::network::{Network, NetworkMode, Publish};
use vesselrt::{CreateOptions, ErrorKind, ForkOptions, Manager, Vessel};

use crate::testkit::web::Web;
use crate::testkit::{BASE, Store, fails, run_in, sh, tests};

tests!(
    by_default_there_is_a_loopback_interface_and_nothing_else,
    settings_that_exclude_each_other_make_no_vessel,
    a_fork_has_the_network_of_its_vessel,
    the_network_is_shown,
);

pub(crate) fn options(network: Network) -> CreateOptions {
    CreateOptions::new(BASE).work_dir("/work").settings(Settings { network, ..Settings::default() })
}

/// A vessel of the base image in this network.
pub(crate) async fn vessel(store: &Store, network: Network) -> (Manager, Vessel) {
    let manager = store.stocked().await;
    let vessel = manager.create_vessel_with(options(network)).await.unwrap();
    (manager, vessel)
}

/// A port of this host that nobody listens on, now.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

async fn by_default_there_is_a_loopback_interface_and_nothing_else(store: &Store) {
    let web = Web::start();
    let (_manager, vessel) = store.vessel().await;
    let interfaces = sh(&vessel, "tail -n +3 /proc/net/dev | cut -d: -f1").await;
    assert_eq!(interfaces.trim(), "lo");
    assert_eq!(sh(&vessel, "tail -n +2 /proc/net/route").await, "");
    assert_eq!(sh(&vessel, "cat /etc/resolv.conf").await, "# this vessel has no network\n");
    let attempt = format!("nc -w 3 127.0.0.1 {} </dev/null", web.port);
    let ran = run_in(&vessel, vesselrt::ExecOptions::new(["sh", "-c", &attempt])).await.unwrap();
    assert!(!ran.result.success() && web.heads().is_empty(), "{ran:?}");
    assert_eq!(sh(&vessel, "env | grep -ci proxy || true").await.trim(), "0");
    vessel.close().await.unwrap();
}

async fn settings_that_exclude_each_other_make_no_vessel(store: &Store) {
    let manager = store.stocked().await;
    let network = Network::new(NetworkMode::Host).publish(Publish::new(8080, 80));
    let error = fails(manager.create_vessel_with(options(network)).await, &ErrorKind::InvalidArgument);
    assert_eq!(
        error.to_string(),
        "network host and published ports exclude each other: its servers listen on the host itself"
    );
    assert!(manager.list_vessels().await.unwrap().is_empty());
}

async fn a_fork_has_the_network_of_its_vessel(store: &Store) {
    let network = Network::default().allow("a.test:8443".parse().unwrap());
    let (manager, vessel) = vessel(store, network.clone()).await;
    let forks = manager.fork_vessel(vessel.id(), ForkOptions::default()).await.unwrap();
    assert_eq!(manager.vessel_settings(&forks[0].id).await.unwrap().network, network);
    vessel.close().await.unwrap();
}

async fn the_network_is_shown(store: &Store) {
    let manager = store.stocked().await;
    drop(manager);
    let port = free_port();
    let publish = format!("{port}:80/udp");
    let flags = [
        "create",
        BASE,
        "--id",
        "shown",
        "--allow",
        "*.a.test:443",
        "--allow-private",
        "--publish",
        &publish,
    ];
    assert!(store.cli(&flags).status().unwrap().success());
    let text = String::from_utf8(store.cli(&["inspect", "shown"]).output().unwrap().stdout).unwrap();
    for line in ["network    none", &format!("publish    127.0.0.1:{port}:80/udp"), "allow      *.a.test:443"]
    {
        assert!(text.contains(line), "{line:?} is not in {text}");
    }
    let json = store.cli(&["inspect", "shown", "--json"]).output().unwrap().stdout;
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(
        json["network"],
        serde_json::json!({
            "mode": "none",
            "publish": [format!("127.0.0.1:{port}:80/udp")],
            "allow": ["*.a.test:443"],
            "allow_private": true,
            "dns": [],
        })
    );
}
