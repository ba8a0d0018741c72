//! Images made without a network: busybox as a root file system, and OCI layouts around any layers.
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

use super::caps::{ATTRIBUTE_TOOLS, which};

/// The statically linked shell and tools of the base image.
pub(crate) const BUSYBOX: &str = "/bin/busybox";
/// Reference of the base image.
pub(crate) const BASE: &str = "localhost/base:1";
/// What a file of the base image says, for tests that look whether it still does.
pub(crate) const MOTD: &[u8] = b"the base image\n";

const APPLETS: &str = "[ awk basename cat chgrp chmod chown cmp cp cut date dd dirname dmesg echo env expr false find \
    flock getopt grep groups head hostname id ifconfig ip kill killall ln ls lsattr mkdir mkfifo mknod mktemp mount mv \
    nc netstat nohup nproc od printf ps pwd readlink realpath rm rmdir sed seq setpriv setsid sh sha256sum sleep sort \
    stat stty su sync tail tar tee test timeout touch tr true truncate tty umount uname uniq unshare usleep wc which \
    whoami xargs yes";
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n\
    nobody:x:65534:65534:nobody:/:/bin/false\n";
const GROUP: &str = "root:x:0:\ntty:x:5:\nstaff:x:50:user\nuser:x:1000:\nnogroup:x:65534:\n";
/// Modification time of everything in the base image.
pub(crate) const BASE_TIME: u64 = 1_600_000_000;

/// A tar that is being written.
pub(crate) struct Layer(Builder<Vec<u8>>);

impl Layer {
    pub(crate) fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    pub(crate) fn dir(mut self, path: &str, mode: u32, owner: u32) -> Self {
        self.put(EntryType::Directory, path, mode, owner, &[], None);
        self
    }

    pub(crate) fn file(mut self, path: &str, mode: u32, owner: u32, data: &[u8]) -> Self {
        self.put(EntryType::Regular, path, mode, owner, data, None);
        self
    }

    pub(crate) fn symlink(mut self, path: &str, target: &str) -> Self {
        self.put(EntryType::Symlink, path, 0o777, 0, &[], Some(target));
        self
    }

    pub(crate) fn hardlink(mut self, path: &str, target: &str) -> Self {
        self.put(EntryType::Link, path, 0o644, 0, &[], Some(target));
        self
    }

    /// A file with an extended attribute.
    pub(crate) fn file_with_xattr(mut self, path: &str, data: &[u8], name: &str, value: &[u8]) -> Self {
        let key = format!("SCHILY.xattr.{name}");
        self.0.append_pax_extensions([(key.as_str(), value)]).unwrap();
        self.put(EntryType::Regular, path, 0o755, 0, data, None);
        self
    }

