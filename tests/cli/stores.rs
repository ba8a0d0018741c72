//! Where a store may be, what it looks like to others, and what happens when it cannot be written.
#![forbid(unsafe_code)]

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::shell::{BASE, Call, Shell, processes_in};
use crate::testkit::{self, Cap, need};

fn vesselrt(root: &Path) -> Call {
    Call::new(testkit::bin()).arg("--root").arg(root)
}

/// Imports, creates, runs, snapshots and restores in the store at `root`, then removes it all.
fn works(root: &Path, tar: &Path) {
    let call = || vesselrt(root);
    call().args(["image", "import"]).arg(tar).args(["--ref", BASE]).succeeds();
    let id = call().args(["create", BASE, "--workdir", "/work"]).succeeds().line();
    call().args(["exec", &id, "--", "sh", "-c", "echo one > f"]).succeeds();
    let snapshot = call().args(["snapshot", "create", &id]).succeeds().line();
    call().args(["exec", &id, "--", "rm", "f"]).succeeds();
    call().args(["snapshot", "restore", &id, &snapshot]).succeeds();
    assert_eq!(call().args(["fs", "cat", &id, "f"]).succeeds().text(), "one\n");
    call().args(["rm", &id]).succeeds();
    call().args(["image", "rm", BASE]).succeeds();
    assert!(processes_in(root).is_empty());
}

#[test]
fn the_variable_names_the_store_and_the_flag_wins() {
    let shell = Shell::new();
    let id = shell.vessel();
    let other = shell.beside("other");
    let list = |call: Call| call.in_json().arg("ls").succeeds().json().as_array().map(Vec::len);
    let bin = || Call::new(testkit::bin());
    assert_eq!(list(bin().env("VESSELRT_ROOT", shell.root())), Some(1));
    assert_eq!(list(vesselrt(shell.root()).env("VESSELRT_ROOT", &other)), Some(1));
    assert!(!other.exists());
    assert_eq!(list(bin().env("VESSELRT_ROOT", &other)), Some(0));
    shell.call(["rm", &id]).succeeds();
}

#[test]
fn the_default_store_is_below_the_data_directory_of_the_user() {
    let shell = Shell::empty();
    let home = shell.beside("home");
    std::fs::create_dir(&home).unwrap();
    let ls = || Call::new(testkit::bin()).arg("ls").without_env("XDG_RUNTIME_DIR").env("HOME", &home);
    ls().without_env("XDG_DATA_HOME").succeeds();
    assert!(home.join(".local/share/vesselrt").is_dir());
    let data = shell.beside("data");
    ls().env("XDG_DATA_HOME", &data).succeeds();
    assert!(data.join("vesselrt").is_dir());
}

#[test]
fn no_home_is_needed_when_the_store_is_named() {
    let shell = Shell::new();
    let id = shell.vessel();
    let bare = |args: &[&str]| {
        let call = Call::new("env")
            .args(["-i", "VESSELRT_IDLE=0"])
            .arg(testkit::bin())
            .arg("--root")
            .arg(shell.root());
        call.args(args).run()
    };
    let done = bare(&["exec", &id, "--", "echo", "bare"]);
    assert_eq!((done.code, done.text().as_str()), (0, "bare\n"), "{done:?}");
}

#[test]
fn stores_have_any_path() {
    let shell = Shell::empty();
    let tar = shell.base_tar();
    let long = "long-".repeat(40);
    for name in [
        " space",
        "col:on",
        "com,ma",
        "back\\slash",
        "new\nline",
        "quo\"te'",
        "gr\u{fc}n",
        "lower=dir,x:y",
        &long,
    ] {
        works(&shell.beside(name), &tar);
    }
}

#[test]
fn a_store_path_that_is_not_text_is_refused() {
    let shell = Shell::empty();
    let root = shell.beside("").join(std::ffi::OsStr::from_bytes(b"\xff\xfe"));
    vesselrt(&root).arg("ls").refused("invalid_argument");
    assert!(!root.exists());
}

#[test]
fn a_store_path_may_be_longer_than_a_socket_address_or_a_mount_option() {
    let shell = Shell::empty();
    let tar = shell.base_tar();
    for levels in [1, 14] {
        let root: PathBuf = std::iter::repeat_n("d".repeat(200), levels)
            .fold(shell.beside("deep"), |dir, name| dir.join(name));
        std::fs::create_dir_all(&root).unwrap();
        works(&root.join("store"), &tar);
    }
}

