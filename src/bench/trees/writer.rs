//! [`Writer`]: files of a few kinds of content, with their directories, counted.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};

use super::Written;
use super::random::Random;

const MIB: usize = 1 << 20;
/// Bytes of a page of a database.
pub(super) const PAGE: u64 = 8192;

/// Writes files into one tree.
pub(super) struct Writer {
    root: PathBuf,
    random: Random,
    /// Words to take text from.
    pool: Vec<u8>,
    made: HashSet<PathBuf>,
    written: Written,
}

impl Writer {
    pub(super) fn new(root: &Path, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let pool = words(&mut random);
        Self {
            root: root.to_owned(),
            random,
            pool,
            made: HashSet::new(),
            written: Written { files: 0, bytes: 0 },
        }
    }

    pub(super) fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    pub(super) fn written(&self) -> Written {
        self.written
    }

    fn path(&mut self, name: &str) -> io::Result<PathBuf> {
        let path = self.root.join(name);
        if let Some(parent) = path.parent()
            && self.made.insert(parent.to_owned())
        {
            fs::create_dir_all(parent)?;
        }
        Ok(path)
    }

    fn create(&mut self, name: &str, bytes: u64) -> io::Result<File> {
        let file = File::create_new(self.path(name)?)?;
        self.written.files += 1;
        self.written.bytes += bytes;
        Ok(file)
    }

    /// A text.
    pub(super) fn text(&mut self, name: &str, bytes: u64) -> io::Result<()> {
        let mut file = self.create(name, bytes)?;
        let mut left = bytes as usize;
        while left > 0 {
            let part = left.min(MIB / 2);
            let start = self.random.below((self.pool.len() - part) as u64) as usize;
            file.write_all(&self.pool[start..start + part])?;
            left -= part;
        }
        Ok(())
    }

    /// A file every second MiB of which is random and the others text, as `compare` has it.
    pub(super) fn half_random(&mut self, name: &str, bytes: u64) -> io::Result<()> {
        self.blocks(name, bytes, |random, pool, number, block| match number % 2 {
            0 => random.fill(block),
            _ => block.copy_from_slice(&pool[..block.len()]),
        })
    }

    /// A file of random bytes.
    pub(super) fn random_file(&mut self, name: &str, bytes: u64) -> io::Result<()> {
        self.blocks(name, bytes, |random, _, _, block| random.fill(block))
    }

    fn blocks(
        &mut self,
        name: &str,
        bytes: u64,
        mut fill: impl FnMut(&mut Random, &[u8], u64, &mut [u8]),
    ) -> io::Result<()> {
        let mut file = self.create(name, bytes)?;
        let mut block = vec![0; MIB];
        for number in 0..bytes.div_ceil(MIB as u64) {
            let size = (bytes - number * MIB as u64).min(MIB as u64) as usize;
            fill(&mut self.random, &self.pool, number, &mut block[..size]);
            file.write_all(&block[..size])?;
        }
        Ok(())
    }

    /// A file of pages: rows of text with random keys in them, free space after those, and every tenth page a hole.
    pub(super) fn pages(&mut self, name: &str, bytes: u64) -> io::Result<()> {
        let file = self.create(name, bytes)?;
        file.set_len(bytes)?;
        let mut page = [0; PAGE as usize];
        for number in (0..bytes / PAGE).filter(|number| number % 10 != 9) {
            let used = (PAGE / 2 + self.random.below(PAGE / 2)) as usize;
            let start = self.random.below((self.pool.len() - used) as u64) as usize;
            page.fill(0);
            page[..used].copy_from_slice(&self.pool[start..start + used]);
            page[..used].chunks_mut(64).for_each(|row| {
                let key = row.len().min(16);
                self.random.fill(&mut row[..key]);
            });
            file.write_all_at(&page, number * PAGE)?;
        }
        Ok(())
    }

    /// A symlink. One that is there already stays.
    pub(super) fn link(&mut self, name: &str, target: &str) -> io::Result<()> {
        match symlink(target, self.path(name)?) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
            _ => Ok(()),
        }
    }
}

/// A MiB of words out of 4,000.
fn words(random: &mut Random) -> Vec<u8> {
    let letters: Vec<u8> = (b'a'..=b'z').collect();
    let mut word = || -> Vec<u8> {
        let length = 3 + random.below(8);
        (0..length).map(|_| random.pick(&letters)).chain([b' ']).collect()
    };
    let known: Vec<Vec<u8>> = (0..4000).map(|_| word()).collect();
    let mut pool = Vec::with_capacity(MIB + 16);
    while pool.len() < MIB {
        pool.extend_from_slice(&known[random.below(known.len() as u64) as usize]);
    }
    pool.truncate(MIB);
    pool
}
