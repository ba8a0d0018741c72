//! Signals that ask this process to end, and what becomes of them.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::{Failure, Outcome};

pub(super) const SIGHUP: i32 = 1;
const SIGINT: i32 = 2;
const SIGQUIT: i32 = 3;
pub(super) const SIGKILL: i32 = 9;
pub(super) const SIGTERM: i32 = 15;

/// SIGHUP, SIGINT, SIGQUIT and SIGTERM, caught from the moment this is made: none of them ends this process any more.
#[derive(Debug)]
pub(crate) struct Interrupts {
    hangup: Signal,
    interrupt: Signal,
    quit: Signal,
    terminate: Signal,
    passed: Passed,
}

impl Interrupts {
    /// Catches them. To be called inside the async runtime.
    ///
    /// # Errors
    /// Those of sigaction(2).
    pub(crate) fn new() -> Outcome<Self> {
        let catch = |kind| signal(kind).map_err(|e| Failure::io("catch signals", e));
        Ok(Self {
            hangup: catch(SignalKind::hangup())?,
            interrupt: catch(SignalKind::interrupt())?,
            quit: catch(SignalKind::quit())?,
            terminate: catch(SignalKind::terminate())?,
            passed: Passed::default(),
        })
    }

    /// The number of the next one. Cancelling it loses none.
    pub(crate) async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.hangup.recv() => SIGHUP,
            _ = self.interrupt.recv() => SIGINT,
            _ = self.quit.recv() => SIGQUIT,
            _ = self.terminate.recv() => SIGTERM,
        }
    }

    /// [`Passed::on`].
    pub(super) fn pass_on(&mut self, signal: i32) -> Option<i32> {
        self.passed.on(signal)
    }
}

/// Signals that were passed on to a command.
#[derive(Debug, Default)]
pub(super) struct Passed(BTreeSet<i32>);

impl Passed {
    /// What a command is to be sent when this process gets `signal`: each one once; whoever interrupts twice means it.
    pub(super) fn on(&mut self, signal: i32) -> Option<i32> {
        match (self.0.insert(signal), signal) {
            (true, _) => Some(signal),
            (false, SIGINT) => Some(SIGKILL),
            (false, _) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_passed_on_once_and_a_second_interrupt_kills() {
        let mut passed = Passed::default();
        let sent: Vec<_> = [SIGTERM, SIGINT, SIGTERM, SIGINT, SIGINT].map(|s| passed.on(s)).into();
        assert_eq!(sent, [Some(SIGTERM), Some(SIGINT), None, Some(SIGKILL), Some(SIGKILL)]);
    }

    #[tokio::test]
    async fn what_is_caught_is_told() {
        let mut interrupts = Interrupts::new().unwrap();
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::HUP).unwrap();
        assert_eq!(interrupts.next().await, SIGHUP);
    }
}