#[test]
fn a_relative_store_is_found_from_where_the_call_was_made() {
    let shell = Shell::empty();
    let tar = shell.base_tar();
    let dir = shell.beside("");
    let call = || vesselrt(Path::new("relative/store")).dir(&dir);
    call().args(["image", "import"]).arg(&tar).args(["--ref", BASE]).succeeds();
    let id = call().args(["create", BASE]).succeeds().line();
    assert_eq!(call().args(["exec", &id, "--", "echo", "x"]).succeeds().text(), "x\n");
    assert!(dir.join("relative/store/vessels").join(&id).is_dir());
}

#[test]
fn a_store_behind_a_symlink_works() {
    let shell = Shell::empty();
    let tar = shell.base_tar();
    std::fs::create_dir(shell.beside("real")).unwrap();
    std::os::unix::fs::symlink("real", shell.beside("link")).unwrap();
    works(&shell.beside("link").join("store"), &tar);
}

/// Everything of the store that another user could open, by mode.
fn open_to_others(root: &Path) -> Vec<(PathBuf, u32)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root).unwrap().flatten() {
        let Ok(meta) = entry.path().symlink_metadata() else { continue };
        if meta.permissions().mode() & 0o077 != 0 && !meta.is_symlink() {
            found.push((entry.path(), meta.permissions().mode()));
        }
    }
    found
}

#[test]
fn a_store_is_closed_to_others_whatever_the_umask() {
    for umask in ["000", "022", "777"] {
        let shell = Shell::empty();
        let tar = shell.base_tar();
        let with_umask = |call: Call| call.through(&format!("umask {umask}; exec \"$@\"")).succeeds();
        with_umask(shell.call(["image", "import"]).arg(&tar).args(["--ref", BASE]));
        let id = with_umask(shell.call(["create", BASE, "--workdir", "/work"])).line();
        with_umask(shell.call(["start", &id]));
        let meta = std::fs::metadata(shell.root()).unwrap();
        assert_eq!(meta.permissions().mode() & 0o7777, 0o700, "umask {umask}");
        assert_eq!(open_to_others(&shell.root().join("vessels")), [], "umask {umask}");
        let socket = shell.root().join("vessels").join(&id).join("shim.sock");
        assert_eq!(std::fs::metadata(socket).unwrap().permissions().mode() & 0o077, 0, "umask {umask}");
        with_umask(shell.exec(&id, ["sh", "-c", "umask; echo x > f; mkdir d; stat -c %a f d . /"]));
        let modes = shell.sh(&id, "umask; echo x > g; mkdir e; stat -c %a g e . /");
        assert_eq!(modes, "0022\n644\n755\n755\n755\n", "umask {umask}");
        with_umask(shell.call(["snapshot", "create", &id]));
        with_umask(shell.call(["stop", &id]));
        assert_eq!(shell.sh(&id, "cat f"), "x\n");
    }
}

#[test]
fn a_store_that_everybody_could_write_is_refused() {
    let shell = Shell::new();
    let open = |mode| std::fs::set_permissions(shell.root(), std::fs::Permissions::from_mode(mode)).unwrap();
    for mode in [0o777, 0o1777, 0o707] {
        open(mode);
        let error = shell.call(["ls"]).refused("permission_denied");
        assert!(error["remedy"].as_str().unwrap_or_default().contains("chmod"), "{error}");
    }
    open(0o700);
    shell.call(["ls"]).succeeds();
    let new = shell.beside("new");
    std::fs::create_dir(&new).unwrap();
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o777)).unwrap();
    vesselrt(&new).arg("ls").succeeds();
    assert_eq!(std::fs::metadata(&new).unwrap().permissions().mode() & 0o7777, 0o700);
}

#[test]
fn a_store_of_somebody_else_is_refused() {
    let shell = Shell::empty();
    let root = if Cap::Root.is_there() {
        let root = shell.beside("theirs");
        std::fs::create_dir(&root).unwrap();
        std::os::unix::fs::chown(&root, Some(1001), Some(1001)).unwrap();
        root
    } else {
        PathBuf::from("/usr")
    };
    let before = std::fs::metadata(&root).unwrap().mtime_nsec();
    vesselrt(&root).arg("ls").refused("permission_denied");
    assert_eq!(std::fs::metadata(&root).unwrap().mtime_nsec(), before);
}

#[test]
fn a_directory_that_is_no_store_is_left_alone() {
    let shell = Shell::empty();
    let root = shell.beside("documents");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(root.join("thesis.txt"), "years of work").unwrap();
    std::fs::create_dir(root.join("trash")).unwrap();
    std::fs::write(root.join("trash/letter"), "dear").unwrap();
    vesselrt(&root).arg("ls").exits(125);
    assert_eq!(std::fs::read(root.join("trash/letter")).unwrap(), b"dear");
    assert_eq!(std::fs::read_dir(&root).unwrap().count(), 2);
    let file = shell.file("file", b"x");
    vesselrt(&file).arg("ls").exits(125);
    vesselrt(&shell.beside("file/below")).arg("ls").exits(125);
}

