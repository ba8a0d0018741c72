//! Archives: headers read and judged, trees packed and unpacked, streams hashed and compressed.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::LazyLock;

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use tempfile::TempDir;
use vesselrt::{CompressedStorage, LocalStorage, Storage};
use vesselrt_fixtures::archive::{Archive, Item};
use vesselrt_runtime::fuzzing::judge;
use vesselrt_runtime::layer::{
    Dialect, IdPolicy, PackOptions, TreeFormat, UnpackOptions, pack, pack_snapshot, unpack, unpack_snapshot,
};

const FILES: usize = 2_000;
const LARGE: usize = 16 << 20;

/// A tree of small files and a large one, half of it incompressible.
static TREE: LazyLock<TempDir> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    for n in 0..FILES {
        let parent = dir.path().join(format!("d{:02}", n % 50));
        std::fs::create_dir_all(&parent).unwrap();
        std::fs::write(parent.join(format!("f{n}.txt")), format!("line {n}\n").repeat(n % 400)).unwrap();
    }
    std::fs::write(dir.path().join("large"), mixed(LARGE)).unwrap();
    dir
});

static TAR: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut tar = Vec::new();
    pack(open(TREE.path()).as_fd(), &mut tar, &packing()).unwrap();
    tar
});

/// Every second MiB is noise, the others are text.
fn mixed(size: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut noise = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..size)
        .map(|at| if at >> 20 & 1 == 0 { noise() } else { b"some text of no interest "[at % 25] })
        .collect()
}

fn open(path: &Path) -> OwnedFd {
    File::open(path).unwrap().into()
}

fn packing() -> PackOptions {
    PackOptions::new(Dialect::Snapshot, TreeFormat::Plain)
}

fn unpacking() -> UnpackOptions {
    UnpackOptions::new(Dialect::Snapshot, TreeFormat::Plain, IdPolicy::Ignore)
}

/// Headers only: no entry has data.
#[divan::bench]
fn tar_headers_read_and_judged(bencher: Bencher) {
    let entries = 10_000usize;
    let mut archive = Archive::new();
    for n in 0..entries {
        archive = archive.with(&Item::file(format!("some/directory/of/usual/depth/file-{n}.txt"), b""));
    }
    let tar = archive.finish();
    bencher.counter(ItemsCount::new(entries)).bench(|| {
        let judged = judge(&tar, Dialect::Snapshot, TreeFormat::Overlay);
        assert_eq!(judged.accepted, entries as u64);
    });
}

#[divan::bench]
fn pack_to_nowhere(bencher: Bencher) {
    let tree = open(TREE.path());
    bencher.counter(BytesCount::new(TAR.len())).bench(|| pack(tree.as_fd(), io::sink(), &packing()).unwrap());
}

#[divan::bench]
fn pack_and_sha256(bencher: Bencher) {
    let tree = open(TREE.path());
    bencher
        .counter(BytesCount::new(TAR.len()))
        .bench(|| pack_snapshot(tree.as_fd(), io::sink(), &packing()).unwrap());
}

/// The whole way of a snapshot's archive into the storage: compressed, checksummed, on disk.
#[divan::bench]
fn store_compressed(bencher: Bencher) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let storage: CompressedStorage<LocalStorage> = CompressedStorage::local(dir.path()).unwrap();
    bencher.counter(BytesCount::new(TAR.len())).bench(|| {
        let body = Box::pin(io::Cursor::new(TAR.as_slice()));
        runtime.block_on(storage.save_snapshot("v", "s", body)).unwrap();
    });
}

/// The floor of that: zstd alone, on one thread.
#[divan::bench]
fn zstd_level_1_one_thread(bencher: Bencher) {
    bencher.counter(BytesCount::new(TAR.len())).bench(|| {
        let mut encoder = zstd::stream::write::Encoder::new(io::sink(), 1).unwrap();
        encoder.write_all(&TAR).unwrap();
        encoder.finish().unwrap();
    });
}

#[divan::bench]
fn unpack_to_disk(bencher: Bencher) {
    bencher.counter(BytesCount::new(TAR.len())).with_inputs(|| tempfile::tempdir().unwrap()).bench_values(
        |dir| {
            unpack(TAR.as_slice(), open(dir.path()).as_fd(), &[], &unpacking()).unwrap();
            dir
        },
    );
}

#[divan::bench(sample_count = 20)]
fn unpack_verified_and_synced(bencher: Bencher) {
    let packed = pack_snapshot(open(TREE.path()).as_fd(), io::sink(), &packing()).unwrap();
    bencher.counter(BytesCount::new(TAR.len())).with_inputs(|| tempfile::tempdir().unwrap()).bench_values(
        |dir| {
            let dest = open(dir.path());
            let (sha256, size) = (&packed.sha256, packed.size);
            unpack_snapshot(TAR.as_slice(), dest.as_fd(), &[], &unpacking(), sha256, size).unwrap();
            dir
        },
    );
}
