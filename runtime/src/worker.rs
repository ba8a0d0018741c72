//! Workers: short-lived processes in the user namespace of the store that pack, unpack and remove trees.
#![forbid(unsafe_code)]

use std::os::fd::BorrowedFd;

use serde::{Deserialize, Serialize};

use crate::shim::client::CallError;
use crate::shim::protocol::Packed;

/// How a blob is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compression {
    /// A plain tar.
    None,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

/// What a worker is to do. Digests are lower-case hexadecimal SHA-256.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Job {
    /// Unpacks an image layer. Descriptors: the blob (a file), the directory of unpacked layers, the empty directory
    /// to unpack into. Output: [`JobDone::Unpacked`].
    UnpackLayer {
        /// Size of the blob.
        size: u64,
        /// Digest of the blob.
        digest: String,
        /// How it is compressed.
        compression: Compression,
        /// Digest of the uncompressed tar.
        diff_id: String,
        /// Layers below, topmost first: names under the directory of unpacked layers, each with its tree in `fs`.
        lowers: Vec<String>,
    },
    /// Unpacks a snapshot archive (an uncompressed tar). Descriptors: the archive (may be a pipe), the empty directory.
    /// Output: [`JobDone::Unpacked`].
    UnpackSnapshot {
        /// Digest of the archive.
        sha256: String,
        /// Its size.
        size: u64,
    },
    /// Packs an ordinary directory as a tar with the ids as seen inside. Descriptors: the directory, the output.
    /// Output: [`JobDone::Packed`].
    PackTree,
    /// Removes `name` and everything in it. Descriptor: its parent directory. Output: [`JobDone::Removed`].
    RemoveTree {
        /// Name of the entry; no slash.
        name: String,
    },
}

/// What a worker did.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum JobDone {
    /// A tree is there, synced to disk.
    Unpacked {
        /// Entries of the archive.
        entries: u64,
        /// Bytes of file content.
        bytes: u64,
        /// What was left out or changed, for the user to read: bounded.
        warnings: Vec<String>,
    },
    /// A tar is written.
    Packed(Packed),
    /// It is gone.
    Removed,
}

/// A message of a worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Message {
    /// Bytes of input consumed so far.
    Progress(u64),
    /// Done.
    Done(JobDone),
    /// Failed.
    Failed(crate::shim::protocol::Fault),
}

/// A running worker: jobs one after the other. Dropping it ends it.
#[derive(Debug)]
pub struct Worker {
    #[allow(dead_code)]
    socket: std::os::unix::net::UnixStream,
    #[allow(dead_code)]
    child: std::process::Child,
}

impl Worker {
    /// Runs one job; `progress` hears how many bytes of input were consumed.
    ///
    /// # Errors
    /// [`CallError::Fault`] with the worker's reason; [`CallError::Lost`] when it died.
    pub fn run(
        &mut self,
        job: &Job,
        fds: &[BorrowedFd<'_>],
        progress: &mut dyn FnMut(u64),
    ) -> Result<JobDone, CallError> {
        let _ = (job, fds, progress);
        todo!("next commit")
    }
}
