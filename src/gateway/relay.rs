//! Copying between two connections until both have ended, or neither has said anything for a long time.
#![forbid(unsafe_code)]

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::time::Instant;

/// How long a connection may be silent in both directions: longer than servers keep an unused one.
const SILENCE: Duration = Duration::from_secs(30 * 60);
/// How long one may go on of which one side has said its last.
const HALF_OPEN: Duration = Duration::from_secs(5 * 60);
/// Bytes that are on their way in one direction.
const BUFFER: usize = 32 << 10;

/// What both directions know of each other.
struct Shared(Mutex<State>);

struct State {
    last: Instant,
    half_open: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn deadline(&self) -> Instant {
        let state = self.state();
        state.last + if state.half_open { HALF_OPEN } else { SILENCE }
    }
}

/// Copies in both directions. The end of one is told to the other side.
///
/// # Errors
/// Those of the connections; `TimedOut`.
pub(super) async fn relay(mut one: TcpStream, mut other: TcpStream) -> io::Result<()> {
    // Small answers are not to wait for more.
    let _ = (one.set_nodelay(true), other.set_nodelay(true));
    let shared = Shared(Mutex::new(State { last: Instant::now(), half_open: false }));
    let (one_in, one_out) = one.split();
    let (other_in, other_out) = other.split();
    tokio::try_join!(copy(one_in, other_out, &shared), copy(other_in, one_out, &shared)).map(drop)
}

async fn copy(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, shared: &Shared) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = patient(shared, from.read(&mut buffer)).await?;
        if read == 0 {
            shared.state().half_open = true;
            return to.shutdown().await;
        }
        let mut rest = &buffer[..read];
        while !rest.is_empty() {
            let written = patient(shared, to.write(rest)).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            rest = &rest[written..];
        }
    }
}

/// `step`, given up only when the other direction stands still, too.
async fn patient<T>(shared: &Shared, step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::pin!(step);
    loop {
        if let Ok(done) = tokio::time::timeout_at(shared.deadline(), &mut step).await {
            shared.state().last = Instant::now();
            return done;
        }
        if shared.deadline() <= Instant::now() {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}
