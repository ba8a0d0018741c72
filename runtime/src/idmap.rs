//! The id mapping of a store: which host ids the ids inside its vessels are.
//!
//! One mapping per store: files on disk carry host ids, so a store is only readable under the mapping it was
//! written with. Sources: user_namespaces(7), newuidmap(1), subuid(5).
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

/// One extent: `count` ids from `inside` on are the host's from `outside` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// First id inside the user namespace.
    pub inside: u32,
    /// First id outside.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// The mapping of users and groups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMapping {
    /// Of users; begins at inside id 0, without gaps.
    pub uids: Vec<Extent>,
    /// Of groups; begins at inside id 0, without gaps.
    pub gids: Vec<Extent>,
}

impl IdMapping {
    /// Ids `0..count` exist inside, for users and groups both.
    #[must_use]
    pub fn count(&self) -> u32 {
        let total = |extents: &[Extent]| extents.iter().map(|e| e.count).fold(0u32, u32::saturating_add);
        total(&self.uids).min(total(&self.gids))
    }

    /// Host user and group that are root inside.
    #[must_use]
    pub fn root(&self) -> (u32, u32) {
        let first = |extents: &[Extent]| extents.iter().find(|e| e.inside == 0).map_or(0, |e| e.outside);
        (first(&self.uids), first(&self.gids))
    }

    /// Only one id exists inside: `apt`, `useradd` and whatever else changes its user fail.
    #[must_use]
    pub fn is_single(&self) -> bool {
        self.count() <= 1
    }
}

/// How many ids exist in this process's user namespace, from 0 on: the kernel's own table is the truth.
pub(crate) fn mapped_here() -> std::io::Result<u32> {
    let total = |path: &str| -> std::io::Result<u32> {
        let table = std::fs::read_to_string(path)?;
        let counts = table.lines().filter_map(|line| line.split_whitespace().nth(2)?.parse::<u32>().ok());
        Ok(counts.fold(0, u32::saturating_add))
    };
    Ok(total("/proc/self/uid_map")?.min(total("/proc/self/gid_map")?))
}
