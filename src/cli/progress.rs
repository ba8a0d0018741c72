//! Progress on standard error, where somebody looks at it.
#![forbid(unsafe_code)]

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Context;

const TICK: Duration = Duration::from_millis(120);
const BOUNDED: &str = "{spinner} {msg}  {bar:24} {bytes}/{total_bytes}  {bytes_per_sec}";
const STEPS: &str = "{spinner} {bar:24} {pos}/{len}  {msg}";
const UNBOUNDED: &str = "{spinner} {msg}  {bytes}  {bytes_per_sec}";

/// A line that tells how far something is; nothing at all when standard error is no terminal. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Progress(Option<ProgressBar>);

impl Progress {
    /// Begins one.
    pub(crate) fn new(context: &Context, doing: &str) -> Self {
        if context.quiet || context.json || !io::stderr().is_terminal() {
            return Self(None);
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        bar.set_message(doing.to_owned());
        bar.set_style(style("{spinner} {msg}"));
        bar.enable_steady_tick(TICK);
        Self(Some(bar))
    }

    /// Tells that `done` bytes are done, of `total` if that is known.
    pub(crate) fn bytes(&self, done: u64, total: Option<u64>) {
        let Some(bar) = &self.0 else { return };
        if bar.position() == 0 || bar.length() != total {
            match total {
                Some(total) => bar.set_length(total),
                None => bar.unset_length(),
            }
            bar.set_style(style(if total.is_some() { BOUNDED } else { UNBOUNDED }));
        }
        bar.set_position(done);
    }

    /// Tells that `done` steps are done, of `total`.
    pub(crate) fn steps(&self, done: u64, total: u64) {
        let Some(bar) = &self.0 else { return };
        if bar.length() != Some(total) {
            bar.set_length(total);
            bar.set_style(style(STEPS));
        }
        bar.set_position(done);
    }

    /// Tells what it is at now.
    pub(crate) fn doing(&self, doing: impl Into<String>) {
        if let Some(bar) = &self.0 {
            bar.set_message(doing.into());
        }
    }
}

impl Drop for Progress {
    /// Nothing of it stays on the screen.
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// The templates are constants: what they would complain about is seen by the first test.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

/// A reader or writer that tells how much went through it.
#[derive(Debug)]
pub(crate) struct Counted<W> {
    inner: W,
    done: u64,
    progress: Progress,
}

impl<W> Counted<W> {
    pub(crate) fn new(inner: W, progress: Progress) -> Self {
        Self { inner, done: 0, progress }
    }

    fn count(&mut self, bytes: usize) {
        self.done = self.done.saturating_add(bytes as u64);
        self.progress.bytes(self.done, None);
    }
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(data)?;
        self.count(written);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<R: io::Read> io::Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.count(read);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_are_valid() {
        for template in [BOUNDED, UNBOUNDED, STEPS, "{spinner} {msg}"] {
            assert!(ProgressStyle::with_template(template).is_ok());
        }
    }

    #[test]
    fn what_goes_through_is_counted() {
        let mut counted = Counted::new(Vec::new(), Progress(None));
        counted.write_all(b"12345").unwrap();
        assert_eq!(counted.done, 5);
    }
}
