//! The SHA-256 of a stream that is only looked at.
#![forbid(unsafe_code)]

use std::fmt::Write;

use sha2::{Digest, Sha256};
use tokio::io::AsyncWrite;
use tokio_util::io::InspectWriter;

/// Hashes what is written to it.
#[derive(Debug, Default)]
pub(super) struct Fingerprint {
    hash: Sha256,
    bytes: u64,
}

impl Fingerprint {
    /// What takes the stream.
    pub(super) fn stream(&mut self) -> impl AsyncWrite + Send + Unpin {
        InspectWriter::new(tokio::io::sink(), |data: &[u8]| {
            self.hash.update(data);
            self.bytes += data.len() as u64;
        })
    }

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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn it_is_the_sha256() {
        let mut fingerprint = Fingerprint::default();
        for part in ["a", "bc"] {
            fingerprint.stream().write_all(part.as_bytes()).await.unwrap();
        }
        let (bytes, hex) = fingerprint.finish();
        // FIPS 180-2, appendix B.1.
        assert_eq!(
            (bytes, hex.as_str()),
            (3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
        );
    }
}
