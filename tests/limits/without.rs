//! Where this user has no control groups: refused, or less when asked for.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use serde_json::Value;
use vesselrt::settings::Limits;
use vesselrt::{CreateOptions, Enforcement, ErrorKind, ExecOptions};

use super::{HOG, groups, limited};
use crate::testkit::{BASE, Cap, Store, run_in, sh, tests, unprivileged};

tests!(a_limit_that_cannot_be_enforced_is_refused_with_the_remedy, best_effort_is_less_and_says_so);

/// Only a user without control groups can be refused them.
fn has_groups() -> bool {
    !unprivileged() || Cap::ControlGroups.is_there()
}

async fn a_limit_that_cannot_be_enforced_is_refused_with_the_remedy(store: &Store) {
    if has_groups() {
        return;
    }
    let manager = store.stocked().await;
    for limits in [Limits::new().memory(64 << 20), Limits::new().pids(9), Limits::new().milli_cpus(500)] {
        let refused = manager.create_vessel_with(CreateOptions::new(BASE).limits(limits.clone())).await;
        let error = refused.expect_err("the limit was dropped");
        let ErrorKind::Unsupported { what, remedy } = error.kind() else { panic!("{error:?}") };
        assert!(what.contains("limit"), "{what}");
        assert!(remedy.contains("systemd") && remedy.contains("--best-effort"), "{remedy}");
        assert_eq!(manager.list_vessels().await.unwrap(), [], "nothing was made");
        // Neither for a vessel that is there, running or not, nor for one command.
        let vessel = limited(&manager, Limits::new()).await;
        let wanted = limits.clone();
        let update = vessel.update(move |limits| *limits = wanted).await.expect_err("the limit was dropped");
        assert!(matches!(update.kind(), ErrorKind::Unsupported { .. }), "{update:?}");
        let command = vessel.exec(ExecOptions::new(["true"]).limits(limits.clone())).await;
        let command = command.expect_err("the limit was dropped");
        assert!(matches!(command.kind(), ErrorKind::Unsupported { .. }), "{command:?}");
        vessel.close().await.unwrap();
        let id = vessel.id().to_owned();
        let update =
            manager.update_vessel(&id, move |it| *it = limits).await.expect_err("the limit was dropped");
        assert!(matches!(update.kind(), ErrorKind::Unsupported { .. }), "{update:?}");
        assert_eq!(manager.vessel_limits(&id).await.unwrap().limits, Limits::new());
        manager.delete_vessel(&id).await.unwrap();
    }
    let output = store.cli(&["create", BASE, "--memory", "64m", "--json"]).output().unwrap();
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), json["error"]["kind"].as_str()), (Some(125), Some("unsupported")));
    assert!(json["error"]["remedy"].as_str().unwrap().contains("--best-effort"), "{json}");
}

async fn best_effort_is_less_and_says_so(store: &Store) {
    if has_groups() {
        return;
    }
    let manager = store.stocked().await;
    let limits = Limits::new().memory(64 << 20).pids(12).milli_cpus(1000).best_effort(true);
    let vessel = limited(&manager, limits).await;
    assert_eq!(groups(vessel.id()), Vec::<PathBuf>::new());
    assert_eq!(vessel.limits().await.unwrap().enforcement, Enforcement::BestEffort);
    assert_eq!(vessel.stats().await.unwrap().enforcement, Enforcement::BestEffort);
    let hog = run_in(&vessel, ExecOptions::new(["sh", "-c", HOG])).await.unwrap();
    assert!(!hog.result.success() && !hog.result.oom_killed, "no memory is given to it: {hog:?}");
    let many = "i=0; while [ $i -lt 40 ]; do sleep 60 & i=$((i+1)); done";
    let ran = run_in(&vessel, ExecOptions::new(["sh", "-c", many])).await.unwrap();
    assert!(!ran.result.success() && ran.err.contains("fork"), "{ran:?}");
    let processors = "grep Cpus_allowed_list /proc/self/status | cut -f2";
    let list = sh(&vessel, processors).await;
    assert!(list.trim().parse::<u32>().is_ok(), "one processor and not {list}");
    for raise in ["ulimit -v unlimited", "ulimit -p 99"] {
        let ran = run_in(&vessel, ExecOptions::new(["sh", "-c", raise])).await.unwrap();
        assert!(!ran.result.success(), "{raise} worked");
    }
    let output = store.cli(&["inspect", vessel.id(), "--json"]).output().unwrap();
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["enforcement"], "best-effort", "{json}");
}
