//! [`Batch`]: the same thing done to many, one after the other.
#![forbid(unsafe_code)]

use vesselrt::Error;

use super::{Context, Failure, Outcome, output};

/// What was done to which; one that fails keeps no other from its turn.
#[derive(Debug, Default)]
pub(super) struct Batch {
    done: Vec<String>,
    failures: Vec<Error>,
}

impl Batch {
    /// Notes what came of `id`.
    pub(super) fn note(&mut self, id: String, outcome: Result<(), Error>) {
        match outcome {
            Ok(()) => self.done.push(id),
            Err(error) => self.failures.push(error),
        }
    }

    /// Prints those it worked for, and tells each failure; as JSON the first failure is the only thing printed.
    ///
    /// # Errors
    /// The first failure as JSON, and else the last one, which is still to be told.
    pub(super) fn finish(mut self, context: &Context) -> Outcome {
        if context.json {
            return context.finish_ids(&self.done, self.failures.into_iter().next());
        }
        let last = self.failures.pop();
        self.failures.into_iter().map(Failure::from).for_each(|failure| output::also(&failure));
        context.finish_ids(&self.done, last)
    }
}
