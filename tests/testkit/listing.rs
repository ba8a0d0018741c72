//! [`Tree`]: a root file system as GNU tar sees it, the same inside a vessel, in podman and on the host.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use sha2::{Digest as _, Sha256};
use tar::{Archive, Entry};

use super::Store;
use super::tools::{command, mapped};

/// The tree at `.`, without what is mounted into every container.
pub(crate) const TAR: &str = "/usr/bin/tar --format=pax --numeric-owner --sort=name --xattrs --xattrs-include='*' \
    --exclude=./proc --exclude=./sys --exclude=./dev --warning=no-file-ignored -cf - .";

/// Names as tar has them (`./etc/motd`), each with type, mode, owners, time, target, attributes and content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tree(BTreeMap<Vec<u8>, String>);

/// The tree that a command writes as a tar to its standard output.
#[track_caller]
pub(crate) fn of_output(mut command: Command) -> Tree {
    let errors = tempfile::tempfile().unwrap();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors.try_clone().unwrap());
    let mut child = command.spawn().unwrap();
    let tree = Tree::read(child.stdout.take().unwrap());
    let status = child.wait().unwrap();
    let mut said = String::new();
    let mut errors = errors;
    std::io::Seek::rewind(&mut errors).unwrap();
    errors.read_to_string(&mut said).unwrap();
    // Whoever is not read to the end fails too.
    let tree = tree.unwrap_or_else(|e| panic!("{command:?}: {e}: {said}"));
    assert!(status.success(), "{command:?}: {status}: {said}");
    tree
}

/// The tree in a directory of the host.
#[track_caller]
pub(crate) fn of_directory(store: &Store, dir: &Path) -> Tree {
    let script = format!("cd \"$1\" && exec {TAR}");
    let words = mapped(&["sh", "-c", &script, "sh", dir.to_str().unwrap()]);
    of_output(command(store, words[0], &words[1..]))
}

impl Tree {
    fn read(from: impl Read) -> std::io::Result<Self> {
        let mut tree = BTreeMap::new();
        let mut archive = Archive::new(std::io::BufReader::with_capacity(1 << 20, from));
        for entry in archive.entries()? {
            let mut entry = entry?;
            let name = entry.path_bytes().into_owned();
            let name = name.strip_suffix(b"/").map_or(name.clone(), <[u8]>::to_vec);
            let described = describe(&mut entry)?;
            assert!(tree.insert(name.clone(), described).is_none(), "twice: {}", name.escape_ascii());
        }
        // Whoever writes is not cut off in the blocks behind the end.
        std::io::copy(&mut archive.into_inner(), &mut std::io::sink())?;
        Ok(Self(tree))
    }

    /// How many entries it has.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// What is said about a path, which must be there.
    #[track_caller]
    pub(crate) fn at(&self, path: &str) -> &str {
        self.0.get(path.as_bytes()).unwrap_or_else(|| panic!("{path} is not in the tree"))
    }

    /// Only what is `path` or below it.
    pub(crate) fn below(&self, path: &str) -> Self {
        let under = |name: &Vec<u8>| {
            name.strip_prefix(path.as_bytes()).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
        };
        Self(self.0.iter().filter(|(name, _)| under(name)).map(|(n, d)| (n.clone(), d.clone())).collect())
    }

    /// Without these paths.
    pub(crate) fn without(mut self, paths: &[&str]) -> Self {
        self.0.retain(|name, _| !paths.iter().any(|path| path.as_bytes() == name));
        self
    }

    /// Without the time of the root directory, which podman and umoci do not take from the image.
    pub(crate) fn timeless_root(mut self) -> Self {
        if let Some(root) = self.0.get_mut(&b"."[..]) {
            let kept: Vec<&str> = root.split(' ').take(3).collect();
            *root = kept.join(" ");
        }
        self
    }

    /// Lines that only one of the two has, `-` for this one's and `+` for the other's.
    pub(crate) fn differences(&self, other: &Self) -> Vec<String> {
        let only = |sign: char, one: &Self, other: &Self| {
            let missing = |(name, described): &(&Vec<u8>, &String)| other.0.get(*name) != Some(*described);
            let line = |(name, text): (&Vec<u8>, &String)| format!("{} {sign} {text}", name.escape_ascii());
            one.0.iter().filter(missing).map(line).collect::<Vec<_>>()
        };
        let mut lines = [only('-', self, other), only('+', other, self)].concat();
        lines.sort();
        lines
    }
}

/// The two are the same tree, and not an empty one.
#[track_caller]
pub(crate) fn assert_same(ours: &Tree, theirs: &Tree, what: &str) {
    let lines = ours.differences(theirs);
    assert!(
        lines.is_empty(),
        "{what}: {} lines differ:\n{}",
        lines.len(),
        lines[..lines.len().min(40)].join("\n")
    );
    assert!(ours.len() > 10, "{what}: {ours:?}");
}

fn describe(entry: &mut Entry<'_, impl Read>) -> std::io::Result<String> {
    let header = entry.header();
    let mut text =
        format!("{:?} {:o} {}:{}", header.entry_type(), header.mode()?, header.uid()?, header.gid()?);
    if header.entry_type().is_character_special() || header.entry_type().is_block_special() {
        let _ = write!(text, " {:?},{:?}", header.device_major()?, header.device_minor()?);
    }
    let mut time = header.mtime()?.to_string();
    let mut attributes = BTreeMap::new();
    for record in entry.pax_extensions()?.into_iter().flatten() {
        let record = record?;
        let key = record.key().map_err(std::io::Error::other)?;
        if key == "mtime" {
            time = String::from_utf8_lossy(record.value_bytes()).into_owned();
        } else if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
            attributes.insert(name.to_owned(), record.value_bytes().escape_ascii().to_string());
        } else if matches!(key, "uid" | "gid") {
            let _ = write!(text, " {key}={}", record.value_bytes().escape_ascii());
        }
    }
    let _ = write!(text, " {time}");
    if let Some(target) = entry.link_name_bytes() {
        let _ = write!(text, " -> {}", target.escape_ascii());
    }
    for (name, value) in attributes {
        let _ = write!(text, " {name}={value}");
    }
    if entry.header().entry_type().is_file() {
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 16];
        let mut size = 0;
        loop {
            let count = entry.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            hash.update(&buffer[..count]);
            size += count;
        }
        let digest: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let _ = write!(text, " {size} {digest}");
    }
    Ok(text)
}
