//! Two processes at once on one state directory.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use super::{call, command, create, service, text};
use crate::testkit::{Store, tests, wait_until};

tests!(
    a_run_in_one_process_does_not_hold_up_another,
    many_processes_lose_no_machine,
    a_process_that_is_killed_leaves_a_database_that_opens,
);

async fn a_run_in_one_process_does_not_hold_up_another(store: &Store) {
    store.stocked().await;
    let id = create(store, &[]);
    let mut long =
        command(store, &["run", "--vm", &id, "--cmd", "touch /up; sleep 8; echo done"]).spawn().unwrap();
    wait_until("it runs", || text(store, &["list"]).contains("running"));
    // It is said to run from when it is about to.
    let look = || command(store, &["run", "--vm", &id, "--cmd", "cat /up", "--exit-code"]).output().unwrap();
    wait_until("its first command is done", || look().status.success());
    for args in [&["list"][..], &["run", "--vm", &id, "--cmd", "cat /up", "--exit-code"], &["list", "--all"]]
    {
        let begun = Instant::now();
        text(store, args);
        assert!(begun.elapsed() < Duration::from_secs(4), "{args:?} took {:?}", begun.elapsed());
    }
    assert!(long.try_wait().unwrap().is_none(), "it ended before the others");
    let other = create(store, &[]);
    assert!(long.wait().unwrap().success());
    text(store, &["clean", "--vm", &id, "--vm", &other]);
}

async fn many_processes_lose_no_machine(store: &Store) {
    store.stocked().await;
    let children: Vec<_> = (0..6)
        .map(|_| {
            let args =
                ["create", "--language", "python", "--image", crate::testkit::BASE, "--best-effort", "-q"];
            command(store, &args).stdout(std::process::Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let mut ids: Vec<String> = children
        .into_iter()
        .map(|child| {
            String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap().trim_end().to_owned()
        })
        .collect();
    ids.sort();
    let mut listed: Vec<String> = text(store, &["list", "-q"]).lines().map(str::to_owned).collect();
    listed.sort();
    assert_eq!(listed, ids);
    assert!(ids.iter().all(|id| id.starts_with("python-")), "{ids:?}");
    text(store, &["clean", "--all"]);
    assert_eq!(text(store, &["list", "-q", "--all"]), "");
}

async fn a_process_that_is_killed_leaves_a_database_that_opens(store: &Store) {
    let service = service(store).await;
    // Also where it is made.
    for pause in 1..30 {
        let _ = std::fs::remove_file(super::state(store).join("agent.redb"));
        let mut child = command(store, &["list"]).stdout(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(pause * 2));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(service.list().await.unwrap().len(), 0, "after {} ms", pause * 2);
    }
    let record = super::vm(&service).await;
    for pause in [1, 3, 6, 10, 15, 20, 30, 40] {
        let mut child = command(store, &["stop", "--vm", &record.id]).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(pause));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(service.list().await.unwrap().len(), 1, "after {pause} ms");
    }
    assert!(call(store, &["clean", "--vm", &record.id]).status.success());
}
