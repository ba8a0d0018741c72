//! A root file system of this host's own tools, as a tar. Nothing else of the host is in it: no configuration, no user, no key.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header};

use super::tools::{Tools, merged_links};

/// Directories that every vessel needs, with their modes.
const DIRECTORIES: &[(&str, u32)] = &[
    ("dev", 0o755),
    ("etc", 0o755),
    ("proc", 0o755),
    ("root", 0o700),
    ("sys", 0o755),
    ("tmp", 0o1777),
    ("usr", 0o755),
    ("usr/bin", 0o755),
    ("var", 0o755),
];
const FILES: &[(&str, &str)] =
    &[("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"), ("etc/group", "root:x:0:\n")];

/// Writes it, always the same for the same tools.
///
/// # Errors
/// Those of `out`.
pub(crate) fn write(tools: &Tools, out: impl Write) -> io::Result<()> {
    let mut tar = Builder::new(out);
    let mut made: BTreeSet<PathBuf> = BTreeSet::new();
    for (path, mode) in DIRECTORIES {
        directory(&mut tar, &mut made, Path::new(path), *mode)?;
    }
    for (path, content) in FILES {
        file(&mut tar, Path::new(path), content.as_bytes(), 0o644)?;
    }
    for (name, target) in merged_links(tools) {
        link(&mut tar, Path::new(name), Path::new(&target))?;
    }
    for (path, content) in &tools.files {
        let path = path.strip_prefix("/").unwrap_or(path);
        parents(&mut tar, &mut made, path)?;
        file(&mut tar, path, content, 0o755)?;
    }
    for (path, target) in &tools.links {
        let path = path.strip_prefix("/").unwrap_or(path);
        parents(&mut tar, &mut made, path)?;
        link(&mut tar, path, target)?;
    }
    tar.into_inner()?.flush()
}

fn parents(tar: &mut Builder<impl Write>, made: &mut BTreeSet<PathBuf>, path: &Path) -> io::Result<()> {
    let mut above: Vec<&Path> = path.ancestors().skip(1).filter(|dir| !dir.as_os_str().is_empty()).collect();
    above.reverse();
    above.into_iter().try_for_each(|dir| directory(tar, made, dir, 0o755))
}

fn directory(
    tar: &mut Builder<impl Write>,
    made: &mut BTreeSet<PathBuf>,
    path: &Path,
    mode: u32,
) -> io::Result<()> {
    if made.insert(path.to_owned()) {
        tar.append_data(&mut header(EntryType::Directory, mode, 0), path, io::empty())?;
    }
    Ok(())
}

fn file(tar: &mut Builder<impl Write>, path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    tar.append_data(&mut header(EntryType::Regular, mode, content.len() as u64), path, content)
}

fn link(tar: &mut Builder<impl Write>, path: &Path, target: &Path) -> io::Result<()> {
    tar.append_link(&mut header(EntryType::Symlink, 0o777, 0), path, target)
}

/// Of root, and as old as can be.
pub(crate) fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_directory_comes_once_and_before_what_is_in_it() {
        let mut tools = Tools::default();
        tools.files.insert("/usr/bin/sh".into(), b"x".to_vec());
        tools.files.insert("/usr/lib/abi/libc.so".into(), b"yy".to_vec());
        tools.links.insert("/usr/bin/ls".into(), "/usr/bin/sh".into());
        let mut archive = Vec::new();
        write(&tools, &mut archive).unwrap();
        let mut tar = tar::Archive::new(archive.as_slice());
        let paths: Vec<PathBuf> =
            tar.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().into_owned()).collect();
        let unique: BTreeSet<_> = paths.iter().collect();
        assert_eq!(unique.len(), paths.len());
        for (index, path) in paths.iter().enumerate() {
            let parent = path.parent().unwrap();
            assert!(parent.as_os_str().is_empty() || paths[..index].contains(&parent.to_owned()), "{path:?}");
        }
        for expected in ["bin", "lib", "usr/lib/abi/libc.so", "usr/bin/ls", "etc/passwd"] {
            assert!(paths.contains(&PathBuf::from(expected)), "{expected}");
        }
        assert!(!paths.contains(&PathBuf::from("lib64")), "it would lead nowhere");
    }
}
