//! Machines by language: the library's service, and `vesselrt vm …`.
#![forbid(unsafe_code)]

mod cli;
mod database;
mod killed;
mod languages;
mod processes;
mod quick;
mod runs;
mod volumes;

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;
use vesselrt::vm::{NetworkPolicy, VmCreateOptions, VmRecord, VmService, VmServiceConfig, VmStatus};
use vesselrt::{CreateOptions, ErrorKind};

use crate::testkit::{BASE, Cap, Store, fails_with, leftovers, need, tests, until};

tests!(
    a_machine_is_created_listed_stopped_run_again_and_removed,
    what_makes_no_sense_is_refused_with_the_original_s_words,
    a_creation_that_fails_leaves_nothing,
    one_that_was_removed_behind_our_back_is_made_again,
    a_creation_that_was_interrupted_can_be_removed,
    limits_are_those_of_the_vessel,
    limits_that_cannot_be_enforced_are_refused_unless_told_otherwise,
    the_network_policy_is_enforced,
);

/// A file system of its own for each test.
pub(super) fn state(store: &Store) -> PathBuf {
    store.beside("agent")
}

pub(super) async fn service(store: &Store) -> VmService {
    service_of(store, false).await
}

/// With `/in` and `/out`, or without.
pub(super) async fn service_of(store: &Store, volumes: bool) -> VmService {
    let config = VmServiceConfig::new(state(store)).guest_volumes(volumes).idle(Duration::ZERO);
    VmService::new(config, store.stocked().await).await.unwrap()
}

/// A machine of the base image, on any host.
pub(super) fn options() -> VmCreateOptions {
    VmCreateOptions::new("python").image(BASE).best_effort(true)
}

pub(super) async fn vm(service: &VmService) -> VmRecord {
    service.create(options()).await.unwrap()
}

/// What a script that must succeed writes.
pub(super) async fn sh(service: &VmService, id: &str, script: &str) -> String {
    let result = service.run(vesselrt::vm::RunOptions::new(id, script)).await.unwrap();
    let read = |path| std::fs::read_to_string(path).unwrap();
    let (out, err) = (read(&result.stdout_path), read(&result.stderr_path));
    assert_eq!(result.exit_code, 0, "{script}: {out}{err}");
    out
}

/// Waits until no process of this host has this in its command line: commands do not see each other.
pub(super) async fn until_gone(line: &str) {
    until("it is killed", async || leftovers::processes_named(line).is_empty()).await;
}

/// `vesselrt vm ARGS…` on the state of this test.
pub(super) fn command(store: &Store, args: &[&str]) -> Command {
    let mut all = vec!["vm"];
    all.extend(args);
    let mut command = store.cli(&all);
    command.env("AGENT_STATE_DIR", state(store)).env("TZ", "UTC");
    command
}

pub(super) fn call(store: &Store, args: &[&str]) -> Output {
    command(store, args).output().unwrap()
}

