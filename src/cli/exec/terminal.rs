//! Our terminal while a command has it: raw, and as it was again afterwards, whatever happens.
#![forbid(unsafe_code)]

use std::sync::{Mutex, PoisonError};

use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::{Failure, Outcome};

/// The size of a terminal that does not tell: that of the VT100.
const DEFAULT_SIZE: (u16, u16) = (24, 80);

/// How the terminal was before it became raw.
static ORIGINAL: Mutex<Option<Termios>> = Mutex::new(None);

/// Refuses a terminal for a command when there is none here.
///
/// # Errors
/// An invalid argument.
pub(crate) fn check() -> Outcome {
    if !isatty(std::io::stdin()) {
        return Err(Failure::invalid("standard input is not a terminal")
            .remedy("leave out -t; -i alone passes standard input on"));
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

/// Changes of the size of our terminal.
#[derive(Debug)]
pub(crate) struct Resizes(Option<Signal>);

impl Resizes {
    /// Watches for them, or for nothing.
    pub(crate) fn new(watch: bool) -> Outcome<Self> {
        let watch = watch.then(|| signal(SignalKind::window_change()));
        Ok(Self(watch.transpose().map_err(|e| Failure::io("catch signals", e))?))
    }

    /// The next one.
    pub(crate) async fn next(&mut self) {
        match &mut self.0 {
            Some(signal) => {
                signal.recv().await;
            }
            None => std::future::pending().await,
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
        let mut raw = original.clone();
        raw.make_raw();
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

fn restore() {
    if let Some(original) = ORIGINAL.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // A terminal that is gone needs no restoring.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &original);
    }
}
