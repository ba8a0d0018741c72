//! [`Process`] for synchronous callers.
#![forbid(unsafe_code)]

use std::io::{self, Write};

use tokio::io::AsyncWriteExt;

use super::{Manager, Shared, Vessel};
use crate::error::Result;
use crate::vessel::process::events::{LogOptions, ProcessEvent};
use crate::vessel::process::{ProcessEnd, ProcessInfo, SpawnOptions};

/// [`crate::Process`] for synchronous callers.
#[derive(Debug, Clone)]
pub struct Process {
    inner: crate::Process,
    runtime: Shared,
}

/// [`crate::ProcessEvents`] for synchronous callers: an iterator that waits.
#[derive(Debug)]
pub struct ProcessEvents {
    inner: crate::ProcessEvents,
    runtime: Shared,
}

/// [`crate::ProcessInput`] for synchronous callers.
#[derive(Debug)]
pub struct ProcessInput {
    inner: crate::ProcessInput,
    runtime: Shared,
}

impl Vessel {
    /// See [`crate::Vessel::spawn_detached`].
    ///
    /// # Errors
    /// As there.
    pub fn spawn_detached(&self, options: impl Into<SpawnOptions>) -> Result<Process> {
        let (vessel, runtime) = self.parts();
        Ok(Process { inner: runtime.run(vessel.spawn_detached(options))?, runtime: runtime.clone() })
    }

    /// See [`crate::Vessel::processes`].
    ///
    /// # Errors
    /// As there.
    pub fn processes(&self) -> Result<Vec<ProcessInfo>> {
        let (vessel, runtime) = self.parts();
        runtime.run(vessel.processes())
    }

    /// See [`crate::Vessel::process`].
    ///
    /// # Errors
    /// As there.
    pub fn process(&self, id: &str) -> Result<Process> {
        let (vessel, runtime) = self.parts();
        Ok(Process { inner: runtime.run(vessel.process(id))?, runtime: runtime.clone() })
    }
}

impl Manager {
    /// See [`crate::Manager::processes`].
    ///
    /// # Errors
    /// As there.
    pub fn processes(&self, vessel: &str) -> Result<Vec<ProcessInfo>> {
        self.runtime.run(self.inner.processes(vessel))
    }

    /// See [`crate::Manager::process`].
    ///
    /// # Errors
    /// As there.
    pub fn process(&self, vessel: &str, id: &str) -> Result<Process> {
        let inner = self.runtime.run(self.inner.process(vessel, id))?;
        Ok(Process { inner, runtime: self.runtime.clone() })
    }

    /// See [`crate::Manager::prune_processes`].
    ///
    /// # Errors
    /// As there.
    pub fn prune_processes(&self, vessel: &str) -> Result<Vec<String>> {
        self.runtime.run(self.inner.prune_processes(vessel))
    }
}

impl Process {
    /// See [`crate::Process::id`].
    #[must_use]
    pub fn id(&self) -> String {
        self.inner.id()
    }

    /// See [`crate::Process::info`].
    ///
    /// # Errors
    /// As there.
    pub fn info(&self) -> Result<ProcessInfo> {
        self.runtime.run(self.inner.info())
    }

    /// See [`crate::Process::wait`].
    ///
    /// # Errors
    /// As there.
    pub fn wait(&self) -> Result<ProcessEnd> {
        self.runtime.run(self.inner.wait())
    }

    /// See [`crate::Process::signal`].
    ///
    /// # Errors
    /// As there.
    pub fn signal(&self, signal: i32) -> Result<()> {
        self.runtime.run(self.inner.signal(signal))
    }

    /// See [`crate::Process::events`].
    ///
    /// # Errors
    /// As there.
    pub fn events(&self, options: LogOptions) -> Result<ProcessEvents> {
        let inner = self.runtime.run(self.inner.events(options))?;
        Ok(ProcessEvents { inner, runtime: self.runtime.clone() })
    }

    /// See [`crate::Process::input`].
    ///
    /// # Errors
    /// As there.
    pub fn input(&self) -> Result<ProcessInput> {
        let inner = self.runtime.run(self.inner.input())?;
        Ok(ProcessInput { inner, runtime: self.runtime.clone() })
    }

    /// See [`crate::Process::close_input`].
    ///
    /// # Errors
    /// As there.
    pub fn close_input(&self) -> Result<()> {
        self.runtime.run(self.inner.close_input())
    }
}

impl ProcessEvents {
    /// See [`crate::ProcessEvents::offset`].
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.inner.offset()
    }
}

impl Iterator for ProcessEvents {
    type Item = Result<ProcessEvent>;

    fn next(&mut self) -> Option<Self::Item> {
        self.runtime.run(self.inner.next()).transpose()
    }
}

impl ProcessInput {
    /// See [`crate::ProcessInput::is_terminal`].
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        self.inner.is_terminal()
    }

    /// See [`crate::ProcessInput::resize`].
    ///
    /// # Errors
    /// As there.
    pub fn resize(&self, rows: u16, cols: u16) -> Result<()> {
        self.inner.resize(rows, cols)
    }
}

impl Write for ProcessInput {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.runtime.run(self.inner.write(data))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
