//! Layers and archives that aim at files of this host by their true absolute names: none of them is touched or read.
#![forbid(unsafe_code)]

use std::ffi::OsString;

use serde_json::json;
use vesselrt_fixtures::archive::{Archive, Item};

use crate::shell::Shell;
use crate::testkit::canary::Canary;
use crate::testkit::image::{base_tar, oci_layout};

/// Bytes that a name in a header may have.
const NAME: usize = 100;

/// Every way in which an archive has ever led its unpacker to `victim`, an absolute path without its first slash.
fn aimed(victim: &str) -> Vec<(&'static str, Vec<Item>)> {
    // As far up as the name field of a header allows.
    let up = "../".repeat(12.min((NAME - "/secret".len()).saturating_sub(victim.len()) / "../".len()));
    let mut all = by_paths(victim, &up);
    all.extend(through_links(victim, &up));
    all
}

fn link(target: String) -> Item {
    Item::symlink("l", target)
}

fn by_paths(victim: &str, up: &str) -> Vec<(&'static str, Vec<Item>)> {
    let at = |name: &str| format!("{victim}/{name}");
    let absolute = || link(format!("/{victim}"));
    vec![
        ("an absolute name", vec![Item::file(format!("/{}", at("hello")), "evil")]),
        ("a name with many slashes", vec![Item::file(format!("//.//{}", at("hello")), "evil")]),
        ("a name that climbs", vec![Item::file(format!("{up}{}", at("hello")), "evil")]),
        (
            "a file through a link",
            vec![absolute(), Item::file("l/hello", "evil"), Item::file("l/new", "evil")],
        ),
        (
            "a file through a link that climbs",
            vec![link(format!("{up}{victim}")), Item::file("l/hello", "evil")],
        ),
        (
            "a file through /proc/self/root",
            vec![link(format!("/proc/self/root/{victim}")), Item::file("l/hello", "evil")],
        ),
        (
            "a file through /proc/1/cwd",
            vec![link(format!("/proc/1/cwd/{up}{victim}")), Item::file("l/hello", "evil")],
        ),
        (
            "a chain of links",
            vec![
                Item::symlink("a", ".."),
                Item::symlink("a/b", "../.."),
                Item::symlink("a/b/c", format!("{up}{victim}")),
                Item::file("c/hello", "evil"),
                Item::file("a/b/c/secret", "evil"),
            ],
        ),
    ]
}

fn through_links(victim: &str, up: &str) -> Vec<(&'static str, Vec<Item>)> {
    let at = |name: &str| format!("{victim}/{name}");
    let absolute = || link(format!("/{victim}"));
    let secret = || link(format!("/{victim}/secret"));
    let whiteout = |name: &str| Item::file(name, "");
    vec![
        ("a directory over a link", vec![absolute(), Item::dir("l").mode(0), Item::file("l/hello", "evil")]),
        ("a directory through a link", vec![absolute(), Item::dir("l/dir").mode(0o777), Item::dir("l/made")]),
        ("a file over a link to a file", vec![secret(), Item::file("l", "evil").mode(0o4777)]),
        (
            "a hard link to a link",
            vec![
                secret(),
                Item::hardlink("h", "l").mode(0o4777),
                Item::file("h2", "x"),
                Item::hardlink("h2", "l"),
            ],
        ),
        ("a hard link to a file", vec![Item::hardlink("h", format!("/{}", at("secret")))]),
        ("a hard link through a link", vec![absolute(), Item::hardlink("h", "l/secret")]),
        ("a hard link that climbs", vec![Item::hardlink("h", format!("{up}{}", at("secret")))]),
        (
            "whiteouts through a link",
            vec![absolute(), whiteout("l/.wh.hello"), whiteout("l/.wh.dir"), whiteout("l/.wh..wh..opq")],
        ),
        (
            "a fifo and a device through a link",
            vec![absolute(), Item::new(b'6', "l/hello"), Item::device(b'3', "l/x", 1, 3)],
        ),
    ]
}

/// What is said about the paths below which a secret could have come in.
fn tells_nothing(shell: &Shell, canary: &Canary, id: &str, what: &str) {
    for path in ["/h", "/l", "/l/secret", "/c/secret", "/a/b/c/secret"] {
        let done = shell.call(["fs", "cat", id, path]).run();
        assert!(!canary.is_told_by(&done.stdout) && !canary.is_told_by(&done.stderr), "{what}: {path}");
    }
}

#[test]
fn no_image_reaches_a_file_of_the_host_by_its_name() {
    let shell = Shell::empty();
    let canary = Canary::new(shell.store());
    let victim = canary.victim().to_str().unwrap().trim_start_matches('/').to_owned();
    let mut taken = 0;
    for (what, items) in aimed(&victim) {
        let tar = Archive::new().all(&items).finish();
        let layout = shell.beside("layout");
        oci_layout(&layout, &[base_tar().to_vec(), tar.clone()], &json!({"Env": ["PATH=/bin"]}));
        let rootfs = shell.file("rootfs.tar", &tar);
        for source in [&layout, &rootfs] {
            let done = shell.call(["image", "import"]).arg(source).args(["--ref", "aimed"]).run();
            assert!(
                matches!(done.code, 0 | 125) && !done.complaint().contains("panicked"),
                "{what}: {done:?}"
            );
            canary.is_unharmed();
            if done.code == 0 && source == &layout {
                shell.call(["create", "aimed", "--id", "v"]).succeeds();
                tells_nothing(&shell, &canary, "v", what);
                shell.call(["rm", "v"]).succeeds();
                taken += 1;
            }
            shell.call(["image", "rm", "aimed"]).run();
        }
        std::fs::remove_dir_all(layout).unwrap();
        canary.is_unharmed();
    }
    assert!(taken > 5, "{taken}");
    shell.assert_idle();
}

#[test]
fn no_archive_that_is_copied_in_reaches_a_file_of_the_host_by_its_name() {
    let shell = Shell::new();
    let canary = Canary::new(shell.store());
    let victim = canary.victim().to_str().unwrap().trim_start_matches('/').to_owned();
    for (what, items) in aimed(&victim) {
        let id = shell.vessel();
        let tar = Archive::new().all(&items).finish();
        let to = OsString::from(format!("{id}:/"));
        let done = shell.call(["cp", "-"]).arg(to).input(tar).run();
        assert!(matches!(done.code, 0 | 125) && !done.complaint().contains("panicked"), "{what}: {done:?}");
        canary.is_unharmed();
        tells_nothing(&shell, &canary, &id, what);
        shell.call(["rm", &id]).succeeds();
        canary.is_unharmed();
    }
    shell.assert_idle();
}
