//! Merging by the rules of overlayfs, over layers that are lists.
#![forbid(unsafe_code)]

use std::collections::HashMap;

use vesselrt_runtime::layer::{FileNode, Node};

use super::{Look, resolve};
use crate::error::{Error, ErrorKind};

struct Lists(Vec<HashMap<Vec<u8>, Node>>);

impl Look for Lists {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn look(&mut self, index: usize, path: &[u8], _: &[Vec<u8>]) -> Result<Option<Node>, Error> {
        Ok(self.0[index].get(path).cloned())
    }
}

/// `d` directory, `o` opaque directory, `f` file, `w` whiteout, `p` fifo, `l…` symlink to `…`, `h…` hard link to `…`.
fn layers(of: &[&[(&str, &str)]]) -> Lists {
    let node = |what: &str| match what.split_at(1) {
        ("d", _) => Node::Directory { opaque: false },
        ("o", _) => Node::Directory { opaque: true },
        ("f", _) => Node::File(FileNode { size: 1, mode: 0, offset: 0, parts: vec![] }),
        ("w", _) => Node::Whiteout,
        ("l", text) => Node::Symlink(text.into()),
        ("h", text) => Node::Hardlink(text.into()),
        _ => Node::Other,
    };
    Lists(
        of.iter()
            .map(|list| list.iter().map(|(path, what)| (path.as_bytes().to_vec(), node(what))).collect())
            .collect(),
    )
}

fn found(of: &[&[(&str, &str)]], path: &str) -> Result<(usize, String), ErrorKind> {
    match resolve(&mut layers(of), path.as_bytes()) {
        Ok((layer, path, _)) => Ok((layer, String::from_utf8(path).unwrap())),
        Err(error) => Err(error.kind()),
    }
}

fn at(layer: usize, path: &str) -> Result<(usize, String), ErrorKind> {
    Ok((layer, path.to_owned()))
}

#[test]
fn the_topmost_file_counts_and_directories_merge() {
    let of: &[&[_]] = &[&[("d", "d"), ("d/a", "f")], &[("d", "d"), ("d/a", "f"), ("d/b", "f")]];
    assert_eq!(found(of, "/d/a"), at(0, "d/a"));
    assert_eq!(found(of, "d//./b"), at(1, "d/b"));
    assert_eq!(found(of, "/../d/../d/b"), at(1, "d/b"));
    assert_eq!(found(of, "/d/c"), Err(ErrorKind::NotFound));
    assert_eq!(found(of, "/d"), Err(ErrorKind::InvalidArgument));
    assert_eq!(found(of, "/"), Err(ErrorKind::InvalidArgument));
    assert_eq!(found(of, "/d/a/x"), Err(ErrorKind::InvalidArgument));
}

#[test]
fn whiteouts_opaque_directories_and_other_types_hide_what_is_below() {
    let low: &[_] = &[("d", "d"), ("d/a", "f"), ("d/e", "d"), ("d/e/f", "f")];
    assert_eq!(found(&[&[("d", "d"), ("d/a", "w")], low], "d/a"), Err(ErrorKind::NotFound));
    assert_eq!(found(&[&[("d", "o")], low], "d/e/f"), Err(ErrorKind::NotFound));
    assert_eq!(found(&[&[("d", "f")], low], "d"), at(0, "d"));
    assert_eq!(found(&[&[("d", "f")], low], "d/a"), Err(ErrorKind::InvalidArgument));
    // A directory on a file hides it, and what is below the file.
    let three: [&[_]; 3] = [&[("d", "d")], &[("d", "f")], low];
    assert_eq!(found(&three, "d/a"), Err(ErrorKind::NotFound));
    // Made again after it was deleted further down.
    let again: [&[_]; 3] = [&[("d", "d"), ("d/a", "f")], &[("d", "w")], low];
    assert_eq!(found(&again, "d/a"), at(0, "d/a"));
    assert_eq!(found(&again, "d/e/f"), Err(ErrorKind::NotFound));
    assert_eq!(found(&[&[], low], "d/e/f"), at(1, "d/e/f"));
    assert_eq!(found(&[&[("p", "p")]], "p"), Err(ErrorKind::InvalidArgument));
}

#[test]
fn symlinks_are_followed_through_all_layers_and_never_out() {
    let of: &[&[_]] = &[
        &[
            ("a", "d"),
            ("a/up", "l../b/f"),
            ("a/abs", "l/b/f"),
            ("a/out", "l../../../../b/f"),
            ("loop", "lloop"),
        ],
        &[("b", "d"), ("b/f", "f"), ("lib", "lusr/lib"), ("usr", "d"), ("usr/lib", "d"), ("usr/lib/x", "f")],
    ];
    for path in ["a/up", "a/abs", "a/out"] {
        assert_eq!(found(of, path), at(1, "b/f"), "{path}");
    }
    assert_eq!(found(of, "/lib/x"), at(1, "usr/lib/x"));
    // As the kernel has it: `..` of where the link leads.
    assert_eq!(found(of, "/lib/../lib/x"), at(1, "usr/lib/x"));
    assert_eq!(found(of, "/lib/../b"), Err(ErrorKind::NotFound));
    assert_eq!(found(of, "/gone/../b/f"), Err(ErrorKind::NotFound));
    assert_eq!(found(of, "/b/f/../f"), Err(ErrorKind::InvalidArgument));
    assert_eq!(found(of, "loop"), Err(ErrorKind::InvalidArgument));
}

#[test]
fn no_layer_is_looked_into_that_has_no_say() {
    struct Once(Lists);
    impl Look for Once {
        fn count(&self) -> usize {
            2
        }
        fn look(&mut self, index: usize, path: &[u8], rest: &[Vec<u8>]) -> Result<Option<Node>, Error> {
            assert_eq!(index, 0);
            self.0.look(index, path, rest)
        }
    }
    let top = layers(&[&[("d", "d"), ("d/a", "f"), ("d/l", "la"), ("w", "w")], &[]]);
    let mut once = Once(top);
    assert!(resolve(&mut once, b"d/l").is_ok());
    assert_eq!(resolve(&mut once, b"w").unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn another_name_of_a_file_leads_to_the_first_of_its_layer() {
    let of: &[&[_]] = &[&[("b", "ha"), ("a", "f"), ("c", "hgone")], &[("gone", "f")]];
    assert_eq!(found(of, "b"), at(0, "a"));
    assert_eq!(found(of, "c"), Err(ErrorKind::IntegrityViolation));
}