#[track_caller]
pub(super) fn text(store: &Store, args: &[&str]) -> String {
    let output = call(store, args);
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
pub(super) fn json(store: &Store, args: &[&str]) -> Value {
    let mut all = vec!["--json"];
    all.extend(args);
    serde_json::from_str(&text(store, &all)).unwrap()
}

/// A machine of the base image by the command line; its id.
pub(super) fn create(store: &Store, more: &[&str]) -> String {
    let mut args = vec!["create", "--language", "python", "--image", BASE, "--best-effort", "-q"];
    args.extend(more);
    text(store, &args).trim_end().to_owned()
}

async fn a_machine_is_created_listed_stopped_run_again_and_removed(store: &Store) {
    let service = service(store).await;
    let record = vm(&service).await;
    let nanos = record.id.strip_prefix("python-").unwrap();
    assert!(nanos.len() == 19 && nanos.bytes().all(|b| b.is_ascii_digit()), "{}", record.id);
    assert_eq!((record.status, record.cpu_count, record.memory_mib), (VmStatus::Ready, 1, 256));
    assert_eq!(service.list().await.unwrap(), std::slice::from_ref(&record));
    assert_eq!(service.get(&record.id).await.unwrap(), record);
    assert_eq!(record.storage.root, state(store).join("vms").join(&record.id));
    assert!(record.storage.input_path.is_dir() && record.storage.output_path.is_dir());
    assert_eq!(sh(&service, &record.id, "echo kept > /file; cat /file").await, "kept\n");
    assert_eq!(sh(&service, &record.id, "cat /file").await, "kept\n", "between runs it is");
    assert!(service.get(&record.id).await.unwrap().last_run_at.is_some());
    assert_eq!(service.stop(&record.id).await.unwrap().status, VmStatus::Stopped);
    service.stop(&record.id).await.unwrap();
    assert!(store.manager().await.list_vessels().await.unwrap().is_empty(), "nothing of the root is kept");
    assert_eq!(sh(&service, &record.id, "cat /file || echo gone").await, "gone\n");
    assert_eq!(service.get(&record.id).await.unwrap().status, VmStatus::Ready);
    service.clean(&record.id, false).await.unwrap();
    assert!(!record.storage.root.exists());
    assert!(service.list().await.unwrap().is_empty());
    for gone in
        [service.get(&record.id).await, service.stop(&record.id).await, service.clean("x", true).await]
    {
        assert_eq!(gone.unwrap_err().kind(), ErrorKind::NotFound);
    }
    let missing = service.run(vesselrt::vm::RunOptions::new(&record.id, "true")).await;
    fails_with(missing, &ErrorKind::NotFound, &format!("vm not found: {}", record.id));
}

async fn what_makes_no_sense_is_refused_with_the_original_s_words(store: &Store) {
    let service = service(store).await;
    for (options, message) in [
        (VmCreateOptions::new(" "), "language is required"),
        (VmCreateOptions::new("cobol"), "unsupported language"),
        (options().cpu_count(0), "cpu must be greater than zero"),
        (options().memory_mib(0), "mem must be greater than zero"),
    ] {
        fails_with(service.create(options).await, &ErrorKind::InvalidArgument, message);
    }
    let bogus = "bogus".parse::<NetworkPolicy>();
    fails_with(bogus, &ErrorKind::InvalidArgument, "unsupported network: bogus");
    assert!(service.list().await.unwrap().is_empty());
}

async fn a_creation_that_fails_leaves_nothing(store: &Store) {
    let service = service(store).await;
    let missing = service.create(options().image("localhost/none:1").persist(true)).await;
    assert_eq!(missing.unwrap_err().kind(), ErrorKind::NotFound);
    fails_with(
        service.create(options().adopt("nobody")).await,
        &ErrorKind::NotFound,
        "no volume was kept of vm nobody",
    );
    assert!(service.list().await.unwrap().is_empty());
    for dir in ["vms", "persist"] {
        let left = std::fs::read_dir(state(store).join(dir)).map_or(0, Iterator::count);
        assert_eq!(left, 0, "something is left in {dir}");
    }
}

async fn one_that_was_removed_behind_our_back_is_made_again(store: &Store) {
    let service = service(store).await;
    let record = vm(&service).await;
    let manager = store.manager().await;
    manager.delete_vessel(&record.id).await.unwrap();
    assert_eq!(service.get(&record.id).await.unwrap().status, VmStatus::Stopped, "as the list finds it");
    assert_eq!(sh(&service, &record.id, "echo healed").await, "healed\n");
    service.stop(&record.id).await.unwrap();
    // And one that came back is ready.
    let vessel = manager.create_vessel_with(CreateOptions::new(BASE).id(&record.id)).await.unwrap();
    vessel.close().await.unwrap();
    assert_eq!(service.list().await.unwrap()[0].status, VmStatus::Ready);
    service.clean(&record.id, false).await.unwrap();
}

async fn a_creation_that_was_interrupted_can_be_removed(store: &Store) {
    let service = service(store).await;
    // It is killed while the image is being looked for, wherever that is.
    let mut killed = 0;
    for pause in [5, 20, 40, 60, 80, 120] {
        let mut child = command(store, &["create", "--language", "ruby", "--image", BASE, "--best-effort"])
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(pause));
        killed += usize::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(killed > 0);
    for record in service.list().await.unwrap() {
        if record.status == VmStatus::Provisioning {
            let refused = service.run(vesselrt::vm::RunOptions::new(&record.id, "true")).await;
            fails_with(refused, &ErrorKind::Conflict, "vm is not available to run commands");
        }
        service.clean(&record.id, false).await.unwrap();
    }
    assert!(service.list().await.unwrap().is_empty());
    let left = store.manager().await.list_vessels().await.unwrap();
    assert!(left.is_empty(), "vessels without a record: {left:?}");
}

async fn limits_are_those_of_the_vessel(store: &Store) {
    if !need(&[Cap::ControlGroups]) {
        return;
    }
    let service = service(store).await;
    let options = VmCreateOptions::new("python").image(BASE).cpu_count(1).memory_mib(32);
    let record = service.create(options).await.unwrap();
    let limits = store.manager().await.vessel_settings(&record.id).await.unwrap().limits;
    assert_eq!((limits.milli_cpus, limits.memory), (Some(1000), Some(32 << 20)));
    let hog = "x=; while :; do x=$x$x$(head -c 1000000 /dev/zero | tr '\\0' x); done";
    let result = service.run(vesselrt::vm::RunOptions::new(&record.id, hog)).await.unwrap();
    assert!(result.oom_killed && result.exit_code != 0, "{result:?}");
    assert_eq!(sh(&service, &record.id, "echo fine").await, "fine\n");
    service.clean(&record.id, false).await.unwrap();
}

async fn limits_that_cannot_be_enforced_are_refused_unless_told_otherwise(store: &Store) {
    let service = service(store).await;
    let strict = service.create(VmCreateOptions::new("python").image(BASE)).await;
    match Cap::ControlGroups.is_there() {
        true => {
            service.clean(&strict.unwrap().id, false).await.unwrap();
        }
        false => {
            let error = strict.unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::Unsupported { .. }), "{error:?}");
            assert!(error.remedy().is_some());
        }
    }
    let lenient = vm(&service).await;
    assert_eq!(sh(&service, &lenient.id, "echo up").await, "up\n");
    service.clean(&lenient.id, false).await.unwrap();
}

async fn the_network_policy_is_enforced(store: &Store) {
    let service = service(store).await;
    let closed = vm(&service).await;
    assert_eq!(sh(&service, &closed.id, "ls /sys/class/net").await, "lo\n");
    assert_eq!(sh(&service, &closed.id, "ip route | grep -c . || true").await, "0\n");
    service.clean(&closed.id, false).await.unwrap();
    if !need(&[Cap::Pasta]) {
        return;
    }
    let open = service.create(options().network(NetworkPolicy::AllowAll)).await.unwrap();
    assert_eq!(sh(&service, &open.id, "ip route | grep -c default").await, "1\n");
    service.clean(&open.id, false).await.unwrap();
}
