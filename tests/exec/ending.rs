//! How commands end: time limits, cancelled futures, signals, and processes that do not want to.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use vesselrt::{ExecOptions, Vessel};

use crate::testkit::{PATIENCE, Store, run_in, sh, tests, tests_on_each_driver, until, within};

tests_on_each_driver!(a_timeout_kills_the_whole_tree, dropping_the_future_kills_the_whole_tree);

tests!(
    a_timeout_that_is_not_reached_does_nothing,
    a_timeout_keeps_what_was_said_before,
    a_process_that_ignores_signals_dies_too,
    processes_left_in_the_background_die_with_their_command,
    a_background_process_that_holds_the_pipe_does_not_hang_the_command,
    a_signal_reaches_the_command,
    a_running_command_can_be_waited_for_again,
    a_fork_bomb_dies_with_its_command,
    the_shim_lives_on_after_a_timeout,
);

/// A number that no other command line has.
fn mark() -> String {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    format!("{}{number:03}.5", 1_000_000 + std::process::id())
}

/// Processes of this machine, whichever namespace they are in, with the mark in their command line.
fn alive(mark: &str) -> Vec<String> {
    crate::testkit::leftovers::processes_named(mark)
}

async fn is_dead(mark: &str) {
    until(&format!("no process {mark}"), async || alive(mark).is_empty()).await;
}

/// Sleeps, forks, daemonises twice and ignores what can be ignored.
fn stubborn(mark: &str) -> String {
    format!(
        "trap '' TERM HUP INT QUIT
         (trap '' TERM HUP; sleep {mark}) &
         setsid sh -c 'trap \"\" TERM HUP; (setsid sleep {mark} &) ; sleep {mark}' &
         (nohup sleep {mark} > /dev/null 2>&1 &)
         touch /work/started
         while true; do sleep {mark}; done"
    )
}

async fn has_started(vessel: &Vessel) {
    until("the command has started", async || vessel.stat("/work/started").await.is_ok()).await;
}

async fn a_timeout_kills_the_whole_tree(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    for persist in [true, false] {
        let mark = mark();
        let options = ExecOptions::new(["sh", "-c", &stubborn(&mark)]);
        let start = Instant::now();
        let options = options.timeout(Duration::from_millis(700)).persist_result(persist);
        let ran = run_in(&vessel, options).await.unwrap();
        assert_eq!((ran.result.exit_code, ran.result.timed_out), (124, true));
        assert!(start.elapsed() >= Duration::from_millis(700) && start.elapsed() < PATIENCE);
        is_dead(&mark).await;
    }
    assert_eq!(sh(&vessel, "echo well").await, "well\n");
    vessel.close().await.unwrap();
}

async fn a_timeout_that_is_not_reached_does_nothing(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let options = ExecOptions::new(["sh", "-c", "exit 9"]).timeout(PATIENCE);
    let ran = run_in(&vessel, options).await.unwrap();
    assert_eq!((ran.result.exit_code, ran.result.timed_out), (9, false));
    vessel.close().await.unwrap();
}

async fn a_timeout_keeps_what_was_said_before(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let options = ExecOptions::new(["sh", "-c", "echo before; echo kept > f; sleep 1000; echo after"]);
    let options = options.persist_result(true).timeout(Duration::from_secs(1));
    let ran = run_in(&vessel, options).await.unwrap();
    assert_eq!((ran.out.as_str(), ran.result.timed_out), ("before\n", true));
    assert_eq!(vessel.read_file("f").await.unwrap(), b"kept\n");
    vessel.close().await.unwrap();
}

async fn dropping_the_future_kills_the_whole_tree(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let mark = mark();
    let options = ExecOptions::new(["sh", "-c", &stubborn(&mark)]).persist_result(true);
    let (running, other) = (vessel.clone(), vessel.clone());
    let task = tokio::spawn(async move { running.exec(options).await });
    has_started(&other).await;
    assert!(!alive(&mark).is_empty());
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    is_dead(&mark).await;
    assert_eq!(sh(&vessel, "echo well").await, "well\n");
    vessel.close().await.unwrap();
}

