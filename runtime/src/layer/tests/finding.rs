//! Names found in an archive and in the tree it was packed from: the same, and never the wrong content.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io::{self, BufRead, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;

use crate::layer::find::{Source, copy, find};
use crate::layer::look::{look, open_regular};
use crate::layer::{Dialect, Limits, Node, PackOptions, TreeFormat, pack};

/// An archive in memory that counts what is really read of it.
struct Archive<'a> {
    bytes: &'a [u8],
    at: u64,
    read: usize,
}

impl<'a> Archive<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, read: 0 }
    }
}

impl Read for Archive<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.fill_buf()?.read(buffer)?;
        self.consume(len);
        Ok(len)
    }
}

impl BufRead for Archive<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let from = usize::try_from(self.at).unwrap_or(usize::MAX).min(self.bytes.len());
        // In small pieces, as whoever decompresses gives them.
        Ok(&self.bytes[from..self.bytes.len().min(from + 700)])
    }

    fn consume(&mut self, len: usize) {
        self.at += len as u64;
        self.read += len;
    }
}

impl Source for Archive<'_> {
    fn position(&self) -> u64 {
        self.at
    }

    fn skip(&mut self, len: u64) -> io::Result<()> {
        self.at = self.at.saturating_add(len);
        Ok(())
    }
}

fn tree(dir: &Path) {
    fs::create_dir_all(dir.join("d/e")).unwrap();
    fs::write(dir.join("d/a"), vec![b'a'; 100_000]).unwrap();
    fs::write(dir.join("d/e/small"), "small").unwrap();
    fs::write(dir.join("empty"), "").unwrap();
    fs::hard_link(dir.join("d/a"), dir.join("later")).unwrap();
    symlink("d/e", dir.join("link")).unwrap();
    let sparse = File::create(dir.join("sparse")).unwrap();
    sparse.write_all_at(b"middle", 1 << 20).unwrap();
    sparse.set_len(3 << 20).unwrap();
}

const NAMES: [&str; 9] = ["d", "d/a", "d/e/small", "empty", "later", "link", "sparse", "gone", "d/a/below"];

fn wanted() -> Vec<Vec<u8>> {
    NAMES.iter().map(|name| name.as_bytes().to_vec()).collect()
}

fn packed(dir: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    let options = PackOptions::new(Dialect::Snapshot, TreeFormat::Plain);
    pack(File::open(dir).unwrap().as_fd(), &mut bytes, &options).unwrap();
    bytes
}

#[test]
fn an_archive_and_its_tree_say_the_same_of_every_name() {
    let tmp = tempfile::tempdir().unwrap();
    tree(tmp.path());
    let bytes = packed(tmp.path());
    let found = find(&mut Archive::new(&bytes), &wanted(), &Limits::default()).unwrap();
    let root = File::open(tmp.path()).unwrap();
    for (name, found) in NAMES.iter().zip(found) {
        let seen = look(root.as_fd(), name.as_bytes(), TreeFormat::Plain).unwrap();
        match (found, seen) {
            (Some(Node::File(file)), Some(Node::File(seen))) => {
                assert_eq!((file.size, file.mode), (seen.size, seen.mode), "{name}");
                let (mut out, mut expected) = (Vec::new(), Vec::new());
                copy(&mut Archive::new(&bytes), &file, &mut out).unwrap();
                let mut open = File::from(open_regular(root.as_fd(), name.as_bytes()).unwrap());
                open.read_to_end(&mut expected).unwrap();
                assert!(out == expected, "{name}");
            }
            // The second name, which a tree does not tell from the first.
            (Some(Node::Hardlink(first)), Some(Node::File(_))) => {
                assert_eq!((*name, &first[..]), ("later", &b"d/a"[..]));
            }
            (found, seen) => assert_eq!(found, seen, "{name}"),
        }
    }
    assert!(open_regular(root.as_fd(), b"link/small").is_err());
    assert!(open_regular(root.as_fd(), b"d").is_err());
}

#[test]
fn only_headers_are_read() {
    let tmp = tempfile::tempdir().unwrap();
    tree(tmp.path());
    let bytes = packed(tmp.path());
    let mut archive = Archive::new(&bytes);
    find(&mut archive, &wanted(), &Limits::default()).unwrap();
    assert!(archive.read < 20_000 && bytes.len() > 100_000, "{} of {}", archive.read, bytes.len());
}

#[test]
fn an_archive_that_is_cut_is_an_error_wherever() {
    let tmp = tempfile::tempdir().unwrap();
    fs::write(tmp.path().join("a"), "content").unwrap();
    let bytes = packed(tmp.path());
    for cut in 0..bytes.len() {
        let found = find(&mut Archive::new(&bytes[..cut]), &[b"a".to_vec()], &Limits::default());
        assert!(found.is_err(), "cut at {cut}: {found:?}");
    }
    let found = find(&mut Archive::new(&bytes), &[b"a".to_vec()], &Limits::default()).unwrap();
    let Some(Node::File(file)) = &found[0] else { panic!("{found:?}") };
    for cut in 0..file.offset + file.size {
        let cut = usize::try_from(cut).unwrap();
        let mut out = Vec::new();
        let error = copy(&mut Archive::new(&bytes[..cut]), file, &mut out).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "cut at {cut}");
    }
}

#[test]
fn of_two_entries_of_one_name_the_last_counts_and_takes_away_what_was_below() {
    let mut builder = tar::Builder::new(Vec::new());
    let mut put = |path: &str, kind: tar::EntryType| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_size(0);
        builder.append_data(&mut header, path, io::empty()).unwrap();
    };
    put("x/implied", tar::EntryType::Regular);
    put("d", tar::EntryType::Directory);
    put("d/a", tar::EntryType::Regular);
    put("d", tar::EntryType::Fifo);
    let bytes = builder.into_inner().unwrap();
    let names = ["x", "d", "d/a"].map(|name| name.as_bytes().to_vec());
    let found = find(&mut Archive::new(&bytes), &names, &Limits::default()).unwrap();
    assert_eq!(found, [Some(Node::Directory { opaque: false }), Some(Node::Other), None]);
}
