//! A model of a vessel on disk: every operation may stop after any of its steps, and recovery too.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use time::OffsetDateTime;
use vesselrt_storage::manifest::SnapshotManifest;

use super::*;
use crate::state::{ImageDefaults, ImageState};

/// What is on disk and in the storage. A layer's content is the set of changes that were made in it.
#[derive(Debug, Clone)]
struct World {
    state: VesselState,
    manifest: VesselManifest,
    archives: BTreeMap<String, BTreeSet<u32>>,
    layers: BTreeMap<String, BTreeSet<u32>>,
    generations: BTreeMap<u64, BTreeSet<u32>>,
}

type Step = Box<dyn Fn(&mut World)>;

pub(crate) fn manifest() -> VesselManifest {
    VesselManifest {
        version: 1,
        id: "v".into(),
        base_image_ref: "i".into(),
        base_image_digest: String::new(),
        current_snapshot_id: String::new(),
        work_dir: "/".into(),
        create_time: OffsetDateTime::UNIX_EPOCH,
        update_time: OffsetDateTime::UNIX_EPOCH,
        labels: BTreeMap::new(),
        snapshots: Vec::new(),
    }
}

/// The state of a vessel on these snapshots, topmost first.
pub(crate) fn state(sealed: &[&str]) -> VesselState {
    let image =
        ImageState { digest: String::new(), layers: vec!["c".into()], defaults: ImageDefaults::default() };
    VesselState::new(image, sealed.iter().map(|id| (*id).to_owned()).collect(), false)
}

impl World {
    fn new() -> Self {
        Self {
            state: state(&[]),
            manifest: manifest(),
            archives: BTreeMap::new(),
            layers: BTreeMap::new(),
            generations: BTreeMap::from([(1, BTreeSet::new())]),
        }
    }

    /// The changes that a command would see.
    fn visible(&self) -> BTreeSet<u32> {
        let below = self.state.sealed.iter().flat_map(|id| &self.layers[id]);
        below.chain(&self.generations[&self.state.generation]).copied().collect()
    }

    fn write(&mut self, change: u32) {
        let generation = self.state.generation;
        self.generations.get_mut(&generation).unwrap().insert(change);
    }

    fn rename_to_layer(&mut self, generation: u64, snapshot: &str) {
        if let Some(changes) = self.generations.remove(&generation) {
            self.layers.entry(snapshot.to_owned()).or_insert(changes);
        }
    }

    fn seal_steps(&self, id: &str) -> Vec<Step> {
        let (id, parent, sealed) = (id.to_owned(), self.state.top().to_owned(), self.state.generation);
        let (a, b, c, d, f) = (id.clone(), id.clone(), id.clone(), id.clone(), id);
        vec![
            Box::new(move |w| w.state.pending = Some(Pending::Seal { snapshot: a.clone() })),
            Box::new(move |w| {
                w.archives.insert(b.clone(), w.generations[&sealed].clone());
            }),
            Box::new(move |w| {
                w.manifest.snapshots.push(snapshot(&c, &parent));
                w.manifest.current_snapshot_id.clone_from(&c);
            }),
            Box::new(move |w| w.rename_to_layer(sealed, &d)),
            Box::new(move |w| {
                w.generations.insert(sealed + 1, BTreeSet::new());
            }),
            Box::new(move |w| {
                w.state.sealed.insert(0, f.clone());
                w.state.generation = sealed + 1;
                w.state.pending = None;
            }),
        ]
    }

    fn merged(&self) -> VesselManifest {
        history::merged(&self.manifest, &self.state)
    }

    fn seal_only_steps(&self, id: &str) -> Vec<Step> {
        let (id, sealed) = (id.to_owned(), self.state.generation);
        let (layer, parent) = (id.clone(), self.state.top().to_owned());
        vec![
            Box::new(move |w| {
                w.state.packing.push(waiting(&id, &parent));
                w.state.sealed.insert(0, id.clone());
                w.state.generation = sealed + 1;
                w.state.pending = Some(Pending::Sealed { snapshot: id.clone(), generation: sealed });
            }),
            Box::new(move |w| w.rename_to_layer(sealed, &layer)),
            Box::new(move |w| {
                w.generations.insert(sealed + 1, BTreeSet::new());
            }),
        ]
    }

