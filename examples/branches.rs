//! Try several things from one starting point: restore a snapshot before each, and keep what each came to as a branch of its own.
//!
//! Needs an image: `vesselrt image import PATH --ref docker.io/library/alpine:latest`.
#![forbid(unsafe_code)]

use vesselrt::{ExecOptions, Manager, ManagerConfig, Vessel};

const ATTEMPTS: [&str; 3] = ["echo one > answer", "echo two > answer && rm question", "exit 3"];

#[tokio::main]
async fn main() -> vesselrt::Result<()> {
    vesselrt::init(); // must be first: becomes the shim when re-executed
    let manager = Manager::new(ManagerConfig::default()).await?;
    let vessel = manager.create_vessel("docker.io/library/alpine:latest", "/workspace").await?;
    vessel.write_file("question", "which is best?", 0o644).await?;
    let start = vessel.create_snapshot("the question").await?;
    for attempt in ATTEMPTS {
        vessel.restore_snapshot(&start.id).await?;
        try_it(&vessel, attempt).await?;
    }
    for snapshot in vessel.list_snapshots().await? {
        assert!(
            snapshot.id == start.id || snapshot.parent_id == start.id,
            "all are branches of the question"
        );
    }
    vessel.close().await?;
    manager.delete_vessel(vessel.id()).await
}

/// Keeps what the command did, unless it failed.
async fn try_it(vessel: &Vessel, command: &str) -> vesselrt::Result<()> {
    let done = vessel.exec(ExecOptions::new(["sh", "-c", command]).persist_result(true)).await?;
    if done.success() {
        vessel.create_snapshot(command).await?;
    }
    Ok(())
}
