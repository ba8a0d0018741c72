//! Archives with random damage: whatever they are, reading and judging them ends, and without a panic.
#![forbid(unsafe_code)]

use proptest::prelude::*;
use vesselrt_fixtures::hostile::cases;

use crate::fuzzing::judge;
use crate::layer::tar::BLOCK;
use crate::layer::{Dialect, TreeFormat};

/// Makes the checksums of all blocks right again, so that damage gets past them.
fn repair(tar: &mut [u8]) {
    for block in tar.chunks_exact_mut(BLOCK) {
        if block.iter().all(|&b| b == 0) {
            continue;
        }
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

/// Reads everything and judges every entry. Returns how many were accepted.
fn judge_all(tar: &[u8], dialect: Dialect) -> u64 {
    judge(tar, dialect, TreeFormat::Overlay).accepted
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damage_never_panics(
        case in any::<prop::sample::Index>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
        repaired in any::<bool>(),
        cuts in any::<bool>(),
    ) {
        thread_local!(static SMALL: Vec<Vec<u8>> =
            cases().into_iter().map(|case| case.tar).filter(|tar| (1..65_536).contains(&tar.len())).collect());
        let mut tar = SMALL.with(|small| small[case.index(small.len())].clone());
        for (at, byte) in damage {
            let at = at.index(tar.len());
            tar[at] = byte;
        }
        if cuts {
            tar.truncate(cut.index(tar.len()));
        }
        if repaired {
            repair(&mut tar);
        }
        for dialect in [Dialect::Oci, Dialect::Snapshot, Dialect::Plain] {
            judge_all(&tar, dialect);
        }
    }
}

#[test]
fn undamaged_archives_are_judged_here_too() {
    let accepted: u64 = cases().iter().map(|case| judge_all(&case.tar, Dialect::Oci)).sum();
    assert!(accepted > 50_000, "{accepted}");
}
