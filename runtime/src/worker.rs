//! Workers: short-lived processes in the user namespace of the store that pack, unpack and remove trees.
#![forbid(unsafe_code)]

mod jobs;
mod squeeze;

use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::process::Child;

use serde::{Deserialize, Serialize};

pub(crate) use jobs::summary;

use crate::diff::{Comparison, Content, DiffRequest, ReadRequest};
pub use crate::layer::{Compression, Node, TreeFormat};
use crate::shim::client::CallError;
use crate::shim::protocol::Packed;
use crate::shim::wire;

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
    /// Unpacks an image layer while it arrives, whatever it is. Descriptors: the stream, the directory of unpacked
    /// layers, the one of layers that arrived before, the empty directory to unpack into. Output: [`JobDone::Arrived`].
    UnpackIncoming {
        /// How it is compressed.
        compression: Compression,
        /// The most bytes that the uncompressed tar may have.
        most: u64,
        /// Whether the end of the tar must be marked, because nothing else says where it has to be.
        strict: bool,
        /// Layers below, topmost first.
        lowers: Vec<Lower>,
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
    /// Packs a layer of an overlay as a layer of an OCI image. Descriptors: the directory with its tree `fs`, the
    /// output. Output: [`JobDone::Packed`] with digest and size of the uncompressed tar. Same tree, same bytes, on any number of
    /// processors.
    PackLayer {
        /// What wrote the tree.
        format: TreeFormat,
        /// How to compress.
        compression: Compression,
    },
    /// Measures what trees take on disk; what several of them have in common counts for the first. Descriptors: the
    /// directories that they are in. Output: [`JobDone::Measured`].
    MeasureTrees {
        /// Which directory, counted from 0, and the name in it; no slash.
        trees: Vec<(usize, String)>,
    },
    /// Measures a directory, its files too. Descriptor: the directory. Output: [`JobDone::Counted`].
    CountTree,
    /// Looks names up in the tree `fs` of an unpacked layer. Descriptor: the directory of the layer. Output:
    /// [`JobDone::Looked`].
    Look {
        /// What wrote the tree.
        format: TreeFormat,
        /// Clean paths, relative to the root of the tree.
        paths: Vec<Vec<u8>>,
    },
    /// Writes the content of a regular file of the tree `fs` of an unpacked layer. Descriptors: the directory of the
    /// layer, the output. Output: [`JobDone::Copied`].
    CopyFile {
        /// Clean path, relative to the root of the tree; no symlink on the way is followed.
        path: Vec<u8>,
    },
    /// Compares an unpacked image layer with one that was just unpacked. Descriptors: the directory of unpacked layers,
    /// the new tree. Output: [`JobDone::LayerCompared`].
    CompareLayer {
        /// Name of the layer, which has its tree in `fs`.
        name: String,
    },
    /// Packs a sealed layer as the archive of its snapshot: an uncompressed tar. Descriptors: the directory with its tree
    /// `fs`, the output. Output: [`JobDone::Packed`].
    PackSealed {
        /// What wrote the tree.
        format: TreeFormat,
    },
    /// Merges sealed layers into one that looks the same. Descriptors: the directory of sealed layers, that of image layers,
    /// the directory to make the tree `fs` in. Output: [`JobDone::Merged`]; nothing is synced.
    MergeLayers {
        /// What is merged, topmost first: names under the directory of sealed layers.
        layers: Vec<String>,
        /// Sealed layers below them, topmost first.
        sealed: Vec<String>,
        /// Image layers below those, topmost first.
        image: Vec<String>,
    },
    /// Removes `name` and everything in it. Descriptor: its parent directory. Output: [`JobDone::Removed`].
    RemoveTree {
        /// Name of the entry; no slash.
        name: String,
    },
    /// Compares two stacks of layers. Descriptors: the directories of image layers, of sealed layers, and of the vessel.
    /// Output: [`JobDone::Compared`].
    Diff(DiffRequest),
    /// Reads files of layers. Descriptors: those of [`Job::Diff`]. Output: [`JobDone::Contents`].
    ReadFiles(ReadRequest),
}

/// A layer below one that arrives: a name in a directory, with its tree in `fs`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Lower {
    /// In the directory of unpacked layers.
    Unpacked(String),
    /// In that of the layers that arrived before.
    Arrived(String),
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
    /// A tree is there, synced to disk, of what came.
    Arrived {
        /// Digest of the uncompressed tar.
        diff_id: String,
        /// With how many zero bytes it ends.
        zeros: u64,
        /// Entries of the archive.
        entries: u64,
        /// What was left out or changed, for the user to read: bounded.
        warnings: Vec<String>,
    },
    /// A tar is written.
    Packed(Packed),
    /// Bytes on disk, one for each tree; 0 for one that is not there.
    Measured(Vec<u64>),
    /// What a directory takes with everything in it.
    Counted {
        /// Bytes on disk.
        bytes: u64,
        /// Files and directories.
        inodes: u64,
    },
    /// What each of the names is, if it is there.
    Looked(Vec<Option<Node>>),
    /// A file was written: its bytes.
    Copied(u64),
    /// Two trees were compared.
    LayerCompared {
        /// How many entries differ.
        different: u64,
        /// The first of them, for the user to read.
        examples: Vec<String>,
    },
    /// The merged tree is there.
    Merged,
    /// It is gone.
    Removed,
    /// What differs.
    Compared(Comparison),
    /// The content of each file.
    Contents(Vec<Content>),
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
    socket: UnixStream,
    child: Child,
}

impl Worker {
    pub(crate) fn new(socket: UnixStream, child: Child) -> Self {
        Self { socket, child }
    }

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
        wire::send(&self.socket, job, fds).map_err(CallError::Lost)?;
        loop {
            match wire::recv::<Message>(&self.socket).map_err(CallError::Lost)? {
                Some((Message::Progress(bytes), _)) => progress(bytes),
                Some((Message::Done(done), _)) => return Ok(done),
                Some((Message::Failed(fault), _)) => return Err(CallError::Fault(fault)),
                None => return Err(CallError::Lost(io::ErrorKind::UnexpectedEof.into())),
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It ends by itself when the socket closes; one in the middle of a job is not worth waiting for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The worker's side: until the client hangs up. Returns the exit code of the process.
pub(crate) fn serve(socket: &UnixStream) -> i32 {
    // A client that dies leaves no worker behind, not even one that waits for a pipe.
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    while let Ok(Some((job, fds))) = wire::recv::<Job>(socket) {
        let message = jobs::run(job, fds, socket).map_or_else(Message::Failed, Message::Done);
        if wire::send(socket, &message, &[]).is_err() {
            return 1;
        }
    }
    0
}
