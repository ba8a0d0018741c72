//! Chunks of bytes between threads: one reads or writes, one hashes, none holds more than a few chunks.
#![forbid(unsafe_code)]

use std::io::{self, BufRead, Read, Write};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

use sha2::{Digest, Sha256};

/// Bytes of a chunk: large enough that a switch of threads costs nothing beside it.
const CHUNK: usize = 1 << 20;

/// Chunks under way between two threads.
const UNDER_WAY: usize = 3;

/// A buffer and how much of it counts. The buffer itself is used again and again.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) buffer: Vec<u8>,
    pub(super) filled: usize,
}

impl Chunk {
    pub(super) fn new() -> Self {
        Self { buffer: vec![0; CHUNK], filled: 0 }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[..self.filled]
    }

    /// What can still be filled.
    pub(super) fn room(&mut self) -> &mut [u8] {
        &mut self.buffer[self.filled..]
    }
}

/// Where full chunks go. Returns an empty one for the next bytes.
pub(super) trait ChunkSink {
    fn put(&mut self, chunk: Chunk) -> io::Result<Chunk>;
}

/// Chunks to a writer.
pub(super) struct PlainSink<W>(pub(super) W);

impl<W: Write> ChunkSink for PlainSink<W> {
    fn put(&mut self, mut chunk: Chunk) -> io::Result<Chunk> {
        self.0.write_all(chunk.bytes())?;
        chunk.filled = 0;
        Ok(chunk)
    }
}

/// Chunks to a writer and, on another thread, through a digest.
pub(super) struct HashingSink<W> {
    out: W,
    hasher: Hasher,
    empty: Empty,
}

impl<W: Write> HashingSink<W> {
    pub(super) fn new(out: W) -> Self {
        let (hasher, empty) = Hasher::start();
        Self { out, hasher, empty }
    }

    /// The digest of everything, and how many bytes it was.
    pub(super) fn finish(mut self) -> io::Result<(String, u64)> {
        self.out.flush()?;
        Ok(self.hasher.finish())
    }
}

impl<W: Write> ChunkSink for HashingSink<W> {
    fn put(&mut self, chunk: Chunk) -> io::Result<Chunk> {
        self.out.write_all(chunk.bytes())?;
        self.hasher.put(chunk);
        Ok(self.empty.next())
    }
}

/// SHA-256 on a thread of its own.
#[derive(Debug)]
pub(super) struct Hasher {
    full: Option<SyncSender<Chunk>>,
    thread: Option<JoinHandle<(String, u64)>>,
}

impl Hasher {
    /// The thread, and where the chunks come back from it.
    pub(super) fn start() -> (Self, Empty) {
        let (full, incoming) = sync_channel::<Chunk>(UNDER_WAY);
        let (recycle, empty) = channel();
        let thread = std::thread::spawn(move || hash(&incoming, &recycle));
        (Self { full: Some(full), thread: Some(thread) }, Empty { returned: empty, made: 0 })
    }

    /// Hashes a chunk after those before it.
    pub(super) fn put(&self, chunk: Chunk) {
        if let Some(full) = &self.full {
            // Fails only when the thread has panicked, which `finish` reports.
            let _ = full.send(chunk);
        }
    }

    /// The digest in hexadecimal and the number of bytes.
    pub(super) fn finish(mut self) -> (String, u64) {
        self.full = None;
        let thread = self.thread.take().expect("finish takes the only thread once");
        thread.join().expect("hashing does not panic")
    }
}

/// Chunks to be filled: used ones, and a few new ones at first.
#[derive(Debug)]
pub(super) struct Empty {
    returned: Receiver<Chunk>,
    made: usize,
}

impl Empty {
    fn next(&mut self) -> Chunk {
        if let Ok(chunk) = self.returned.try_recv() {
            return chunk;
        }
        if self.made <= 2 * UNDER_WAY {
            self.made += 1;
            return Chunk::new();
        }
        // The hashing thread has ended: nobody will read what is put into this one.
        self.returned.recv().unwrap_or_else(|_| Chunk::new())
    }
}

