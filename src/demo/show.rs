//! What the reader sees: one aligned line a step, with what came of it and how long it took.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cli::{Context, Outcome, Progress};

const LABEL: usize = 37;
const DETAIL: usize = 42;

/// Shows steps while they happen, or all of them as JSON at the end.
#[derive(Debug)]
pub(super) struct Show<'a> {
    context: &'a Context,
    store: PathBuf,
    steps: Vec<Value>,
    total: Duration,
}

impl<'a> Show<'a> {
    pub(super) fn new(context: &'a Context) -> Self {
        Self { context, store: PathBuf::new(), steps: Vec::new(), total: Duration::ZERO }
    }

    /// Begins.
    pub(super) fn title(&mut self, store: &Path) -> Outcome {
        store.clone_into(&mut self.store);
        match self.context.json {
            true => Ok(()),
            false => self.context.print(&format!("vesselrt demo in {}\n\n", store.display())),
        }
    }

    /// Does something and shows it.
    pub(super) async fn step<T>(
        &mut self,
        label: &str,
        work: impl Future<Output = Outcome<T>>,
        detail: impl FnOnce(&T) -> String,
    ) -> Outcome<T> {
        let progress = Progress::new(self.context, label);
        let begun = Instant::now();
        let outcome = work.await;
        let took = begun.elapsed();
        drop(progress);
        self.total += took;
        let value = outcome.inspect_err(|_| self.failed(label, took))?;
        let detail = detail(&value);
        self.steps.push(json!({ "step": label, "detail": detail, "ms": milliseconds(took) }));
        if !self.context.json {
            self.context.print_line(&line(label, &detail, took))?;
        }
        Ok(value)
    }

    /// The failure itself is told by whoever gets it.
    fn failed(&self, label: &str, took: Duration) {
        if !self.context.json {
            let _ = self.context.print_line(&line(label, "failed", took));
        }
    }

    /// Ends, after everything went well.
    pub(super) fn end(&self, kept: bool) -> Outcome {
        let store = self.store.display();
        if self.context.json {
            return self.context.print_json(&json!({
                "verified": true,
                "steps": self.steps,
                "ms": milliseconds(self.total),
                "store": kept.then(|| store.to_string()),
            }));
        }
        let took = time(self.total);
        if kept {
            self.context.print(&format!(
                "\nEverything came back, in {took}. Look around:\n  vesselrt --root {store} ls\n"
            ))
        } else {
            self.context.print(&format!(
                "\nEverything came back, in {took}. The store is removed, nothing is left behind.\n"
            ))
        }
    }
}

fn line(label: &str, detail: &str, took: Duration) -> String {
    format!("  {label:LABEL$} {detail:DETAIL$} {:>9}", time(took))
}

fn milliseconds(took: Duration) -> f64 {
    (took.as_secs_f64() * 1e6).round() / 1e3
}

/// Three digits and a unit.
fn time(took: Duration) -> String {
    match took.as_micros() {
        micros if micros < 1_000 => format!("{micros} µs"),
        micros if micros < 10_000 => format!("{}.{} ms", micros / 1000, micros % 1000 / 100),
        micros if micros < 1_000_000 => format!("{} ms", micros / 1000),
        micros => format!("{}.{:02} s", micros / 1_000_000, micros % 1_000_000 / 10_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit_that_fits() {
        for (micros, shown) in
            [(0, "0 µs"), (999, "999 µs"), (1_250, "1.2 ms"), (45_600, "45 ms"), (1_234_567, "1.23 s")]
        {
            assert_eq!(time(Duration::from_micros(micros)), shown);
        }
    }

    #[test]
    fn lines_are_aligned() {
        let short = line("a", "b", Duration::from_micros(5));
        let long = line("longer label", "and a detail", Duration::from_millis(5));
        assert_eq!(short.chars().count(), long.chars().count());
    }
}
