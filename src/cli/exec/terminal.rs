//! Our terminal while a command has it: raw, and as it was again afterwards, whatever happens.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::sync::{Mutex, PoisonError};

use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::{Failure, Outcome};

/// The size of a terminal that does not tell: that of the VT100.
const DEFAULT_SIZE: (u16, u16) = (24, 80);
const SIGCONT: i32 = 18;

/// How the terminal was before it became raw.
static ORIGINAL: Mutex<Option<Termios>> = Mutex::new(None);

/// Refuses a terminal for a command when there is none here.
///
/// # Errors
/// An invalid argument.
pub(crate) fn check() -> Outcome {
    if !isatty(std::io::stdin()) {
        // The words of docker, which people look for.
        return Err(Failure::invalid("the input device is not a TTY")
            .remedy("standard input must be a terminal: leave out -t; -i alone passes standard input on"));
    }
    Ok(())
}

/// Rows and columns of our terminal.
pub(crate) fn size() -> (u16, u16) {
    match tcgetwinsize(std::io::stdin()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row, size.ws_col),
        _ => DEFAULT_SIZE,
    }
}

/// What our terminal is, for a command that draws on it; `None` where nobody knows.
pub(crate) fn kind() -> Option<OsString> {
    std::env::var_os("TERM").filter(|kind| !kind.is_empty())
}

/// Changes of the size of our terminal.
#[derive(Debug)]
pub(crate) struct Resizes(Option<(Signal, Signal)>);

impl Resizes {
    /// Watches for them, or for nothing.
    pub(crate) fn new(watch: bool) -> Outcome<Self> {
        let failed = |e| Failure::io("catch signals", e);
        if !watch {
            return Ok(Self(None));
        }
        let changed = signal(SignalKind::window_change()).map_err(failed)?;
        Ok(Self(Some((changed, signal(SignalKind::from_raw(SIGCONT)).map_err(failed)?))))
    }

    /// The next one. Whoever stopped us had the terminal meanwhile: when we go on it is made raw again, and may have another
    /// size.
    pub(crate) async fn next(&mut self) {
        let Some((changed, continued)) = &mut self.0 else { return std::future::pending().await };
        tokio::select! {
            _ = changed.recv() => {}
            _ = continued.recv() => again(),
        }
    }
}

/// Every key goes to the command while this is there; the terminal is as before when it is dropped or the process panics.
#[derive(Debug)]
pub(crate) struct Raw(());

impl Raw {
    /// Makes the terminal on standard input raw.
    ///
    /// # Errors
    /// Those of tcsetattr(3).
    pub(crate) fn enter() -> Outcome<Self> {
        let failed = |e| Failure::io("make the terminal raw", e);
        let original = tcgetattr(std::io::stdin()).map_err(failed)?;
        let raw = raw(&original);
        *ORIGINAL.lock().unwrap_or_else(PoisonError::into_inner) = Some(original);
        // A panic aborts in release builds: no destructor would run.
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            hook(panic);
        }));
        tcsetattr(std::io::stdin(), OptionalActions::Now, &raw).map_err(failed)?;
        Ok(Self(()))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

fn raw(original: &Termios) -> Termios {
    let mut raw = original.clone();
    raw.make_raw();
    raw
}

/// Makes it raw again if it was, whatever it is now.
fn again() {
    if let Some(original) = &*ORIGINAL.lock().unwrap_or_else(PoisonError::into_inner) {
        // A terminal that is gone is told by reading it.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &raw(original));
    }
}

fn restore() {
    if let Some(original) = ORIGINAL.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // A terminal that is gone needs no restoring.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &original);
    }
}