    fn put(&mut self, kind: EntryType, path: &str, mode: u32, owner: u32, data: &[u8], target: Option<&str>) {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(owner.into());
        header.set_gid(owner.into());
        header.set_mtime(BASE_TIME);
        header.set_size(data.len() as u64);
        match target {
            Some(target) => self.0.append_link(&mut header, path, target).unwrap(),
            None => self.0.append_data(&mut header, path, data).unwrap(),
        }
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// The base image: busybox with its applets, three users, the usual directories, `/etc/motd` and `/srv` with a few files.
pub(crate) fn base_tar() -> &'static [u8] {
    static TAR: OnceLock<Vec<u8>> = OnceLock::new();
    TAR.get_or_init(|| base_layer().finish())
}

/// [`base_tar`], to be added to.
pub(crate) fn base_layer() -> Layer {
    // An unprivileged user without subordinate ids can unpack files of root only.
    let user = if super::Cap::SubordinateIds.is_there() { 1000 } else { 0 };
    let mut layer = Layer::new();
    for dir in ["bin", "dev", "etc", "home", "proc", "srv", "srv/sub", "sys", "usr", "usr/bin", "var"] {
        layer = layer.dir(dir, 0o755, 0);
    }
    layer = layer.dir("root", 0o700, 0).dir("home/user", 0o750, user).dir("tmp", 0o1777, 0);
    layer = layer.file("bin/busybox", 0o755, 0, &fs::read(BUSYBOX).unwrap());
    for applet in APPLETS.split_whitespace() {
        layer = layer.symlink(&format!("bin/{applet}"), "busybox");
    }
    layer
        .file("etc/passwd", 0o644, 0, PASSWD.as_bytes())
        .file("etc/group", 0o644, 0, GROUP.as_bytes())
        .file("etc/motd", 0o644, 0, MOTD)
        .file("srv/a", 0o644, 0, b"a\n")
        .file("srv/sub/b", 0o644, 0, b"b\n")
        .file("srv/sub/c", 0o600, user, b"c\n")
        .hardlink("srv/sub/a-too", "srv/a")
        .symlink("srv/link", "sub/b")
}

/// The base image with the host's setfattr, getfattr, setcap and getcap and the libraries they need.
pub(crate) fn attribute_tools_tar() -> Vec<u8> {
    tools_tar(&ATTRIBUTE_TOOLS)
}

/// [`attribute_tools_tar`] with GNU tar.
pub(crate) fn gnu_tools_tar() -> Vec<u8> {
    tools_tar(&[&["tar"], &ATTRIBUTE_TOOLS[..]].concat())
}

/// The base image with programs of the host and the libraries they need.
pub(crate) fn tools_tar(tools: &[&str]) -> Vec<u8> {
    let mut layer = base_layer();
    let mut libraries = Vec::new();
    for tool in tools {
        let path = which(tool).unwrap();
        layer = layer.file(&format!("usr/bin/{tool}"), 0o755, 0, &fs::read(&path).unwrap());
        libraries.extend(libraries_of(&path));
    }
    libraries.sort_unstable();
    libraries.dedup();
    let directories = libraries.iter().flat_map(|library| library.ancestors().skip(1));
    let directories: std::collections::BTreeSet<&Path> =
        directories.filter(|dir| !matches!(dir.to_str(), Some("/" | "/usr"))).collect();
    for dir in directories {
        layer = layer.dir(dir.strip_prefix("/").unwrap().to_str().unwrap(), 0o755, 0);
    }
    for library in libraries {
        let inside = library.strip_prefix("/").unwrap().to_str().unwrap().to_owned();
        layer = layer.file(&inside, 0o755, 0, &fs::read(&library).unwrap());
    }
    layer.finish()
}

/// The absolute paths in what ldd(1) says.
pub(crate) fn libraries_of(program: &Path) -> Vec<PathBuf> {
    let ldd = Command::new("ldd").arg(program).output().unwrap();
    let text = String::from_utf8(ldd.stdout).unwrap();
    text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}

/// Writes an OCI layout of `layers` (plain tars, the lowest first) with the configuration `config`, tagged `latest`.
pub(crate) fn oci_layout(dir: &Path, layers: &[Vec<u8>], config: &Value) {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |kind: &str, data: &[u8]| {
        let hex = sha256(data);
        fs::write(blobs.join(&hex), data).unwrap();
        json!({"mediaType": kind, "digest": format!("sha256:{hex}"), "size": data.len()})
    };
    let layer_type = "application/vnd.oci.image.layer.v1.tar";
    let descriptors: Vec<Value> = layers.iter().map(|layer| put(layer_type, layer)).collect();
    let diff_ids: Vec<String> = layers.iter().map(|layer| format!("sha256:{}", sha256(layer))).collect();
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = put("application/vnd.oci.image.config.v1+json", &serde_json::to_vec(&config).unwrap());
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest =
        json!({"schemaVersion": 2, "mediaType": manifest_type, "config": config, "layers": descriptors});
    let mut descriptor = put(manifest_type, &serde_json::to_vec(&manifest).unwrap());
    descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": "latest"});
    let index = json!({"schemaVersion": 2, "manifests": [descriptor]});
    fs::write(dir.join("index.json"), serde_json::to_vec(&index).unwrap()).unwrap();
    fs::write(dir.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

/// The digest, in lower-case hexadecimal digits.
pub(crate) fn sha256(data: &[u8]) -> String {
    Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A tar of a Debian root file system: the one that the environment names, or one made once per user and machine.
pub(crate) fn debian_tar() -> Option<PathBuf> {
    static TAR: OnceLock<Option<PathBuf>> = OnceLock::new();
    TAR.get_or_init(|| {
        if let Some(path) = std::env::var_os("VESSELRT_TEST_DEBIAN") {
            return Some(path.into()).filter(|path: &PathBuf| path.is_file());
        }
        let shared = std::env::temp_dir().join("debian.tar");
        if fs::File::open(&shared).is_ok_and(|file| file.metadata().is_ok_and(|m| m.len() > 50 << 20)) {
            return Some(shared);
        }
        make_debian("debian", "")
    })
    .clone()
}

/// [`debian_tar`] with curl, Python, Node.js, vim, top and less.
pub(crate) fn network_debian_tar() -> Option<PathBuf> {
    static TAR: OnceLock<Option<PathBuf>> = OnceLock::new();
    TAR.get_or_init(|| match std::env::var_os("VESSELRT_TEST_DEBIAN_NET") {
        Some(path) => Some(path.into()).filter(|path: &PathBuf| path.is_file()),
        None => {
            make_debian("debian-net2", "--include=curl,python3,nodejs,ca-certificates,vim-tiny,procps,less")
        }
    })
    .clone()
}

/// Python with IPython and matplotlib, and other languages, as `fixtures/languages.sh` makes it: only by the environment.
pub(crate) fn languages_tar() -> Option<PathBuf> {
    let named = std::env::var_os("VESSELRT_TEST_LANGUAGES").map(PathBuf::from);
    let made = named.unwrap_or_else(|| PathBuf::from("/tmp/vesselrt-test-languages.tar"));
    fs::File::open(&made).is_ok().then_some(made)
}

/// With `flag` for mmdebstrap, unless it is empty.
fn make_debian(name: &str, flag: &str) -> Option<PathBuf> {
    let user = rustix::process::geteuid().as_raw();
    let path = std::env::temp_dir().join(format!("vesselrt-{name}-{user}.tar"));
    let lock = fs::File::create(path.with_extension("lock")).ok()?;
    // Tests of other processes wait for the first.
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).ok()?;
    if !path.is_file() {
        let staged = path.with_extension("staged.tar");
        let mut command = Command::new(which("mmdebstrap")?);
        command.args(["--quiet", "--variant=minbase"]).args(Some(flag).filter(|flag| !flag.is_empty()));
        command.arg("bookworm").arg(&staged);
        if !command.status().ok()?.success() {
            return None;
        }
        fs::rename(staged, &path).ok()?;
    }
    Some(path)
}
