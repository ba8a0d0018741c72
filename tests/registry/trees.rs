//! The same image, pulled by vesselrt and by podman: the same tree, to the last bit that a tar can say.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use serde_json::json;
use vesselrt::{ErrorKind, PullOptions};

use super::{config, login, manager};
use crate::testkit::listing::{self, Tree, assert_same};
use crate::testkit::podman::Podman;
use crate::testkit::registry::{Access, PASSWORD, Registry};
use crate::testkit::tools::tool;
use crate::testkit::{Cap, Store, fails, image, need, tests, tree};

tests!(
    whiteouts_opaque_directories_and_links_across_layers_are_as_in_podman,
    modes_owners_times_and_holes_are_as_in_podman,
    odd_names_and_chains_of_links_are_as_in_podman,
    attributes_and_capabilities_are_as_in_podman,
    a_debian_with_a_layer_of_changes_is_as_in_podman,
);

/// What is mounted into every vessel.
pub(crate) const MOUNTED: [&str; 3] = ["./etc/hosts", "./etc/hostname", "./etc/resolv.conf"];

/// What podman changes: times that an inode can have and podman makes 1970 of, and attributes without a value.
const OURS_ALONE: [&str; 4] = ["./t/-1", "./t/-5.5", "./t/15000000000", "./a/none"];

const NEEDED: [Cap; 6] =
    [Cap::Registry, Cap::Skopeo, Cap::Podman, Cap::SubordinateIds, Cap::AttributeTools, Cap::OpenSsl];

/// A layer that GNU tar makes of what `script` does in an empty directory, as root of a user namespace.
fn layer(store: &Store, name: &str, script: &str) -> Vec<u8> {
    let dir = store.beside(name);
    std::fs::create_dir(&dir).unwrap();
    let pack = "/usr/bin/tar --format=pax --xattrs --xattrs-include='*' --numeric-owner --sparse --sort=name";
    let script = format!(
        "set -e; umask 022\n{script}\n/usr/bin/find . -type d -exec /usr/bin/touch -hd @1500000000.5 {{}} +"
    );
    tree::outside_script(&dir, &script);
    tree::outside_script(&dir, &format!("{pack} -cf ../{name}.tar ."));
    std::fs::read(store.beside(&format!("{name}.tar"))).unwrap()
}

/// The tree of a vessel of the store at `root`, as it is seen inside.
pub(crate) fn inside(store: &Store, root: &Path, id: &str) -> Tree {
    let script = format!("cd / && exec {}", listing::TAR);
    let words = ["--root", root.to_str().unwrap(), "exec", "-w", "/", id, "--", "sh", "-c", &script];
    listing::of_output(store.cli(&words)).without(&MOUNTED).timeless_root()
}

/// Pushes the image `source` with skopeo, pulls it with vesselrt and with podman, and compares.
async fn pulled_by_both(store: &Store, source: &str, access: Access, more: &[&str]) -> Tree {
    let registry = Registry::new(store, access);
    let name = registry.reference("team/image:1");
    let (flags, target) = (registry.flags(store, "dest-"), format!("docker://{name}"));
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    tool(store, "skopeo", &[&["--insecure-policy", "copy"], &flags[..], more, &[source, &target]].concat());
    if registry.is_closed() {
        let stranger = manager(store, "there").await;
        fails(stranger.pull_image(PullOptions::new(&name), |_| {}).await, &ErrorKind::PermissionDenied);
        stranger.close().await.unwrap();
        let said = login(store, &registry, &format!("{PASSWORD}\n"));
        assert!(said.status.success(), "{said:?}");
    }
    let there = vesselrt::Manager::new(config(store, "there")).await.unwrap();
    let pulled =
        there.pull_image(PullOptions::new(&name), |_| {}).await.unwrap_or_else(|e| panic!("{}", e.chain()));
    // Device nodes are no unprivileged user's to make; those of an image are in its `/dev`, where nobody looks.
    let expected = |warning: &String| warning.contains("device skipped: dev/");
    assert!(pulled.warnings.iter().all(expected), "{:?}", pulled.warnings);
    let vessel = there.create_vessel(&name, "/").await.unwrap();
    vessel.close().await.unwrap();
    let ours = inside(store, &store.beside("there"), vessel.id());
    there.close().await.unwrap();
    if access == Access::Token {
        assert!(registry.tokens_issued() > 0);
    }
    let podman = Podman::new(store);
    let flags = registry.flags(store, "");
    podman.call(
        &[&["pull", "--quiet"], &flags.iter().map(String::as_str).collect::<Vec<_>>()[..], &[&name]].concat(),
    );
    let theirs = podman.tree(&name).without(&MOUNTED).without(&OURS_ALONE).timeless_root();
    assert_same(&ours.clone().without(&OURS_ALONE), &theirs, source);
    ours
}

