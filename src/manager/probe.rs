//! Whether this host runs vessels, found out without making one.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::Manager;
use crate::error::Result;
use crate::offload::blocking;

impl Manager {
    /// Tries whether this host lets vessels be: a process of ours enters a user namespace with the ids of this store, and
    /// leaves. What an image or the limits of a vessel need besides is not looked at.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) with the remedy; whatever else starting a process meets.
    pub async fn probe(&self) -> Result<()> {
        let inner = Arc::clone(&self.inner);
        // It has entered when it is there, and ends when it is dropped.
        blocking(move || inner.launcher()?.worker().map(drop).map_err(Into::into)).await
    }

    /// How many user ids the vessels of this store have: 65536 as a rule, 1 without subordinate ids (subuid(5)), where root is
    /// the only user that a command can run as.
    #[must_use]
    pub fn id_count(&self) -> u32 {
        self.inner.store.ids().count()
    }
}