#[test]
fn a_store_that_cannot_be_written_answers_and_loses_nothing() {
    let shell = Shell::new();
    let id = shell.vessel();
    shell.sh(&id, "echo kept > f");
    // Root writes anywhere: only a mount stops it.
    let script = "mount --bind \"$ROOT\" \"$ROOT\" && mount -o remount,bind,ro \"$ROOT\" && exec \"$@\"";
    let read_only = |call: Call| match testkit::unprivileged() {
        false => {
            let words = call.words();
            let inner = Call::new("unshare").args(["-m", "sh", "-c", script, "sh"]).args(words);
            inner.env("ROOT", shell.root()).run()
        }
        true => call.run(),
    };
    let lock = |mode| {
        if testkit::unprivileged() {
            let own = [
                format!("vessels/{id}"),
                format!("data/vessels/{id}"),
                format!("data/vessels/{id}/snapshots"),
            ];
            let shared = ["", "vessels", "data", "images", "data/vessels"];
            for dir in shared.into_iter().chain(own.iter().map(String::as_str)) {
                let _ =
                    std::fs::set_permissions(shell.root().join(dir), std::fs::Permissions::from_mode(mode));
            }
        }
    };
    lock(0o500);
    let calls = [
        shell.call(["create", BASE]),
        shell.call(["snapshot", "create", &id]),
        shell.call(["image", "import"]).arg(shell.base_tar()).args(["--ref", "other"]),
        shell.call(["rm", &id]),
    ];
    let done: Vec<_> = calls.into_iter().map(read_only).collect();
    lock(0o700);
    for done in done {
        assert_eq!(done.code, 125, "{done:?}");
        assert!(!done.complaint().contains("panicked"), "{done:?}");
    }
    assert_eq!(shell.sh(&id, "cat f"), "kept\n");
    shell.assert_idle();
}

#[test]
fn a_full_store_says_so_and_works_again_when_there_is_room() {
    if !need(&[Cap::Root]) {
        return;
    }
    let shell = Shell::empty();
    let tar = shell.base_tar();
    let root = shell.beside("small");
    std::fs::create_dir(&root).unwrap();
    let script = r#"
        set -eu
        mount -t tmpfs -o size=24m,mode=700 none "$ROOT"
        v() { "$BIN" --root "$ROOT" "$@"; }
        v image import "$TAR" --ref base >/dev/null
        id=$(v create base --workdir /work)
        v exec "$id" -- sh -c 'echo kept > f; dd if=/dev/zero of=big bs=1M count=64 2>/dev/null || true'
        set +e
        v snapshot create "$id" >/dev/null; echo "snapshot $?"
        v image import "$TAR" --ref again >/dev/null; echo "import $?"
        head -c 1000000 /dev/zero | v fs write "$id" f >/dev/null; echo "write $?"
        set -e
        echo "content $(v fs cat "$id" f)"
        v fs rm "$id" big >/dev/null
        snap=$(v snapshot create "$id")
        v exec "$id" -- rm f
        v snapshot restore "$id" "$snap" >/dev/null
        echo "after $(v exec "$id" -- cat f) $(v snapshot ls "$id" | grep -c "$snap")"
        v rm "$id" >/dev/null
        test -z "$(ls -A "$ROOT/vessels")"
    "#;
    let done = Call::new("unshare").args(["-m", "sh", "-c", script]).env("ROOT", &root).env("TAR", &tar);
    let done = done.env("BIN", testkit::bin()).succeeds();
    assert_eq!(done.text(), "snapshot 125\nimport 125\nwrite 125\ncontent kept\nafter kept 1\n", "{done:?}");
    assert!(done.complaint().to_lowercase().contains("no space left"), "{done:?}");
}

#[test]
fn few_descriptors_are_an_error_or_enough_but_never_a_hang() {
    let shell = Shell::new();
    let id = shell.vessel();
    for limit in [8, 10, 12, 16, 24, 64] {
        let call = shell.exec(&id, ["true"]).through(&format!("ulimit -n {limit}; exec \"$@\"")).run();
        assert!(matches!(call.code, 0 | 125), "{limit}: {call:?}");
    }
    assert_eq!(shell.sh(&id, "echo alive"), "alive\n");
    shell.assert_idle();
}
