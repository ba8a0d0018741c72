//! A process that is killed while it uses the library: this test binary again, told by its environment what to do.
#![forbid(unsafe_code)]

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use vesselrt::{ExecOptions, Manager, ManagerConfig, OverlayDriver, SnapshotOptions, Vessel};

use crate::testkit::random::Random;
use crate::testkit::{Store, wait_until};

const ROOT: &str = "VESSELRT_TEST_VICTIM_ROOT";
const VESSEL: &str = "VESSELRT_TEST_VICTIM_VESSEL";
const TASK: &str = "VESSELRT_TEST_VICTIM_TASK";

/// A process with the library. What it has done, it has written to a file.
pub(super) struct Victim {
    pub(super) child: Child,
    said: PathBuf,
}

impl Victim {
    pub(super) fn start(store: &Store, vessel: &str, task: &str) -> Self {
        let said = store.beside("victim.log");
        let output = File::create(&said).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "crash::victim::does_as_it_is_told", "--nocapture", "--ignored"]);
        command.env(ROOT, store.root()).env(VESSEL, vessel).env(TASK, task);
        let errors = File::create(store.beside("victim.err")).unwrap();
        let child = command.stdin(Stdio::null()).stdout(output).stderr(errors).spawn().unwrap();
        Self { child, said }
    }

    /// What it said so far: whole lines that begin with `word`.
    pub(super) fn said(&self, word: &str) -> Vec<String> {
        let text = std::fs::read_to_string(&self.said).unwrap();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let mark = format!("={word} ");
        whole
            .lines()
            .filter_map(|line| line.split_once(mark.as_str()))
            .map(|(_, rest)| rest.to_owned())
            .collect()
    }

    /// Waits until it has said something of the kind.
    pub(super) fn wait_for(&mut self, word: &str) {
        wait_until(&format!("the victim says {word}"), || {
            assert!(self.child.try_wait().unwrap().is_none(), "it ended: {}", self.errors());
            !self.said(word).is_empty()
        });
    }

    pub(super) fn kill(&mut self) {
        let _ = self.child.kill();
        let status = self.child.wait().unwrap();
        assert!(!status.success() && status.code().is_none(), "it ended by itself: {}", self.errors());
    }

    fn errors(&self) -> String {
        std::fs::read_to_string(self.said.with_extension("err")).unwrap_or_default()
    }
}

/// Not a test: what [`Victim`] runs. Without a task it does nothing.
#[test]
#[ignore = "the process that other tests kill"]
fn does_as_it_is_told() {
    let (Some(root), Ok(id), Ok(task)) = (std::env::var_os(ROOT), std::env::var(VESSEL), std::env::var(TASK))
    else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let config = ManagerConfig::new(root).shim_path(crate::testkit::bin()).overlay(OverlayDriver::Auto);
        let manager = Manager::new(config).await.unwrap();
        let vessel = manager.open_vessel(&id).await.unwrap();
        match task.as_str() {
            "snapshot" => snapshot_for_ever(&vessel, &SnapshotOptions::new("")).await,
            "seal" => snapshot_for_ever(&vessel, &SnapshotOptions::new("").sealed()).await,
            "restore" => restore_for_ever(&vessel).await,
            "open" => open_for_ever(&manager, &id).await,
            other => exec(&vessel, other).await,
        }
    });
}

fn say(word: &str, value: &str) {
    println!("={word} {value}");
}

async fn write(vessel: &Vessel, value: &str) {
    vessel.write_file("state", value, 0o644).await.unwrap();
    say("wrote", value);
}

async fn snapshot_for_ever(vessel: &Vessel, options: &SnapshotOptions) -> ! {
    let base = Random::new().next();
    for round in 0u64.. {
        let value = format!("{base:x}-{round}");
        write(vessel, &value).await;
        let mut options = options.clone();
        options.message.clone_from(&value);
        vessel.create_snapshot_with(options).await.unwrap();
        say("made", &value);
    }
    unreachable!("nobody counts so far")
}

async fn restore_for_ever(vessel: &Vessel) -> ! {
    let snapshots = vessel.list_snapshots().await.unwrap();
    for round in 0usize.. {
        write(vessel, &format!("dirty-{round}")).await;
        vessel.restore_snapshot(&snapshots[round % snapshots.len()].id).await.unwrap();
        say("restored", &snapshots[round % snapshots.len()].message);
    }
    unreachable!("nobody counts so far")
}

async fn open_for_ever(manager: &Manager, id: &str) -> ! {
    for round in 0u64.. {
        let vessel = manager.open_vessel(id).await.unwrap();
        write(&vessel, &format!("opened-{round}")).await;
        vessel.close().await.unwrap();
    }
    unreachable!("nobody counts so far")
}

async fn exec(vessel: &Vessel, mark: &str) {
    let script = format!("echo -n running > state; (setsid sleep {mark} &); sleep {mark}");
    let mut running =
        vessel.spawn(ExecOptions::new(["sh", "-c", &script]).persist_result(true)).await.unwrap();
    while vessel.read_file("state").await.unwrap() != b"running" {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    say("wrote", "running");
    running.wait().await.unwrap();
}
