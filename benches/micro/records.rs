//! Records: manifests of vessels with long histories, frames between a program and its shim.
#![forbid(unsafe_code)]

use std::os::unix::net::UnixStream;

use divan::Bencher;
use divan::counter::BytesCount;
use vesselrt::VesselManifest;
use vesselrt_runtime::shim::protocol::Request;
use vesselrt_runtime::shim::wire;

/// A manifest with so many snapshots, each on the one before.
fn manifest(snapshots: usize) -> Vec<u8> {
    let id = |n: usize| format!("snapshot-{n:06}");
    let history: Vec<serde_json::Value> = (0..snapshots)
        .map(|n| {
            serde_json::json!({
                "id": id(n),
                "vesselId": "vessel",
                "parentId": if n == 0 { String::new() } else { id(n - 1) },
                "message": "what an agent says about it",
                "checksum": format!("sha256:{n:064x}"),
                "size": 1_000_000 + n,
                "createTime": "2026-01-01T00:00:00Z",
                "labels": {},
            })
        })
        .collect();
    let manifest = serde_json::json!({
        "version": 1,
        "id": "vessel",
        "baseImageRef": "docker.io/library/debian:12",
        "baseImageDigest": format!("sha256:{:064x}", 7),
        "currentSnapshotId": id(snapshots - 1),
        "workDir": "/work",
        "createTime": "2026-01-01T00:00:00Z",
        "updateTime": "2026-01-01T00:00:00Z",
        "labels": {},
        "snapshots": history,
    });
    serde_json::to_vec(&manifest).unwrap()
}

#[divan::bench(args = [1, 200, 5_000])]
fn manifest_read_and_validated(bencher: Bencher, snapshots: usize) {
    let bytes = manifest(snapshots);
    bencher
        .counter(BytesCount::new(bytes.len()))
        .bench(|| VesselManifest::parse_for("vessel", &bytes).unwrap());
}

#[divan::bench(args = [1, 200, 5_000])]
fn manifest_written(bencher: Bencher, snapshots: usize) {
    let parsed = VesselManifest::parse_for("vessel", &manifest(snapshots)).unwrap();
    bencher.bench(|| parsed.to_json().unwrap());
}

/// One frame through a socket, encoded and decoded.
#[divan::bench(args = [16, 4_096])]
fn frame_sent_and_received(bencher: Bencher, path: usize) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let request = Request::MakeDir { path: vec![b'x'; path], mode: 0o755, parents: true };
    bencher.bench_local(|| {
        wire::send(&ours, &request, &[]).unwrap();
        wire::recv::<Request>(&theirs).unwrap().unwrap()
    });
}

/// The same with a descriptor, as every file that is opened.
#[divan::bench]
fn frame_with_a_descriptor(bencher: Bencher) {
    use std::os::fd::AsFd;
    let (ours, theirs) = UnixStream::pair().unwrap();
    let null = std::fs::File::open("/dev/null").unwrap();
    let request = Request::MakeDir { path: b"/x".to_vec(), mode: 0o755, parents: true };
    bencher.bench_local(|| {
        wire::send(&ours, &request, &[null.as_fd()]).unwrap();
        wire::recv::<Request>(&theirs).unwrap().unwrap()
    });
}
