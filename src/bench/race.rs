//! [`race`]: several ways to do the same work, in turns, so that what the machine does besides meets all of them.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::watch;

use super::memory::{Watch, Whose};
use super::report::{Figures, Race, Row, Status, Work};
use super::stats::Times;
use crate::cli::{Failure, Outcome};

/// How long a round in flight may go on after an interrupt, so that what it made is in a state that can be removed.
const GRACE: Duration = Duration::from_secs(5);

/// One way to do the work.
#[async_trait(?Send)]
pub(super) trait Entrant {
    /// Does it once: [`Clock::time`] around what is to be timed, and nothing left of it afterwards that the next round
    /// would meet. Returns how many bytes it made, if it made an archive.
    async fn round(&mut self, clock: &mut Clock) -> Outcome<Option<u64>>;

    /// Removes what it has made, after the last round, whatever became of that.
    async fn end(&mut self) {}
}

/// A line of the table to be.
pub(super) struct Lane {
    pub(super) name: String,
    pub(super) ours: bool,
    /// Whose memory counts.
    pub(super) whose: Whose,
    /// The lane that its ratio is of, where that is not the course's.
    pub(super) against: Option<&'static str>,
    pub(super) entrant: Result<Box<dyn Entrant>, Missing>,
}

/// Why somebody does not take part.
#[derive(Debug)]
pub(super) enum Missing {
    /// It is not installed.
    Absent,
    /// It cannot, here or as this user.
    Unable(String),
}

impl Lane {
    /// Ours, through the library in this process.
    pub(super) fn library(name: &str, entrant: impl Entrant + 'static) -> Self {
        let entrant: Box<dyn Entrant> = Box::new(entrant);
        Self { name: name.to_owned(), ours: true, whose: Whose::Ours, against: None, entrant: Ok(entrant) }
    }

    /// Ours, as a command like those of the peers.
    pub(super) fn command(name: &str, entrant: impl Entrant + 'static) -> Self {
        Self { whose: Whose::New, ..Self::library(name, entrant) }
    }

    /// A peer, or why it is none.
    pub(super) fn peer<E: Entrant + 'static>(name: &str, entrant: Result<E, Missing>) -> Self {
        let entrant = entrant.map(|entrant| Box::new(entrant) as Box<dyn Entrant>);
        Self { name: name.to_owned(), ours: false, whose: Whose::New, against: None, entrant }
    }

    /// Compared with another lane of ours than the others are.
    pub(super) fn against(self, lane: &'static str) -> Self {
        Self { against: Some(lane), ..self }
    }
}

/// Times one round.
#[derive(Debug)]
pub(super) struct Clock {
    watched: Option<Whose>,
    took: Option<Duration>,
    peak: Option<u64>,
}

impl Clock {
    /// Does `work`, timed.
    ///
    /// # Errors
    /// Those of `work`.
    pub(super) async fn time<T>(&mut self, work: impl Future<Output = Outcome<T>>) -> Outcome<T> {
        let watch = self.watched.and_then(Watch::start);
        let begun = Instant::now();
        let outcome = work.await;
        self.took = Some(begun.elapsed());
        self.peak = watch.and_then(Watch::end);
        outcome
    }
}

/// What is raced over.
pub(super) struct Course {
    pub(super) name: &'static str,
    pub(super) title: String,
    /// Size of the work, where throughput means something.
    pub(super) work: Option<Work>,
    pub(super) rounds: u32,
    /// Longest that one round may take.
    pub(super) limit: Duration,
    /// The lane that ratios are of: its name.
    pub(super) base: &'static str,
}

/// Somebody asked us to end.
#[derive(Debug)]
pub(super) struct Interrupted;

/// What became of a lane so far.
struct Runner {
    lane: Lane,
    times: Vec<Duration>,
    peak: Option<u64>,
    made: Option<u64>,
    failure: Option<String>,
}

