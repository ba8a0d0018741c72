//! On real file systems that need a mount: overlayfs, and one that is full. Each runs in a process of its own, root of a
//! user namespace made by unshare(1).
#![forbid(unsafe_code)]

use std::fs;
use std::process::Command;

use super::*;

/// Mounts by `script` (in a scratch directory) and runs the ignored test `name` there.
fn inside(script: &str, name: &str) {
    let scratch = tempfile::tempdir().unwrap();
    let script = format!("set -e; cd \"$1\"; {script}; exec \"$2\" --exact --ignored --nocapture \"$3\"");
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script, "sh"])
        .arg(scratch.path())
        .arg(std::env::current_exe().unwrap())
        .arg(format!("files::tests::privileged::{name}"))
        .env("SCRATCH", scratch.path())
        .output()
        .unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

fn scratch(name: &str) -> PathBuf {
    PathBuf::from(std::env::var_os("SCRATCH").expect("run by its parent")).join(name)
}

#[test]
fn w13_directories_of_a_lower_layer_are_renamed_by_copy() {
    let script = "mkdir -p lower/d/sub lower/into upper work merged; echo low > lower/d/sub/f; \
                  mount -t overlay overlay -o userxattr,lowerdir=lower,upperdir=upper,workdir=work merged";
    inside(script, "on_overlay");
}

#[test]
#[ignore = "needs an overlay: w13_directories_of_a_lower_layer_are_renamed_by_copy runs it"]
fn on_overlay() {
    let merged = scratch("merged");
    let plain = fs::rename(merged.join("d"), merged.join("x")).unwrap_err();
    assert_eq!(plain.raw_os_error(), Some(Errno::XDEV.raw_os_error()), "otherwise this tests nothing");
    let root = Root::open_path(&merged).unwrap();
    write_file(&root, b"d/new", 0o640, &b"up"[..]).unwrap();
    fails(rename(&root, b"d", b"d/sub/x"), FaultKind::InvalidArgument);
    rename(&root, b"d", b"into").unwrap();
    assert_eq!(fs::read_to_string(merged.join("into/sub/f")).unwrap(), "low\n");
    assert_eq!(fs::read_to_string(merged.join("into/new")).unwrap(), "up");
    assert!(!merged.join("d").exists() && scratch("lower/d/sub/f").exists());
    make_dir(&root, b"d/sub", 0o755, true).unwrap();
    assert!(read_dir(&root, b"d/sub").unwrap().is_empty(), "the lower directory does not shine through");
    remove(&root, b"into", true).unwrap();
    let names: Vec<_> = read_dir(&root, b"/").unwrap().into_iter().map(|entry| entry.0).collect();
    assert_eq!(names, [b"d"]);
}

#[test]
fn w20_a_full_file_system_leaves_the_old_content() {
    inside("mkdir small; mount -t tmpfs -o size=64k,mode=755 tmpfs small", "on_a_small_file_system");
}

#[test]
#[ignore = "needs a small file system: w20_a_full_file_system_leaves_the_old_content runs it"]
fn on_a_small_file_system() {
    let root = Root::open_path(&scratch("small")).unwrap();
    write_file(&root, b"f", 0o644, &b"old"[..]).unwrap();
    let fault = fails(write_file(&root, b"f", 0o644, &[7; 1 << 20][..]), FaultKind::LimitExceeded);
    assert_eq!(fault.errno, Some(Errno::NOSPC.raw_os_error()));
    assert_eq!(fault.message, "failed to write \"f\": no space left on device");
    assert_eq!(fs::read_to_string(scratch("small/f")).unwrap(), "old");
    assert_eq!(fs::read_dir(scratch("small")).unwrap().count(), 1);
}
