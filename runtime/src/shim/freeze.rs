//! Stopping everything that runs in containers, and letting it go on.
//!
//! By `SIGSTOP` of every process below the containers' inits, which needs neither a cgroup nor any privilege that a shim
//! may lack. It cannot be caught or ignored. What a process may notice: its parent is told by `SIGCHLD`, and some system
//! calls that wait end with `EINTR` (signal(7), "Interruption of system calls and library functions by stop signals").
//! Parents are stopped before their children and go on after them, so that a shell does not take it for job control.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::libc;
use rustix::process::{Pid, PidfdFlags, Signal};

use super::protocol::{Fault, FaultKind};

/// First and longest pause between two looks.
const PAUSES: (Duration, Duration) = (Duration::from_micros(50), Duration::from_millis(2));
/// Processes that one vessel may have, so that looking at them ends.
const MOST: usize = 100_000;

#[derive(Debug)]
struct Stopped {
    pidfd: OwnedFd,
    /// Somebody else had stopped it: it stays so.
    before: bool,
}

/// Processes that stand still. Dropped, they go on.
#[derive(Debug)]
pub(super) struct Frozen {
    inits: Vec<Pid>,
    stopped: BTreeMap<i32, Stopped>,
    /// Parents before children.
    order: Vec<i32>,
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for pid in self.order.iter().rev() {
            if let Some(Stopped { pidfd, before: false }) = self.stopped.get(pid) {
                // ESRCH: it was killed meanwhile.
                let _ = rustix::process::pidfd_send_signal(pidfd, Signal::CONT);
            }
        }
    }
}

impl Frozen {
    /// Stops everything below these processes, which themselves go on.
    ///
    /// # Errors
    /// [`FaultKind::Busy`] when something does not stand still in time; everything goes on then.
    pub(super) fn new(inits: Vec<Pid>, patience: Duration) -> Result<Self, Fault> {
        let mut frozen = Self { inits, stopped: BTreeMap::new(), order: Vec::new() };
        let (end, mut pause, mut quiet) = (Instant::now() + patience, PAUSES.0, 0);
        loop {
            // A process that was still running when it was looked at may have forked since: twice the same.
            quiet = if frozen.look()? { quiet + 1 } else { 0 };
            if quiet == 2 {
                return Ok(frozen);
            }
            if Instant::now() >= end {
                let message = "a process of the vessel does not stand still";
                return Err(Fault::new(FaultKind::Busy, message).with_remedy("try again later"));
            }
            if quiet == 0 {
                std::thread::sleep(pause);
                pause = (pause * 2).min(PAUSES.1);
            }
        }
    }

    /// Whether all that was stopped still stands still, and nothing else runs.
    pub(super) fn still_stands(&mut self) -> Result<bool, Fault> {
        self.look()
    }

    /// Stops what is new; true when there was nothing new and everything stands still.
    fn look(&mut self) -> Result<bool, Fault> {
        let failed = |e: io::Error| Fault::io("look at the processes of the vessel", &e);
        let mut all_stand = true;
        let mut queue: Vec<(i32, i32)> = Vec::new();
        for init in &self.inits {
            let init = init.as_raw_nonzero().get();
            queue.extend(children(init).map_err(failed)?.into_iter().map(|child| (child, init)));
        }
        let mut next = 0;
        while let Some(&(pid, parent)) = queue.get(next) {
            next += 1;
            if queue.len() > MOST {
                return Err(Fault::new(FaultKind::LimitExceeded, "too many processes in the vessel"));
            }
            if !self.stopped.contains_key(&pid) {
                all_stand = false;
                self.stop(pid, parent).map_err(failed)?;
            }
            let below = children(pid).map_err(failed)?;
            all_stand &= stands(pid, !below.is_empty()).map_err(failed)?;
            queue.extend(below.into_iter().map(|child| (child, pid)));
        }
        Ok(all_stand)
    }

    fn stop(&mut self, pid: i32, parent: i32) -> io::Result<()> {
        let Some(number) = Pid::from_raw(pid) else { return Ok(()) };
        let pidfd = match rustix::process::pidfd_open(number, PidfdFlags::empty()) {
            Err(rustix::io::Errno::SRCH) => return Ok(()),
            other => other?,
        };
        // Its number may belong to somebody else by now. If it does not, the descriptor is that of this process.
        let Some(stat) = stat(&format!("/proc/{pid}/stat"))? else { return Ok(()) };
        if stat.parent != parent && !self.inits.iter().any(|init| init.as_raw_nonzero().get() == stat.parent)
        {
            return Ok(());
        }
        let before = stat.state == b'T';
        match rustix::process::pidfd_send_signal(&pidfd, Signal::STOP) {
            Err(rustix::io::Errno::SRCH) => return Ok(()),
            other => other?,
        }
        self.stopped.insert(pid, Stopped { pidfd, before });
        self.order.push(pid);
        Ok(())
    }
}

