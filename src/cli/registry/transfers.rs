//! [`Transfers`]: one bar per blob on a terminal, or one line of JSON per event.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::io::{self, IsTerminal};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use crate::cli::tables::short;
use crate::cli::{Context, output};

const BAR: &str = "{prefix}  {msg:11}  {bar:24} {bytes:>10}/{total_bytes:10}  {bytes_per_sec}";
const PLAIN: &str = "{prefix}  {msg}";
/// How often the same event of a blob is told as JSON.
const PAUSE: Duration = Duration::from_millis(200);

/// Clones share the bars.
#[derive(Debug, Clone)]
pub(in crate::cli) struct Transfers(Arc<Mutex<Shown>>);

#[derive(Debug)]
enum Shown {
    Nothing,
    Bars { all: MultiProgress, bars: HashMap<String, ProgressBar> },
    Json { last: HashMap<String, (&'static str, Instant)> },
}

impl Transfers {
    pub(in crate::cli) fn new(context: &Context) -> Self {
        if context.json {
            return Self(Arc::new(Mutex::new(Shown::Json { last: HashMap::new() })));
        }
        Self::bars(context)
    }

    /// Bars or nothing: for verbs whose output is something else.
    pub(in crate::cli) fn bars(context: &Context) -> Self {
        let shown = if context.json || context.quiet || !io::stderr().is_terminal() {
            Shown::Nothing
        } else {
            let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
            Shown::Bars { all, bars: HashMap::new() }
        };
        Self(Arc::new(Mutex::new(shown)))
    }

    /// An event that is no blob's, for those who read JSON.
    pub(in crate::cli) fn event(&self, value: &Value) {
        if let Shown::Json { .. } = &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            output::event(value);
        }
    }

    /// What happens to a blob, and how many of its bytes are done.
    pub(in crate::cli) fn blob(
        &self,
        digest: &str,
        word: &'static str,
        bytes: Option<(u64, u64)>,
        more: Option<Value>,
    ) {
        match &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Shown::Nothing => {}
            Shown::Json { last } => {
                let now = Instant::now();
                let whole = bytes.is_some_and(|(done, total)| done == total);
                let told = last.get(digest);
                if told.is_some_and(|(before, at)| *before == word && !whole && now - *at < PAUSE) {
                    return;
                }
                last.insert(digest.to_owned(), (word, now));
                let mut value = json!({ "event": word, "digest": digest });
                if let Some((done, total)) = bytes {
                    (value["done"], value["total"]) = (done.into(), total.into());
                }
                if let (Some(Value::Object(more)), Some(value)) = (more, value.as_object_mut()) {
                    value.extend(more);
                }
                output::event(&value);
            }
            Shown::Bars { all, bars } => {
                let bar = bars.entry(digest.to_owned()).or_insert_with(|| {
                    let bar = all.add(ProgressBar::new(0));
                    bar.set_prefix(short(digest).to_owned());
                    bar
                });
                bar.set_message(word);
                if let Some((done, total)) = bytes {
                    bar.set_style(style(BAR));
                    bar.set_length(total);
                    bar.set_position(done);
                } else {
                    bar.set_style(style(PLAIN));
                    bar.tick();
                }
            }
        }
    }

    /// Nothing of the bars stays on the screen.
    pub(in crate::cli) fn end(&self) {
        if let Shown::Bars { all, .. } = &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            // A terminal that is gone needs no clearing.
            let _ = all.clear();
        }
    }
}

/// The templates are constants: what they would complain about is seen by the test.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_are_valid() {
        assert!(ProgressStyle::with_template(BAR).is_ok() && ProgressStyle::with_template(PLAIN).is_ok());
    }
}
