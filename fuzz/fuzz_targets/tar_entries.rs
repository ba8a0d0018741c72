//! Reading tars strictly and judging their entries, without a file system.
#![no_main]
#![forbid(unsafe_code)]

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use vesselrt_fuzz::{mutate, options};
use vesselrt_runtime::fuzzing::judge;

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    mutate(data, size, max_size, seed)
});

fuzz_target!(|data: &[u8]| {
    let Some((&which, tar)) = data.split_first() else { return };
    let (dialect, format, _) = options(which);
    let judged = judge(tar, dialect, format);
    // An archive is read to its end or there is a reason why not; an entry takes a block at least.
    assert!(judged.error.is_some() || tar.len() >= 1024);
    assert!(judged.accepted + judged.refused <= (tar.len() / 512) as u64);
});
