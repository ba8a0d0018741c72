//! [`ExecOutput`]: what a command said, and how much of it is kept.
#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use tokio::io::AsyncWrite;
use tokio_util::io::InspectWriter;

/// Bytes of one stream that are kept in memory: the first ones.
pub(super) const KEPT: usize = 16 << 20;

/// How a command ended and what it said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ExecOutput {
    /// The exit code.
    pub exit_code: i32,
    /// What it wrote to standard output; what is not UTF-8 is replaced.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
    /// It wrote more than 16 MiB to one of them, and the rest was thrown away.
    pub truncated: bool,
}

impl ExecOutput {
    pub(super) fn new(exit_code: i32, stdout: &Capture, stderr: &Capture) -> Self {
        let ((stdout, more_out), (stderr, more_err)) = (stdout.take(), stderr.take());
        Self { exit_code, stdout, stderr, truncated: more_out || more_err }
    }
}

/// A stream whose beginning is kept. Whoever writes to it is never stopped.
#[derive(Debug, Clone, Default)]
pub(super) struct Capture(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    bytes: Vec<u8>,
    more: bool,
}

impl Capture {
    fn take(&self) -> (String, bool) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = std::mem::take(&mut kept.bytes);
        let text = String::from_utf8(bytes);
        (text.unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()), kept.more)
    }

    /// A stream that is kept here.
    pub(super) fn stream(&self) -> impl AsyncWrite + Send + Unpin + 'static {
        let own = self.clone();
        InspectWriter::new(tokio::io::sink(), move |data| own.push(data))
    }

    /// Keeps what there is room for.
    pub(super) fn push(&self, data: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = KEPT.saturating_sub(kept.bytes.len()).min(data.len());
        kept.bytes.extend_from_slice(&data[..room]);
        kept.more |= room < data.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_is_cut_and_that_is_told() {
        let (out, err) = (Capture::default(), Capture::default());
        for _ in 0..17 {
            out.push(&vec![b'x'; 1 << 20]);
        }
        err.push(b"a\xff");
        let output = ExecOutput::new(3, &out, &err);
        assert_eq!((output.stdout.len(), output.truncated), (KEPT, true));
        assert_eq!((output.stderr.as_str(), output.exit_code), ("a\u{fffd}", 3));
    }
}
