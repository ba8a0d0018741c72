//! Unpacking whatever comes, in a world where everything that happens outside the destination is seen.
#![no_main]
#![forbid(unsafe_code)]

use std::sync::OnceLock;

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use vesselrt_fuzz::world::World;
use vesselrt_fuzz::{mutate, options};
use vesselrt_runtime::layer::UnpackOptions;

static WORLD: OnceLock<World> = OnceLock::new();

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    mutate(data, size, max_size, seed)
});

fuzz_target!(
    init: {
        WORLD.set(World::enter()).expect("init runs once");
    },
    |data: &[u8]| {
        let Some((&which, tar)) = data.split_first() else { return };
        let (dialect, format, ids) = options(which & 0x7f);
        let mut options = UnpackOptions::new(dialect, format, ids);
        // A sparse file of a tebibyte takes no time, a million entries of nothing do, and long chains of directories.
        options.limits.entries = 500;
        options.limits.depth = 40;
        WORLD.get().expect("set by init").unpack(tar, &options, which & 0x80 != 0);
    }
);
