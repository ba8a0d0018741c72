//! Commands with a terminal.
#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::time::Duration;

use vesselrt::{ErrorKind, ExecOptions, Running};

use crate::testkit::{PATIENCE, Store, capture, fails, sh, tests, tests_on_each_driver, until, within};

tests_on_each_driver!(a_terminal_is_a_terminal);

tests!(
    a_terminal_has_the_size_asked_for,
    a_terminal_is_resized_while_the_command_runs,
    what_is_typed_is_read_and_echoed,
    the_interrupt_character_ends_the_command,
    a_terminal_hangs_up_when_the_command_is_dropped,
    without_a_terminal_there_is_none,
    job_control_works,
    large_output_comes_through_a_terminal,
);

async fn a_terminal_is_a_terminal(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let out = capture();
    let script = "test -t 0 && test -t 1 && test -t 2 && tty && echo $TERM && stat -c %F $(tty) && echo to-err >&2; exit 6";
    let options = ExecOptions::new(["sh", "-c", script]).terminal(24, 80).stdout(out.clone());
    assert_eq!(within(PATIENCE, "the command", vessel.exec(options)).await.unwrap().exit_code, 6);
    let text = out.text();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("/dev/pts/"), "{text:?}");
    assert_eq!(lines[1..], ["xterm", "character special file", "to-err"], "{text:?}");
    assert!(text.contains("\r\n"), "a terminal ends lines so");
    vessel.close().await.unwrap();
}

async fn a_terminal_has_the_size_asked_for(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    for (rows, cols) in [(24, 80), (2, 3), (55, 213)] {
        let out = capture();
        let options = ExecOptions::new(["stty", "size"]).terminal(rows, cols).stdout(out.clone());
        assert!(vessel.exec(options).await.unwrap().success());
        assert_eq!(out.text().trim(), format!("{rows} {cols}"));
    }
    vessel.close().await.unwrap();
}

async fn a_terminal_is_resized_while_the_command_runs(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let out = capture();
    let script = "trap 'stty size; exit 0' WINCH; touch started; while true; do usleep 20000; done";
    let options =
        ExecOptions::new(["sh", "-c", script]).terminal(24, 80).stdout(out.clone()).persist_result(true);
    let mut running = vessel.spawn(options).await.unwrap();
    until("the command has started", async || vessel.stat("started").await.is_ok()).await;
    running.resize(40, 120).unwrap();
    within(PATIENCE, "the resized command", running.wait()).await.unwrap();
    assert_eq!(out.text().trim(), "40 120");
    vessel.close().await.unwrap();
}

async fn what_is_typed_is_read_and_echoed(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let out = capture();
    let script = "read line; echo \"got <$line>\"; cat > /dev/null; echo end";
    let options = ExecOptions::new(["sh", "-c", script]).terminal(24, 80);
    let options = options.stdin(b"typed\n".as_slice()).stdout(out.clone());
    // The end of the input is the end of file inside.
    assert!(within(PATIENCE, "the command", vessel.exec(options)).await.unwrap().success());
    let text = out.text();
    assert!(
        text.contains("typed\r\n") && text.contains("got <typed>\r\n") && text.ends_with("end\r\n"),
        "{text:?}"
    );
    vessel.close().await.unwrap();
}

/// The outer end of a command's terminal as a file; reading it blocks.
fn outer(running: &Running) -> std::fs::File {
    running.terminal().expect("it has a terminal").try_clone_to_owned().unwrap().into()
}

async fn the_interrupt_character_ends_the_command(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let options =
        ExecOptions::new(["sh", "-c", "touch started; sleep 1000"]).terminal(24, 80).persist_result(true);
    let mut running = vessel.spawn(options).await.unwrap();
    until("the command has started", async || vessel.stat("started").await.is_ok()).await;
    outer(&running).write_all(b"\x03").unwrap();
    let result = within(PATIENCE, "the interrupted command", running.wait()).await.unwrap();
    assert_eq!((result.exit_code, result.signal), (130, Some(2)));
    vessel.close().await.unwrap();
}

async fn a_terminal_hangs_up_when_the_command_is_dropped(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    let running = vessel.spawn(ExecOptions::new(["sleep", "1000"]).terminal(24, 80)).await.unwrap();
    let mut terminal = outer(&running);
    drop(running);
    let reading = tokio::task::spawn_blocking(move || {
        let mut rest = Vec::new();
        // EIO is how the end of a terminal reads.
        let _ = terminal.read_to_end(&mut rest);
    });
    within(PATIENCE, "the end of the terminal", reading).await.unwrap();
    until("the command is gone", async || manager.vessel_status(vessel.id()).await.unwrap().commands == 0)
        .await;
    vessel.close().await.unwrap();
}

async fn without_a_terminal_there_is_none(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let script =
        "test -t 0 || test -t 1 || test -t 2 || echo none; (: < /dev/tty) 2>/dev/null || echo no tty";
    assert_eq!(sh(&vessel, script).await, "none\nno tty\n");
    let running = vessel.spawn(ExecOptions::new(["true"])).await.unwrap();
    assert!(running.terminal().is_none());
    fails(running.resize(1, 1), &ErrorKind::InvalidArgument);
    drop(running);
    let (reader, writer) = std::io::pipe().unwrap();
    let both = ExecOptions::new(["true"]).terminal(24, 80).stdin_fd(reader.into()).stdout_fd(writer.into());
    fails(vessel.exec(both).await, &ErrorKind::InvalidArgument);
    vessel.close().await.unwrap();
}

async fn job_control_works(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let out = capture();
    // An interactive shell complains when it cannot be the leader of its terminal.
    let options = ExecOptions::new(["sh", "-i"]).terminal(24, 80).stdout(out.clone());
    let options = options.stdin(b"sleep 0.1 &\nwait\necho job done $((6*7))\nexit 3\n".as_slice());
    let result = within(Duration::from_secs(60), "the shell", vessel.exec(options)).await.unwrap();
    let text = out.text();
    assert_eq!(result.exit_code, 3, "{text}");
    assert!(text.contains("job done 42") && !text.contains("job control turned off"), "{text}");
    vessel.close().await.unwrap();
}

async fn large_output_comes_through_a_terminal(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let out = capture();
    let options = ExecOptions::new(["seq", "1", "50000"]).terminal(24, 80).stdout(out.clone());
    assert!(within(PATIENCE, "seq", vessel.exec(options)).await.unwrap().success());
    let expected: String = (1..=50_000).map(|n| format!("{n}\r\n")).collect();
    assert!(out.text() == expected, "{} of {} bytes", out.bytes().len(), expected.len());
    vessel.close().await.unwrap();
}
