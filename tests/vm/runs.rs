//! Runs: exit codes, times, files of what was written.
#![forbid(unsafe_code)]

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use vesselrt::ErrorKind;
use vesselrt::vm::{RunOptions, VmStatus};

use super::{options, service, sh, until_gone, vm};
use crate::testkit::{PATIENCE, Store, fails_with, tests, until, within};

tests!(
    an_exit_code_is_no_error_and_a_timeout_is_minus_one,
    each_run_has_logs_of_its_own,
    a_run_that_is_given_up_is_killed,
    many_run_side_by_side,
    one_that_runs_is_running,
    what_makes_no_sense_is_refused,
    a_stop_ends_what_runs,
);

async fn an_exit_code_is_no_error_and_a_timeout_is_minus_one(store: &Store) {
    let service = service(store).await;
    let record = vm(&service).await;
    let run = |script: &str| service.run(RunOptions::new(&record.id, script));
    let failed = run("echo out; echo err >&2; exit 7").await.unwrap();
    assert_eq!((failed.exit_code, failed.timed_out), (7, false));
    assert_eq!(std::fs::read_to_string(&failed.stdout_path).unwrap(), "out\n");
    assert_eq!(std::fs::read_to_string(&failed.stderr_path).unwrap(), "err\n");
    assert_eq!(run("kill -9 $$").await.unwrap().exit_code, 137);
    let begun = Instant::now();
    let late = RunOptions::new(&record.id, "echo begun; sleep 984").timeout(Duration::from_millis(500));
    let late = service.run(late).await.unwrap();
    assert_eq!((late.exit_code, late.timed_out), (-1, true));
    assert!(begun.elapsed() < PATIENCE && late.duration >= Duration::from_millis(500));
    assert_eq!(std::fs::read_to_string(&late.stdout_path).unwrap(), "begun\n", "what it wrote is kept");
    until_gone("sleep 984").await;
    // Without a time it has as much as it wants; what it reads is nothing, not its own script.
    assert_eq!(sh(&service, &record.id, "cat; echo end").await, "end\n");
    service.clean(&record.id, false).await.unwrap();
}

async fn each_run_has_logs_of_its_own(store: &Store) {
    let service = service(store).await;
    let record = vm(&service).await;
    let script = |n: u32| format!("for i in 1 2 3 4 5; do echo {n}; usleep 30000; done");
    let runs: Vec<_> = (0..6)
        .map(|n| {
            let (service, options) = (service.clone(), RunOptions::new(&record.id, script(n)));
            tokio::spawn(async move { service.run(options).await.unwrap() })
        })
        .collect();
    for (n, run) in runs.into_iter().enumerate() {
        let result = run.await.unwrap();
        let mode = std::fs::metadata(&result.stdout_path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode & 0o027, 0, "{mode:o}");
        assert_eq!(std::fs::read_to_string(&result.stdout_path).unwrap(), format!("{n}\n").repeat(5));
    }
    sh(&service, &record.id, "echo last; echo words >&2").await;
    let latest = |name: &str| std::fs::read_to_string(record.storage.output_path.join(name)).unwrap();
    assert_eq!((latest("stdout.log").as_str(), latest("stderr.log").as_str()), ("last\n", "words\n"));
    sh(&service, &record.id, "true").await;
    assert_eq!(latest("stdout.log"), "", "each run begins anew");
    service.clean(&record.id, false).await.unwrap();
}

async fn a_run_that_is_given_up_is_killed(store: &Store) {
    let service = service(store).await;
    let record = vm(&service).await;
    let run = service.run(RunOptions::new(&record.id, "sleep 983 & echo up > /up; wait"));
    assert!(tokio::time::timeout(Duration::from_millis(700), run).await.is_err());
    until_gone("sleep 983").await;
    assert_eq!(sh(&service, &record.id, "cat /up").await, "up\n");
    service.clean(&record.id, false).await.unwrap();
}

async fn many_run_side_by_side(store: &Store) {
    let service = service(store).await;
    let mut commands = Vec::new();
    for n in 0..4 {
        let record = vm(&service).await;
        let script = if n == 2 { "exit 3".to_owned() } else { format!("sleep 2; echo {n}") };
        commands.push((record.clone(), RunOptions::new(&record.id, script)));
    }
    // One that is gone does not keep the others.
    let mut gone = commands[0].0.clone();
    gone.status = VmStatus::Provisioning;
    commands.push((gone.clone(), RunOptions::new(&gone.id, "true")));
    let (begun, mut heard) = (Instant::now(), Vec::new());
    let all = service.run_many(commands.clone(), |place, result| heard.push((place, result)));
    within(PATIENCE, "all of them", all).await;
    assert!(begun.elapsed() < Duration::from_millis(5500), "one after the other: {:?}", begun.elapsed());
    heard.sort_by_key(|(place, _)| *place);
    assert_eq!(heard.iter().map(|(place, _)| *place).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    assert_eq!(heard[2].1.as_ref().unwrap().exit_code, 3);
    assert!(heard[4].1.is_err());
    let written = std::fs::read_to_string(&heard[3].1.as_ref().unwrap().stdout_path).unwrap();
    assert_eq!(written, "3\n");
    for record in service.list().await.unwrap() {
        assert!(record.last_run_at.is_some());
        service.clean(&record.id, false).await.unwrap();
    }
}

async fn one_that_runs_is_running(store: &Store) {
    let service = service(store).await;
    let record = vm(&service).await;
    let run = tokio::spawn({
        let (service, options) =
            (service.clone(), RunOptions::new(&record.id, "while [ ! -e /go ]; do usleep 20000; done"));
        async move { service.run(options).await }
    });
    until("it runs", async || service.get(&record.id).await.unwrap().status == VmStatus::Running).await;
    // A second one in the same machine meanwhile.
    sh(&service, &record.id, "touch /go").await;
    assert_eq!(within(PATIENCE, "the run", run).await.unwrap().unwrap().exit_code, 0);
    until("it is ready", async || service.get(&record.id).await.unwrap().status == VmStatus::Ready).await;
    service.clean(&record.id, false).await.unwrap();
}

async fn what_makes_no_sense_is_refused(store: &Store) {
    let service = service(store).await;
    let record = service.create(options().persist(true)).await.unwrap();
    let id = &record.id;
    for (options, message) in [
        (RunOptions::new(id, ""), "cmd is required"),
        (RunOptions::new(id, "true").timeout(Duration::ZERO), "timeout must be positive"),
        (RunOptions::new(id, "true").file("/etc/hostname"), "file staging requires guest volume sharing"),
    ] {
        fails_with(service.run(options).await, &ErrorKind::InvalidArgument, message);
    }
    let nobody = service.run(RunOptions::new("../../etc", "true")).await;
    fails_with(nobody, &ErrorKind::NotFound, "vm not found: ../../etc");
    service.clean(id, false).await.unwrap();
}

async fn a_stop_ends_what_runs(store: &Store) {
    let service = service(store).await;
    let record = vm(&service).await;
    let run = tokio::spawn({
        let (service, options) = (service.clone(), RunOptions::new(&record.id, "sleep 982"));
        async move { service.run(options).await }
    });
    until("it runs", async || service.get(&record.id).await.unwrap().status == VmStatus::Running).await;
    within(PATIENCE, "the stop", service.stop(&record.id)).await.unwrap();
    let ended = within(PATIENCE, "the run", run).await.unwrap();
    assert!(ended.as_ref().map_or(true, |result| result.exit_code != 0), "{ended:?}");
    assert_eq!(service.get(&record.id).await.unwrap().status, VmStatus::Stopped);
    service.clean(&record.id, false).await.unwrap();
}
