//! Each command, killed with SIGKILL at every stage: what is left is listed, can be used, and can be removed.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use vesselrt::vm::{RunOptions, VmStatus};

use super::{command, options, service, sh, state, text, until_gone};
use crate::testkit::{BASE, Store, tests, until};

tests!(
    a_run_that_is_killed_ends_its_command_and_leaves_the_machine,
    a_stop_that_is_killed_leaves_a_machine_that_runs_again,
    a_clean_that_is_killed_can_be_done_again,
    one_that_keeps_the_volume_loses_nothing,
    a_temporary_one_that_is_killed_can_be_removed,
);

const PAUSES: [u64; 6] = [2, 6, 12, 20, 35, 60];

/// Kills it after so many milliseconds; whether it still ran.
fn kill_after(store: &Store, args: &[&str], millis: u64) -> bool {
    let mut child = command(store, args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(millis));
    let ran = child.try_wait().unwrap().is_none();
    child.kill().unwrap();
    child.wait().unwrap();
    ran
}

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).map_or(0, Iterator::count) == 0
}

/// Nothing of any machine is left.
async fn nothing_is_left(store: &Store) {
    assert_eq!(text(store, &["list", "--all", "-q"]), "");
    let vessels = store.manager().await.list_vessels().await.unwrap();
    assert!(vessels.is_empty(), "vessels without a record: {vessels:?}");
    for dir in ["vms", "persist"] {
        assert!(is_empty(&state(store).join(dir)), "something is left in {dir}");
    }
}

async fn a_run_that_is_killed_ends_its_command_and_leaves_the_machine(store: &Store) {
    let service = service(store).await;
    let record = service.create(options()).await.unwrap();
    let id = record.id.as_str();
    for verb in [&["run", "--vm", id][..], &["exec", "--all"], &["exec", "--vm", id]] {
        for pause in PAUSES {
            let line = [verb, &["--cmd", "touch /begun; sleep 981"]].concat();
            assert!(kill_after(store, &line, pause), "{line:?} did not wait for its command");
            assert_eq!(sh(&service, id, "echo up").await, "up\n", "after {pause} ms");
        }
        until_gone("sleep 981").await;
    }
    // A shell of which nobody is there any more.
    let mut shell = command(store, &["shell", "--vm", id, "--cmd", "sleep 981"]);
    let mut child = shell.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    until("it runs", async || service.get(id).await.unwrap().status == VmStatus::Running).await;
    child.kill().unwrap();
    child.wait().unwrap();
    until_gone("sleep 981").await;
    until("it is ready", async || service.get(id).await.unwrap().status == VmStatus::Ready).await;
    service.clean(id, false).await.unwrap();
    nothing_is_left(store).await;
}

async fn a_stop_that_is_killed_leaves_a_machine_that_runs_again(store: &Store) {
    let service = service(store).await;
    let record = service.create(options().persist(true)).await.unwrap();
    sh(&service, &record.id, "echo kept > /persist/file").await;
    for pause in PAUSES {
        kill_after(store, &["stop", "--all"], pause);
        let listed = text(store, &["list", "--all"]);
        assert!(listed.contains(&record.id) && listed.contains("Total: 1"), "after {pause} ms: {listed}");
        // Whether it was stopped or not.
        assert_eq!(sh(&service, &record.id, "cat /persist/file").await, "kept\n", "after {pause} ms");
    }
    service.clean(&record.id, false).await.unwrap();
    nothing_is_left(store).await;
}

async fn a_clean_that_is_killed_can_be_done_again(store: &Store) {
    let service = service(store).await;
    for pause in PAUSES {
        let record = service.create(options().persist(true)).await.unwrap();
        sh(&service, &record.id, "mkdir -p /persist/a/b; echo x > /persist/a/b/c").await;
        kill_after(store, &["clean", "--all"], pause);
        if text(store, &["list", "--all", "-q"]).is_empty() {
            assert!(!record.storage.root.exists(), "after {pause} ms: a record is the last that goes");
        } else {
            text(store, &["clean", "--vm", &record.id]);
        }
        nothing_is_left(store).await;
    }
}

async fn one_that_keeps_the_volume_loses_nothing(store: &Store) {
    let service = service(store).await;
    for pause in PAUSES {
        let record = service.create(options().persist(true)).await.unwrap();
        sh(&service, &record.id, "echo kept > /persist/file").await;
        kill_after(store, &["clean", "--vm", &record.id, "--keep-persist"], pause);
        if text(store, &["list", "--all", "-q"]).is_empty() {
            assert_eq!(service.kept_volumes().await.unwrap().len(), 1, "after {pause} ms");
        } else {
            text(store, &["clean", "--vm", &record.id, "--keep-persist"]);
        }
        // Whoever takes it over may be killed, too.
        let adopt = ["create", "--language", "ruby", "--image", BASE, "--best-effort", "--adopt", &record.id];
        kill_after(store, &adopt, pause);
        let new = match service.list().await.unwrap().first() {
            Some(new) => new.clone(),
            None => service.create(options().adopt(&record.id)).await.unwrap(),
        };
        let kept = std::fs::read_to_string(new.storage.persist_path.join("file")).unwrap();
        assert_eq!(kept, "kept\n", "after {pause} ms");
        service.clean(&new.id, true).await.unwrap();
        let volume = service.kept_volumes().await.unwrap();
        assert_eq!(volume.len(), 1, "{volume:?}");
        kill_after(store, &["clean", "--kept", &volume[0].id], pause);
        if let Some(volume) = service.kept_volumes().await.unwrap().first() {
            let taken = service.create(options().adopt(&volume.id)).await;
            assert_eq!(taken.is_err(), volume.removing, "half of it is gone: {taken:?}");
            if let Ok(record) = taken {
                service.clean(&record.id, true).await.unwrap();
            }
        }
        for volume in service.kept_volumes().await.unwrap() {
            service.clean_kept(&volume.id).await.unwrap();
        }
        nothing_is_left(store).await;
    }
}

async fn a_temporary_one_that_is_killed_can_be_removed(store: &Store) {
    let service = service(store).await;
    for pause in PAUSES {
        let line = ["temp", "--image", BASE, "--best-effort", "--cmd", "sleep 980"];
        assert!(kill_after(store, &line, 3 * pause), "it did not wait for its command");
        for record in service.list().await.unwrap() {
            let _ = service.run(RunOptions::new(&record.id, "true")).await;
            service.clean(&record.id, false).await.unwrap();
        }
        nothing_is_left(store).await;
    }
}
