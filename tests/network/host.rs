//! Commands in the host's own network.
#![forbid(unsafe_code)]

use vesselrt::ExecOptions;
use vesselrt::settings::network::{Network, NetworkMode};

use super::vessel;
use crate::testkit::web::{HELLO, Web};
use crate::testkit::{Store, run_in, sh, tests};

tests!(
    in_the_host_s_network_what_listens_there_is_reached,
    in_the_host_s_network_sys_is_read_only_and_shows_no_interface,
    name_servers_can_be_chosen,
);

async fn in_the_host_s_network_what_listens_there_is_reached(store: &Store) {
    let web = Web::start();
    let (_manager, vessel) = vessel(store, Network::new(NetworkMode::Host)).await;
    let fetch = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 10 127.0.0.1 {}", web.port);
    assert!(sh(&vessel, &fetch).await.ends_with(HELLO));
    let host = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    assert_eq!(sh(&vessel, "cat /etc/resolv.conf").await, host);
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    assert!(sh(&vessel, "cat /etc/hosts").await.starts_with(&hosts));
    vessel.close().await.unwrap();
}

async fn in_the_host_s_network_sys_is_read_only_and_shows_no_interface(store: &Store) {
    let (_manager, vessel) = vessel(store, Network::new(NetworkMode::Host)).await;
    assert_eq!(sh(&vessel, "ls /sys/class/net /sys/fs/cgroup | grep -v :").await.trim(), "");
    for attempt in [
        "echo 1 >/sys/kernel/uevent_helper",
        "mount -o remount,rw /sys",
        "umount /sys",
        "ip link set lo down",
    ] {
        let ran = run_in(&vessel, ExecOptions::new(["sh", "-c", attempt])).await.unwrap();
        assert!(!ran.result.success(), "{attempt}: {ran:?}");
    }
    assert!(sh(&vessel, "ls /sys").await.contains("devices"));
    vessel.close().await.unwrap();
}

async fn name_servers_can_be_chosen(store: &Store) {
    let servers = ["192.0.2.53", "2001:db8::53"].map(|server| server.parse().unwrap());
    let network = servers.into_iter().fold(Network::new(NetworkMode::Host), Network::dns);
    let (_manager, vessel) = vessel(store, network).await;
    let text = sh(&vessel, "cat /etc/resolv.conf").await;
    assert_eq!(text, "nameserver 192.0.2.53\nnameserver 2001:db8::53\n");
    vessel.close().await.unwrap();
}