/// The image of the base with GNU tar and these layers, by both.
async fn layers_by_both(store: &Store, above: &[Vec<u8>], access: Access, more: &[&str]) -> Tree {
    let layers = [&[image::gnu_tools_tar()][..], above].concat();
    image::oci_layout(&store.beside("layout"), &layers, &json!({ "Cmd": ["sh"] }));
    pulled_by_both(store, "oci:layout:latest", access, more).await
}

async fn whiteouts_opaque_directories_and_links_across_layers_are_as_in_podman(store: &Store) {
    if !need(&NEEDED) {
        return;
    }
    let first = "
        mkdir -p d/deep/er gone/deep kept replaced/by/file o/p/q
        echo 1 > d/deep/er/f; echo 2 > gone/deep/f; echo 3 > kept/f; echo 4 > replaced/by/file/f; echo 5 > o/p/q/f
        echo one > one; ln one two; ln one kept/three; echo under > under; /usr/bin/touch -d @1600000000 under; ln -s kept becomes-dir; mkdir becomes-link
        echo x > becomes-link/x; echo file > becomes-fifo; mkdir empty; touch o/a o/b";
    let second = "
        mkdir -p d/deep replaced o/p becomes-dir opaque; : > .wh.gone; : > d/deep/.wh.er; rm -rf replaced/by
        echo now > replaced/by; /usr/bin/touch -d @1600000000 replaced/by; : > o/p/.wh..wh..opq; echo new > o/p/new; echo in > becomes-dir/in
        ln -s o becomes-link; mkfifo becomes-fifo; : > .wh.two; : > .wh.never-was; : > opaque/.wh..wh..opq; echo o > opaque/o";
    // As builders write them, with the directories that change and the links' own owners, modes and times: podman gives
    // those of the last link to the file. Links to what only a lower layer has, to what this layer replaced, and to a name that another layer deleted before.
    let third = image::Layer::new()
        .dir("kept", 0o755, 0)
        .dir("o", 0o755, 0)
        .hardlink("kept/four", "under")
        .hardlink("kept/five", "kept/four")
        .hardlink("o/six", "replaced/by")
        .file("o/.wh.a", 0o644, 0, b"")
        .file("o/a", 0o644, 0, b"again")
        .hardlink("o/seven", "o/a");
    let fourth = "mkdir -p gone/anew o/p/q; echo back > gone/anew/f; echo two > two; ln two second-two; : > o/p/q/.wh.f";
    let layers = [
        layer(store, "first", first),
        layer(store, "second", second),
        third.finish(),
        layer(store, "fourth", fourth),
    ];
    let tree = layers_by_both(store, &layers, Access::Open, &[]).await;
    assert!(tree.at("./kept/four").starts_with("Link") && tree.at("./under").starts_with("Link"));
    assert_eq!(tree.below("./gone").len(), 3);
    assert_eq!(tree.below("./o/p").len(), 3);
}

