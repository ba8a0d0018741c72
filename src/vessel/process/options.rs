//! [`SpawnOptions`]: a command that is to belong to nobody.
#![forbid(unsafe_code)]

use vesselrt_runtime::log::{DEFAULT_LIMIT, MIN_LIMIT};
use vesselrt_runtime::settings::Limits;
use vesselrt_runtime::shim::protocol::SpawnRequest;

use crate::error::{Error, Result};
use crate::state::ImageDefaults;
use crate::vessel::exec::{ExecOptions, Input, Output};

/// A command and how to run it detached. The setters return the changed value, to be chained.
///
/// The options of the command name no streams: what it writes is logged, and it reads nothing unless
/// [`input`](Self::input) says otherwise. Its timeout is kept by the vessel.
#[derive(Debug)]
pub struct SpawnOptions {
    exec: ExecOptions,
    input: bool,
    log_limit: u64,
}

impl From<ExecOptions> for SpawnOptions {
    fn from(exec: ExecOptions) -> Self {
        Self::new(exec)
    }
}

impl SpawnOptions {
    /// Runs this command.
    #[must_use]
    pub fn new(exec: ExecOptions) -> Self {
        Self { exec, input: false, log_limit: DEFAULT_LIMIT }
    }

    /// Whether it has an input that stays open, to be written by [`Process::input`](super::Process::input). A terminal is
    /// one anyway.
    #[must_use]
    pub fn input(mut self, input: bool) -> Self {
        self.input = input;
        self
    }

    /// Bytes that its log may have on disk, 16 MiB by default and 4 KiB at least: the oldest quarter is removed to make
    /// room for the newest.
    #[must_use]
    pub fn log_limit(mut self, bytes: u64) -> Self {
        self.log_limit = bytes;
        self
    }

    /// What it has of its own besides the limits of the vessel.
    pub(super) fn limits(&self) -> &Limits {
        &self.exec.limits
    }

    pub(super) fn request(&self, work_dir: &str, image: &ImageDefaults) -> Result<SpawnRequest> {
        let ExecOptions { stdin, stdout, stderr, timeout, .. } = &self.exec;
        if !matches!((stdin, stdout, stderr), (Input::Null, Output::Null, Output::Null)) {
            return Err(Error::invalid("a detached command takes no streams of its caller")
                .with_remedy("read what it writes from its log, and write to it when it runs"));
        }
        if self.log_limit < MIN_LIMIT {
            let message =
                format!("a log cannot be limited to {} bytes: {MIN_LIMIT} is the least", self.log_limit);
            return Err(Error::invalid(message));
        }
        let millis = |time: &std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Ok(SpawnRequest {
            command: self.exec.request(work_dir, image)?,
            input: self.input,
            timeout_ms: timeout.as_ref().map(millis),
            log_limit: self.log_limit,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_cannot_be_detached_is_refused() {
        let request = |options: SpawnOptions| options.request("/w", &ImageDefaults::default());
        let plain = || ExecOptions::new(["true"]);
        let good = request(SpawnOptions::new(plain().timeout(Duration::from_secs(2))).input(true)).unwrap();
        assert_eq!((good.input, good.timeout_ms, good.log_limit), (true, Some(2000), DEFAULT_LIMIT));
        for bad in [
            SpawnOptions::new(plain().stdin(tokio::io::empty())),
            SpawnOptions::new(plain().stdout(tokio::io::sink())),
            SpawnOptions::new(plain().stderr(tokio::io::sink())),
            SpawnOptions::new(plain()).log_limit(MIN_LIMIT - 1),
            SpawnOptions::new(ExecOptions::new([""])),
        ] {
            assert_eq!(request(bad).unwrap_err().kind(), crate::ErrorKind::InvalidArgument);
        }
    }
}
