use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use super::*;

fn origin(path: &Path) -> (bool, String, bool) {
    let origin = Origin::new(path).unwrap();
    let Source { is_dir, name, content } = origin.source().clone();
    (is_dir, name.into_string().unwrap(), content)
}

#[test]
fn what_is_named_is_found_under_its_real_name() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("d")).unwrap();
    fs::write(at("f"), "").unwrap();
    symlink("d", at("to d")).unwrap();
    symlink("nowhere", at("dangling")).unwrap();
    assert_eq!(origin(&at("d")), (true, "d".into(), false));
    assert_eq!(origin(&at("d/")), (true, "d".into(), false));
    assert_eq!(origin(&at("d/.")), (true, "d".into(), true));
    assert_eq!(origin(&at("f")), (false, "f".into(), false));
    assert_eq!(origin(&at("to d")), (false, "to d".into(), false));
    assert_eq!(origin(&at("to d/")), (true, "to d".into(), false));
    assert_eq!(origin(&at("dangling")), (false, "dangling".into(), false));
    assert!(!origin(&at("d/..")).2);
    assert_eq!(origin(Path::new("/")), (true, String::new(), true));
    assert_eq!(Origin::new(&at("gone")).unwrap_err().json()["error"]["kind"], "not_found");
}

#[test]
fn a_directory_is_packed_under_its_new_name_or_as_its_content() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("d")).unwrap();
    fs::write(dir.path().join("d/f"), "x").unwrap();
    let origin = Origin::new(&dir.path().join("d")).unwrap();
    let names = |stored: Option<&str>| {
        let mut archive = Vec::new();
        origin.pack(stored.map(OsStr::new), &mut archive).unwrap();
        let mut tar = tar::Archive::new(archive.as_slice());
        let names = tar.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string());
        names.collect::<Vec<_>>()
    };
    assert_eq!(names(Some("e")), ["e/", "e/f"]);
    assert_eq!(names(None), ["./", "f"]);
}

#[test]
fn a_symlink_left_by_an_earlier_copy_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("canary"), "alive").unwrap();
    symlink(outside.path(), dir.path().join("d")).unwrap();
    let target = Target::open(dir.path()).unwrap();
    assert!(target.directory(OsStr::new("d")).is_err());
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
}

#[test]
fn what_is_staged_and_not_published_disappears() {
    let dir = tempfile::tempdir().unwrap();
    let target = Target::open(dir.path()).unwrap();
    let staged = target.stage().unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    drop(staged);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn times_before_1970_are_kept() {
    let half = Duration::from_millis(500);
    for (time, seconds, nanos) in [
        (UNIX_EPOCH, 0, 0),
        (UNIX_EPOCH + half, 0, 500_000_000),
        (UNIX_EPOCH - half, -1, 500_000_000),
        (UNIX_EPOCH - Duration::from_secs(2), -2, 0),
    ] {
        let times = times(time).last_modification;
        assert_eq!((times.tv_sec, times.tv_nsec), (seconds, nanos));
    }
}