    fn copy_steps(&self, id: &str) -> Vec<Step> {
        let (id, parent, layer) = (id.to_owned(), self.state.top().to_owned(), id.to_owned());
        vec![
            Box::new(move |w| {
                let copy = w.generations[&w.state.generation].clone();
                w.layers.insert(layer.clone(), copy);
            }),
            Box::new(move |w| w.state.packing.push(waiting(&id, &parent))),
        ]
    }

    /// Of the first that waits.
    fn store_steps(&self) -> Vec<Step> {
        let merged = self.merged();
        let Some(first) = merged.snapshots.iter().find(|s| !s.is_stored()) else { return Vec::new() };
        let (id, parent) = (first.id.clone(), first.parent_id.clone());
        let (b, c) = (id.clone(), id.clone());
        vec![
            Box::new(move |w| drop(w.archives.insert(id.clone(), w.layers[&id].clone()))),
            Box::new(move |w| {
                let mut merged = w.merged();
                *merged.snapshots.iter_mut().find(|s| s.id == b).unwrap() = snapshot(&b, &parent);
                w.manifest = VesselManifest::clone(&history::stored(&merged.into()));
            }),
            Box::new(move |w| w.state.packing.retain(|s| s.id != c)),
        ]
    }

    fn restore_steps(&self, id: &str) -> Vec<Step> {
        let merged = self.merged();
        let (next, sealed) = (self.state.generation + 1, layers(&merged, id).unwrap());
        let id = history::stored_ancestor(&merged, id);
        vec![
            Box::new(move |w| {
                w.generations.insert(next, BTreeSet::new());
            }),
            Box::new(move |w| {
                w.state.sealed.clone_from(&sealed);
                w.state.generation = next;
            }),
            Box::new(move |w| w.manifest.current_snapshot_id.clone_from(&id)),
            Box::new(move |w| {
                w.generations.remove(&(next - 1));
            }),
        ]
    }

    fn delete_steps(&self, id: &str) -> Vec<Step> {
        let (a, b, c) = (id.to_owned(), id.to_owned(), id.to_owned());
        vec![
            Box::new(move |w| {
                w.state.packing.retain(|s| s.id != a);
                w.state.pending = Some(Pending::Delete { snapshot: a.clone() });
            }),
            Box::new(move |w| w.manifest.snapshots.retain(|s| s.id != b)),
            Box::new(move |w| w.forget(&c)),
            Box::new(move |w| w.state.pending = None),
        ]
    }

    fn forget(&mut self, id: &str) {
        self.archives.remove(id);
        self.layers.remove(id);
    }

    /// In the order of `carry_out`, stopping after `steps` of them.
    fn recover(&mut self, steps: usize) -> bool {
        let mut rounds = 0;
        while let Some(plan) = plan(&self.state, &self.manifest).unwrap() {
            rounds += 1;
            assert!(rounds <= 3, "recovery ends");
            if !self.carry_out(plan, steps) {
                return false;
            }
        }
        self.tidy()
    }

    fn carry_out(&mut self, plan: Plan, steps: usize) -> bool {
        let Plan { state, seal, fresh, drop_archive, current } = plan;
        let generation = state.generation;
        let all: Vec<Step> = vec![
            Box::new(move |w| drop_archive.iter().for_each(|id| w.forget(id))),
            Box::new(move |w| current.iter().for_each(|id| w.manifest.current_snapshot_id.clone_from(id))),
            Box::new(move |w| seal.iter().for_each(|(n, id)| w.rename_to_layer(*n, id))),
            Box::new(move |w| drop(fresh.then(|| w.generations.remove(&generation)))),
            Box::new(move |w| w.state.clone_from(&state)),
        ];
        all.iter().take(steps).for_each(|step| step(self));
        steps >= all.len()
    }

    fn tidy(&mut self) -> bool {
        let current = self.state.generation;
        self.generations.retain(|generation, _| *generation == current);
        self.generations.entry(current).or_default();
        for id in &self.state.sealed {
            self.layers.entry(id.clone()).or_insert_with(|| self.archives[id].clone());
        }
        true
    }

