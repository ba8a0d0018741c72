//! Runs in machines that are up, which take one connection: they end as those that take the long way.
#![forbid(unsafe_code)]

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use vesselrt::vm::{RunOptions, RunResult, VmRecord, VmService, VmStatus};
use vesselrt::{CommitOptions, ErrorKind, Vessel};

use super::{options, service, sh, text, until_gone};
use crate::testkit::{PATIENCE, Store, tests, until, within};

tests!(
    a_run_ends_the_same_either_way,
    what_takes_too_long_is_killed_and_what_it_wrote_is_kept,
    a_run_that_is_given_up_is_killed_with_its_children,
    a_shell_that_was_removed_is_done_without,
    a_stop_ends_what_runs_in_one_that_is_up,
    many_at_once_in_one_machine_have_logs_of_their_own,
    one_that_is_gone_is_told_and_not_made_again_by_exec,
);

const IMAGE: &str = "localhost/bash:1";

/// A machine of an image with something that is called bash, held open by the vessel.
async fn up(store: &Store) -> (VmService, VmRecord, Vessel) {
    let service = service(store).await;
    let (manager, vessel) = store.vessel().await;
    let bash = "#!/bin/sh\nexec /bin/sh \"$@\"\n";
    vessel.write_file("/bin/bash", bash, 0o755).await.unwrap();
    manager.commit_vessel(vessel.id(), CommitOptions::new(IMAGE), |_| {}).await.unwrap();
    vessel.close().await.unwrap();
    manager.delete_vessel(vessel.id()).await.unwrap();
    let record = service.create(options().image(IMAGE)).await.unwrap();
    assert!(record.has_bash);
    let held = manager.open_vessel(&record.id).await.unwrap();
    (service, record, held)
}

/// The long way makes directories, whose modes tell of it.
fn forbid_the_long_way(record: &VmRecord) {
    std::fs::set_permissions(&record.storage.input_path, Permissions::from_mode(0o701)).unwrap();
}

fn took_the_long_way(record: &VmRecord) -> bool {
    std::fs::metadata(&record.storage.input_path).unwrap().permissions().mode() & 0o777 != 0o701
}

fn written(result: &RunResult) -> (String, String) {
    let read = |path| std::fs::read_to_string(path).unwrap();
    (read(&result.stdout_path), read(&result.stderr_path))
}

async fn a_run_ends_the_same_either_way(store: &Store) {
    let (service, record, held) = up(store).await;
    let scripts = [
        "echo out; echo err >&2; exit 7",
        "kill -9 $$",
        "cat; echo end",
        "pwd; id -u; echo $0; env | sort | grep -v -e ^PWD -e ^SHLVL",
        "head -c 300000 /dev/zero | tr '\\0' x",
        "sleep 0.2 & echo left",
        "no-such-program",
    ];
    let run = async |script: &str| {
        let result = service.run(RunOptions::new(&record.id, script)).await.unwrap();
        ((result.exit_code, result.timed_out, result.oom_killed, result.truncated), written(&result))
    };
    let mut quick = Vec::new();
    for script in scripts {
        forbid_the_long_way(&record);
        quick.push(run(script).await);
        assert!(!took_the_long_way(&record), "{script}");
    }
    held.close().await.unwrap();
    let down = async || !store.manager().await.vessel_status(&record.id).await.unwrap().running;
    until("it is down", down).await;
    for (script, quick) in scripts.into_iter().zip(quick) {
        assert_eq!(run(script).await, quick, "{script}");
        assert!(took_the_long_way(&record), "{script}");
        forbid_the_long_way(&record);
    }
    service.clean(&record.id, false).await.unwrap();
}

async fn what_takes_too_long_is_killed_and_what_it_wrote_is_kept(store: &Store) {
    let (service, record, held) = up(store).await;
    forbid_the_long_way(&record);
    let begun = Instant::now();
    let script = "echo begun; sleep 979 & sleep 979";
    let late = RunOptions::new(&record.id, script).timeout(Duration::from_millis(500));
    let late = service.run(late).await.unwrap();
    assert_eq!((late.exit_code, late.timed_out), (-1, true));
    assert!(begun.elapsed() < PATIENCE && late.duration >= Duration::from_millis(500));
    assert_eq!(written(&late).0, "begun\n");
    until_gone("sleep 979").await;
    let in_time = RunOptions::new(&record.id, "echo x").timeout(PATIENCE);
    assert_eq!(service.run(in_time).await.unwrap().exit_code, 0);
    assert!(!took_the_long_way(&record));
    held.close().await.unwrap();
    service.clean(&record.id, false).await.unwrap();
}

