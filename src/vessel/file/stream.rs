//! A file's bytes as a stream: every read, write and seek is one call on a thread for blocking work.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncSeek, AsyncWrite, ReadBuf};
use tokio::task::{JoinError, JoinHandle};
use vesselrt_runtime::idmap::IdMapping;

use crate::vessel::fsids::as_mapped_root;

/// Bytes of one call.
const CALL: usize = 2 << 20;

/// What is on its way.
#[derive(Debug)]
enum Call {
    None,
    Read(JoinHandle<io::Result<Vec<u8>>>),
    Write(JoinHandle<io::Result<()>>),
    Seek(JoinHandle<io::Result<u64>>),
}

/// A file with a position.
#[derive(Debug)]
pub(super) struct Stream {
    file: Arc<File>,
    ids: IdMapping,
    call: Call,
    /// Read, and not taken yet by anyone: from `taken` on. The file's own position is behind it.
    buffer: Vec<u8>,
    taken: usize,
}

impl Stream {
    pub(super) fn new(file: File, ids: IdMapping) -> Self {
        Self { file: Arc::new(file), ids, call: Call::None, buffer: Vec::new(), taken: 0 }
    }

    /// The file, for calls that do not move its position.
    pub(super) fn file(&self) -> &Arc<File> {
        &self.file
    }

    pub(super) fn ids(&self) -> &IdMapping {
        &self.ids
    }

    fn on_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce(&File) -> io::Result<T> + Send + 'static,
    ) -> JoinHandle<io::Result<T>> {
        let (file, ids) = (Arc::clone(&self.file), self.ids.clone());
        tokio::task::spawn_blocking(move || as_mapped_root(&ids, || work(&file)))
    }

    /// Ends the call that is on its way; the error of a write is told to whoever comes next.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<u64>>> {
        let ended = match &mut self.call {
            Call::None => return Poll::Ready(Ok(None)),
            Call::Read(call) => joined(ready!(Pin::new(call).poll(cx))).map(|data| {
                (self.buffer, self.taken) = (data, 0);
                None
            }),
            Call::Write(call) => joined(ready!(Pin::new(call).poll(cx))).map(|()| None),
            Call::Seek(call) => joined(ready!(Pin::new(call).poll(cx))).map(Some),
        };
        self.call = Call::None;
        Poll::Ready(ended)
    }

    /// Forgets what was read too far; the position has to go back by as much.
    fn unread(&mut self) -> i64 {
        let ahead = self.buffer.len() - self.taken;
        (self.buffer, self.taken) = (Vec::new(), 0);
        i64::try_from(ahead).expect("it has at most the size of one call")
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let was_reading = matches!(self.call, Call::Read(_));
            ready!(self.poll_idle(cx))?;
            let rest = &self.buffer[self.taken..];
            if !rest.is_empty() || was_reading || buf.remaining() == 0 {
                let taken = rest.len().min(buf.remaining());
                buf.put_slice(&rest[..taken]);
                self.taken += taken;
                return Poll::Ready(Ok(()));
            }
            let wanted = buf.remaining().min(CALL);
            self.call = Call::Read(self.on_thread(move |mut file| {
                let mut data = vec![0; wanted];
                let read = retried(|| file.read(&mut data))?;
                data.truncate(read);
                Ok(data)
            }));
        }
    }
}

/// A call that did not run, because the runtime is shutting down, failed.
fn joined<T>(ended: Result<io::Result<T>, JoinError>) -> io::Result<T> {
    ended.unwrap_or_else(|e| Err(e.into()))
}

fn retried(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_idle(cx))?;
        let data = data[..data.len().min(CALL)].to_vec();
        let (taken, ahead) = (data.len(), self.unread());
        self.call = Call::Write(self.on_thread(move |mut file| {
            if ahead > 0 {
                file.seek(SeekFrom::Current(-ahead))?;
            }
            file.write_all(&data)
        }));
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_idle(cx))?;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

impl AsyncSeek for Stream {
    fn start_seek(mut self: Pin<&mut Self>, position: SeekFrom) -> io::Result<()> {
        if !matches!(self.call, Call::None) {
            return Err(io::Error::other("another operation on the file has not ended"));
        }
        let ahead = self.unread();
        let position = match position {
            SeekFrom::Current(by) => SeekFrom::Current(by.saturating_sub(ahead)),
            absolute => absolute,
        };
        self.call = Call::Seek(self.on_thread(move |mut file| file.seek(position)));
        Ok(())
    }

    fn poll_complete(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<u64>> {
        let position = ready!(self.poll_idle(cx))?;
        Poll::Ready(Ok(position.unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

    fn stream() -> Stream {
        let root = |id: u32| vec![vesselrt_runtime::idmap::Extent { inside: 0, outside: id, count: 1 }];
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        Stream::new(tempfile::tempfile().unwrap(), IdMapping { uids: root(uid), gids: root(gid) })
    }

    #[tokio::test]
    async fn it_reads_what_it_wrote_and_knows_where_it_is() {
        let mut stream = stream();
        stream.write_all(b"hello world").await.unwrap();
        assert_eq!(stream.seek(SeekFrom::Start(6)).await.unwrap(), 6);
        let mut word = [0; 3];
        stream.read_exact(&mut word).await.unwrap();
        assert_eq!((&word, stream.stream_position().await.unwrap()), (b"wor", 9));
        stream.write_all(b"LD!").await.unwrap();
        stream.rewind().await.unwrap();
        let mut all = String::new();
        stream.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "hello worLD!");
    }

    #[tokio::test]
    async fn a_read_that_was_given_up_is_not_lost_and_not_skipped_by_a_write() {
        let mut stream = stream();
        stream.write_all(b"abcdef").await.unwrap();
        stream.rewind().await.unwrap();
        for _ in 0..2 {
            // Started, and dropped before it ends.
            let mut big = [0; 6];
            let polled = tokio::time::timeout(std::time::Duration::ZERO, stream.read(&mut big)).await;
            if let Ok(read) = polled {
                assert_eq!(read.unwrap(), 6);
                stream.rewind().await.unwrap();
            }
        }
        let mut two = [0; 2];
        stream.read_exact(&mut two).await.unwrap();
        assert_eq!(&two, b"ab");
        stream.write_all(b"XY").await.unwrap();
        stream.rewind().await.unwrap();
        let mut all = String::new();
        stream.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "abXYef");
    }

    #[tokio::test]
    async fn the_error_of_a_write_is_told() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let read_only = File::open(path.path()).unwrap();
        let mut stream = Stream { file: Arc::new(read_only), ..stream() };
        let _ = stream.write(b"x").await;
        assert!(stream.flush().await.is_err());
        stream.flush().await.unwrap();
    }
}