fn hash(incoming: &Receiver<Chunk>, recycle: &Sender<Chunk>) -> (String, u64) {
    let mut sha = Sha256::new();
    let mut size = 0u64;
    for mut chunk in incoming {
        sha.update(chunk.bytes());
        size += chunk.filled as u64;
        chunk.filled = 0;
        // Nobody may be waiting for it any more.
        let _ = recycle.send(chunk);
    }
    (hex(&sha.finalize()), size)
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The far end of a channel of chunks, read like a file. What has been read goes on to a [`Hasher`].
#[derive(Debug)]
pub(super) struct ChunkReader {
    incoming: Receiver<io::Result<Chunk>>,
    hasher: Hasher,
    current: Option<Chunk>,
    at: usize,
    zeros: u64,
}

impl ChunkReader {
    /// With how many zero bytes ends what came so far.
    pub(super) fn zeros(&self) -> u64 {
        self.zeros
    }

    /// Nothing may be read after this: the digest of what came through so far.
    pub(super) fn finish(mut self) -> (String, u64) {
        if let Some(chunk) = self.current.take() {
            self.hasher.put(chunk);
        }
        self.hasher.finish()
    }
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let len = available.len().min(buffer.len());
        buffer[..len].copy_from_slice(&available[..len]);
        self.consume(len);
        Ok(len)
    }
}

impl BufRead for ChunkReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.current.as_ref().is_none_or(|chunk| self.at >= chunk.filled) {
            if let Some(chunk) = self.current.take() {
                self.hasher.put(chunk);
            }
            self.at = 0;
            match self.incoming.recv() {
                Ok(chunk) => {
                    let chunk = chunk?;
                    let zeros = chunk.bytes().iter().rev().take_while(|&&byte| byte == 0).count();
                    self.zeros = zeros as u64 + if zeros == chunk.filled { self.zeros } else { 0 };
                    self.current = Some(chunk);
                }
                Err(_) => return Ok(&[]),
            }
        }
        Ok(self.current.as_ref().map_or(&[], |chunk| &chunk.bytes()[self.at..]))
    }

    fn consume(&mut self, len: usize) {
        self.at += len;
    }
}

/// The near end: sends what a source gives until it ends or nobody reads any more.
#[derive(Debug)]
pub(super) struct ChunkFeeder {
    outgoing: SyncSender<io::Result<Chunk>>,
    empty: Empty,
}

impl ChunkFeeder {
    /// Reads `source` to its end. False when the reader has gone.
    pub(super) fn feed(&mut self, mut source: impl Read) -> bool {
        loop {
            let mut chunk = self.empty.next();
            let result = fill(&mut source, &mut chunk);
            let last = match &result {
                Ok(()) => chunk.filled == 0,
                Err(_) => true,
            };
            match result {
                Ok(()) if last => return true,
                Ok(()) => {
                    if self.outgoing.send(Ok(chunk)).is_err() {
                        return false;
                    }
                }
                Err(error) => return self.outgoing.send(Err(error)).is_ok(),
            }
        }
    }
}

/// Fills a chunk as far as the source goes.
fn fill(source: &mut impl Read, chunk: &mut Chunk) -> io::Result<()> {
    while chunk.filled < chunk.buffer.len() {
        match source.read(chunk.room()) {
            Ok(0) => break,
            Ok(len) => chunk.filled += len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A channel of chunks with a digest at its end.
pub(super) fn pipeline() -> (ChunkFeeder, ChunkReader) {
    let (outgoing, incoming) = sync_channel(UNDER_WAY);
    let (hasher, empty) = Hasher::start();
    let reader = ChunkReader { incoming, hasher, current: None, at: 0, zeros: 0 };
    (ChunkFeeder { outgoing, empty }, reader)
}