    fn check(&self) {
        assert_eq!(self.state.pending, None);
        let merged = self.merged();
        assert_eq!(self.state.top(), merged.current_snapshot_id, "state and manifest agree");
        for listed in &merged.snapshots {
            let there = if listed.is_stored() { &self.archives } else { &self.layers };
            assert!(there.contains_key(&listed.id), "{} can be restored", listed.id);
        }
        assert!(self.archives.keys().all(|id| merged.snapshot(id).is_some()), "an archive of nothing");
        let elsewhere = layers(&self.manifest, &self.manifest.current_snapshot_id).unwrap();
        assert!(elsewhere.iter().all(|id| self.archives.contains_key(id)), "another machine can restore it");
        for (id, changes) in &self.archives {
            assert!(self.layers.get(id).is_none_or(|layer| layer == changes), "layer {id} is its archive");
        }
        assert_eq!(layers(&merged, self.state.top()).unwrap(), self.state.sealed);
    }
}

/// One that has no archive yet.
pub(crate) fn waiting(id: &str, parent: &str) -> SnapshotManifest {
    SnapshotManifest { checksum: String::new(), ..snapshot(id, parent) }
}

pub(crate) fn snapshot(id: &str, parent: &str) -> SnapshotManifest {
    SnapshotManifest {
        id: id.into(),
        vessel_id: "v".into(),
        parent_id: parent.into(),
        message: String::new(),
        checksum: format!("sha256:{}", "0".repeat(64)),
        size: 0,
        create_time: OffsetDateTime::UNIX_EPOCH,
        labels: BTreeMap::new(),
        mode: None,
        pause_ms: None,
    }
}

#[derive(Debug, Clone)]
enum Action {
    Write,
    Seal { crash: usize },
    SealOnly { crash: usize },
    Copy { crash: usize },
    Store { crash: usize },
    Restore { which: usize, crash: usize },
    Delete { which: usize, crash: usize },
}

fn actions() -> impl Strategy<Value = Vec<(Action, Vec<usize>)>> {
    let action = prop_oneof![
        Just(Action::Write),
        (0..8usize).prop_map(|crash| Action::Seal { crash }),
        (0..5usize).prop_map(|crash| Action::SealOnly { crash }),
        (0..4usize).prop_map(|crash| Action::Copy { crash }),
        (0..5usize).prop_map(|crash| Action::Store { crash }),
        (0..8usize, 0..6usize).prop_map(|(which, crash)| Action::Restore { which, crash }),
        (0..8usize, 0..6usize).prop_map(|(which, crash)| Action::Delete { which, crash }),
    ];
    prop::collection::vec((action, prop::collection::vec(0..6usize, 0..3)), 1..16)
}

impl World {
    /// Does as much of an action as is done before the crash; what would be visible after all of it.
    fn act(&mut self, number: usize, action: &Action) -> BTreeSet<u32> {
        let steps = match *action {
            Action::Write => {
                self.write(u32::try_from(number).unwrap());
                return self.visible();
            }
            Action::SealOnly { crash } => (self.seal_only_steps(&format!("s{number}")), crash),
            Action::Copy { crash } => (self.copy_steps(&format!("s{number}")), crash),
            Action::Store { crash } => (self.store_steps(), crash),
            Action::Seal { crash } => {
                // Parents before children.
                while !self.state.packing.is_empty() {
                    self.store_steps().iter().for_each(|step| step(self));
                }
                (self.seal_steps(&format!("s{number}")), crash)
            }
            Action::Restore { which, crash } => return self.restore(which, crash),
            Action::Delete { which, crash } => (self.delete_one(which), crash),
        };
        let before = self.visible();
        steps.0.iter().take(steps.1).for_each(|step| step(self));
        before
    }