async fn modes_owners_times_and_holes_are_as_in_podman(store: &Store) {
    if !need(&NEEDED) {
        return;
    }
    let first = "
        mkdir m t h
        for mode in 0000 0200 0444 0755 1644 2755 4755 6755 7777; do echo $mode > m/$mode; chmod $mode m/$mode
            mkdir m/d$mode; chmod $mode m/d$mode; done
        for owner in 0:0 1:1 65534:65534 1000:50 0:65533 12345:0; do echo $owner > m/$owner; chown $owner m/$owner
            ln -s nowhere m/l$owner; chown -h $owner m/l$owner; mkfifo m/p$owner; chown $owner m/p$owner; done
        chown 7:7 m/4755; chmod 4755 m/4755
        for time in 0 1 1234567890.123456789 1999999999.999999999 4102444800; do
            echo $time > t/$time; /usr/bin/touch -hd @$time t/$time; ln -s $time t/l$time; /usr/bin/touch -hd @$time t/l$time; done
        for time in -1 -5.5 15000000000; do echo $time > t/$time; /usr/bin/touch -hd @$time t/$time; done
        /usr/bin/truncate -s 5000000 h/all; echo begin > h/begin; /usr/bin/truncate -s 3000001 h/begin
        echo end | dd of=h/end bs=1 seek=70000000 2>/dev/null
        for n in 1 3 5 7 9 11 13 15 17 19 21 23 25 27 29; do echo $n | dd of=h/many bs=1 seek=$((n*100000)) conv=notrunc 2>/dev/null; done
        : > h/nothing";
    let second = "mkdir -p m h; echo changed > m/4755; chown 9:9 m/4755; chmod 6711 m/4755; chmod 0700 m
        mkdir m/d7777; chmod 0711 m/d7777; echo filled > h/all";
    let layers = [layer(store, "first", first), layer(store, "second", second)];
    let tree = layers_by_both(store, &layers, Access::Tls, &["--dest-compress-format=zstd"]).await;
    assert!(tree.at("./m/4755").starts_with("Regular 6711 9:9 "));
    for path in &OURS_ALONE[..3] {
        assert!(tree.at(path).contains(&format!(" {} ", &path[4..])), "{path}: {}", tree.at(path));
    }
    assert!(tree.at("./h/end").contains(" 70000004 "));
}

async fn odd_names_and_chains_of_links_are_as_in_podman(store: &Store) {
    if !need(&NEEDED) {
        return;
    }
    let first = r##"
        mkdir n s usr; cd n
        for name in "a b" "tab	" "new
line" "-dash" "--help" "*" "?" "[x]" '\back' "'" '"' ';' '$HOME' "%41" "é" "日本" ".hidden" "..." ".. " ".wh" "x.wh.y" "~" "#" "null\\0"; do
            echo "$name" > "./$name"; mkdir "./d $name"; done
        echo bytes > "$(printf '\377\376\001')"; long=$(printf '%0255d' 7); echo long > $long; ln -s $long link-to-long
        deep=.; for n in 1 2 3 4 5 6 7 8; do deep=$deep/$(printf '%0200d' $n); mkdir $deep; done; echo deep > $deep/f
        ln $deep/f linked-from-deep
        cd ../s; echo end > end; ln -s end l1; for n in 2 3 4 5 6 7 8 9 10 11 12; do ln -s l$((n-1)) l$n; done
        ln -s loop loop; ln -s b a; ln -s a b; ln -s / root; ln -s /s/end absolute; ln -s ../../../../s/end up
        ln -s "$(printf '%01000d' 1)" far; ln -s "$(printf 'odd\n\377')" odd; ln -s . dot; ln -s /proc/self/exe magic
        mkdir -p ../usr/through; ln -s ../usr/through gate"##;
    // What is said to be behind a link of a lower layer is where that leads to.
    let second = image::Layer::new()
        .dir("usr", 0o755, 0)
        .dir("usr/through", 0o755, 0)
        .dir("s", 0o755, 0)
        .file("s/gate/in", 0o640, 5, b"in\n")
        .symlink("s/l12", "l1")
        .file("s/.wh.loop", 0o644, 0, b"")
        .file("n/-dash", 0o644, 0, b"more")
        .dir("n", 0o755, 0);
    let layers = [layer(store, "first", first), second.finish()];
    let tree = layers_by_both(store, &layers, Access::TlsPassword, &["--format=v2s2"]).await;
    assert!(tree.at("./usr/through/in").starts_with("Regular 640 5:5 "));
    assert!(tree.below("./n").len() > 60);
}

