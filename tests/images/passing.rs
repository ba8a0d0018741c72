//! Layers are unpacked while they are stored, in bounded memory.
#![forbid(unsafe_code)]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use vesselrt::{ImportProgress, OverlayDriver};

use crate::testkit::image::{Layer, base_tar, oci_layout};
use crate::testkit::run;

/// The most that a process may have had in memory: the goal for any image is 128 MiB.
const MOST_KB: u64 = 128 * 1024;

#[test]
fn an_archive_is_unpacked_while_it_is_read() {
    run(OverlayDriver::Auto, async |store| {
        let manager = store.manager().await;
        let layout = store.beside("layout");
        let layers = [base_tar().to_vec(), Layer::new().file("srv/a", 0o644, 0, b"top").finish()];
        oci_layout(&layout, &layers, &json!({}));
        let rootfs = store.beside("rootfs.tar.gz");
        fs::write(&rootfs, super::gzip(base_tar())).unwrap();
        for (path, layers) in [(&rootfs, 1), (&layout, 2)] {
            let (unpacked_later, reading) = (Arc::new(Mutex::new(0)), Arc::new(Mutex::new(0)));
            let (late, read) = (Arc::clone(&unpacked_later), Arc::clone(&reading));
            let tell = move |at| match at {
                ImportProgress::Unpacking { .. } => *late.lock().unwrap() += 1,
                _ => *read.lock().unwrap() += 1,
            };
            let image = manager.import_image(path, "passing:1", tell).await.unwrap().image;
            let image = image.layers.iter().map(|layer| layer.chain_id.hex().to_owned());
            let image: Vec<String> = image.collect();
            assert_eq!(image.len(), layers);
            for chain in image {
                assert!(store.root().join("images/layers").join(&chain).join("fs").is_dir(), "{chain}");
            }
            assert_eq!(*unpacked_later.lock().unwrap(), 0, "{}", path.display());
            assert!(*reading.lock().unwrap() > 0);
        }
    });
}

/// Many entries with long names, and a file larger than the limit.
fn large(path: &Path) {
    let out = flate2::write::GzEncoder::new(fs::File::create(path).unwrap(), flate2::Compression::fast());
    let mut tar = tar::Builder::new(out);
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o755);
    header.set_size(0);
    header.set_entry_type(tar::EntryType::Directory);
    for number in 0..5_000 {
        let name = format!("etc/{number:06}-{}/", "d".repeat(60));
        tar.append_data(&mut header, name, std::io::empty()).unwrap();
    }
    header.set_entry_type(tar::EntryType::Regular);
    for number in 0..5_000 {
        tar.append_data(&mut header, format!("etc/{number:06}"), std::io::empty()).unwrap();
    }
    let size = 200 << 20;
    header.set_size(size);
    tar.append_data(&mut header, "etc/large", std::io::Read::take(std::io::repeat(b'x'), size)).unwrap();
    tar.into_inner().unwrap().finish().unwrap().flush().unwrap();
}

fn peak_kb(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0");
    line.trim().trim_end_matches("kB").trim().parse().unwrap_or(0)
}

/// Those of all threads.
fn children(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// The most memory that the program and its workers had, as long as they were looked at.
fn watch(mut child: Child) -> (u64, u64, bool) {
    let (mut own, mut workers) = (0, 0);
    loop {
        own = peak_kb(child.id()).max(own);
        workers = children(child.id()).into_iter().map(peak_kb).max().unwrap_or(0).max(workers);
        if let Some(status) = child.try_wait().unwrap() {
            return (own, workers, status.success());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn memory_does_not_grow_with_the_image() {
    run(OverlayDriver::Auto, async |store| {
        let path = store.beside("large.tar.gz");
        large(&path);
        let mut import: Command = store.cli(&["image", "import", "large.tar.gz", "--ref", "large:1"]);
        let child = import.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let (own, workers, done) = tokio::task::block_in_place(|| watch(child));
        assert!(done);
        assert!((1..MOST_KB).contains(&own), "{own} kB");
        assert!((1..MOST_KB).contains(&workers), "{workers} kB");
    });
}
