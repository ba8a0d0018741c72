//! Background processes with limits of their own.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use vesselrt::settings::Limits;
use vesselrt::{ErrorKind, ExecOptions, Process, SpawnOptions, Vessel};

use super::{HOG, groups, limited, said};
use crate::crash::shim_of;
use crate::testkit::{Cap, Store, fails, need, sh, tests, until};

tests!(
    a_background_process_has_limits_of_its_own,
    a_background_process_that_starved_is_told_so,
    its_group_goes_when_it_has_ended_whoever_sees_it,
    its_group_goes_with_the_vessel,
    one_that_cannot_begin_leaves_no_group,
    limits_of_single_processes_are_of_background_processes_too,
);

fn script(text: &str) -> ExecOptions {
    ExecOptions::new(["sh", "-c", text]).persist_result(true)
}

async fn spawn(vessel: &Vessel, text: &str, limits: Limits) -> Process {
    vessel.spawn_detached(SpawnOptions::new(script(text).limits(limits))).await.unwrap()
}

/// Groups of background processes.
fn of_processes(vessel: &Vessel) -> Vec<PathBuf> {
    let below = |group: PathBuf| crate::testkit::leftovers::entries(&group);
    let is_one = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("detached-");
    groups(vessel.id()).into_iter().flat_map(below).filter(is_one).collect()
}

async fn a_background_process_has_limits_of_its_own(store: &Store) {
    if !need(&[Cap::ControlGroups]) {
        return;
    }
    let manager = store.stocked().await;
    let vessel = limited(&manager, Limits::new().pids(100)).await;
    let process = spawn(&vessel, "sleep 60 & sleep 60 & wait", Limits::new().pids(7)).await;
    until("it is in its group", async || !of_processes(&vessel).is_empty()).await;
    let own = of_processes(&vessel);
    assert_eq!(said(&own, ["pids.max", "pids.max"]), "7");
    until("all of it is there", async || said(&own, ["pids.current", "pids.current"]) == "3").await;
    // The next command is not in it.
    sh(&vessel, "true").await;
    assert_eq!(said(&own, ["pids.current", "pids.current"]), "3");
    process.signal(9).await.unwrap();
    process.wait().await.unwrap();
    vessel.close().await.unwrap();
}

async fn a_background_process_that_starved_is_told_so(store: &Store) {
    if !need(&[Cap::ControlGroups]) {
        return;
    }
    let manager = store.stocked().await;
    // Of a vessel that has no limits and so no group.
    for limits in [Limits::new().memory(1 << 30), Limits::new()] {
        let vessel = limited(&manager, limits).await;
        let well = spawn(&vessel, HOG, Limits::new().memory(512 << 20)).await;
        let starved = spawn(&vessel, HOG, Limits::new().memory(32 << 20)).await;
        let end = starved.wait().await.unwrap();
        assert!(end.result.as_ref().unwrap().oom_killed, "{end:?}");
        let end = well.wait().await.unwrap();
        assert!(end.result.as_ref().unwrap().success(), "{end:?}");
        vessel.close().await.unwrap();
    }
}

async fn its_group_goes_when_it_has_ended_whoever_sees_it(store: &Store) {
    if !need(&[Cap::ControlGroups]) {
        return;
    }
    let manager = store.stocked().await;
    let vessel = limited(&manager, Limits::new().memory(1 << 30)).await;
    for who in ["its waiter", "the next one", "a list"] {
        let process = spawn(&vessel, "sleep 600", Limits::new().memory(64 << 20)).await;
        assert!(!of_processes(&vessel).is_empty(), "{who}");
        process.signal(9).await.unwrap();
        match who {
            "its waiter" => {
                process.wait().await.unwrap();
                until(who, async || {
                    process.wait().await.unwrap();
                    of_processes(&vessel).is_empty()
                })
                .await;
            }
            "the next one" => {
                until(who, async || {
                    let next = ExecOptions::new(["true"]).limits(Limits::new().memory(64 << 20));
                    vessel.exec(next).await.unwrap();
                    of_processes(&vessel).is_empty()
                })
                .await;
            }
            _ => {
                until(who, async || {
                    vessel.processes().await.unwrap();
                    of_processes(&vessel).is_empty()
                })
                .await;
            }
        }
    }
    vessel.close().await.unwrap();
}

async fn its_group_goes_with_the_vessel(store: &Store) {
    if !need(&[Cap::ControlGroups]) {
        return;
    }
    let manager = store.stocked().await;
    let vessel = limited(&manager, Limits::new()).await;
    let _process = spawn(&vessel, "sleep 600", Limits::new().memory(64 << 20)).await;
    assert!(!of_processes(&vessel).is_empty());
    vessel.close().await.unwrap();
    assert!(!of_processes(&vessel).is_empty(), "it goes on");
    manager.stop_vessel(vessel.id()).await.unwrap();
    assert_eq!(groups(vessel.id()), Vec::<PathBuf>::new());
    // The same when the shim was killed.
    let vessel = manager.open_vessel(vessel.id()).await.unwrap();
    let _process = spawn(&vessel, "sleep 600", Limits::new().memory(64 << 20)).await;
    let shim = rustix::process::Pid::from_raw(shim_of(store, vessel.id()).unwrap().cast_signed()).unwrap();
    rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();
    until("it is gone", async || shim_of(store, vessel.id()).is_none()).await;
    drop(vessel.close().await);
    manager.collect_garbage().await.unwrap();
    assert_eq!(groups(vessel.id()), Vec::<PathBuf>::new());
}

async fn one_that_cannot_begin_leaves_no_group(store: &Store) {
    let manager = store.stocked().await;
    let vessel = limited(&manager, Limits::new()).await;
    let disk = SpawnOptions::new(script("true").limits(Limits::new().disk(1 << 20)));
    fails(vessel.spawn_detached(disk).await, &ErrorKind::InvalidArgument);
    if need(&[Cap::ControlGroups]) {
        let missing = ExecOptions::new(["/no/such/program"]).limits(Limits::new().memory(64 << 20));
        vessel.spawn_detached(missing).await.unwrap_err();
        until("it is gone", async || {
            vessel.processes().await.unwrap();
            of_processes(&vessel).is_empty()
        })
        .await;
    }
    vessel.close().await.unwrap();
}

async fn limits_of_single_processes_are_of_background_processes_too(store: &Store) {
    let manager = store.stocked().await;
    let vessel = limited(&manager, Limits::new()).await;
    let process = spawn(&vessel, "ulimit -n > /work/n", Limits::new().nofile(77)).await;
    process.wait().await.unwrap();
    assert_eq!(vessel.read_file("/work/n").await.unwrap(), b"77\n");
    let short = Limits::new().timeout(std::time::Duration::from_millis(300));
    let end = spawn(&vessel, "sleep 60", short).await.wait().await.unwrap();
    assert_eq!(end.cause, vesselrt::EndCause::Timeout);
    vessel.close().await.unwrap();
}
