//! Snapshot archives as they come from a storage: any compression around any tar, whose digest is right.
#![no_main]
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use sha2::{Digest as _, Sha256};
use vesselrt_fuzz::options;
use vesselrt_fuzz::world::World;
use vesselrt_runtime::layer::{Dialect, SnapshotError, UnpackOptions, unpack_snapshot};
use vesselrt_storage::compression::{Decoder, sniff};

static WORLD: OnceLock<World> = OnceLock::new();

/// More than this no input of a fuzzer has to say.
const MOST: u64 = 1 << 20;

fuzz_target!(
    init: {
        WORLD.set(World::enter()).expect("init runs once");
    },
    |data: &[u8]| {
        let Some((&which, archive)) = data.split_first() else { return };
        let Ok((compression, rest)) = sniff(archive) else { return };
        let mut tar = Vec::new();
        let Ok(decoder) = Decoder::new(rest, compression) else { return };
        if decoder.take(MOST).read_to_end(&mut tar).is_err() {
            return;
        }
        restore(which, &tar);
    }
);

fn restore(which: u8, tar: &[u8]) {
    let world = WORLD.get().expect("set by init");
    let (_, format, ids) = options(which & 0x3f);
    let mut options = UnpackOptions::new(Dialect::Snapshot, format, ids);
    options.limits.entries = 500;
    options.limits.depth = 40;
    let sha256: String = Sha256::digest(tar).iter().map(|byte| format!("{byte:02x}")).collect();
    // Half of the time the manifest says something else.
    let promised = if which & 0x40 == 0 { sha256.clone() } else { "0".repeat(64) };
    fs::create_dir("/work/dest").expect("the destination was removed");
    let dest = File::open("/work/dest").expect("open the destination");
    let restored = unpack_snapshot(tar, dest.as_fd(), &[], &options, &promised, tar.len() as u64);
    if promised != sha256 {
        let told = matches!(restored, Err(SnapshotError::Digest { .. } | SnapshotError::Unpack(_)));
        assert!(told, "another archive than promised: {restored:?}");
    }
    world.check();
    world.clean();
}
