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
    let output = command(store, program, args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

/// The call of [`tool`].
pub(crate) fn command(store: &Store, program: &str, args: &[&str]) -> Command {
    let home = store.beside("home");
    let runtime = store.beside("run");
    std::fs::create_dir_all(&home).unwrap();
    std::fs::create_dir_all(&runtime).unwrap();
    let mut command = Command::new("timeout");
    command.args(["-k", "5", "180", program]).args(args).current_dir(store.beside("."));
    command.env_clear().env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin").env("HOME", &home);
    command.env("XDG_RUNTIME_DIR", &runtime).env("TMPDIR", &home).stdin(Stdio::null());
    command
}

/// Unpacks an image of an OCI layout, owners and all; the directory of its root file system.
#[track_caller]
pub(crate) fn umoci_unpack(store: &Store, layout: &Path, tag: &str) -> PathBuf {
    let bundle = store.beside(&format!("bundle-{tag}"));
    let image = format!("{}:{tag}", layout.display());
    let words = mapped(&["umoci", "unpack", "--image", &image, bundle.to_str().unwrap()]);
    tool(store, words[0], &words[1..]);
    bundle.join("rootfs")
}

/// The words of a call that must be root and have more than one id: an unprivileged user has them in a user namespace.
pub(crate) fn mapped<'a>(words: &[&'a str]) -> Vec<&'a str> {
    let own: &[&str] =
        if super::unprivileged() { &["unshare", "--map-root-user", "--map-auto"] } else { &[] };
    [own, words].concat()
}
