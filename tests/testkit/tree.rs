//! A directory tree as text, written by tools that have nothing to do with vesselrt: inside a vessel and outside the same.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::{Command, Stdio};

use vesselrt::{ExecOptions, Vessel};

use super::commands::must;

/// Every path below `.` with type, mode, owner, time, content, link target and the first path of the same inode.
/// Links count what they are, so a path that is a hard link of none says so itself.
const LIST: &str = r#"
    find . | LC_ALL=C sort > /tmp/.names
    while IFS= read -r path; do
        line=$(stat -c '%f %u:%g' "$path")
        if [ -L "$path" ]; then line="$line -> $(readlink "$path")"
        elif [ -d "$path" ]; then line="$line $(stat -c '%Y' "$path")"
        elif [ -f "$path" ]; then
            line="$line $(stat -c '%Y %s' "$path") $(sha256sum < "$path" | cut -c1-64)"
            [ "$(stat -c %h "$path")" -gt 1 ] && line="$line links"
            echo "$(stat -c %i "$path") $path" >> /tmp/.inodes
        else line="$line $(stat -c '%Y' "$path")"
        fi
        echo "$path $line"
    done < /tmp/.names
    echo == hard links
    [ -f /tmp/.inodes ] && sort -n /tmp/.inodes | awk '{
        path = substr($0, index($0, " ") + 1)
        if ($1 == last) { group = group " " path; count++ } else { if (count > 1) print group; group = path; count = 1 }
        last = $1
    } END { if (count > 1) print group }' | LC_ALL=C sort
    rm -f /tmp/.names /tmp/.inodes
"#;
/// The extended attributes below `.` that are a user's business.
const ATTRIBUTES: &str = r"
    echo == attributes
    find . ! -type l | LC_ALL=C sort | while IFS= read -r path; do
        getfattr -h -d -m '^(user\.|security\.capability)' -e hex -- $path 2>/dev/null
    done
";

/// The tree at `dir` inside. With `attributes` the image must have getfattr.
pub(crate) async fn inside(vessel: &Vessel, dir: &str, attributes: bool) -> String {
    must(vessel, ExecOptions::new(["sh", "-c", &script(attributes)]).work_dir(dir)).await
}

/// The tree at `dir` of the host, listed by the host's busybox with a private `/tmp`.
pub(crate) fn outside(dir: &Path, attributes: bool) -> String {
    let script = script(attributes).replace("/tmp/.", &format!("{}.", dir.display()));
    outside_script(dir, &script)
}

/// Runs a script in a directory of the host as the root of a user namespace like a vessel's.
pub(crate) fn outside_script(dir: &Path, script: &str) -> String {
    let busybox = super::image::BUSYBOX;
    let mut command = match super::unprivileged() {
        true => {
            let mut command = Command::new(super::caps::which("unshare").unwrap());
            command.args(["--map-root-user", "--map-auto", busybox]);
            command
        }
        false => Command::new(busybox),
    };
    command.args(["sh", "-c", script]).current_dir(dir).stdin(Stdio::null());
    // The same tools as inside, as far as they are busybox's.
    let applets = dir.parent().unwrap().join("applets");
    if !applets.exists() {
        std::fs::create_dir(&applets).unwrap();
        assert!(Command::new(busybox).args(["--install", "-s"]).arg(&applets).status().unwrap().success());
    }
    let path = format!("{}:/usr/bin:/bin:/usr/sbin", applets.display());
    let output = command.env_clear().env("PATH", path).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn script(attributes: bool) -> String {
    if attributes { format!("{LIST}{ATTRIBUTES}") } else { LIST.to_owned() }
}
