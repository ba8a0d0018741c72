//! Stopping a vessel, with more patience than it has itself.
#![forbid(unsafe_code)]

use std::time::Duration;

use crate::error::Result;
use crate::manager::Manager;

/// What a container has to end when it is stopped.
pub(super) const STOP_GRACE: Duration = Duration::from_secs(10);
/// What it has when it is removed.
pub(super) const REMOVE_GRACE: Duration = Duration::from_secs(5);

const SIGTERM: i32 = 15;

/// Tells the processes of a vessel to end, waits for them, and stops it.
pub(super) async fn stop(manager: &Manager, id: &str, grace: Duration) -> Result<()> {
    let mut told = Vec::new();
    for process in manager.processes(id).await?.into_iter().filter(|process| process.end.is_none()) {
        let process = manager.process(id, &process.id).await?;
        // One that has ended by itself need not be told.
        if process.signal(SIGTERM).await.is_ok() {
            told.push(process);
        }
    }
    let ended = async {
        for process in &told {
            let _ = process.wait().await;
        }
    };
    // Those that do not listen are killed with the vessel.
    let _ = tokio::time::timeout(grace, ended).await;
    manager.stop_vessel(id).await.map(drop)
}
