//! What the command of a container wrote.
#![forbid(unsafe_code)]

use super::super::record::Record;
use crate::error::{ErrorKind, Result};
use crate::manager::Manager;
use crate::vessel::process::events::{LogOptions, LogStart, ProcessEvent};

/// Both streams in the order in which they were written.
pub(super) async fn read(manager: &Manager, record: &Record, tail: Option<usize>) -> Result<String> {
    let Some(process) = &record.process else { return Ok(String::new()) };
    let process = match manager.process(&record.vessel, process).await {
        Ok(process) => process,
        // Forgotten.
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(String::new()),
        Err(e) => return Err(e),
    };
    let start = tail.map_or(LogStart::Oldest, LogStart::Tail);
    let mut events = process.events(LogOptions::new().start(start)).await?;
    // A log has a limit, so this has one.
    let mut written = Vec::new();
    while let Some(event) = events.next().await? {
        if let ProcessEvent::Stdout { data, .. } | ProcessEvent::Stderr { data, .. } = event {
            written.extend(data);
        }
    }
    Ok(String::from_utf8_lossy(&written).into_owned())
}
