use std::fs;
use std::io::{Seek, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use super::*;
use crate::files::copy_layer;

/// A tree `fs` with `files` of so many bytes in a temporary directory, and a directory for its copy.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new(files: &[(&str, usize)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, size) in files {
            let path = dir.path().join("fs").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, vec![b'a'; *size]).unwrap();
        }
        fs::create_dir(dir.path().join("to")).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn open(&self, name: &str) -> OwnedFd {
        let path = self.path(name);
        rustix::fs::open(&path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap()
    }

    fn copy_ahead(&self) {
        copy_ahead(self.open(".").as_fd(), c"fs", self.open("to").as_fd()).unwrap();
    }

    /// Numbers of the files that were copied ahead and are still there.
    fn ahead(&self) -> Vec<u64> {
        let Ok(entries) = fs::read_dir(self.path("to/ahead")) else { return Vec::new() };
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter_map(|name| name.parse().ok()).collect()
    }

    fn copy(&self) {
        copy_layer(self.open(".").as_fd(), c"fs", self.open("to").as_fd()).unwrap();
    }

    fn same(&self, name: &str) {
        let (from, to) = (self.path("fs").join(name), self.path("to/fs").join(name));
        assert!(fs::read(&from).unwrap() == fs::read(&to).unwrap(), "{name}");
        let (from, to) = (fs::metadata(from).unwrap(), fs::metadata(to).unwrap());
        assert_eq!((from.mode(), from.mtime(), from.mtime_nsec()), (to.mode(), to.mtime(), to.mtime_nsec()));
    }
}

/// Whether this file system is one where files are copied ahead.
fn applies(place: &Place) -> bool {
    let magic = rustix::fs::fstatfs(place.open(".")).unwrap().f_type;
    WRITE_BACK.contains(&(u64::try_from(magic).unwrap() & 0xffff_ffff)) && !clones(place.dir.path())
}

fn clones(dir: &Path) -> bool {
    let (a, b) = (dir.join("a"), dir.join("b"));
    fs::write(&a, "x").unwrap();
    let cloned = rustix::fs::ioctl_ficlone(File::create(&b).unwrap(), File::open(&a).unwrap()).is_ok();
    fs::remove_file(a).unwrap();
    fs::remove_file(b).unwrap();
    cloned
}

const SIZE: usize = LARGE as usize;

#[test]
fn what_did_not_change_is_taken_and_what_did_is_copied_again() {
    let place = Place::new(&[("same", SIZE), ("d/e/changed", SIZE), ("small", SIZE - 1), ("touched", SIZE)]);
    if !applies(&place) {
        return;
    }
    let number = |name: &str| fs::metadata(place.path("fs").join(name)).unwrap().ino();
    place.copy_ahead();
    let mut expected = vec![number("same"), number("d/e/changed"), number("touched")];
    let mut found = place.ahead();
    expected.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, expected, "large files are copied ahead");
    let file = File::options().write(true).open(place.path("fs/d/e/changed")).unwrap();
    let before = fs::metadata(place.path("fs/d/e/changed")).unwrap().modified().unwrap();
    file.write_all_at(b"b", 7).unwrap();
    // As a program would that hides what it did.
    file.set_modified(before).unwrap();
    place.copy();
    for name in ["same", "d/e/changed", "small", "touched"] {
        place.same(name);
    }
    assert_eq!(place.ahead(), [number("d/e/changed")], "the others were moved to their places");
}

#[test]
fn another_file_under_the_name_is_not_mistaken() {
    let place = Place::new(&[("a", SIZE), ("b", SIZE)]);
    if !applies(&place) {
        return;
    }
    place.copy_ahead();
    fs::remove_file(place.path("fs/a")).unwrap();
    fs::rename(place.path("fs/b"), place.path("fs/a")).unwrap();
    fs::write(place.path("fs/b"), vec![b'c'; SIZE]).unwrap();
    fs::hard_link(place.path("fs/a"), place.path("fs/link")).unwrap();
    place.copy();
    for name in ["a", "b", "link"] {
        place.same(name);
    }
    let (a, link) = (place.path("to/fs/a"), place.path("to/fs/link"));
    assert_eq!(fs::metadata(a).unwrap().ino(), fs::metadata(link).unwrap().ino());
}

#[test]
fn what_is_written_while_it_is_copied_ahead_is_never_lost() {
    let place = Place::new(&[("busy", 4 * SIZE), ("calm", 4 * SIZE)]);
    let path = place.path("fs/busy");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut file = File::options().write(true).open(&path).unwrap();
            let mut round = 0u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                file.seek(std::io::SeekFrom::Start((round * 4096) % (4 * SIZE as u64))).unwrap();
                file.write_all(&round.to_ne_bytes()).unwrap();
                round += 1;
            }
        });
        place.copy_ahead();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        writer.join().unwrap();
    });
    place.copy();
    place.same("busy");
    place.same("calm");
}

#[test]
fn a_tree_that_goes_away_meanwhile_is_no_error() {
    let files: Vec<String> = (0..200).map(|n| format!("d{}/f{n}", n % 20)).collect();
    let sizes: Vec<(&str, usize)> = files.iter().map(|name| (name.as_str(), 10)).collect();
    let place = Place::new(&sizes);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..20 {
                fs::remove_dir_all(place.path(&format!("fs/d{n}"))).unwrap();
            }
        });
        place.copy_ahead();
    });
}
