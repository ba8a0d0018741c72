//! Archives that were damaged, cut or made to lie: refused, and the store is as it was.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::Archives;
use crate::shell::Shell;
use crate::testkit::canary::Canary;
use crate::testkit::image::{Layer, base_layer, base_tar, oci_layout, sha256};
use crate::testkit::{Cap, need};

/// Every path of the store with the size of files, without locks and trash.
fn inventory(shell: &Shell) -> BTreeSet<(PathBuf, u64)> {
    let mut found = BTreeSet::new();
    let mut left = vec![shell.root().to_path_buf()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let meta = entry.path().symlink_metadata().unwrap();
            if entry.file_name().as_encoded_bytes().starts_with(b".lock") {
                continue;
            }
            if meta.is_dir() && !entry.path().ends_with("trash") {
                left.push(entry.path());
            }
            found.insert((entry.path(), if meta.is_file() { meta.len() } else { 0 }));
        }
    }
    found
}

/// A small image of two layers as a layout, which is refused when it is copied and `change`d.
struct Original {
    shell: Shell,
    layout: PathBuf,
    before: BTreeSet<(PathBuf, u64)>,
}

impl Original {
    fn new() -> Self {
        let shell = Shell::empty();
        let layout = shell.beside("original");
        let layers = [base_tar().to_vec(), Layer::new().file("srv/a", 0o644, 0, b"top").finish()];
        oci_layout(&layout, &layers, &json!({"Cmd": ["true"]}));
        // What a first import makes is there before and after. It has none of the blobs: what is here is not read again.
        let good = shell.beside("good");
        oci_layout(&good, &[base_layer().file("srv/good", 0o644, 0, b"good").finish()], &json!({}));
        shell.import(&good, "good");
        let before = inventory(&shell);
        Self { shell, layout, before }
    }

    fn copy(&self, name: &str) -> PathBuf {
        let to = self.shell.beside(name);
        super::tool("cp").arg("-a").args([&self.layout, &to]).succeeds();
        to
    }

    /// Importing `path` fails with one of these kinds, and the store is as it was.
    fn refuses(&self, path: &Path, kinds: &[&str], what: &str) {
        let done = self.shell.call(["image", "import"]).arg(path).args(["--ref", "bad"]).in_json().run();
        assert_eq!(done.code, 125, "{what}: {done:?}");
        let kind = done.json()["error"]["kind"].as_str().unwrap_or_default().to_owned();
        assert!(kinds.contains(&kind.as_str()), "{what}: {done:?}");
        let now = inventory(&self.shell);
        let changed: Vec<_> = now.symmetric_difference(&self.before).collect();
        assert!(changed.is_empty(), "{what}: {changed:?}");
    }
}

const INTEGRITY: &[&str] = &["integrity_violation"];
const WRONG: &[&str] =
    &["integrity_violation", "invalid_argument", "unsupported", "limit_exceeded", "not_found"];

fn blobs(layout: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> =
        fs::read_dir(layout.join("blobs/sha256")).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    paths
}

#[test]
fn a_flipped_bit_in_any_blob_is_noticed() {
    let original = Original::new();
    for (n, blob) in blobs(&original.layout).iter().enumerate() {
        let len = fs::metadata(blob).unwrap().len();
        for at in [0, len / 2, len - 1] {
            let copy = original.copy(&format!("flip-{n}-{at}"));
            let blob = copy.join("blobs/sha256").join(blob.file_name().unwrap());
            let mut bytes = fs::read(&blob).unwrap();
            bytes[usize::try_from(at).unwrap()] ^= 1;
            fs::write(&blob, bytes).unwrap();
            original.refuses(&copy, INTEGRITY, &format!("bit in byte {at} of blob {n}"));
        }
    }
    original.shell.assert_idle();
}

#[test]
fn a_blob_of_another_length_is_noticed() {
    let original = Original::new();
    for (n, blob) in blobs(&original.layout).iter().enumerate() {
        let bytes = fs::read(blob).unwrap();
        let longer = [bytes.as_slice(), b"\n"].concat();
        for (what, bytes) in
            [("longer", longer), ("shorter", bytes[..bytes.len() - 1].to_vec()), ("empty", Vec::new())]
        {
            let copy = original.copy(&format!("length-{n}-{what}"));
            fs::write(copy.join("blobs/sha256").join(blob.file_name().unwrap()), bytes).unwrap();
            original.refuses(&copy, INTEGRITY, &format!("{what} blob {n}"));
        }
        let copy = original.copy(&format!("missing-{n}"));
        fs::remove_file(copy.join("blobs/sha256").join(blob.file_name().unwrap())).unwrap();
        original.refuses(&copy, WRONG, &format!("missing blob {n}"));
    }
}

