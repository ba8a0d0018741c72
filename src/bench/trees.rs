//! Trees to measure on: the same request gives the same bytes, on every machine and in every round.
//!
//! | profile | what it looks like | where most bytes are |
//! |---|---|---|
//! | `mixed` | 20,000 small texts in 2,000 directories and one large file, every second MiB of it random | half incompressible |
//! | `source` | texts of 200 B to 8 kB, three directories deep | all compress well |
//! | `node_modules` | packages with a manifest, modules, nested dependencies, links in `.bin`, a bundle now and then | tiny files |
//! | `model` | a few shards of random bytes beside two small descriptions | incompressible |
//! | `database` | files of 8 KiB pages, partly free, with holes, and a log | half compressible, sparse |
#![forbid(unsafe_code)]

mod profiles;
mod random;
mod writer;

use std::io;
use std::path::Path;

use clap::ValueEnum;
use serde::Serialize;

use self::writer::Writer;

/// The seed of every tree: results of different runs are about the same bytes.
pub(super) const SEED: u64 = 7;
/// Mean size of a small file of `mixed` and `source`, in bytes.
const SMALL: u64 = 2_980;
/// The large file of `mixed` unless a size is asked for, in bytes.
const LARGE: u64 = 400 << 20;

/// What a tree looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub(crate) enum Profile {
    /// Small texts and one large file, half of it incompressible
    Mixed,
    /// The sources of a program
    Source,
    /// Packages of a package manager
    NodeModules,
    /// Weights of a model
    Model,
    /// Files of a database
    Database,
}

impl Profile {
    /// As it is typed.
    pub(super) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// Which tree is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// What it looks like.
    pub(crate) profile: Profile,
    /// How many files, about.
    pub(crate) files: u64,
    /// Bytes of all of them together, about.
    pub(crate) bytes: u64,
}

impl Wanted {
    /// What is asked for, or what the profile has by itself.
    pub(crate) fn new(profile: Profile, files: Option<u64>, bytes: Option<u64>) -> Self {
        let files = files.unwrap_or(match profile {
            Profile::Mixed | Profile::Source | Profile::NodeModules => 20_000,
            Profile::Model => 8,
            Profile::Database => 6,
        });
        let bytes = bytes.unwrap_or(match profile {
            Profile::Mixed => files.saturating_mul(SMALL).saturating_add(LARGE),
            Profile::Source | Profile::NodeModules => files.saturating_mul(SMALL),
            Profile::Model | Profile::Database => LARGE,
        });
        Self { profile, files, bytes }
    }
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Written {
    /// Regular files.
    pub(crate) files: u64,
    /// Bytes in them, holes included.
    pub(crate) bytes: u64,
}

/// Writes a tree into the directory `root`, which is there and empty.
///
/// # Errors
/// Those of the file system.
pub(crate) fn write(root: &Path, wanted: &Wanted) -> io::Result<Written> {
    let mut writer = Writer::new(root, SEED);
    match wanted.profile {
        Profile::Mixed => profiles::mixed(&mut writer, wanted)?,
        Profile::Source => profiles::source(&mut writer, wanted)?,
        Profile::NodeModules => profiles::node_modules(&mut writer, wanted)?,
        Profile::Model => profiles::model(&mut writer, wanted)?,
        Profile::Database => profiles::database(&mut writer, wanted)?,
    }
    Ok(writer.written())
}

/// Bytes that cannot be guessed from those before, for a single file of a curve.
pub(crate) fn filler(bytes: usize) -> Vec<u8> {
    let mut random = random::Random::new(SEED);
    let mut filler = vec![0; bytes];
    random.fill(&mut filler);
    filler
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    fn content(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        let mut left = vec![root.to_owned()];
        while let Some(dir) = left.pop() {
            for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
                let kind = entry.file_type().unwrap();
                let path = entry.path();
                if kind.is_dir() {
                    left.push(path);
                } else if kind.is_file() {
                    found.insert(path.strip_prefix(root).unwrap().to_owned(), std::fs::read(&path).unwrap());
                }
            }
        }
        found
    }

    #[test]
    fn the_same_request_gives_the_same_tree_of_about_what_was_asked_for() {
        for profile in Profile::value_variants() {
            let wanted = Wanted::new(*profile, Some(60), Some(3 << 20));
            let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let written = write(one.path(), &wanted).unwrap();
            assert_eq!(written, write(other.path(), &wanted).unwrap());
            let files = content(one.path());
            assert!(files == content(other.path()), "{profile:?}");
            assert_eq!(written.files, files.len() as u64, "{profile:?}");
            assert_eq!(written.bytes, files.values().map(|file| file.len() as u64).sum::<u64>());
            assert!((40..=80).contains(&written.files), "{profile:?}: {written:?}");
            assert!((2 << 20..=4 << 20).contains(&written.bytes), "{profile:?}: {written:?}");
        }
    }

    #[test]
    fn profiles_compress_as_they_should() {
        let ratio = |profile| {
            let dir = tempfile::tempdir().unwrap();
            write(dir.path(), &Wanted::new(profile, Some(100), Some(8 << 20))).unwrap();
            let all: Vec<u8> = content(dir.path()).into_values().flatten().collect();
            zstd::bulk::compress(&all, 1).unwrap().len() as f64 / all.len() as f64
        };
        assert!((0.3..0.8).contains(&ratio(Profile::Mixed)));
        assert!(ratio(Profile::Source) < 0.6);
        assert!(ratio(Profile::NodeModules) < 0.6);
        assert!(ratio(Profile::Model) > 0.9);
        assert!((0.1..0.9).contains(&ratio(Profile::Database)));
    }

    #[test]
    fn extreme_requests_are_met() {
        for profile in Profile::value_variants() {
            for (files, bytes) in [(0, 0), (1, 1), (0, 5000), (50, 10), (3, 1 << 20)] {
                let dir = tempfile::tempdir().unwrap();
                let written = write(dir.path(), &Wanted::new(*profile, Some(files), Some(bytes))).unwrap();
                assert!(written.bytes <= bytes + (64 << 10), "{profile:?} {files} {bytes}: {written:?}");
                assert!(written.files <= files + 4, "{profile:?} {files} {bytes}: {written:?}");
            }
        }
    }

    #[test]
    fn the_defaults_are_those_of_the_comparison_with_peers() {
        let wanted = Wanted::new(Profile::Mixed, None, None);
        assert_eq!((wanted.files, wanted.bytes / 1_000_000), (20_000, 479));
    }
}