async fn attributes_and_capabilities_are_as_in_podman(store: &Store) {
    if !need(&NEEDED) {
        return;
    }
    let first = "
        mkdir -p a/d; cp /bin/busybox a/ping; chmod 755 a/ping; setcap cap_net_raw+ep a/ping
        cp a/ping a/all; setcap cap_net_bind_service,cap_setuid=eip a/all; echo lost > a/lost; setfattr -n user.was -v here a/lost
        cp a/ping a/stripped; setcap cap_chown+ep a/stripped
        echo f > a/f; setfattr -n user.text -v text a/f; setfattr -n user.bytes -v 0x00ff3d00 a/f; echo n > a/none; setfattr -n user.none a/none
        setfattr -n user.dir -v d a/d; setfattr -n user.$(printf '%0200d' 1) -v long a/f; ln a/f a/linked
        setfattr -n user.large -v \"$(printf '%01500d' 1)\" a/d";
    let second = "
        mkdir -p a/d; echo lost > a/lost; cp /bin/busybox a/stripped; chmod 755 a/stripped
        cp /bin/busybox a/ping; setcap cap_net_admin+p a/ping; setfattr -n user.other -v o a/d
        setfattr -n user.dir -v d a/d; setfattr -n user.large -v \"$(printf '%01500d' 1)\" a/d";
    let layers = [layer(store, "first", first), layer(store, "second", second)];
    let tree = layers_by_both(store, &layers, Access::Token, &[]).await;
    assert!(
        tree.at("./a/ping").contains("security.capability=")
            && tree.at("./a/all").contains("security.capability=")
    );
    assert!(tree.at("./a/none").contains(" user.none= "), "{}", tree.at("./a/none"));
    assert!(!tree.at("./a/stripped").contains("security") && !tree.at("./a/lost").contains("user."));
    assert!(
        tree.at("./a/f").contains("user.bytes=\\x00\\xff=\\x00") && tree.at("./a/d").contains("user.other=o")
    );
}

/// A layout of the Debian root file system and a layer of changes, as umoci makes it.
fn debian(store: &Store) -> PathBuf {
    let layout = store.beside("debian");
    let image = format!("{}:12", layout.display());
    tool(store, "umoci", &["init", "--layout", layout.to_str().unwrap()]);
    tool(store, "umoci", &["new", "--image", &image]);
    let changes = "
        mkdir -p usr/bin usr/share etc var/lib/dpkg/info root/new; : > usr/share/.wh.doc; mkdir usr/share/man
        : > usr/share/man/.wh..wh..opq; : > usr/bin/.wh.perl; echo debian > etc/motd; : > etc/.wh.issue
        cp /bin/busybox usr/bin/busybox; chmod 755 usr/bin/busybox; setcap cap_net_raw+ep usr/bin/busybox
        cp usr/bin/busybox usr/bin/mine; chown 33:42 usr/bin/mine; chmod 6755 usr/bin/mine; chmod 1777 root/new";
    layer(store, "changes", changes);
    let changes = store.beside("changes.tar");
    for tar in [image::debian_tar().unwrap(), changes] {
        tool(store, "umoci", &["raw", "add-layer", "--image", &image, tar.to_str().unwrap()]);
    }
    layout
}

async fn a_debian_with_a_layer_of_changes_is_as_in_podman(store: &Store) {
    if !need(&NEEDED) || !need(&[Cap::Debian, Cap::Umoci]) {
        return;
    }
    debian(store);
    let tree = pulled_by_both(store, "oci:debian:12", Access::Password, &[]).await;
    assert!(tree.len() > 5000, "{}", tree.len());
    assert!(tree.at("./usr/bin/su").starts_with("Regular 4755 0:0 "));
    assert_eq!((tree.below("./usr/share/doc").len(), tree.below("./usr/share/man").len()), (0, 1));
}
