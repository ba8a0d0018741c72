//! The only place that prints: text or JSON on standard output, notes and errors on standard error.
#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::process::ExitCode;

use serde::Serialize;

use super::{Context, Failure, Outcome};

/// Prints a failure (JSON on standard output, text on standard error) and gives its exit code.
pub(crate) fn failed(json: bool, failure: &Failure) -> ExitCode {
    let code = ExitCode::from(failure.code());
    if failure.is_quiet() {
        return code;
    }
    // Where the printing of an error fails, nothing is left to tell it.
    let _ = match json {
        true => writeln!(io::stdout().lock(), "{}", failure.json()),
        false => io::stderr().lock().write_all(failure.text().as_bytes()),
    };
    code
}

/// Tells a failure that another one stands for.
pub(crate) fn also(failure: &Failure) {
    if !failure.is_quiet() {
        let _ = io::stderr().lock().write_all(failure.text().as_bytes());
    }
}

/// Prints one event as a line of JSON. Whoever has left hears of the end by the exit code.
pub(crate) fn event(value: &serde_json::Value) {
    let _ = writeln!(io::stdout().lock(), "{value}");
}

/// Asks something on standard error.
pub(crate) fn prompt(text: &str) {
    let mut err = io::stderr().lock();
    let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
}

/// Prints what clap has to say where it belongs: help on standard output, complaints on standard error.
pub(crate) fn rendered(error: &clap::Error) -> ExitCode {
    match error.print() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => failed(false, &Failure::io("write to standard output", e)),
    }
}

impl Context {
    /// Prints bytes as they are.
    ///
    /// # Errors
    /// A quiet one when nobody reads any more.
    pub(crate) fn print_bytes(&self, bytes: &[u8]) -> Outcome {
        let mut out = io::stdout().lock();
        out.write_all(bytes)
            .and_then(|()| out.flush())
            .map_err(|e| Failure::io("write to standard output", e))
    }

    /// Prints bytes as they are on standard error.
    ///
    /// # Errors
    /// A quiet one when nobody reads any more.
    pub(crate) fn print_error_bytes(&self, bytes: &[u8]) -> Outcome {
        io::stderr().lock().write_all(bytes).map_err(|e| Failure::io("write to standard error", e))
    }

    /// Prints a value as one line of JSON.
    ///
    /// # Errors
    /// Those of [`Self::print_bytes`].
    pub(crate) fn print_json_line(&self, value: &serde_json::Value) -> Outcome {
        self.print_line(&value.to_string())
    }

    /// Prints text as it is.
    ///
    /// # Errors
    /// Those of [`Self::print_bytes`].
    pub(crate) fn print(&self, text: &str) -> Outcome {
        self.print_bytes(text.as_bytes())
    }

    /// Prints one line.
    ///
    /// # Errors
    /// Those of [`Self::print_bytes`].
    pub(crate) fn print_line(&self, line: &str) -> Outcome {
        self.print(&format!("{line}\n"))
    }

    /// Prints a value as JSON.
    ///
    /// # Errors
    /// Those of [`Self::print_bytes`].
    pub(crate) fn print_json(&self, value: &impl Serialize) -> Outcome {
        let text = serde_json::to_string_pretty(value)
            .map_err(|e| Failure::internal(format!("failed to write JSON: {e}")))?;
        self.print_line(&text)
    }

    /// Prints ids, one a line, or as a JSON array.
    ///
    /// # Errors
    /// Those of [`Self::print_bytes`].
    pub(crate) fn print_ids(&self, ids: &[String]) -> Outcome {
        match self.json {
            true => self.print_json(&ids),
            false => self.print(&ids.iter().map(|id| format!("{id}\n")).collect::<String>()),
        }
    }

    /// Ends a verb that did something to many: prints those it worked for; the first failure is the verb's, and the only
    /// thing printed as JSON then.
    ///
    /// # Errors
    /// `failure`, if there is one.
    pub(crate) fn finish_ids(&self, ids: &[String], failure: Option<vesselrt::Error>) -> Outcome {
        match failure {
            None => self.print_ids(ids),
            Some(failure) => {
                if !self.json {
                    self.print_ids(ids)?;
                }
                Err(failure.into())
            }
        }
    }

    /// Tells something that the user should know and that is no error, unless asked to be quiet.
    pub(crate) fn warn(&self, text: &str) {
        if !self.quiet {
            let _ = writeln!(io::stderr().lock(), "vesselrt: warning: {text}");
        }
    }

    /// Tells something in the middle of what somebody else was writing: on a line of its own.
    pub(crate) fn interject(&self, text: &str) {
        if !self.quiet {
            let _ = writeln!(io::stderr().lock(), "\nvesselrt: {text}");
        }
    }

    /// Tells something that only a curious user wants to know.
    pub(crate) fn note(&self, text: &str) {
        if self.verbose {
            let _ = writeln!(io::stderr().lock(), "vesselrt: {text}");
        }
    }
}
