//! [`Queue`]: tasks that make tasks, done by several threads.
#![forbid(unsafe_code)]

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// What is left to do, the newest first: so a tree is gone through in depth, and little waits.
pub(super) struct Queue<T, E> {
    state: Mutex<State<T, E>>,
    changed: Condvar,
}

struct State<T, E> {
    tasks: Vec<T>,
    busy: usize,
    failed: Option<E>,
}

impl<T: Send, E: Send> Queue<T, E> {
    pub(super) fn new(tasks: Vec<T>) -> Self {
        Self { state: Mutex::new(State { tasks, busy: 0, failed: None }), changed: Condvar::new() }
    }

    /// Does all tasks with `work`, which appends to what it is given and returns further tasks. `results` is the beginning
    /// of what this returns.
    pub(super) fn run<R: Send>(
        self,
        threads: usize,
        mut results: Vec<R>,
        work: impl Fn(T, &mut Vec<R>) -> Result<Vec<T>, E> + Sync,
    ) -> Result<Vec<R>, E> {
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads)
                .filter_map(|_| {
                    let others = std::thread::Builder::new().name("vesselrt-diff".into());
                    // Fewer threads only take longer.
                    others.spawn_scoped(scope, || self.drain(&work)).ok()
                })
                .collect();
            results.extend(self.drain(&work));
            for other in others {
                match other.join() {
                    Ok(part) => results.extend(part),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
        });
        match self.state.into_inner().unwrap_or_else(PoisonError::into_inner).failed {
            Some(error) => Err(error),
            None => Ok(results),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T, E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One thread's part.
    fn drain<R>(&self, work: &impl Fn(T, &mut Vec<R>) -> Result<Vec<T>, E>) -> Vec<R> {
        let mut results = Vec::new();
        while let Some(task) = self.next() {
            let _busy = Busy(self);
            let done = work(task, &mut results);
            let mut state = self.lock();
            match done {
                Ok(tasks) => state.tasks.extend(tasks),
                Err(error) => {
                    state.tasks.clear();
                    state.failed.get_or_insert(error);
                }
            }
        }
        results
    }

    /// Waits for a task; `None` when none will come any more.
    fn next(&self) -> Option<T> {
        let mut state = self.lock();
        loop {
            if state.failed.is_some() {
                return None;
            }
            if let Some(task) = state.tasks.pop() {
                state.busy += 1;
                return Some(task);
            }
            if state.busy == 0 {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A thread that has a task: one that panics must not be waited for.
struct Busy<'a, T: Send, E: Send>(&'a Queue<T, E>);

impl<T: Send, E: Send> Drop for Busy<'_, T, E> {
    fn drop(&mut self) {
        self.0.lock().busy -= 1;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_is_done_once_by_any_number_of_threads() {
        for threads in [1, 2, 7] {
            // A tree of three levels with ten branches each.
            let mut done = Queue::<(u32, u32), ()>::new(vec![(0, 0)])
                .run(threads, vec![99_999], |(depth, number), results| {
                    results.push(number);
                    Ok(if depth < 3 {
                        (0..10).map(|n| (depth + 1, number * 10 + n + 1)).collect()
                    } else {
                        vec![]
                    })
                })
                .unwrap();
            done.sort_unstable();
            let mut expected: Vec<u32> = (0..1111).collect();
            expected.push(99_999);
            assert_eq!(done, expected);
        }
    }

    #[test]
    fn a_failure_ends_all_of_it() {
        let failed = Queue::new(vec![1_u64])
            .run(3, Vec::<()>::new(), |n, _| if n == 500 { Err(n) } else { Ok(vec![n + 1, n + 1]) });
        assert_eq!(failed.unwrap_err(), 500);
    }
}
