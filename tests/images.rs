//! Images from archives that other tools made, and from archives that lie.
#![forbid(unsafe_code)]

mod corrupt;
mod debian;
mod labels;
mod layers;
mod passing;
mod trees;

use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::shell::{Call, Shell};
use crate::testkit::image::{BASE_TIME, Layer, base_tar, oci_layout};
use crate::testkit::{Cap, need};

/// Runs a program that makes something for a test.
pub(crate) fn tool(program: &str) -> Call {
    Call::new(program)
}

/// An image as each kind of archive that tools make of it.
pub(crate) struct Archives {
    pub(crate) layout: PathBuf,
    pub(crate) docker: PathBuf,
    pub(crate) oci: PathBuf,
}

impl Archives {
    /// skopeo makes them of an OCI layout.
    pub(crate) fn of(layout: &Path, tag: &str, dir: &Path) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let made =
            Self { layout: layout.to_path_buf(), docker: dir.join("docker.tar"), oci: dir.join("oci.tar") };
        let source = format!("oci:{}:{tag}", layout.display());
        for target in [
            format!("docker-archive:{}:the/image:1", made.docker.display()),
            format!("oci-archive:{}:one", made.oci.display()),
        ] {
            let policy = ["--insecure-policy", "copy", "--quiet"];
            tool("skopeo").args(policy).args([&source, &target]).succeeds();
        }
        made
    }

    fn each(&self) -> [&Path; 3] {
        [&self.layout, &self.docker, &self.oci]
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

/// Imports an archive and runs a vessel of it; what the image says in `/srv/a`.
fn says(shell: &Shell, path: &Path, reference: &str) -> String {
    shell.import(path, reference);
    let said = shell.call(["run", "--rm", reference, "--", "cat", "/srv/a"]).succeeds().text();
    shell.call(["image", "rm", reference]).succeeds();
    said
}

fn two_layers(shell: &Shell) -> PathBuf {
    let layout = shell.beside("layout");
    let top = Layer::new().file("srv/a", 0o644, 0, b"of the top layer\n").finish();
    oci_layout(&layout, &[base_tar().to_vec(), top], &json!({"Env": ["PATH=/bin"]}));
    layout
}

#[test]
fn every_kind_of_archive_runs_plain_and_compressed() {
    if !need(&[Cap::Skopeo]) {
        return;
    }
    let shell = Shell::empty();
    let archives = Archives::of(&two_layers(&shell), "latest", &shell.beside("made"));
    for path in archives.each() {
        assert_eq!(says(&shell, path, "some/image"), "of the top layer\n", "{path:?}");
    }
    for path in [&archives.docker, &archives.oci] {
        let bytes = std::fs::read(path).unwrap();
        // What it is called says nothing about what is in it.
        for packed in [shell.file("packed.zip", &gzip(&bytes)), shell.file("packed.gz", &zstd(&bytes))] {
            assert_eq!(says(&shell, &packed, "some/image"), "of the top layer\n", "{packed:?} of {path:?}");
        }
    }
    shell.assert_idle();
}

#[test]
fn root_file_systems_run_plain_and_compressed() {
    let shell = Shell::empty();
    let tar = base_tar();
    for (name, bytes) in [("plain", tar.to_vec()), ("gz", gzip(tar)), ("zst", zstd(tar))] {
        assert_eq!(says(&shell, &shell.file(name, &bytes), "rootfs"), "a\n", "{name}");
    }
    let members = [gzip(&tar[..70_000]), gzip(&tar[70_000..])].concat();
    assert_eq!(says(&shell, &shell.file("members.gz", &members), "rootfs"), "a\n");
    let frames = [zstd(&tar[..70_000]), zstd(&tar[70_000..])].concat();
    assert_eq!(says(&shell, &shell.file("frames.zst", &frames), "rootfs"), "a\n");
}

#[test]
fn a_directory_is_a_root_file_system() {
    let shell = Shell::empty();
    let dir = shell.beside("rootfs");
    std::fs::create_dir(&dir).unwrap();
    let skip = ["--exclude=srv/sub/c", "--exclude=home/user", "-C"];
    tool("tar").args(["-xpf"]).arg(shell.base_tar()).args(skip).arg(&dir).succeeds();
    shell.import(&dir, "dir");
    let id = shell.call(["create", "dir"]).succeeds().line();
    assert_eq!(
        shell.sh(&id, "cat /srv/a /etc/motd; stat -c '%a %u %Y' /tmp"),
        format!("a\nthe base image\n1777 0 {BASE_TIME}\n")
    );
    shell.sh(&id, "rm -rf /srv; echo changed > /etc/motd");
    assert_eq!(std::fs::read(dir.join("etc/motd")).unwrap(), b"the base image\n");
    assert!(dir.join("srv/a").exists());
}

#[test]
fn the_archive_of_an_unknown_reference_is_found_in_the_data_directory() {
    let shell = Shell::empty();
    shell.call(["ls"]).succeeds();
    for (place, bytes) in [
        ("docker.io/library/plain:latest.tar", base_tar().to_vec()),
        ("docker.io/some/packed:2.tar.gz", gzip(base_tar())),
        ("localhost/third:x.tar.zst", zstd(base_tar())),
    ] {
        let path = shell.root().join("data/images").join(place);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    for reference in ["plain", "some/packed:2", "localhost/third:x"] {
        let id = shell.call(["create", reference]).succeeds().line();
        assert_eq!(shell.sh(&id, "cat /srv/a"), "a\n", "{reference}");
    }
    shell.call(["create", "some/packed:3"]).refused("not_found");
    shell.assert_idle();
}

#[test]
fn a_layer_that_images_share_is_unpacked_once() {
    let shell = Shell::empty();
    let unpacked = || {
        let dir = std::fs::read_dir(shell.root().join("images/layers")).unwrap().flatten();
        dir.filter(|entry| entry.path().join("fs").is_dir()).count()
    };
    let layer = |text: &[u8]| Layer::new().file("srv/a", 0o644, 0, text).finish();
    for (name, text) in [("one", &b"one\n"[..]), ("two", b"two\n")] {
        let layout = shell.beside(name);
        oci_layout(&layout, &[base_tar().to_vec(), layer(text)], &json!({}));
        shell.import(&layout, name);
    }
    assert_eq!(unpacked(), 3);
    shell.call(["image", "rm", "one"]).succeeds();
    let id = shell.call(["create", "two"]).succeeds().line();
    assert_eq!(shell.sh(&id, "cat /srv/a"), "two\n");
    shell.call(["rm", &id]).succeeds();
}

#[test]
fn importing_again_under_a_name_moves_the_name() {
    let shell = Shell::new();
    let id = shell.vessel();
    let layout = shell.beside("layout");
    let top = Layer::new().file("srv/a", 0o644, 0, b"newer\n").finish();
    oci_layout(&layout, &[base_tar().to_vec(), top], &json!({}));
    shell.import(&layout, crate::shell::BASE);
    assert_eq!(shell.sh(&id, "cat /srv/a"), "a\n");
    assert_eq!(
        shell.call(["run", "--rm", crate::shell::BASE, "--", "cat", "/srv/a"]).succeeds().text(),
        "newer\n"
    );
}

#[test]
fn the_configuration_of_an_image_applies() {
    if !need(&[Cap::SubordinateIds]) {
        return;
    }
    let shell = Shell::empty();
    let layout = shell.beside("layout");
    let config =
        json!({"Env": ["PATH=/bin:/own", "A=image", "B=image"], "WorkingDir": "/srv/sub", "User": "1000:50"});
    oci_layout(&layout, &[base_tar().to_vec()], &config);
    shell.import(&layout, "configured");
    let id = shell.call(["create", "configured"]).succeeds().line();
    let script = "echo $A $B $PATH $(id -u):$(id -g) $(pwd)";
    let done = shell.call(["exec", "-e", "B=mine", &id, "--", "sh", "-c", script]).succeeds();
    assert_eq!(done.text(), "image mine /bin:/own 1000:50 /srv/sub\n");
    let root = shell.call(["exec", "-u", "root", "-w", "/", &id, "--", "sh", "-c", script]).succeeds();
    assert_eq!(root.text(), "image image /bin:/own 0:0 /\n");
}

#[test]
fn what_is_no_image_is_refused() {
    let shell = Shell::empty();
    let canary = crate::testkit::canary::Canary::new(shell.store());
    let dir = shell.beside("empty");
    std::fs::create_dir(&dir).unwrap();
    tool("mkfifo").arg(shell.beside("fifo")).succeeds();
    std::os::unix::fs::symlink(canary.victim().join("secret"), shell.beside("link")).unwrap();
    let paths = [
        shell.beside("missing"),
        shell.file("nothing", b""),
        shell.file("text", &b"this is no archive\n".repeat(100)),
        shell.file("zip", b"PK\x03\x04 and so on"),
        shell.file("xz", b"\xfd7zXZ\0 and so on"),
        shell.beside("fifo"),
        shell.beside("link"),
        PathBuf::from("/dev/null"),
        PathBuf::from("/dev/zero"),
        canary.victim().join("hello"),
    ];
    for path in paths {
        let done = shell.call(["image", "import"]).arg(&path).args(["--ref", "x"]).exits(125);
        assert!(!done.complaint().contains("panicked"), "{done:?}");
    }
    assert_eq!(shell.call(["image", "ls"]).in_json().succeeds().json(), json!([]));
    canary.is_unharmed();
    shell.assert_idle();
}