    fn restore(&mut self, which: usize, crash: usize) -> BTreeSet<u32> {
        let merged = self.merged();
        let ids: Vec<_> = merged.snapshots.iter().map(|s| s.id.clone()).collect();
        let Some(id) = ids.get(which % ids.len().max(1)) else { return self.visible() };
        let content = |id: &String| self.layers.get(id).or(self.archives.get(id)).unwrap().clone();
        let after = layers(&merged, id).unwrap().iter().flat_map(content).collect();
        self.restore_steps(id).iter().take(crash).for_each(|step| step(self));
        after
    }

    /// The steps of deleting one that can be deleted.
    fn delete_one(&self, which: usize) -> Vec<Step> {
        let merged = self.merged();
        let free = |s: &&SnapshotManifest| {
            merged.children(&s.id).next().is_none() && s.id != merged.current_snapshot_id
        };
        let ids: Vec<_> = merged.snapshots.iter().filter(free).map(|s| s.id.clone()).collect();
        ids.get(which % ids.len().max(1)).map(|id| self.delete_steps(id)).unwrap_or_default()
    }
}

proptest! {
    /// Wherever it stops, everything is as before the operation or as after it, and nothing that was written is lost.
    #[test]
    fn every_crash_is_made_good(actions in actions()) {
        let mut world = World::new();
        for (number, (action, interruptions)) in actions.into_iter().enumerate() {
            let before = world.visible();
            let after = world.act(number, &action);
            for steps in interruptions {
                world.recover(steps);
            }
            prop_assert!(world.recover(usize::MAX));
            world.check();
            let visible = world.visible();
            prop_assert!(visible == before || visible == after, "{:?} is neither {:?} nor {:?}", visible, before, after);
            prop_assert_eq!(plan(&world.state, &world.manifest).unwrap(), None);
        }
    }
}

#[test]
fn a_seal_is_finished_when_its_snapshot_is_in_the_manifest_and_forgotten_otherwise() {
    let mut world = World::new();
    world.state.pending = Some(Pending::Seal { snapshot: "s".into() });
    let forgotten = plan(&world.state, &world.manifest).unwrap().unwrap();
    assert_eq!((forgotten.drop_archive.as_deref(), forgotten.seal), (Some("s"), None));
    assert_eq!(forgotten.state.generation, 1);
    world.manifest.snapshots.push(snapshot("s", ""));
    world.manifest.current_snapshot_id = "s".into();
    let finished = plan(&world.state, &world.manifest).unwrap().unwrap();
    assert_eq!((finished.drop_archive, finished.seal), (None, Some((1, "s".into()))));
    assert_eq!((finished.state.generation, finished.state.top()), (2, "s"));
}

#[test]
fn local_work_stays_on_its_own_snapshot_when_another_store_went_on() {
    let mut world = World::new();
    world.manifest.snapshots = vec![snapshot("s1", ""), snapshot("s2", "s1")];
    world.manifest.current_snapshot_id = "s2".into();
    world.state.sealed = vec!["s1".into()];
    let adopted = plan(&world.state, &world.manifest).unwrap().unwrap();
    assert_eq!((adopted.current.as_deref(), adopted.fresh), (Some("s1"), false));
    assert_eq!(adopted.state, world.state);
    world.state.sealed = vec!["gone".into(), "s1".into()];
    let rebuilt = plan(&world.state, &world.manifest).unwrap().unwrap();
    assert_eq!((rebuilt.state.sealed, rebuilt.fresh), (vec!["s2".to_owned(), "s1".to_owned()], true));
}

#[test]
fn a_sealed_layer_that_was_not_renamed_is_and_what_was_stored_waits_no_more() {
    let mut world = World::new();
    world.write(1);
    world.seal_only_steps("s")[0](&mut world);
    let finished = plan(&world.state, &world.manifest).unwrap().unwrap();
    assert_eq!((finished.seal, finished.fresh), (Some((1, "s".into())), false));
    assert_eq!((finished.state.generation, finished.state.packing.len()), (2, 1));
    world.state = finished.state;
    world.manifest.snapshots.push(snapshot("s", ""));
    let stored = plan(&world.state, &world.manifest).unwrap().unwrap();
    assert!(stored.state.packing.is_empty());
    let current = plan(&stored.state, &world.manifest).unwrap().unwrap();
    assert_eq!(current.current.as_deref(), Some("s"));
}
