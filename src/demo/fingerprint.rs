//! The SHA-256 of a stream that is only looked at.
#![forbid(unsafe_code)]

use std::fmt::Write;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use sha2::{Digest, Sha256};
use tokio::io::AsyncWrite;

/// Hashes what is written to it.
#[derive(Debug, Default)]
pub(super) struct Fingerprint {
    hash: Sha256,
    bytes: u64,
}

impl Fingerprint {
    /// How many bytes there were, and their SHA-256 in hexadecimal.
    pub(super) fn finish(self) -> (u64, String) {
        let hex = self.hash.finalize().iter().fold(String::new(), |mut hex, byte| {
            // Writing to a string cannot fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        (self.bytes, hex)
    }
}

impl AsyncWrite for Fingerprint {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.hash.update(data);
        self.bytes += data.len() as u64;
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn it_is_the_sha256() {
        let mut fingerprint = Fingerprint::default();
        fingerprint.write_all(b"a").await.unwrap();
        fingerprint.write_all(b"bc").await.unwrap();
        let (bytes, hex) = fingerprint.finish();
        // FIPS 180-2, appendix B.1.
        assert_eq!(
            (bytes, hex.as_str()),
            (3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
        );
    }
}
