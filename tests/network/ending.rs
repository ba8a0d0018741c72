//! What serves a network outside ends with the vessel, whatever ends that; and a vessel whose network has ended says so.
#![forbid(unsafe_code)]

use std::fs;

use rustix::process::{Pid, Signal, kill_process};
use vesselrt::settings::network::{Network, NetworkMode, Publish};
use vesselrt::{ErrorKind, ExecOptions, Vessel};

use super::{free_port, vessel};
use crate::testkit::{Cap, Store, fails_with, leftovers, need, sh, tests, until};

tests!(
    a_killed_shim_takes_its_gateway_along,
    a_killed_shim_takes_pasta_along,
    a_vessel_whose_gateway_was_killed_says_so,
    a_vessel_without_a_network_has_no_gateway,
);

/// The processes of a store that are called `name`, which use something of it.
fn called(store: &Store, name: &str) -> Vec<i32> {
    let users = leftovers::users_of(&store.beside("."));
    users
        .iter()
        .filter(|user| user.contains(name))
        .filter_map(|user| user.split(' ').next()?.parse().ok())
        .collect()
}

fn name(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

fn children(parent: i32) -> Vec<i32> {
    let numbers =
        fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    let is_child = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after = stat.rsplit(") ").next().unwrap_or_default().split(' ').nth(1).map(str::to_owned);
        after.is_some_and(|ppid| ppid == parent.to_string())
    };
    numbers.filter(is_child).collect()
}

/// A process that has ended and is not reaped is as good as gone.
fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

/// The shim, the keeper and the gateway.
fn family(store: &Store) -> [i32; 3] {
    let keeper = |shim: &i32| children(*shim).into_iter().find(|&child| name(child) == "vesselrt-keeper");
    let found = called(store, "vesselrt-shim").into_iter().find_map(|shim| Some((shim, keeper(&shim)?)));
    let (shim, keeper) = found.expect("no shim has a keeper");
    let [gateway] = children(keeper)[..] else { panic!("not one gateway") };
    [shim, keeper, gateway]
}

async fn all_end(store: &Store, vessel: &Vessel, pids: &[i32]) {
    let [shim, ..] = family(store);
    kill(shim);
    until("all of them are gone", async || !pids.iter().any(|&pid| is_alive(pid))).await;
    // And the vessel can be used again, ports and all.
    assert_eq!(sh(vessel, "echo again").await, "again\n");
    vessel.close().await.unwrap();
}

async fn a_killed_shim_takes_its_gateway_along(store: &Store) {
    let network = Network::default().allow("a.test".parse().unwrap()).publish(Publish::new(free_port(), 9));
    let (_manager, vessel) = vessel(store, network).await;
    assert_eq!(sh(&vessel, "echo here").await, "here\n");
    let pids = family(store);
    all_end(store, &vessel, &pids).await;
}

async fn a_killed_shim_takes_pasta_along(store: &Store) {
    if !need(&[Cap::Pasta]) {
        return;
    }
    let (_manager, vessel) = vessel(store, Network::new(NetworkMode::Isolated)).await;
    let [_, _, gateway] = family(store);
    let pasta = children(gateway);
    assert!(pasta.iter().any(|&pid| name(pid).starts_with("pas")), "{pasta:?}");
    all_end(store, &vessel, &pasta).await;
}

async fn a_vessel_whose_gateway_was_killed_says_so(store: &Store) {
    let (manager, vessel) = vessel(store, Network::default().allow("a.test".parse().unwrap())).await;
    let [_, keeper, gateway] = family(store);
    kill(gateway);
    until("the keeper is gone", async || !is_alive(keeper)).await;
    let ended = "what connects the vessel to its network has ended";
    fails_with(vessel.exec(ExecOptions::new(["true"])).await, &ErrorKind::Internal, ended);
    // Its files are there all the same.
    assert!(vessel.read_file("/etc/motd").await.is_ok());
    manager.stop_vessel(vessel.id()).await.unwrap();
    assert_eq!(sh(&vessel, "echo again").await, "again\n");
    vessel.close().await.unwrap();
}

async fn a_vessel_without_a_network_has_no_gateway(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let shims = called(store, "vesselrt-shim");
    assert!(!shims.is_empty());
    let keepers = shims.into_iter().flat_map(children).filter(|&child| name(child) == "vesselrt-keeper");
    assert_eq!(keepers.count(), 0);
    vessel.close().await.unwrap();
}
