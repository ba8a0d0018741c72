//! A shim that is started before it is known of which vessel: its program is loaded while its client still prepares.
#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::{OWN_EXECUTABLE, Started, spawn};
use crate::entry::{self, Role};

static WAITING: Mutex<Option<Started>> = Mutex::new(None);

/// Starts a process that becomes the next shim which this program launches, where it launches its own executable. If none is
/// launched it ends with this process.
///
/// What it waits for is the first frame of its socket: it has no namespaces yet, and nothing is known to it.
pub fn ahead() {
    if !entry::init_was_called() {
        return;
    }
    // Whoever launches a shim starts one, and says what is wrong.
    if let Ok(started) = spawn(Path::new(OWN_EXECUTABLE), Role::Shim) {
        *WAITING.lock().unwrap_or_else(PoisonError::into_inner) = Some(started);
    }
}

/// The one that waits, if it is what is wanted and is still there.
pub(super) fn take(exe: &Path, role: Role) -> Option<Started> {
    if exe != Path::new(OWN_EXECUTABLE) || role != Role::Shim {
        return None;
    }
    let mut started = WAITING.lock().unwrap_or_else(PoisonError::into_inner).take()?;
    started.child.runs().then_some(started)
}