/// Runs them in turns: one round that only warms up (and watches the memory), then those that count. `step` is called after
/// every round with whose it was.
///
/// # Errors
/// [`Interrupted`]; everything has been removed then too.
pub(super) async fn race(
    course: &Course,
    lanes: Vec<Lane>,
    stop: &mut watch::Receiver<bool>,
    mut step: impl FnMut(&str),
) -> Result<Race, Interrupted> {
    let mut runners: Vec<Runner> = lanes.into_iter().map(Runner::new).collect();
    let mut ended = Ok(());
    'rounds: for round in 0..=course.rounds {
        for runner in &mut runners {
            if runner.round(course, round == 0, stop).await.is_err() {
                ended = Err(Interrupted);
                break 'rounds;
            }
            step(&runner.lane.name);
        }
    }
    for runner in &mut runners {
        if let Ok(entrant) = &mut runner.lane.entrant {
            entrant.end().await;
        }
    }
    ended.map(|()| told(course, runners))
}

impl Runner {
    fn new(lane: Lane) -> Self {
        Self { lane, times: Vec::new(), peak: None, made: None, failure: None }
    }

    async fn round(
        &mut self,
        course: &Course,
        warming: bool,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<(), Interrupted> {
        if *stop.borrow() {
            return Err(Interrupted);
        }
        let (Ok(entrant), None) = (&mut self.lane.entrant, &self.failure) else { return Ok(()) };
        let mut clock = Clock { watched: warming.then_some(self.lane.whose), took: None, peak: None };
        let outcome = {
            let mut round = entrant.round(&mut clock);
            tokio::select! {
                outcome = tokio::time::timeout(course.limit, &mut round) => outcome,
                _ = stop.wait_for(|stop| *stop) => {
                    let _ = tokio::time::timeout(GRACE, round).await;
                    return Err(Interrupted);
                }
            }
        };
        match (outcome, clock.took) {
            (Ok(Ok(made)), Some(took)) => {
                self.made = made;
                if warming {
                    self.peak = clock.peak;
                } else {
                    self.times.push(took);
                }
            }
            (Ok(Ok(_)), None) => self.failure = Some("nothing was timed".to_owned()),
            (Ok(Err(failure)), _) => self.failure = Some(failure.message().to_owned()),
            (Err(_elapsed), _) => self.failure = Some(format!("not done after {:?}", course.limit)),
        }
        Ok(())
    }

    fn row(self, work: Option<&Work>, base: Option<Duration>) -> Row {
        let (status, reason) = match (&self.lane.entrant, self.failure) {
            (Err(Missing::Absent), _) => (Status::Absent, Some("not installed".to_owned())),
            (Err(Missing::Unable(why)), _) => (Status::Unable, Some(why.clone())),
            (Ok(_), Some(why)) => (Status::Failed, Some(why)),
            (Ok(_), None) => (Status::Ok, None),
        };
        let ours = self.lane.ours;
        let figures = (status == Status::Ok).then(|| Figures::of(&Times::new(self.times), work)).flatten();
        let figures = figures.map(|figures| Figures {
            peak_memory_bytes: self.peak,
            output_bytes: self.made,
            ratio: base.filter(|_| !ours).and_then(|base| figures.ratio_to(base)),
            ..figures
        });
        Row { name: self.lane.name, ours, status, reason, figures }
    }
}

fn told(course: &Course, runners: Vec<Runner>) -> Race {
    let median = |name: &str| {
        let base = runners.iter().find(|runner| runner.lane.name == name && runner.failure.is_none());
        base.and_then(|runner| Times::new(runner.times.clone()).median())
    };
    let bases: Vec<_> =
        runners.iter().map(|runner| median(runner.lane.against.unwrap_or(course.base))).collect();
    let rows = runners.into_iter().zip(bases);
    let rows = rows.map(|(runner, base)| runner.row(course.work.as_ref(), base)).collect();
    Race { name: course.name, title: course.title.clone(), rounds: course.rounds, work: course.work, rows }
}

/// A failure of something that a peer was to do.
pub(super) fn unable(why: impl Into<String>) -> Failure {
    Failure::conflict(why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::rc::Rc;

    #[derive(Clone)]
    struct Fake {
        name: char,
        log: Rc<RefCell<String>>,
        fails_at: usize,
        wait: Duration,
    }

    #[async_trait(?Send)]
    impl Entrant for Fake {
        async fn round(&mut self, clock: &mut Clock) -> Outcome<Option<u64>> {
            self.log.borrow_mut().push(self.name);
            if self.log.borrow().matches(self.name).count() > self.fails_at {
                return Err(Failure::conflict("it broke"));
            }
            let wait = self.wait;
            let work = async move {
                tokio::time::sleep(wait).await;
                Ok(())
            };
            clock.time(work).await?;
            Ok(Some(5))
        }

        async fn end(&mut self) {
            self.log.borrow_mut().push(self.name.to_ascii_uppercase());
        }
    }

    fn course(rounds: u32) -> Course {
        let work = Some(Work { files: 10, bytes: 1_000_000 });
        Course { name: "x", title: "X".into(), work, rounds, limit: Duration::from_secs(60), base: "a" }
    }

    fn lanes(log: &Rc<RefCell<String>>) -> Vec<Lane> {
        let fake = |name, fails_at, millis| Fake {
            name,
            log: Rc::clone(log),
            fails_at,
            wait: Duration::from_millis(millis),
        };
        vec![
            Lane::library("a", fake('a', 99, 2)),
            Lane::peer("b", Ok(fake('b', 2, 2))),
            Lane::peer("c", Ok(fake('c', 99, 20))),
            Lane::peer::<Fake>("d", Err(Missing::Absent)),
        ]
    }

    #[tokio::test]
    async fn they_run_in_turns_and_who_fails_is_not_counted() {
        let log = Rc::new(RefCell::new(String::new()));
        let (_keep, mut stop) = watch::channel(false);
        let mut steps = 0;
        let race = race(&course(3), lanes(&log), &mut stop, |_| steps += 1).await.unwrap();
        assert_eq!(*log.borrow(), "abcabcabcacABC");
        assert_eq!(steps, 16);
        let status: Vec<Status> = race.rows.iter().map(|row| row.status).collect();
        assert_eq!(status, [Status::Ok, Status::Failed, Status::Ok, Status::Absent]);
        assert_eq!(race.rows[1].reason.as_deref(), Some("it broke"));
        assert!(race.rows[1].figures.is_none() && race.rows[3].figures.is_none());
        let peer = race.rows[2].figures.as_ref().unwrap();
        assert_eq!((peer.rounds, peer.output_bytes), (3, Some(5)));
        assert!(peer.ratio.unwrap() < 0.9 && peer.p50_ms >= 20.0, "{peer:?}");
        assert!(race.rows[0].figures.as_ref().unwrap().ratio.is_none());
    }

    #[tokio::test]
    async fn who_takes_too_long_has_failed() {
        let log = Rc::new(RefCell::new(String::new()));
        let (_keep, mut stop) = watch::channel(false);
        let slow = Fake { name: 's', log: Rc::clone(&log), fails_at: 9, wait: Duration::from_secs(60) };
        let lanes = vec![Lane::peer("s", Ok(slow))];
        let course = Course { limit: Duration::from_millis(100), ..course(2) };
        let race = race(&course, lanes, &mut stop, |_| ()).await.unwrap();
        assert_eq!(race.rows[0].status, Status::Failed);
        assert_eq!(*log.borrow(), "sS");
    }

    #[tokio::test]
    async fn an_interrupted_race_removes_everything() {
        let log = Rc::new(RefCell::new(String::new()));
        let (tell, mut stop) = watch::channel(false);
        let mut steps = 0;
        let outcome = race(&course(50), lanes(&log), &mut stop, |_| {
            steps += 1;
            if steps == 3 {
                tell.send_replace(true);
            }
        })
        .await;
        assert!(outcome.is_err());
        assert_eq!(*log.borrow(), "abcABC");
    }
}
