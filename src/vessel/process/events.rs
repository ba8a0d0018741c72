//! [`ProcessEvents`]: what a process wrote and writes, from any point on.
#![forbid(unsafe_code)]

mod start;

use std::collections::VecDeque;
use std::fmt;
use std::os::fd::OwnedFd;

use time::OffsetDateTime;
use vesselrt_runtime::log::{LogReader, Read, Stream};

use super::link::Link;
use super::watch::Watch;
use super::{Process, ProcessEnd, at};
use crate::error::{Error, Result};
use crate::offload::blocking;
pub use start::{LogOptions, LogStart};

/// How much is read at once.
const PORTION: usize = 1 << 20;

/// Something that happened to a process.
///
/// Offsets count the bytes of both streams together. Whoever goes on at the offset after the last byte that it has gets
/// every later one, once.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProcessEvent {
    /// It was started; told to those who read the log from its beginning.
    Started {
        /// When.
        time: OffsetDateTime,
    },
    /// It wrote to standard output, or to its terminal.
    Stdout {
        /// Of the first byte.
        offset: u64,
        /// When it was read from the process.
        time: OffsetDateTime,
        /// What it wrote.
        data: Vec<u8>,
    },
    /// It wrote to standard error.
    Stderr {
        /// Of the first byte.
        offset: u64,
        /// When it was read from the process.
        time: OffsetDateTime,
        /// What it wrote.
        data: Vec<u8>,
    },
    /// Some bytes are not in the log any more, or never were because the disk was full.
    Gone {
        /// Offset of the first of them.
        from: u64,
        /// Offset of the first after them.
        to: u64,
    },
    /// It has ended, and this is the end of the log.
    Exited(ProcessEnd),
}

/// What happened to a process, and happens while one waits for it.
pub struct ProcessEvents {
    process: Process,
    dir: OwnedFd,
    options: LogOptions,
    /// `None` while it is read on another thread; a read that was given up begins anew at `offset`.
    reader: Option<LogReader>,
    queue: VecDeque<Read>,
    offset: u64,
    started: Option<OffsetDateTime>,
    end: Option<ProcessEnd>,
    over: bool,
    following: Option<Following>,
}

/// What tells that there is more.
struct Following {
    watch: Watch,
    link: Option<Link>,
}

pub(super) async fn open(process: &Process, options: LogOptions) -> Result<ProcessEvents> {
    let (own, from) = (process.clone(), options.start.clone());
    blocking(move || {
        let (dir, (meta, _)) = (own.record()?, own.look()?);
        let offset = start::find(&own, &dir, &from, &options)?;
        let started = matches!(from, LogStart::Oldest).then(|| at(meta.started_us));
        let events = ProcessEvents {
            process: own,
            dir,
            options,
            reader: None,
            queue: VecDeque::new(),
            offset,
            started,
            end: None,
            over: false,
            following: None,
        };
        Ok(events)
    })
    .await
}

impl ProcessEvents {
    /// The next event; `None` after [`ProcessEvent::Exited`], or at the end of what there is now when the log is not followed. May be
    /// cancelled and called again.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) when the process was forgotten; those of reading files.
    pub async fn next(&mut self) -> Result<Option<ProcessEvent>> {
        if let Some(time) = self.started.take() {
            return Ok(Some(ProcessEvent::Started { time }));
        }
        while !self.over {
            if let Some(read) = self.queue.pop_front() {
                if let Some(event) = self.event(read) {
                    return Ok(Some(event));
                }
            } else if !self.fill().await? {
                if let Some(end) = self.end.clone() {
                    return Ok(Some(self.last(end)));
                }
                if !self.wait().await? {
                    return Ok(None);
                }
            }
        }
        Ok(None)
    }

    /// The offset after the last byte that was told: where another reader goes on.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    fn event(&mut self, read: Read) -> Option<ProcessEvent> {
        match read {
            Read::End => None,
            Read::Gone { from, to } => {
                self.offset = to;
                Some(ProcessEvent::Gone { from, to })
            }
            Read::Chunk(chunk) => {
                self.offset = chunk.offset + chunk.data.len() as u64;
                let (offset, time, data) = (chunk.offset, at(chunk.micros), chunk.data);
                match chunk.stream {
                    Stream::Stdout => {
                        self.options.stdout.then_some(ProcessEvent::Stdout { offset, time, data })
                    }
                    Stream::Stderr => {
                        self.options.stderr.then_some(ProcessEvent::Stderr { offset, time, data })
                    }
                }
            }
        }
    }

    /// What could not be written last is told before the end.
    fn last(&mut self, end: ProcessEnd) -> ProcessEvent {
        if let Some(to) = end.log_end.filter(|to| *to > self.offset) {
            let from = std::mem::replace(&mut self.offset, to);
            return ProcessEvent::Gone { from, to };
        }
        self.over = true;
        ProcessEvent::Exited(end)
    }

    /// Reads on; false when there is nothing more now.
    async fn fill(&mut self) -> Result<bool> {
        let mut reader = match self.reader.take() {
            Some(reader) => reader,
            None => {
                let dir = self.dir.try_clone().map_err(|e| self.unreadable(e))?;
                LogReader::new(dir, self.offset)
            }
        };
        let read = blocking(move || {
            let (mut reads, mut size) = (VecDeque::new(), 0);
            while size < PORTION {
                match reader.next() {
                    Ok(Read::End) => break,
                    Ok(read) => {
                        size += 1024 + if let Read::Chunk(chunk) = &read { chunk.data.len() } else { 0 };
                        reads.push_back(read);
                    }
                    Err(error) => return Ok(Err(error)),
                }
            }
            Ok(Ok((reader, reads)))
        });
        let (reader, reads) = read.await?.map_err(|e| self.unreadable(e))?;
        (self.reader, self.queue) = (Some(reader), reads);
        Ok(!self.queue.is_empty())
    }

    fn unreadable(&self, error: std::io::Error) -> Error {
        Error::io(format!("failed to read the log of process {}", self.process.id()), error)
    }

    /// Waits until there may be more; false when that is not asked for. The end is on disk after the last of the log, so
    /// the log is read once more after the end is known.
    async fn wait(&mut self) -> Result<bool> {
        let Some(following) = &mut self.following else {
            let own = self.process.clone();
            let (watch, link) = match self.options.follow {
                true => (Some(Watch::new(&self.dir)), Link::open(&self.process).await?),
                false => (None, None),
            };
            if link.is_none() || !self.options.follow {
                let (_, end) = blocking(move || own.look()).await?;
                self.end = end.map(ProcessEnd::from);
            }
            self.following = watch.map(|watch| Following { watch, link });
            return Ok(self.options.follow || self.end.is_some());
        };
        let Some(link) = &mut following.link else {
            let own = self.process.clone();
            following.watch.changed().await;
            let (_, end) = blocking(move || own.look()).await?;
            self.end = end.map(ProcessEnd::from);
            return Ok(true);
        };
        tokio::select! {
            () = following.watch.changed() => {}
            () = link.ended() => {
                // From here on the end is looked for.
                following.link = None;
                let own = self.process.clone();
                let (_, end) = blocking(move || own.look()).await?;
                self.end = end.map(ProcessEnd::from);
            }
        }
        Ok(true)
    }
}

impl fmt::Debug for ProcessEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessEvents")
            .field("process", &self.process.id())
            .field("offset", &self.offset)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}