#[test]
fn blobs_are_regular_files_of_the_layout_and_nothing_else() {
    let original = Original::new();
    let canary = Canary::new(original.shell.store());
    for (n, blob) in blobs(&original.layout).iter().enumerate() {
        for kind in ["link", "fifo", "directory"] {
            let copy = original.copy(&format!("{kind}-{n}"));
            let blob = copy.join("blobs/sha256").join(blob.file_name().unwrap());
            let elsewhere = original.shell.beside(&format!("elsewhere-{n}-{kind}"));
            fs::rename(&blob, &elsewhere).unwrap();
            match kind {
                "link" => std::os::unix::fs::symlink(&elsewhere, &blob).unwrap(),
                "directory" => fs::create_dir(&blob).unwrap(),
                _ => drop(super::tool("mkfifo").arg(&blob).succeeds()),
            }
            original.refuses(&copy, WRONG, &format!("{kind} for blob {n}"));
        }
    }
    for name in ["index.json", "oci-layout"] {
        for kind in ["link", "fifo", "directory"] {
            let copy = original.copy(&format!("{name}-{kind}"));
            fs::remove_file(copy.join(name)).unwrap();
            match kind {
                "link" => {
                    std::os::unix::fs::symlink(canary.victim().join("secret"), copy.join(name)).unwrap();
                }
                "directory" => fs::create_dir(copy.join(name)).unwrap(),
                _ => drop(super::tool("mkfifo").arg(copy.join(name)).succeeds()),
            }
            let done = original.shell.call(["image", "import"]).arg(&copy).args(["--ref", "bad"]).exits(125);
            assert!(!canary.is_told_by(&done.stderr), "{done:?}");
        }
    }
    canary.is_unharmed();
}

/// Writes `value` as a blob and gives its descriptor.
fn put(layout: &Path, kind: &Value, value: &Value) -> Value {
    let bytes = serde_json::to_vec(value).unwrap();
    let hex = sha256(&bytes);
    fs::write(layout.join("blobs/sha256").join(&hex), &bytes).unwrap();
    json!({"mediaType": kind, "digest": format!("sha256:{hex}"), "size": bytes.len()})
}

fn read(layout: &Path, descriptor: &Value) -> Value {
    let hex = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
    serde_json::from_slice(&fs::read(layout.join("blobs/sha256").join(hex)).unwrap()).unwrap()
}

/// Changes configuration and manifest of a layout, with every digest made right again.
fn rewrite(layout: &Path, change: impl FnOnce(&mut Value, &mut Value)) {
    let index_path = layout.join("index.json");
    let mut index: Value = serde_json::from_slice(&fs::read(&index_path).unwrap()).unwrap();
    let mut manifest = read(layout, &index["manifests"][0]);
    let mut config = read(layout, &manifest["config"]);
    let before = manifest["config"].clone();
    change(&mut manifest, &mut config);
    if manifest["config"] == before {
        manifest["config"] = put(layout, &before["mediaType"], &config);
    }
    let kind = index["manifests"][0]["mediaType"].clone();
    let annotations = index["manifests"][0]["annotations"].clone();
    index["manifests"][0] = put(layout, &kind, &manifest);
    index["manifests"][0]["annotations"] = annotations;
    fs::write(index_path, serde_json::to_vec(&index).unwrap()).unwrap();
}

