//! [`Ship`]: what sessions do in a vessel. Shell commands only.
#![forbid(unsafe_code)]

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::vessel::Vessel;
use crate::vessel::exec::ExecOptions;

/// Bounds.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of one upload.
    pub upload: u64,
}

/// What an operation answers.
#[derive(Debug)]
pub struct Answer {
    /// A status as HTTP has it.
    pub status: u16,
    /// The JSON.
    pub body: Value,
}

/// Why something was refused.
#[derive(Debug)]
pub struct Refusal {
    /// A status as HTTP has it.
    pub status: u16,
    /// The reason.
    pub detail: String,
}

/// A file on its way out.
#[derive(Debug)]
pub struct Download {
    /// Bytes.
    pub size: u64,
    /// Its name, without directories.
    pub name: String,
    /// What is in it.
    pub content: tokio::io::Empty,
}

/// A shell with a terminal.
#[derive(Debug)]
pub struct Terminal {
    /// What it shows.
    pub reader: tokio::io::DuplexStream,
    /// What is typed.
    pub writer: tokio::io::DuplexStream,
}

impl Terminal {
    /// Tells it the size of the window.
    ///
    /// # Errors
    /// None.
    pub fn resize(&self, _cols: u16, _rows: u16) -> crate::Result<()> {
        Ok(())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// None.
    pub async fn wait(&mut self) -> crate::Result<Option<crate::ExecResult>> {
        Ok(None)
    }
}

/// One running ship.
#[derive(Debug)]
pub struct Ship {
    vessel: Vessel,
    limits: Limits,
}

fn unsupported() -> Refusal {
    Refusal { status: 501, detail: "this build has ships without files and terminals".to_owned() }
}

impl Ship {
    /// A ship of an open vessel.
    #[must_use]
    pub fn new(vessel: Vessel, limits: Limits) -> Self {
        Self { vessel, limits }
    }

    /// Does what a session asks for.
    pub async fn operate(&self, _session: &str, operation: &str, payload: Value) -> Answer {
        if operation != "shell/exec" {
            return Answer { status: 404, body: json!({"detail": "Not Found"}) };
        }
        let Some(command) = payload["command"].as_str() else {
            return Answer { status: 422, body: json!({"detail": "command is required"}) };
        };
        let (out, err) = (Capture::default(), Capture::default());
        let options = ExecOptions::new(["/bin/sh", "-c", command])
            .persist_result(true)
            .timeout(Duration::from_secs(30))
            .stdout(out.clone())
            .stderr(err.clone());
        match self.vessel.exec(options).await {
            Ok(done) => Answer {
                status: 200,
                body: json!({"success": done.success(), "return_code": done.exit_code, "stdout": out.text(), "stderr": err.text()}),
            },
            Err(error) => Answer { status: 500, body: json!({"detail": error.chain()}) },
        }
    }

    /// Puts a file there.
    ///
    /// # Errors
    /// 501.
    pub async fn upload(
        &self,
        _session: &str,
        _path: &str,
        _body: impl AsyncRead + Unpin + Send,
    ) -> Result<String, Refusal> {
        let _ = self.limits.upload;
        Err(unsupported())
    }

    /// Opens a file.
    ///
    /// # Errors
    /// 501.
    pub async fn download(&self, _session: &str, _path: &str) -> Result<Download, Refusal> {
        Err(unsupported())
    }

    /// Starts a shell.
    ///
    /// # Errors
    /// 501.
    pub async fn terminal(&self, _session: &str, _cols: u16, _rows: u16) -> Result<Terminal, Refusal> {
        Err(unsupported())
    }

    /// What was asked for lately.
    #[must_use]
    pub fn logs(&self) -> String {
        String::new()
    }

    /// Ends what a session does.
    pub async fn end_session(&self, _session: &str) {}

    /// The vessel.
    #[must_use]
    pub fn vessel(&self) -> &Vessel {
        &self.vessel
    }

    /// Closes the vessel.
    pub async fn close(&self) {
        let _ = self.vessel.close().await;
    }
}

#[derive(Debug, Clone, Default)]
struct Capture(Arc<Mutex<Vec<u8>>>);

impl Capture {
    fn text(&self) -> String {
        let bytes = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).trim().to_owned()
    }
}

impl AsyncWrite for Capture {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, data: &[u8]) -> Poll<std::io::Result<usize>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).extend_from_slice(data);
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
