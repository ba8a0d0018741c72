//! Frames between a kernel and its interpreter: four bytes of length, most significant first, and JSON.
#![forbid(unsafe_code)]

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Longest frame that an interpreter may send, bytes: its images, its error and what JSON adds.
const MOST: usize = 48 << 20;
/// Read at once.
const PORTION: usize = 64 << 10;

/// `value` as a frame.
pub(super) fn frame(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let text = serde_json::to_vec(value)?;
    let length = u32::try_from(text.len()).map_err(|_| io::Error::other("the code is too long"))?;
    Ok([&length.to_be_bytes()[..], &text].concat())
}

/// Reads frames; may be cancelled at any time.
#[derive(Debug)]
pub(super) struct Frames<R> {
    from: R,
    read: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Frames<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from, read: Vec::new() }
    }

    /// The next one; `None` at the end.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] for what is no frame of `T`; those of reading.
    pub(super) async fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        loop {
            if let Some(frame) = self.whole()? {
                return Ok(Some(serde_json::from_slice(&frame)?));
            }
            self.read.reserve(PORTION);
            if self.from.read_buf(&mut self.read).await? == 0 {
                return Ok(None);
            }
        }
    }

    fn whole(&mut self) -> io::Result<Option<Vec<u8>>> {
        let Some((head, rest)) = self.read.split_first_chunk::<4>() else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes(*head)).unwrap_or(usize::MAX);
        if length > MOST {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame is too long"));
        }
        let Some(frame) = rest.get(..length).map(<[u8]>::to_vec) else { return Ok(None) };
        self.read.drain(..4 + length);
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_are_read_in_whatever_pieces_they_come() {
        let bytes = [frame(&1).unwrap(), frame(&"two").unwrap()].concat();
        for piece in [1, 3, 100] {
            let (mut to, from) = tokio::io::duplex(piece);
            let bytes = bytes.clone();
            tokio::spawn(async move { tokio::io::AsyncWriteExt::write_all(&mut to, &bytes).await });
            let mut frames = Frames::new(from);
            assert_eq!(frames.next::<u32>().await.unwrap(), Some(1));
            assert_eq!(frames.next::<String>().await.unwrap(), Some("two".to_owned()));
            assert_eq!(frames.next::<u32>().await.unwrap(), None);
        }
    }

    #[tokio::test]
    async fn what_is_no_frame_is_an_error_and_reserves_nothing() {
        let mut frames = Frames::new([0xff, 0xff, 0xff, 0xff, 0].as_slice());
        assert_eq!(frames.next::<u32>().await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        let mut frames = Frames::new([0, 0, 0, 1, b'x'].as_slice());
        assert!(frames.next::<u32>().await.is_err());
    }
}
