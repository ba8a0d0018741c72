//! A thousand workspaces from one, and what they cost: `cargo run --release --example forks -- IMAGE [N]`.
#![forbid(unsafe_code)]
// An example says what it does by printing it.
#![allow(clippy::print_stdout)]

use std::time::{Duration, Instant};

use vesselrt::{ExecOptions, ForkOptions, Manager, ManagerConfig};

#[tokio::main]
async fn main() -> vesselrt::Result<()> {
    vesselrt::init(); // must be first: becomes the shim when re-executed
    let mut arguments = std::env::args().skip(1);
    let image = arguments.next().unwrap_or_else(|| "alpine".to_owned());
    let count = arguments.next().and_then(|number| number.parse().ok()).unwrap_or(1000);

    let config = std::env::var_os("VESSELRT_ROOT").map_or_else(ManagerConfig::default, ManagerConfig::new);
    let manager = Manager::new(config).await?;
    let vessel = manager.create_vessel(&image, "/work").await?;
    vessel.write_file("/work/plan", "to be tried in many ways", 0o644).await?;
    vessel.close().await?;

    let begin = Instant::now();
    let forks = manager.fork_vessel(vessel.id(), ForkOptions::new().count(count)).await?;
    println!("{} forks in {:?}", forks.len(), begin.elapsed());

    // Each on its own: fork it, run something in it.
    let (mut fork, mut open, mut exec) = (Vec::new(), Vec::new(), Vec::new());
    let mut tried = Vec::new();
    for _ in 0..30 {
        let begin = Instant::now();
        let made = manager.fork_vessel(vessel.id(), ForkOptions::new()).await?.remove(0);
        fork.push(begin.elapsed());
        let vessel = manager.open_vessel(&made.id).await?;
        open.push(begin.elapsed());
        vessel.exec(ExecOptions::new(["true"])).await?;
        exec.push(begin.elapsed());
        vessel.close().await?;
        tried.push(made);
    }
    println!("fork {:?}, and opened {:?}, and run {:?} (p50)", p50(fork), p50(open), p50(exec));

    let begin = Instant::now();
    for vessel in tried.iter().chain(&forks) {
        manager.delete_vessel(&vessel.id).await?;
    }
    manager.delete_vessel(vessel.id()).await?;
    manager.close().await?;
    println!("all deleted in {:?}", begin.elapsed());
    Ok(())
}

fn p50(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
