//! [`ArchiveFile`]: an archive that is a file, read in any order.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::backend::{RandomAccess, blocking};
use crate::error::{Result, StorageError};

/// Bytes that are read at once at most.
const MOST: usize = 8 << 20;

/// An open archive. It stays what it is when it is deleted or replaced meanwhile.
#[derive(Debug)]
pub(super) struct ArchiveFile {
    file: Arc<File>,
    len: u64,
    name: String,
}

impl ArchiveFile {
    /// `name` is for messages.
    pub(super) fn new(file: File, name: &str) -> Result<Self> {
        let stat = file.metadata().map_err(|e| StorageError::io("stat", name, e))?;
        Ok(Self { file: Arc::new(file), len: stat.len(), name: name.to_owned() })
    }
}

#[async_trait]
impl RandomAccess for ArchiveFile {
    fn len(&self) -> u64 {
        self.len
    }

    async fn read_at(&self, offset: u64, most: usize) -> Result<Bytes> {
        let left = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let (file, name, most) = (Arc::clone(&self.file), self.name.clone(), most.min(MOST).min(left));
        blocking("reading an archive", move || {
            read_at(&file, offset, most).map_err(|e| StorageError::io("read", name, e))
        })
        .await
    }
}

fn read_at(file: &File, offset: u64, most: usize) -> io::Result<Bytes> {
    let mut buffer = vec![0; most];
    loop {
        match file.read_at(&mut buffer, offset) {
            Ok(len) => {
                buffer.truncate(len);
                return Ok(buffer.into());
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
