//! Processes in the background: they outlive whoever started them, what they write can be read from any offset, and their
//! end is known whether anything runs or not.
#![forbid(unsafe_code)]

mod cli;
mod crash;
mod disk;
mod ending;
mod input;
mod logs;
mod terminal;

use std::time::Duration;

use vesselrt::{
    ErrorKind, ExecOptions, LogOptions, LogStart, Process, ProcessEnd, ProcessEvent, ProcessEvents,
    SpawnOptions, Vessel,
};

use crate::testkit::{
    PATIENCE, Store, fails, fails_with, leftovers, sh, tests, tests_on_each_driver, until, within,
};

tests_on_each_driver!(a_process_outlives_whoever_started_it);

tests!(
    a_vessel_that_is_closed_does_not_wait_for_its_processes,
    what_cannot_be_executed_is_told_and_not_remembered,
    ids_are_never_given_twice,
    many_are_started_at_once,
    what_is_known_is_what_was_asked_for_and_no_secret_is_written_down,
    a_snapshot_is_made_while_one_runs_and_a_restore_is_refused,
    an_ephemeral_one_leaves_nothing,
    a_vessel_with_processes_can_be_deleted,
);

/// Options of a script whose changes stay.
fn script(script: &str) -> ExecOptions {
    ExecOptions::new(["sh", "-c", script]).persist_result(true)
}

async fn spawn(vessel: &Vessel, text: &str) -> Process {
    vessel.spawn_detached(script(text)).await.unwrap()
}

async fn ends(process: &Process) -> ProcessEnd {
    within(PATIENCE, "the process", process.wait()).await.unwrap()
}

/// The exit code of a process that ends by itself.
async fn code(process: &Process) -> i32 {
    ends(process).await.result.unwrap().exit_code
}

async fn next(events: &mut ProcessEvents) -> Option<ProcessEvent> {
    within(PATIENCE, "the next event", events.next()).await.unwrap()
}

/// What a process wrote to either stream, from a point on to its end.
async fn output(process: &Process, options: LogOptions) -> (Vec<u8>, Vec<u8>) {
    let mut events = process.events(options).await.unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    while let Some(event) = next(&mut events).await {
        match event {
            ProcessEvent::Stdout { data, .. } => out.extend(data),
            ProcessEvent::Stderr { data, .. } => err.extend(data),
            ProcessEvent::Gone { from, to } => panic!("{from} to {to} are gone"),
            _ => {}
        }
    }
    (out, err)
}

