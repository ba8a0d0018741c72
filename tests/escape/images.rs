//! Images whose mount points are links to the host: refused or harmless.
#![forbid(unsafe_code)]

use serde_json::json;

use crate::shell::Shell;
use crate::testkit::canary::Canary;
use crate::testkit::image::{Layer, base_tar, oci_layout};

/// What takes the place of a mount point.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Place {
    /// A link to the canary by its absolute path, which the image has too.
    Absolute,
    /// The same with many `..`.
    Upwards,
    /// A link to nothing.
    Dangling,
    /// A link to a directory of the image.
    Inside,
    /// A regular file.
    File,
}

const PLACES: [Place; 5] = [Place::Absolute, Place::Upwards, Place::Dangling, Place::Inside, Place::File];

/// An image with `place` at `path`.
fn import(shell: &Shell, path: &str, place: Place, victim: &str) -> i32 {
    let victim = victim.trim_start_matches('/');
    let mut layer = Layer::new();
    let parts: Vec<&str> = victim.split('/').collect();
    for n in 1..=parts.len() {
        layer = layer.dir(&parts[..n].join("/"), 0o755, 0);
    }
    layer = layer.file(&format!("{victim}/hello"), 0o644, 0, b"of the image").dir("other", 0o755, 0);
    layer = match place {
        Place::Absolute => layer.symlink(path, &format!("/{victim}")),
        Place::Upwards => layer.symlink(path, &format!("../../../../../../../../{victim}")),
        Place::Dangling => layer.symlink(path, "/nowhere/at/all"),
        Place::Inside => layer.symlink(path, "/other"),
        Place::File => layer.file(path, 0o644, 0, b"in the way"),
    };
    let layout = shell.beside("layout");
    oci_layout(&layout, &[base_tar().to_vec(), layer.finish()], &json!({"Env": ["PATH=/bin"]}));
    let code = shell.call(["image", "import"]).arg(&layout).args(["--ref", "trap"]).run().code;
    std::fs::remove_dir_all(layout).unwrap();
    code
}

/// Runs it with a mount point replaced in every way; the exit codes.
fn tried(path: &str) -> Vec<(Place, i32)> {
    let shell = Shell::empty();
    let canary = Canary::new(shell.store());
    let victim = canary.victim().to_str().unwrap().to_owned();
    let mut codes = Vec::new();
    for place in PLACES {
        assert_eq!(import(&shell, path, place, &victim), 0, "{path} {place:?}");
        let script = "echo x > /dev/null; echo x > /dev/mine; echo y > /etc/hosts; echo z > /etc/resolv.conf; mkdir /dev/shm/x; true";
        let done = shell.call(["run", "--rm", "trap", "--", "sh", "-c", script]).run();
        assert!(!done.complaint().contains("panicked"), "{done:?}");
        assert!(matches!(done.code, 0 | 125), "{path} {place:?}: {done:?}");
        codes.push((place, done.code));
        canary.is_unharmed();
    }
    shell.assert_idle();
    codes
}

#[test]
fn links_in_place_of_dev_proc_and_sys_are_refused() {
    for path in ["dev", "proc", "sys"] {
        let codes = tried(path);
        assert!(codes.iter().all(|(_, code)| *code == 125), "{path}: {codes:?}");
    }
}

#[test]
fn links_in_place_of_etc_are_harmless() {
    let codes = tried("etc");
    assert!(codes.iter().any(|(_, code)| *code == 125), "{codes:?}");
}

#[test]
fn links_in_place_of_generated_files_are_harmless() {
    for path in ["etc/resolv.conf", "etc/hosts", "etc/hostname"] {
        let codes = tried(path);
        // Real images have a link there that leads nowhere.
        assert!(
            codes.contains(&(Place::Dangling, 0)) && codes.contains(&(Place::File, 0)),
            "{path}: {codes:?}"
        );
    }
}

#[test]
fn a_link_in_place_of_the_working_directory_stays_inside() {
    let shell = Shell::empty();
    let canary = Canary::new(shell.store());
    let victim = canary.victim().to_str().unwrap().to_owned();
    for place in PLACES {
        assert_eq!(import(&shell, "work", place, &victim), 0);
        let created = shell.call(["create", "trap", "--workdir", "/work/sub", "--id", "w"]).run();
        if created.code == 0 {
            shell.exec("w", ["sh", "-c", "echo x > hello; touch made"]).run();
            shell.call(["fs", "write", "w", "written"]).input("x").run();
            shell.call(["rm", "w"]).succeeds();
        }
        canary.is_unharmed();
    }
}

#[test]
fn mount_points_that_become_links_while_it_runs_are_refused() {
    let shell = Shell::new();
    let canary = Canary::new(shell.store());
    let victim = canary.victim();
    for path in ["/dev", "/proc", "/sys"] {
        let id = shell.vessel();
        shell.call(["fs", "rm", "-r", &id, path]).run();
        let link = format!("mkdir -p {0}; ln -s {0} /work{path}", victim.display());
        shell.sh(&id, &link);
        shell.call(["fs", "mv", &id, &format!("/work{path}"), path]).succeeds();
        assert_eq!(shell.exec(&id, ["true"]).run().code, 125, "{path}");
        shell.call(["snapshot", "create", &id]).succeeds();
        shell.call(["rm", &id]).succeeds();
    }
    canary.is_unharmed();
    shell.assert_idle();
}