async fn a_run_that_is_given_up_is_killed_with_its_children(store: &Store) {
    let (service, record, held) = up(store).await;
    forbid_the_long_way(&record);
    let run = service.run(RunOptions::new(&record.id, "sleep 978 & echo up > /up; wait"));
    assert!(tokio::time::timeout(Duration::from_millis(700), run).await.is_err());
    until_gone("sleep 978").await;
    assert_eq!(sh(&service, &record.id, "cat /up").await, "up\n", "it ran");
    assert!(!took_the_long_way(&record));
    held.close().await.unwrap();
    service.clean(&record.id, false).await.unwrap();
}

async fn a_shell_that_was_removed_is_done_without(store: &Store) {
    let (service, record, held) = up(store).await;
    assert_eq!(sh(&service, &record.id, "rm /bin/bash; echo $0").await, "/bin/sh\n");
    assert_eq!(sh(&service, &record.id, "echo still").await, "still\n");
    held.close().await.unwrap();
    service.clean(&record.id, false).await.unwrap();
}

async fn a_stop_ends_what_runs_in_one_that_is_up(store: &Store) {
    let (service, record, held) = up(store).await;
    let run = tokio::spawn({
        let (service, options) = (service.clone(), RunOptions::new(&record.id, "sleep 977"));
        async move { service.run(options).await }
    });
    until("it runs", async || service.get(&record.id).await.unwrap().status == VmStatus::Running).await;
    held.close().await.unwrap();
    within(PATIENCE, "the stop", service.stop(&record.id)).await.unwrap();
    let ended = within(PATIENCE, "the run", run).await.unwrap();
    assert!(ended.as_ref().map_or(true, |result| result.exit_code != 0), "{ended:?}");
    until_gone("sleep 977").await;
    assert_eq!(service.get(&record.id).await.unwrap().status, VmStatus::Stopped);
    assert_eq!(sh(&service, &record.id, "echo again").await, "again\n");
    service.clean(&record.id, false).await.unwrap();
}

async fn many_at_once_in_one_machine_have_logs_of_their_own(store: &Store) {
    let (service, record, held) = up(store).await;
    forbid_the_long_way(&record);
    let commands = (0..12).map(|n| {
        let script = format!("for i in 1 2 3; do echo {n}; echo {n} >&2; usleep 20000; done; exit {n}");
        (record.clone(), RunOptions::new(&record.id, script))
    });
    let mut heard = Vec::new();
    let all = service.run_many(commands.collect(), |place, result| heard.push((place, result.unwrap())));
    within(PATIENCE, "all of them", all).await;
    heard.sort_by_key(|(place, _)| *place);
    assert_eq!(heard.len(), 12);
    for (n, result) in heard {
        let lines = format!("{n}\n").repeat(3);
        assert_eq!((result.exit_code, written(&result)), (i32::try_from(n).unwrap(), (lines.clone(), lines)));
    }
    assert!(!took_the_long_way(&record));
    held.close().await.unwrap();
    service.clean(&record.id, false).await.unwrap();
}

async fn one_that_is_gone_is_told_and_not_made_again_by_exec(store: &Store) {
    let (service, record, held) = up(store).await;
    held.close().await.unwrap();
    store.manager().await.delete_vessel(&record.id).await.unwrap();
    let strict = RunOptions::new(&record.id, "true").relaunch(false);
    let error = service.run(strict).await.unwrap_err();
    let expected = format!("vm {} is not ready or running", record.id);
    assert_eq!((error.kind(), error.to_string()), (ErrorKind::Conflict, expected));
    assert_eq!(service.list().await.unwrap()[0].status, VmStatus::Stopped);
    let other = super::vm(&service).await;
    let out = text(store, &["exec", "--all", "--cmd", "echo here"]);
    assert!(out.contains(&other.id) && !out.contains(&record.id), "{out}");
    for id in [&record.id, &other.id] {
        service.clean(id, false).await.unwrap();
    }
}