/// [`output`] of a process that is followed from the beginning.
async fn all(process: &Process) -> (String, String) {
    let (out, err) = output(process, LogOptions::new().follow(true)).await;
    (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

async fn has_written(vessel: &Vessel, file: &str) {
    until("the process has written", async || vessel.stat(file).await.is_ok()).await;
}

async fn a_process_outlives_whoever_started_it(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    let process =
        spawn(&vessel, "echo begun; while [ ! -e go ]; do usleep 20000; done; echo over; exit 7").await;
    assert_eq!(process.id(), "p1");
    vessel.close().await.unwrap();
    manager.close().await.unwrap();
    // Another program.
    let other = store.manager().await;
    let status = other.vessel_status(vessel.id()).await.unwrap();
    assert!(status.running && status.commands == 1 && !status.kept, "{status:?}");
    let again = other.process(vessel.id(), "p1").await.unwrap();
    assert_eq!(again.info().await.unwrap().end, None);
    let opened = other.open_vessel(vessel.id()).await.unwrap();
    opened.write_file("go", "", 0o644).await.unwrap();
    opened.close().await.unwrap();
    assert_eq!(code(&again).await, 7);
    assert_eq!(all(&process).await, ("begun\nover\n".into(), String::new()));
    // The last one out: nothing of it is left, and nothing needs it.
    until("the shim has left", async || !other.vessel_status(vessel.id()).await.unwrap().running).await;
    assert_eq!(code(&process).await, 7);
    assert_eq!(all(&again).await.0, "begun\nover\n");
    assert_eq!(other.processes(vessel.id()).await.unwrap().len(), 1);
    assert!(!other.vessel_status(vessel.id()).await.unwrap().running, "looking started it");
}

async fn a_vessel_that_is_closed_does_not_wait_for_its_processes(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    let process = spawn(&vessel, "sleep 1000").await;
    within(Duration::from_secs(5), "the close", vessel.close()).await.unwrap();
    assert_eq!(process.info().await.unwrap().end, None);
    assert!(manager.stop_vessel(vessel.id()).await.unwrap());
    assert_eq!(ends(&process).await.result.unwrap().signal, Some(15));
}

async fn what_cannot_be_executed_is_told_and_not_remembered(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let none: [&str; 0] = [];
    let missing = vessel.spawn_detached(ExecOptions::new(["no-such-command"])).await;
    assert_eq!(fails(missing, &ErrorKind::NotFound).command_exit_code(), Some(127));
    let denied = vessel.spawn_detached(ExecOptions::new(["/etc/passwd"])).await;
    assert_eq!(fails(denied, &ErrorKind::PermissionDenied).command_exit_code(), Some(126));
    for options in [
        ExecOptions::new(none),
        ExecOptions::new(["true"]).user("nobody-here"),
        ExecOptions::new(["true"]).stdout(tokio::io::sink()),
    ] {
        fails(vessel.spawn_detached(options).await, &ErrorKind::InvalidArgument);
    }
    assert!(vessel.processes().await.unwrap().is_empty());
    fails_with(vessel.process("p1").await, &ErrorKind::NotFound, "process not found: p1");
    fails_with(vessel.process("../state").await, &ErrorKind::NotFound, "process not found");
    assert_eq!(code(&spawn(&vessel, "exit 3").await).await, 3);
    vessel.close().await.unwrap();
}

async fn ids_are_never_given_twice(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        let ended = spawn(&vessel, "true").await;
        ends(&ended).await;
        let running = spawn(&vessel, "sleep 1000").await;
        seen.extend([ended.id(), running.id()]);
        assert_eq!(manager.prune_processes(vessel.id()).await.unwrap().last(), Some(&ended.id()));
        fails(ended.info().await, &ErrorKind::NotFound);
        assert_eq!(running.info().await.unwrap().end, None);
        manager.stop_vessel(vessel.id()).await.unwrap();
    }
    assert_eq!(seen, ["p1", "p2", "p3", "p4", "p5", "p6"]);
    vessel.close().await.unwrap();
}

async fn many_are_started_at_once(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let starting: Vec<_> = (0..8)
        .map(|n| {
            let vessel = vessel.clone();
            tokio::spawn(async move { (n, spawn(&vessel, &format!("echo {n}; exit {n}")).await) })
        })
        .collect();
    let mut ids = Vec::new();
    for started in starting {
        let (n, process) = started.await.unwrap();
        assert_eq!(code(&process).await, n);
        assert_eq!(all(&process).await.0, format!("{n}\n"));
        ids.push(process.id());
    }
    ids.sort();
    assert_eq!(ids, (1..=8).map(|n| format!("p{n}")).collect::<Vec<_>>());
    vessel.close().await.unwrap();
}

async fn what_is_known_is_what_was_asked_for_and_no_secret_is_written_down(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let secret = "hunter2-in-the-environment";
    let command = script("[ \"$TOKEN\" = hunter2-in-the-environment ]").env("TOKEN", secret).work_dir("sub");
    let command = command.timeout(PATIENCE).user("0:0");
    let process = vessel.spawn_detached(SpawnOptions::new(command).log_limit(5000)).await.unwrap();
    assert_eq!(code(&process).await, 0);
    let info = process.info().await.unwrap();
    assert_eq!((info.id.as_str(), info.work_dir.as_str(), info.user.as_str()), ("p1", "/work/sub", "0:0"));
    assert_eq!(info.argv[..2], ["sh", "-c"]);
    assert_eq!((info.terminal, info.input, info.persists), (false, false, true));
    assert_eq!((info.timeout, info.log_limit), (Some(PATIENCE), 5000));
    let end = info.end.unwrap();
    assert!(end.ended.unwrap() >= info.started && end.log_end == Some(0));
    // The arguments may be written down, the environment may not.
    let record = store.root().join("vessels").join(vessel.id()).join("processes/p1");
    let hits = leftovers::entries(&record).into_iter().map(|file| std::fs::read(file).unwrap());
    let named = hits.map(|text| String::from_utf8_lossy(&text).matches(secret).count()).sum::<usize>();
    assert_eq!(named, 1, "only the argument itself");
    vessel.close().await.unwrap();
}

async fn a_snapshot_is_made_while_one_runs_and_a_restore_is_refused(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    let base = vessel.create_snapshot("base").await.unwrap();
    let process = spawn(&vessel, "while :; do echo x >> n; echo y; usleep 1000; done").await;
    has_written(&vessel, "n").await;
    let running = vessel.create_snapshot("running").await.unwrap();
    assert!(running.pause_ms.is_some());
    fails_with(vessel.restore_snapshot(&base.id).await, &ErrorKind::Conflict, "command is running");
    let before = sh(&vessel, "wc -l < n").await.trim().parse::<u64>().unwrap();
    until("it goes on", async || sh(&vessel, "wc -l < n").await.trim().parse::<u64>().unwrap() > before + 3)
        .await;
    process.signal(9).await.unwrap();
    ends(&process).await;
    vessel.restore_snapshot(&base.id).await.unwrap();
    fails(vessel.stat("n").await, &ErrorKind::NotFound);
    // A process belongs to the vessel, not to the state that it was restored to.
    assert_eq!(vessel.processes().await.unwrap().len(), 1);
    let forks = manager.fork_vessel(vessel.id(), vesselrt::ForkOptions::default()).await.unwrap();
    assert!(manager.processes(&forks[0].id).await.unwrap().is_empty());
    vessel.close().await.unwrap();
}

async fn an_ephemeral_one_leaves_nothing(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let process =
        vessel.spawn_detached(ExecOptions::new(["sh", "-c", "echo x > trace; cat trace"])).await.unwrap();
    assert_eq!(all(&process).await.0, "x\n");
    assert!(!process.info().await.unwrap().persists);
    fails(vessel.stat("trace").await, &ErrorKind::NotFound);
    vessel.close().await.unwrap();
}

async fn a_vessel_with_processes_can_be_deleted(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    let ended = spawn(&vessel, "echo x").await;
    ends(&ended).await;
    let running = spawn(&vessel, "trap '' TERM; sleep 1000").await;
    let mut events = running.events(LogOptions::new().start(LogStart::Now).follow(true)).await.unwrap();
    manager.delete_vessel(vessel.id()).await.unwrap();
    // Whoever follows it hears of an end, or that nothing is known any more.
    match within(PATIENCE, "the end", events.next()).await {
        Ok(event) => assert!(matches!(event, Some(ProcessEvent::Exited(_))), "{event:?}"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound),
    }
    fails(manager.processes(vessel.id()).await, &ErrorKind::NotFound);
    vessel.close().await.unwrap();
    manager.close().await.unwrap();
}