/// The children of all threads of a process; none when it is gone.
fn children(pid: i32) -> io::Result<Vec<i32>> {
    let mut found = Vec::new();
    for thread in threads(pid)? {
        let Some(list) = read(&format!("/proc/{pid}/task/{thread}/children"))? else { continue };
        found.extend(list.split_ascii_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
    }
    Ok(found)
}

fn threads(pid: i32) -> io::Result<Vec<i32>> {
    let entries = match fs::read_dir(format!("/proc/{pid}/task")) {
        Err(error) if is_gone(&error) => return Ok(Vec::new()),
        other => other?,
    };
    let number = |entry: io::Result<fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse().ok();
    Ok(entries.filter_map(number).collect())
}

/// Every thread is stopped, or dead, or waits for a child that shares its memory and is stopped itself.
fn stands(pid: i32, has_children: bool) -> io::Result<bool> {
    for thread in threads(pid)? {
        let Some(stat) = stat(&format!("/proc/{pid}/task/{thread}/stat"))? else { continue };
        match stat.state {
            b'T' | b't' | b'Z' | b'X' => {}
            b'D' if has_children && waits_for_vfork(pid, thread)? => {}
            _ => return Ok(false),
        }
    }
    Ok(true)
}

/// The parent of a vfork(2) cannot be stopped before the child has executed something or ended.
fn waits_for_vfork(pid: i32, thread: i32) -> io::Result<bool> {
    let Some(line) = read(&format!("/proc/{pid}/task/{thread}/syscall"))? else { return Ok(true) };
    let number = line.split(' ').next().and_then(|number| number.parse::<libc::c_long>().ok());
    #[cfg(target_arch = "x86_64")]
    let forks = [libc::SYS_vfork, libc::SYS_clone, libc::SYS_clone3];
    #[cfg(not(target_arch = "x86_64"))]
    let forks = [libc::SYS_clone, libc::SYS_clone3];
    Ok(number.is_some_and(|number| forks.contains(&number)))
}

struct Stat {
    state: u8,
    parent: i32,
}

/// Source: proc_pid_stat(5); the name of the program, in parentheses, may contain anything.
fn stat(path: &str) -> io::Result<Option<Stat>> {
    let Some(text) = read(path)? else { return Ok(None) };
    let parsed = text.rsplit_once(") ").and_then(|(_, rest)| {
        let mut fields = rest.split(' ');
        Some(Stat { state: *fields.next()?.as_bytes().first()?, parent: fields.next()?.parse().ok()? })
    });
    parsed.map(Some).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("{path} is malformed")))
}

/// `None` when the process is gone.
fn read(path: &str) -> io::Result<Option<String>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command, Stdio};

    /// The process group of a shell, so that all of it is killed at the end.
    struct Family(Child);

    impl Family {
        fn start(script: &str) -> Self {
            let mut command = Command::new("sh");
            Self(command.args(["-c", script]).stdin(Stdio::null()).spawn().unwrap())
        }

        fn pid(&self) -> Pid {
            Pid::from_child(&self.0)
        }
    }

    impl Drop for Family {
        fn drop(&mut self) {
            for pid in everything(self.pid().as_raw_nonzero().get()) {
                let _ = rustix::process::kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
            }
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    fn everything(pid: i32) -> Vec<i32> {
        let mut all = Vec::new();
        for child in children(pid).unwrap() {
            all.push(child);
            all.extend(everything(child));
        }
        all
    }

    #[test]
    fn a_forking_family_stands_still_and_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("count");
        let script =
            "while :; do (echo x >> $0 & wait); done & while :; do sh -c 'echo x >> $0' $0; done & wait";
        let family = Family::start(&script.replace("$0", file.to_str().unwrap()));
        let size = || fs::metadata(&file).map_or(0, |m| m.len());
        for _ in 0..30 {
            let before = size();
            while size() < before + 20 {
                std::thread::yield_now();
            }
            let mut frozen = Frozen::new(vec![family.pid()], Duration::from_secs(10)).unwrap();
            let stopped = size();
            std::thread::sleep(Duration::from_millis(5));
            assert_eq!(size(), stopped);
            assert!(frozen.still_stands().unwrap());
        }
    }

    #[test]
    fn what_was_stopped_before_stays_stopped() {
        let family = Family::start("sleep 1000 & sleep 1000 & wait");
        while everything(family.pid().as_raw_nonzero().get()).len() < 2 {
            std::thread::yield_now();
        }
        let [one, two] = everything(family.pid().as_raw_nonzero().get())[..] else { panic!("two sleep") };
        rustix::process::kill_process(Pid::from_raw(one).unwrap(), Signal::STOP).unwrap();
        let state = |pid: i32| stat(&format!("/proc/{pid}/stat")).unwrap().unwrap().state;
        while state(one) != b'T' {
            std::thread::yield_now();
        }
        drop(Frozen::new(vec![family.pid()], Duration::from_secs(10)).unwrap());
        while state(two) == b'T' {
            std::thread::yield_now();
        }
        assert_eq!(state(one), b'T');
    }
}