async fn a_process_that_ignores_signals_dies_too(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let mark = mark();
    let options = ExecOptions::new(["sh", "-c", &stubborn(&mark)]).persist_result(true);
    let mut running = vessel.spawn(options).await.unwrap();
    has_started(&vessel).await;
    running.signal(15).unwrap();
    let early = tokio::time::timeout(Duration::from_millis(300), running.wait()).await;
    assert!(early.is_err(), "it ignores SIGTERM: {early:?}");
    running.signal(9).unwrap();
    let result = within(PATIENCE, "the killed command", running.wait()).await.unwrap();
    assert_eq!((result.exit_code, result.signal, result.timed_out), (137, Some(9), false));
    is_dead(&mark).await;
    vessel.close().await.unwrap();
}

async fn processes_left_in_the_background_die_with_their_command(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let mark = mark();
    sh(
        &vessel,
        &format!("setsid sleep {mark} > /dev/null 2>&1 < /dev/null & (sleep {mark} > /dev/null 2>&1 &)"),
    )
    .await;
    is_dead(&mark).await;
    vessel.close().await.unwrap();
}

async fn a_background_process_that_holds_the_pipe_does_not_hang_the_command(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let mark = mark();
    let options = ExecOptions::new(["sh", "-c", &format!("sleep {mark} & echo said; exit 4")]);
    let ran = within(PATIENCE, "the command", run_in(&vessel, options)).await.unwrap();
    assert_eq!((ran.result.exit_code, ran.out.as_str()), (4, "said\n"));
    is_dead(&mark).await;
    vessel.close().await.unwrap();
}

async fn a_signal_reaches_the_command(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let script = "trap 'echo caught > got; exit 7' USR1; touch started; while true; do usleep 20000; done";
    let mut running =
        vessel.spawn(ExecOptions::new(["sh", "-c", script]).persist_result(true)).await.unwrap();
    has_started(&vessel).await;
    running.signal(0).unwrap_err();
    running.signal(10).unwrap();
    let result = within(PATIENCE, "the signalled command", running.wait()).await.unwrap();
    assert_eq!((result.exit_code, result.signal), (7, None));
    assert_eq!(vessel.read_file("got").await.unwrap(), b"caught\n");
    running.signal(10).unwrap();
    vessel.close().await.unwrap();
}

async fn a_running_command_can_be_waited_for_again(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let script = "until [ -e go ]; do usleep 10000; done; exit 5";
    let mut running =
        vessel.spawn(ExecOptions::new(["sh", "-c", script]).persist_result(true)).await.unwrap();
    for _ in 0..3 {
        assert!(tokio::time::timeout(Duration::from_millis(30), running.wait()).await.is_err());
    }
    vessel.write_file("go", "", 0o644).await.unwrap();
    for _ in 0..2 {
        let result = within(PATIENCE, "the command", running.wait()).await.unwrap();
        assert_eq!(result.exit_code, 5);
    }
    vessel.close().await.unwrap();
}

async fn a_fork_bomb_dies_with_its_command(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let mark = mark();
    // A bounded one: what is tested is that nobody gets away while processes keep appearing.
    let script = format!(
        "i=0; while [ $i -lt 300 ]; do setsid sh -c 'sleep {mark} & sleep {mark}' & i=$((i+1)); done; wait"
    );
    let options = ExecOptions::new(["sh", "-c", &script]).timeout(Duration::from_millis(400));
    let ran = within(PATIENCE, "the bomb", run_in(&vessel, options)).await.unwrap();
    assert!(ran.result.timed_out);
    is_dead(&mark).await;
    vessel.close().await.unwrap();
}

async fn the_shim_lives_on_after_a_timeout(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    for _ in 0..5 {
        let options = ExecOptions::new(["sleep", "1000"]).timeout(Duration::from_millis(50));
        assert!(vessel.exec(options).await.unwrap().timed_out);
    }
    until("no command is left", async || {
        let status = manager.vessel_status(vessel.id()).await.unwrap();
        status.running && status.commands == 0
    })
    .await;
    vessel.create_snapshot("nothing hinders it").await.unwrap();
    vessel.close().await.unwrap();
}
