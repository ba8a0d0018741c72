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

fn manifest() -> VesselManifest {
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

impl World {
    fn new() -> Self {
        let image = ImageState {
            digest: String::new(),
            layers: vec!["c".into()],
            defaults: ImageDefaults::default(),
        };
        Self {
            state: VesselState::new(image, Vec::new(), false),
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

    fn restore_steps(&self, id: &str) -> Vec<Step> {
        let (next, sealed) = (self.state.generation + 1, layers(&self.manifest, id).unwrap());
        let id = id.to_owned();
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
            Box::new(move |w| w.state.pending = Some(Pending::Delete { snapshot: a.clone() })),
            Box::new(move |w| w.manifest.snapshots.retain(|s| s.id != b)),
            Box::new(move |w| drop(w.archives.remove(&c))),
            Box::new(move |w| w.state.pending = None),
        ]
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
            Box::new(move |w| drop(drop_archive.as_ref().map(|id| w.archives.remove(id)))),
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
        assert_eq!(self.state.top(), self.manifest.current_snapshot_id, "state and manifest agree");
        let listed: BTreeSet<_> = self.manifest.snapshots.iter().map(|s| s.id.clone()).collect();
        assert_eq!(self.archives.keys().cloned().collect::<BTreeSet<_>>(), listed, "an archive per snapshot");
        for (id, changes) in &self.archives {
            assert!(self.layers.get(id).is_none_or(|layer| layer == changes), "layer {id} is its archive");
        }
        assert_eq!(layers(&self.manifest, self.state.top()).unwrap(), self.state.sealed);
    }
}

fn snapshot(id: &str, parent: &str) -> SnapshotManifest {
    SnapshotManifest {
        id: id.into(),
        vessel_id: "v".into(),
        parent_id: parent.into(),
        message: String::new(),
        checksum: format!("sha256:{}", "0".repeat(64)),
        size: 0,
        create_time: OffsetDateTime::UNIX_EPOCH,
        labels: BTreeMap::new(),
    }
}

#[derive(Debug, Clone)]
enum Action {
    Write,
    Seal { crash: usize },
    Restore { which: usize, crash: usize },
    Delete { which: usize, crash: usize },
}

fn actions() -> impl Strategy<Value = Vec<(Action, Vec<usize>)>> {
    let action = prop_oneof![
        Just(Action::Write),
        (0..8usize).prop_map(|crash| Action::Seal { crash }),
        (0..8usize, 0..6usize).prop_map(|(which, crash)| Action::Restore { which, crash }),
        (0..8usize, 0..6usize).prop_map(|(which, crash)| Action::Delete { which, crash }),
    ];
    prop::collection::vec((action, prop::collection::vec(0..6usize, 0..3)), 1..16)
}

proptest! {
    /// Wherever it stops, everything is as before the operation or as after it, and nothing that was written is lost.
    #[test]
    fn every_crash_is_made_good(actions in actions()) {
        let mut world = World::new();
        for (number, (action, interruptions)) in actions.into_iter().enumerate() {
            let before = world.visible();
            let mut after = before.clone();
            match action {
                Action::Write => {
                    world.write(u32::try_from(number).unwrap());
                    after = world.visible();
                }
                Action::Seal { crash } => {
                    let steps = world.seal_steps(&format!("s{number}"));
                    steps.iter().take(crash).for_each(|step| step(&mut world));
                }
                Action::Restore { which, crash } => {
                    let ids: Vec<_> = world.manifest.snapshots.iter().map(|s| s.id.clone()).collect();
                    if let Some(id) = ids.get(which % ids.len().max(1)) {
                        let sealed = layers(&world.manifest, id).unwrap();
                        after = sealed.iter().flat_map(|id| world.archives[id].clone()).collect();
                        let steps = world.restore_steps(id);
                        steps.iter().take(crash).for_each(|step| step(&mut world));
                    }
                }
                Action::Delete { which, crash } => {
                    let free = |s: &&SnapshotManifest| {
                        world.manifest.children(&s.id).next().is_none() && s.id != world.manifest.current_snapshot_id
                    };
                    let ids: Vec<_> = world.manifest.snapshots.iter().filter(free).map(|s| s.id.clone()).collect();
                    if let Some(id) = ids.get(which % ids.len().max(1)) {
                        let steps = world.delete_steps(id);
                        steps.iter().take(crash).for_each(|step| step(&mut world));
                    }
                }
            }
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
