//! Snapshots that have lost their name: their layers stay, as others lie on them, and nobody can go back to them.
#![forbid(unsafe_code)]

use super::{SnapshotManifest, VesselManifest};

/// The label of a snapshot that has no name any more. A label, so that every version of the manifest can say it, and it
/// goes wherever the snapshot goes.
pub const UNNAMED: &str = "vesselrt.unnamed";

impl SnapshotManifest {
    /// Whether it can be called by its id: listed, restored, forked.
    #[must_use]
    pub fn is_named(&self) -> bool {
        !self.labels.contains_key(UNNAMED)
    }
}

impl VesselManifest {
    /// The snapshot called `id`, unless it has lost its name.
    #[must_use]
    pub fn named(&self, id: &str) -> Option<&SnapshotManifest> {
        self.snapshot(id).filter(|snapshot| snapshot.is_named())
    }

    /// The nearest snapshot below `id` that has a name; empty: there is none, and the image is below.
    #[must_use]
    pub fn named_parent(&self, id: &str) -> &str {
        let mut below = self.snapshot(id);
        // A manifest that was read has no cycles; of one that was not, no more is walked than there is.
        for _ in 0..self.snapshots.len() {
            match below.and_then(|snapshot| self.snapshot(&snapshot.parent_id)) {
                Some(parent) if parent.is_named() => return &parent.id,
                parent => below = parent,
            }
        }
        ""
    }

    /// The snapshots that have a name, in order of creation, each with the nearest one below that has a name as its
    /// parent: what a user sees.
    #[must_use]
    pub fn named_snapshots(&self) -> Vec<SnapshotManifest> {
        let all_named = self.snapshots.iter().all(SnapshotManifest::is_named);
        let named = self.snapshots.iter().filter(|snapshot| snapshot.is_named());
        named
            .map(|snapshot| {
                let mut shown = snapshot.clone();
                if !all_named {
                    self.named_parent(&snapshot.id).clone_into(&mut shown.parent_id);
                }
                shown
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{manifest, snapshot};
    use super::*;

    #[test]
    fn what_has_no_name_is_passed_over() {
        let chain: Vec<SnapshotManifest> = ["", "a", "b", "b", "c"]
            .iter()
            .zip(["a", "b", "c", "d", "e"])
            .map(|(parent, id)| snapshot(id, parent))
            .collect();
        let mut vessel = manifest(chain);
        vessel.current_snapshot_id = "e".into();
        assert_eq!(vessel.named_snapshots(), vessel.snapshots);
        for id in ["a", "b"] {
            let lost = vessel.snapshots.iter_mut().find(|snapshot| snapshot.id == id).unwrap();
            lost.labels.insert(UNNAMED.into(), String::new());
        }
        let shown: Vec<(String, String)> =
            vessel.named_snapshots().into_iter().map(|snapshot| (snapshot.id, snapshot.parent_id)).collect();
        let expected = [("c", ""), ("d", ""), ("e", "c")].map(|(id, parent)| (id.into(), parent.into()));
        assert_eq!(shown, expected);
        assert!(vessel.named("a").is_none() && vessel.named("c").is_some() && vessel.named("x").is_none());
        assert_eq!((vessel.named_parent("x"), vessel.named_parent("e")), ("", "c"));
    }
}
