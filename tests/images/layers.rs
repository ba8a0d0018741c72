//! Layers on layers: what vesselrt makes of them is what umoci makes of them.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use super::tool;
use crate::shell::{Call, Shell};
use crate::testkit::image::{BUSYBOX, Layer, attribute_tools_tar};
use crate::testkit::{Cap, need, unprivileged};

/// What the second layer does to the first, made by umoci from a changed tree.
const CHANGES: &str = r"
    cd rootfs
    rm -rf srv/sub; mkdir srv/sub; echo new > srv/sub/new
    rm srv/link; mkdir srv/link; echo under > srv/link/under
    rm etc/motd; ln -s /srv/a etc/motd
    mkdir -p opt/deep/er/still; echo x > opt/deep/er/still/x; chmod 750 opt/deep; chmod 1777 opt/deep/er
    echo hard > opt/one; ln opt/one opt/two; ln opt/one opt/deep/three
    echo set > opt/setuid; chmod 4755 opt/setuid; echo sgid > opt/setgid; chmod 2755 opt/setgid
    printf 'odd' > 'opt/odd
name'; mkfifo opt/fifo; ln -s nowhere opt/dangling; : > opt/empty
    touch -d @1234567890 opt/one; touch -d @-5 opt/before 2>/dev/null || touch opt/before
    dd if=/dev/zero of=opt/zeros bs=4096 count=64 2>/dev/null
    setfattr -n user.colour -v blue opt/one; setfattr -n user.binary -v 0x00ff00 opt/deep
    rm usr/bin/setcap; rm -rf home
";

/// Every path of `.` with what it is, without what a running vessel puts over it. `$IDS` is empty or a format of owners.
const LIST: &str = r#"
    find . -path ./proc -prune -o -path ./sys -prune -o -path ./dev -prune -o -print | LC_ALL=C sort > "$TMP/names"
    : > "$TMP/inodes"
    while IFS= read -r path; do
        case $path in ./etc/resolv.conf|./etc/hosts|./etc/hostname|./names|./tmp/names|./tmp/inodes|./tmp|.) continue;; esac
        line=$(stat -c "%f $IDS" "$path" 2>/dev/null) || { echo "$path ?"; continue; }
        if [ -L "$path" ]; then line="$line -> $(readlink "$path")"
        elif [ -f "$path" ]; then
            line="$line $(stat -c '%Y %s' "$path") $(sha256sum < "$path")"
            [ "$(stat -c %h "$path")" -gt 1 ] && echo "$(stat -c %i "$path") $path" >> "$TMP/inodes"
            line="$line $(getfattr -d -m '^user\.' -e hex "$path" 2>/dev/null | grep = | grep -v rootlesscontainers | tr '\n' ' ')"
        else # umoci changes directories after it has set their times
            [ -d "$path" ] || line="$line $(stat -c '%Y' "$path")"
            [ -d "$path" ] && line="$line $(getfattr -d -m '^user\.' -e hex "$path" 2>/dev/null | grep = | grep -v rootlesscontainers | tr '\n' ' ')"
        fi
        echo "$path $line"
    done < "$TMP/names"
    sort -n "$TMP/inodes" | awk '{ path = $2; if ($1 == last) group = group " " path; else { print group; group = path }; last = $1 } END { print group }' | sort
"#;

/// umoci's own unpacking of the image.
fn unpacked(shell: &Shell, image: &str, name: &str) -> PathBuf {
    let bundle = shell.beside(name);
    let rootless = unprivileged().then_some("--rootless");
    tool("umoci").arg("unpack").args(rootless).args(["--image", image]).arg(&bundle).succeeds();
    bundle
}

/// An image of three layers: a tar, what umoci made of changes, and one with an opaque directory.
fn three_layers(shell: &Shell) -> String {
    let layout = shell.beside("layout");
    let image = format!("{}:t", layout.display());
    tool("umoci").args(["init", "--layout"]).arg(&layout).succeeds();
    tool("umoci").args(["new", "--image", &image]).succeeds();
    let first = shell.file("first.tar", &attribute_tools_tar());
    tool("umoci").args(["raw", "add-layer", "--image", &image]).arg(first).succeeds();
    let bundle = unpacked(shell, &image, "changed");
    tool("sh").args(["-euc", CHANGES]).dir(&bundle).succeeds();
    tool("umoci").args(["repack", "--image", &image]).arg(&bundle).succeeds();
    let top = Layer::new().dir("opt/deep/er", 0o755, 0).file("opt/deep/er/.wh..wh..opq", 0o644, 0, b"");
    let top = top.file("opt/deep/er/fresh", 0o600, 0, b"fresh").file("srv/.wh.link", 0o644, 0, b"").file(
        "opt/.wh.two",
        0o644,
        0,
        b"",
    );
    let top = shell.file("top.tar", &top.finish());
    tool("umoci").args(["raw", "add-layer", "--image", &image]).arg(top).succeeds();
    image
}