type Lie = (&'static str, &'static [&'static str], fn(&mut Value, &mut Value));

const LIES: [Lie; 15] = [
    ("wrong diff_id", INTEGRITY, |_, c| {
        c["rootfs"]["diff_ids"][0] = json!(format!("sha256:{}", "0".repeat(64)));
    }),
    ("swapped diff_ids", INTEGRITY, |_, c| c["rootfs"]["diff_ids"].as_array_mut().unwrap().reverse()),
    ("a diff_id too few", WRONG, |_, c| drop(c["rootfs"]["diff_ids"].as_array_mut().unwrap().pop())),
    ("a layer too few", WRONG, |m, _| drop(m["layers"].as_array_mut().unwrap().pop())),
    ("wrong size of a layer", INTEGRITY, |m, _| m["layers"][0]["size"] = json!(17)),
    ("negative size", WRONG, |m, _| m["layers"][0]["size"] = json!(-1)),
    ("immense size", WRONG, |m, _| m["layers"][0]["size"] = json!(u64::MAX)),
    ("wrong size of the configuration", INTEGRITY, |m, _| m["config"]["size"] = json!(5)),
    ("a digest that is a path", WRONG, |m, _| {
        m["layers"][0]["digest"] = json!("sha256:../../../canary/victim/secret");
    }),
    ("a short digest", WRONG, |m, _| m["layers"][0]["digest"] = json!("sha256:abc")),
    ("an unknown algorithm", WRONG, |m, _| {
        m["layers"][0]["digest"] = json!(format!("md5:{}", "0".repeat(32)));
    }),
    ("a digest without algorithm", WRONG, |m, _| m["layers"][0]["digest"] = json!("0".repeat(64))),
    ("layers and manifests", WRONG, |m, _| m["manifests"] = json!([])),
    ("a layer of an unknown kind", WRONG, |m, _| m["layers"][0]["mediaType"] = json!("application/wasm")),
    ("another machine", WRONG, |_, c| c["architecture"] = json!("s390x")),
];

#[test]
fn manifests_that_lie_are_noticed() {
    let original = Original::new();
    let canary = Canary::new(original.shell.store());
    for (n, (what, kinds, lie)) in LIES.into_iter().enumerate() {
        let copy = original.copy(&format!("lie-{n}"));
        rewrite(&copy, lie);
        original.refuses(&copy, kinds, what);
    }
    canary.is_unharmed();
    original.shell.assert_idle();
}

#[test]
fn magic_words_of_other_engines_mean_nothing() {
    let original = Original::new();
    let copy = original.copy("magic");
    rewrite(&copy, |_, config| {
        config["config"]["Labels"] = json!({"io.podman.annotations.privileged": "TRUE", "run.oci.hooks.stdin": "x", "sysctl": "kernel.core_pattern=|/x"});
        config["config"]["Volumes"] = json!({"/../../etc": {}, "/proc": {}, "/srv/link": {}});
        config["config"]["ExposedPorts"] = json!({"junk/%s": {}});
        config["config"]["StopSignal"] = json!("SIGKILL; touch /x");
        config["config"]["Env"] = json!(["PATH=/bin", "LD_PRELOAD=/x.so", "NO_VALUE"]);
    });
    let shell = &original.shell;
    shell.import(&copy, "magic");
    let text = shell
        .call(["run", "--rm", "magic", "--", "sh", "-c", "cat /srv/a; grep -c . /proc/mounts; id -u"])
        .succeeds()
        .text();
    shell.import(&original.layout, "plain");
    let plain = shell
        .call(["run", "--rm", "plain", "--", "sh", "-c", "cat /srv/a; grep -c . /proc/mounts; id -u"])
        .succeeds()
        .text();
    assert_eq!(text, plain);
}

#[test]
fn cut_and_damaged_archives_are_noticed() {
    if !need(&[Cap::Skopeo]) {
        return;
    }
    let original = Original::new();
    let archives = Archives::of(&original.layout, "latest", &original.shell.beside("made"));
    for (kind, path) in [("docker", &archives.docker), ("oci", &archives.oci)] {
        let whole = fs::read(path).unwrap();
        for cut in [513, 5_000, whole.len() / 3, whole.len() * 2 / 3] {
            let name = format!("{kind}-cut-{cut}");
            original.refuses(&original.shell.file(&name, &whole[..cut]), WRONG, &name);
        }
        for at in [whole.len() / 4, whole.len() / 2] {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            let name = format!("{kind}-flip-{at}");
            original.refuses(&original.shell.file(&name, &bytes), WRONG, &name);
        }
        let packed = super::gzip(&whole);
        let name = format!("{kind}-gz-cut");
        original.refuses(&original.shell.file(&name, &packed[..packed.len() - 5]), WRONG, &name);
        let mut packed = super::zstd(&whole);
        let middle = packed.len() / 2;
        packed[middle] ^= 1;
        let name = format!("{kind}-zst-flip");
        original.refuses(&original.shell.file(&name, &packed), WRONG, &name);
    }
}

#[test]
fn cut_root_file_systems_are_noticed() {
    let original = Original::new();
    let tar = base_tar();
    for (name, bytes) in [
        ("cut in data", tar[..tar.len() / 2].to_vec()),
        ("cut between two entries", tar[..512 * 3].to_vec()),
        ("cut in a header", tar[..512 * 3 + 100].to_vec()),
        ("gzip cut", super::gzip(tar)[..1000].to_vec()),
        ("zstd cut", super::zstd(tar)[..1000].to_vec()),
    ] {
        original.refuses(&original.shell.file(name, &bytes), WRONG, name);
    }
    let mut packed = super::gzip(tar);
    let crc = packed.len() - 6;
    packed[crc] ^= 1;
    original.refuses(&original.shell.file("crc", &packed), WRONG, "wrong checksum of gzip");
}
