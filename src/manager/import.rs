//! Importing an image, and cleaning up when that fails.
#![forbid(unsafe_code)]

mod read;

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::sync::Arc;

use vesselrt_storage::Digest;

use super::images::{ImageImport, ImportReport, Progress};
use super::prune::PRUNE_PATIENCE;
use super::{ManagerInner, open};
use crate::error::{Error, Result};
use crate::offload::blocking;
use crate::store::dirs;

/// What was in the store before.
struct Before {
    blobs: HashSet<Digest>,
    layers: HashSet<String>,
}

impl ManagerInner {
    /// Imports an image; one that is refused leaves nothing behind, unless somebody else is at the images just then: what
    /// is left in that case is garbage for the next collection.
    pub(super) async fn import(
        self: Arc<Self>,
        import: ImageImport,
        progress: Progress,
    ) -> Result<ImportReport> {
        let own = Arc::clone(&self);
        let before = blocking(move || own.before_import()).await?;
        let imported = Arc::clone(&self).import_or_fail(import, progress).await;
        if imported.is_err() {
            // Why it was refused is what counts.
            let _ = self.remove_since(before).await;
        }
        imported
    }

    fn before_import(&self) -> Result<Before> {
        let blobs = self.content.blobs().map_err(|e| Error::storage("failed to list the blobs", e))?;
        let layers = dirs::names(self.store.image_layers.as_fd())?.into_iter().collect();
        Ok(Before { blobs, layers })
    }

    /// Removes what no image has and was not there before.
    async fn remove_since(self: &Arc<Self>, before: Before) -> Result<()> {
        let own = Arc::clone(self);
        let _alone = blocking(move || own.store.remove_images()).await?;
        let vessels = open::list(self).await?;
        let own = Arc::clone(self);
        blocking(move || {
            let keep = own.bases(&vessels)?;
            let pruned = own.content.prune_blobs_except(&before.blobs, &keep, PRUNE_PATIENCE);
            pruned.map_err(|e| Error::storage("failed to remove what was imported", e))?;
            own.discard_unused_layers(&keep, &before.layers).map(drop)
        })
        .await
    }
}