/// The listing of a tree of the host, by the same shell and tools as inside.
fn outside(dir: &Path, scratch: &Path, ids: &str) -> String {
    let call = match unprivileged() {
        true => Call::new("unshare").args(["--map-root-user", BUSYBOX]),
        false => Call::new(BUSYBOX),
    };
    call.args(["sh", "-c", LIST]).dir(dir).env("TMP", scratch).env("IDS", ids).succeeds().text()
}

#[test]
fn layers_become_the_tree_that_umoci_unpacks() {
    if !need(&[Cap::Umoci, Cap::AttributeTools, Cap::SubordinateIds]) {
        return;
    }
    let shell = Shell::empty();
    let image = three_layers(&shell);
    let theirs = unpacked(&shell, &image, "theirs").join("rootfs");
    // An unprivileged umoci owns everything itself.
    let ids = if unprivileged() { "" } else { "%u:%g" };
    let expected = outside(&theirs, &shell.beside(""), ids);
    shell.import(&shell.beside("layout"), "three");
    let id = shell.call(["create", "three"]).succeeds().line();
    let flags = ["-w", "/", "-e", "TMP=/tmp", "-e", &format!("IDS={ids}")];
    let ours =
        shell.call(["exec", "--ephemeral"]).args(flags).args([&id, "--", "sh", "-c", LIST]).succeeds().text();
    // The tools' libraries come without entries for their directories: the time of those is anybody's choice.
    let known = |text: &str| {
        text.lines()
            .filter(|line| !line.starts_with("./lib"))
            .map(|line| format!("{line}\n"))
            .collect::<String>()
    };
    let (expected, ours) = (known(&expected), known(&ours));
    let difference = |a: &str, b: &str| {
        a.lines().filter(|&l| !b.lines().any(|m| m == l)).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!((difference(&expected, &ours), difference(&ours, &expected)), (vec![], vec![]));
    assert_eq!(expected, ours);
    assert!(
        ours.contains("./opt/deep/er/fresh")
            && !ours.contains("./opt/deep/er/still")
            && !ours.contains("./opt/two"),
        "{ours}"
    );
    shell.assert_idle();
}

#[test]
fn a_hundred_and_twenty_layers_are_one_tree() {
    let shell = Shell::empty();
    let mut layers = vec![crate::testkit::image::base_tar().to_vec()];
    for n in 0..120 {
        let layer = Layer::new().file(&format!("srv/n{n}"), 0o644, 0, b"x").file(
            "srv/last",
            0o644,
            0,
            n.to_string().as_bytes(),
        );
        layers.push(if n > 0 {
            layer.file(&format!("srv/.wh.n{}", n - 1), 0o644, 0, b"").finish()
        } else {
            layer.finish()
        });
    }
    let layout = shell.beside("layout");
    crate::testkit::image::oci_layout(&layout, &layers, &serde_json::json!({}));
    shell.import(&layout, "many");
    let id = shell.call(["create", "many"]).succeeds().line();
    assert_eq!(shell.sh(&id, "cd /srv; ls; cat last"), "a\nlast\nlink\nn119\nsub\n119");
}

/// The overlay lists a whiteout where it has no other directory to merge with, as a name that nobody can look at.
#[test]
fn a_whiteout_that_has_nothing_to_hide_is_not_listed() {
    let shell = Shell::empty();
    let layer = || Layer::new().dir("own", 0o755, 0).dir("own/deep", 0o755, 0);
    let lowest = layer().file("own/.wh.first", 0o644, 0, b"").file("own/deep/x", 0o644, 0, b"");
    let middle = Layer::new().file("own/deep/.wh..wh..opq", 0o644, 0, b"").file("own/deep/y", 0o644, 0, b"");
    let top = Layer::new()
        .dir("new", 0o755, 0)
        .file("new/.wh.never", 0o644, 0, b"")
        .file("own/deep/.wh.x", 0o644, 0, b"")
        .file("own/.wh.none", 0o644, 0, b"")
        .file("own/deep/.wh.y", 0o644, 0, b"");
    let layers = [crate::testkit::image::base_tar().to_vec(), lowest.finish(), middle.finish(), top.finish()];
    let layout = shell.beside("layout");
    crate::testkit::image::oci_layout(&layout, &layers, &serde_json::json!({}));
    shell.import(&layout, "whiteouts");
    let id = shell.call(["create", "whiteouts"]).succeeds().line();
    assert_eq!(shell.sh(&id, "cd /; find own new"), "own\nown/deep\nnew\n");
}
