//! Commands in a vessel, with what they said.
#![forbid(unsafe_code)]

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;
use vesselrt::{Error, ExecOptions, ExecResult, Vessel};

/// A stream that keeps what is written to it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Capture(Arc<Mutex<Vec<u8>>>);

/// A stream that keeps what is written to it.
pub(crate) fn capture() -> Capture {
    Capture::default()
}

impl Capture {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }
}

impl AsyncWrite for Capture {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.0.lock().unwrap().extend_from_slice(data);
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// How a command ended and what it said.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) result: ExecResult,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Runs a command to its end.
pub(crate) async fn run_in(vessel: &Vessel, options: ExecOptions) -> Result<Ran, Error> {
    let (out, err) = (capture(), capture());
    let result = vessel.exec(options.stdout(out.clone()).stderr(err.clone())).await?;
    Ok(Ran { result, out: out.text(), err: err.text() })
}

/// What a script that must succeed writes; what it changes stays.
pub(crate) async fn sh(vessel: &Vessel, script: &str) -> String {
    must(vessel, ExecOptions::new(["sh", "-c", script]).persist_result(true)).await
}

/// What a script that must succeed writes; what it changes does not stay.
pub(crate) async fn sh_ephemeral(vessel: &Vessel, script: &str) -> String {
    must(vessel, ExecOptions::new(["sh", "-c", script])).await
}

/// What a command that must succeed writes.
pub(crate) async fn must(vessel: &Vessel, options: ExecOptions) -> String {
    let what = format!("{options:?}");
    let ran = run_in(vessel, options).await.unwrap_or_else(|e| panic!("{what}: {}", e.chain()));
    assert!(ran.result.success(), "{what}: {ran:?}");
    ran.out
}
