//! [`Watched`]: a connection whose heads are read along, to see what hyper does not tell.
//!
//! Of a request with both Content-Length and Transfer-Encoding hyper takes the latter, drops the former from the headers and
//! ends the connection afterwards; of two equal Content-Length it drops one. RFC 9112 §6.1 and §6.3 allow that and allow to
//! refuse such a request, which is what we do: somebody between may have read it otherwise. So the bytes are followed as they
//! go by, from head to head, and the number of the first request that is ambiguous is noted. Requests are answered in the
//! order in which their heads came: who counts them knows which it is.
#![forbid(unsafe_code)]

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes of a line of a head that are looked at: names and values that matter are shorter.
const LOOKED_AT: usize = 64;

/// The number of the first request of a connection whose length is ambiguous.
#[derive(Debug, Clone)]
pub(super) struct Ambiguous(Arc<AtomicU64>);

impl Ambiguous {
    /// Whether this request is the one.
    pub(super) fn is(&self, number: u64) -> bool {
        self.0.load(Ordering::Acquire) == number
    }
}

/// A connection whose heads are read along.
pub(super) struct Watched<S> {
    stream: S,
    heads: Heads,
    ambiguous: Ambiguous,
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S) -> Self {
        let ambiguous = Ambiguous(Arc::new(AtomicU64::new(u64::MAX)));
        Self { stream, heads: Heads::default(), ambiguous }
    }

    /// Where is noted which request is ambiguous, before hyper has its head.
    pub(super) fn ambiguous(&self) -> Ambiguous {
        self.ambiguous.clone()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if let Some(number) = self.heads.feed(&buffer.filled()[before..]) {
            self.ambiguous.0.store(number, Ordering::Release);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Where in the requests of a connection we are.
#[derive(Debug, Default)]
struct Heads {
    at: At,
    /// The line that has begun, as far as it is looked at.
    line: Vec<u8>,
    /// Heads that have ended.
    number: u64,
    head: Head,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum At {
    /// Before a request; empty lines do not count.
    #[default]
    Start,
    Head,
    /// So many bytes of a body, or of a chunk and the end of its line, and what comes then.
    Bytes(u64, Then),
    /// The line with the length of a chunk.
    Chunk,
    /// Fields after the last chunk.
    Trailer,
    /// Not to be followed any more: it is refused, or ends.
    Lost,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Start,
    Chunk,
}

/// What a head says of its body.
#[derive(Debug, Default)]
struct Head {
    lengths: u32,
    encodings: u32,
    length: Option<u64>,
}

impl Heads {
    /// Follows what came; the number of the request that turned out to be ambiguous, after which nothing is followed.
    fn feed(&mut self, mut data: &[u8]) -> Option<u64> {
        while !data.is_empty() {
            match self.at {
                At::Lost => return None,
                At::Bytes(left, then) => {
                    let taken = data.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    data = &data[taken..];
                    self.at = match (left - taken as u64, then) {
                        (0, Then::Start) => At::Start,
                        (0, Then::Chunk) => At::Chunk,
                        (left, then) => At::Bytes(left, then),
                    };
                }
                _ => {
                    let end = data.iter().position(|byte| *byte == b'\n');
                    let part = &data[..end.unwrap_or(data.len())];
                    let room = LOOKED_AT.saturating_sub(self.line.len()).min(part.len());
                    self.line.extend_from_slice(&part[..room]);
                    data = &data[end.map_or(data.len(), |end| end + 1)..];
                    if end.is_some() && self.line() {
                        self.at = At::Lost;
                        return Some(self.number);
                    }
                }
            }
        }
        None
    }

    /// A line has ended; true at the end of a head that is ambiguous.
    fn line(&mut self) -> bool {
        let line = std::mem::take(&mut self.line);
        let line = line.strip_suffix(b"\r").unwrap_or(&line);
        match self.at {
            At::Start if line.is_empty() => {}
            At::Start => {
                self.head = Head::default();
                self.at = At::Head;
            }
            At::Head if !line.is_empty() => self.head.field(line),
            At::Head if self.head.is_ambiguous() => return true,
            At::Head => {
                self.number += 1;
                self.at = self.head.body();
            }
            At::Chunk => {
                self.at = match chunk(line) {
                    Some(0) => At::Trailer,
                    // With the end of its line.
                    Some(length) => At::Bytes(length.saturating_add(2), Then::Chunk),
                    None => At::Lost,
                };
            }
            At::Trailer if line.is_empty() => self.at = At::Start,
            At::Trailer | At::Bytes(..) | At::Lost => {}
        }
        false
    }
}

impl Head {
    fn field(&mut self, line: &[u8]) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { return };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            self.lengths += 1;
            self.length = std::str::from_utf8(value).ok().and_then(|value| value.parse().ok());
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.encodings += 1;
        }
    }

    fn is_ambiguous(&self) -> bool {
        self.lengths + self.encodings > 1
    }

    fn body(&self) -> At {
        match (self.encodings, self.lengths, self.length) {
            (1.., ..) => At::Chunk,
            (0, 0, _) | (0, _, Some(0)) => At::Start,
            (0, _, Some(length)) => At::Bytes(length, Then::Start),
            (0, _, None) => At::Lost,
        }
    }
}

/// The length of a chunk; what comes after it on its line is for nobody.
fn chunk(line: &[u8]) -> Option<u64> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: &str = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    const FIVE: &str = "POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\nhello";
    const CHUNKS: &str = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\nA\r\n\r\n\r\n\r\n\r\n\r\n\r\n0\r\nT: u\r\n\r\n";

    /// Whichever way it is cut in two, and byte by byte.
    fn ambiguous(requests: &str) -> Option<u64> {
        let bytes = requests.as_bytes();
        let whole = Heads::default().feed(bytes);
        for cut in 0..bytes.len() {
            let mut heads = Heads::default();
            let found = heads.feed(&bytes[..cut]).or_else(|| heads.feed(&bytes[cut..]));
            assert_eq!(found, whole, "{cut} {requests:?}");
        }
        let mut heads = Heads::default();
        assert_eq!(bytes.iter().find_map(|byte| heads.feed(&[*byte])), whole, "{requests:?}");
        whole
    }

    #[test]
    fn whoever_says_twice_how_long_it_is_is_found_in_any_order_and_however_it_is_cut() {
        for fields in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "transfer-encoding: chunked\r\nX: y\r\nCONTENT-LENGTH: 5",
            "Content-Length: 5\r\nContent-Length: 5",
            "Content-Length: 5\r\nContent-Length: 6",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\nContent-Length:5",
        ] {
            let bad = format!("POST / HTTP/1.1\r\n{fields}\r\n\r\n");
            assert_eq!(ambiguous(&bad), Some(0), "{fields:?}");
            for before in [GET, FIVE, CHUNKS] {
                assert_eq!(ambiguous(&format!("{before}{bad}")), Some(1), "{fields:?} after {before:?}");
                assert_eq!(ambiguous(&format!("{before}\r\n{before}{bad}{GET}")), Some(2), "{fields:?}");
            }
        }
    }

    #[test]
    fn bodies_are_no_heads() {
        let twice = "\r\n\r\nPOST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n";
        let long = format!("POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\n{twice}", twice.len());
        let chunked = format!(
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{twice}\r\n0\r\n\r\n",
            twice.len()
        );
        let wide = format!("GET / HTTP/1.1\r\nX: {}Content-Length: 1\r\n\r\n", "y".repeat(500));
        for good in [GET, FIVE, CHUNKS, &long, &chunked, &wide] {
            assert_eq!(ambiguous(&format!("{good}{good}{good}")), None, "{good:?}");
        }
    }

    #[test]
    fn what_is_no_http_is_not_followed() {
        for bytes in [
            "POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        ] {
            let mut heads = Heads::default();
            assert_eq!(heads.feed(bytes.as_bytes()), None);
            assert_eq!((heads.at, heads.line.len()), (At::Lost, 0), "{bytes:?}");
        }
        let mut heads = Heads::default();
        assert_eq!(heads.feed(&[b'x'; 100_000]), None);
        assert_eq!(heads.line.len(), LOOKED_AT);
    }
}
