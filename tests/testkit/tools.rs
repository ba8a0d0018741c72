//! Other people's container tools, each with a storage of its own.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Store;

/// What a program that must succeed writes. It runs beside the store, for three minutes at most.
#[track_caller]
pub(crate) fn tool(store: &Store, program: &str, args: &[&str]) -> String {
    let (ok, out, err) = try_tool(store, program, args);
    assert!(ok, "{program} {args:?}: {out}{err}");
    out
}

/// [`tool`] that may fail: whether it succeeded, what it said, what it complained about.
pub(crate) fn try_tool(store: &Store, program: &str, args: &[&str]) -> (bool, String, String) {
    let home = store.beside("home");
    let runtime = store.beside("run");
    std::fs::create_dir_all(&home).unwrap();
    std::fs::create_dir_all(&runtime).unwrap();
    let mut command = Command::new("timeout");
    command.args(["-k", "5", "180", program]).args(args).current_dir(store.beside("."));
    command.env_clear().env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin").env("HOME", &home);
    command.env("XDG_RUNTIME_DIR", &runtime).env("TMPDIR", &home).stdin(Stdio::null());
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

/// podman with a storage beside the store, without overlay mounts.
#[track_caller]
pub(crate) fn podman(store: &Store, args: &[&str]) -> String {
    let (root, run) = (store.beside("podman"), store.beside("podman-run"));
    let own =
        ["--root", root.to_str().unwrap(), "--runroot", run.to_str().unwrap(), "--storage-driver", "vfs"];
    tool(store, "podman", &[&own[..], args].concat())
}

/// Unpacks an image of an OCI layout; the directory of its root file system. As root, owners and all.
#[track_caller]
pub(crate) fn umoci_unpack(store: &Store, layout: &Path, tag: &str) -> PathBuf {
    let bundle = store.beside(&format!("bundle-{tag}"));
    let image = format!("{}:{tag}", layout.display());
    let mut args = vec!["unpack", "--image", &image, bundle.to_str().unwrap()];
    if super::unprivileged() {
        args.insert(1, "--rootless");
    }
    tool(store, "umoci", &args);
    bundle.join("rootfs")
}
