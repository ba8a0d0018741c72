//! How a run is told: what it wrote, its line in the log, the error that it is.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use vesselrt::vm::{RunResult, VmRecord};

use super::Session;
use super::log::{Fields, fields};
use crate::cli::{Failure, Outcome};

/// What a line about a run says.
pub(super) fn told(record: &VmRecord, result: &RunResult) -> Fields {
    fields! {
        "vm": record.id,
        "language": record.language,
        "exit_code": result.exit_code,
        "stdout": result.stdout_path,
        "stderr": result.stderr_path,
        "duration": format!("{:?}", result.duration),
    }
}

/// The error that a command is that did not end with 0.
pub(super) fn error_of(result: &RunResult) -> Option<String> {
    let code = result.exit_code;
    let why = match () {
        () if result.timed_out => ": its time was up",
        () if result.oom_killed => ": the memory of the VM (--mem) was used up",
        () => "",
    };
    (code != 0).then(|| format!("command exited with code {code}{why}"))
}

impl Session<'_> {
    /// Prints what a command wrote, to the streams that it was written to.
    pub(super) fn print_run(&self, result: &RunResult) -> Outcome {
        let failed = |e| Failure::io("print what the command wrote", e);
        stream(&result.stdout_path, &mut io::stdout().lock()).map_err(failed)?;
        stream(&result.stderr_path, &mut io::stderr().lock()).map_err(failed)?;
        if result.truncated {
            self.context.warn("the command wrote more than 64 MiB, and the rest was thrown away");
        }
        Ok(())
    }

    /// Tells a run in the log and prints what it wrote, or all of it as JSON; the message of its error.
    pub(super) fn tell(&self, what: &str, record: &VmRecord, result: &RunResult) -> Outcome<Option<String>> {
        let error = error_of(result);
        let mut fields = told(record, result);
        match &error {
            None if self.context.json => {}
            None => self.log.info(what, fields),
            Some(error) => {
                fields.insert("error".to_owned(), error.as_str().into());
                self.log.error(&format!("{} failed", what.trim_end_matches(" completed")), fields);
            }
        }
        if !self.context.json {
            self.print_run(result)?;
        }
        Ok(error)
    }

    /// A run as JSON, with what it wrote.
    pub(super) fn json_of(&self, record: &VmRecord, result: &RunResult) -> Outcome<serde_json::Value> {
        let read = |path: &Path| {
            let mut bytes = Vec::new();
            File::open(path)
                .and_then(|mut file| file.read_to_end(&mut bytes))
                .map_err(|e| Failure::io(format!("read {}", path.display()), e))?;
            Ok::<_, Failure>(String::from_utf8_lossy(&bytes).into_owned())
        };
        let mut value = serde_json::to_value(result)
            .map_err(|e| Failure::internal(format!("failed to write JSON: {e}")))?;
        value["VM"] = record.id.as_str().into();
        value["Stdout"] = read(&result.stdout_path)?.into();
        value["Stderr"] = read(&result.stderr_path)?.into();
        Ok(value)
    }
}

/// Ended by a line break, so that what comes next begins a line.
fn stream(path: &Path, to: &mut impl Write) -> io::Result<()> {
    let mut file = File::open(path)?;
    let (mut buffer, mut last) = (vec![0; 64 << 10], b'\n');
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => {
                to.write_all(&buffer[..n])?;
                last = buffer[n - 1];
            }
        }
    }
    if last != b'\n' {
        to.write_all(b"\n")?;
    }
    to.flush()
}
