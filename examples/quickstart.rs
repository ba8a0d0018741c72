//! The main job: create, exec, file API, snapshot, delete, restore.
//!
//! Needs an image: `vesselrt image import PATH --ref docker.io/library/alpine:latest`.
#![forbid(unsafe_code)]

use vesselrt::{ExecOptions, Manager, ManagerConfig};

#[tokio::main]
async fn main() -> vesselrt::Result<()> {
    vesselrt::init(); // must be first: becomes the shim when re-executed
    let manager = Manager::new(ManagerConfig::default()).await?;
    let vessel = manager.create_vessel("docker.io/library/alpine:latest", "/workspace").await?;
    let done =
        vessel.exec(ExecOptions::new(["sh", "-c", "echo hello > output.txt"]).persist_result(true)).await?;
    assert_eq!(done.exit_code, 0);
    let data: Vec<u8> = vessel.read_file("output.txt").await?;
    assert_eq!(data, b"hello\n");
    let snap = vessel.create_snapshot("init workspace").await?;
    vessel.delete_file("output.txt").await?;
    vessel.restore_snapshot(&snap.id).await?;
    assert_eq!(vessel.read_file("output.txt").await?, b"hello\n");
    vessel.close().await
}
