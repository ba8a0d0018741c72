//! The shim's loop: one thread, one request after the other; commands and jobs run beside it.
//!
//! ```text
//! connection: Idle ──Exec──▶ Running ──ended──▶ Idle        closes while Running: the command is killed
//!             Idle ──copy, pack──▶ Working ──ended──▶ Idle  closes while Working: the job meets a broken pipe
//!             Idle ──any write while quiesced──▶ Deferred ──resumed──▶ (handled)
//! ```
//!
//! The shim leaves when the last connection is closed and no command runs, unless it is kept; or a while later, if it
//! was told to linger.
#![forbid(unsafe_code)]

mod capture;
mod detached;
mod requests;
mod running;
mod setup;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::wait::{WaitPidFlag, waitpid};
use rustix::event::{PollFd, PollFlags};

use super::commands::{Command, Ground};
use super::house;
use super::jobs::Job;
use super::limits::Limiter;
use super::mounted::{Dirs, Mounted};
use super::protocol::{Fault, FaultKind, Reply, Request};
use super::wire;

/// How long a client may take for the rest of a frame, and for taking a reply.
const CLIENT_PATIENCE: Duration = Duration::from_secs(30);

/// Runs a shim on its first connection, with the mounts of its three directories; returns the exit code of the process.
pub(crate) fn run(socket: UnixStream, mounts: Vec<OwnedFd>, gateway: Option<crate::entry::Gateway>) -> i32 {
    match setup::server(&socket, mounts, gateway) {
        Ok(mut server) => {
            if wire::send(&socket, &Reply::Done, &[]).is_err() {
                return 1;
            }
            // Compiled while the client goes on; who runs the first command hears if it cannot be.
            let _ = crate::seccomp::default_program();
            server.welcome(socket);
            server.serve();
            0
        }
        Err(fault) => {
            let _ = wire::send(&socket, &Reply::Failed(fault), &[]);
            1
        }
    }
}

#[derive(Debug)]
struct Client {
    socket: UnixStream,
    state: State,
}

#[derive(Debug)]
enum State {
    Idle,
    /// Waits for this command to end.
    Running(u64),
    /// Waits for this job to end.
    Working,
    /// Its request waits until the vessel may be written again.
    Deferred,
}

/// The state of a shim.
#[derive(Debug)]
struct Server {
    listener: UnixListener,
    dirs: Dirs,
    ground: Ground,
    limiter: Limiter,
    network: super::gateway::Attached,
    /// `None` only while layers are exchanged, or after that failed.
    mounted: Option<Mounted>,
    /// What was mounted before it was taken away for an exchange.
    detached: Option<super::protocol::MountSpec>,
    clients: BTreeMap<u64, Client>,
    commands: BTreeMap<u64, Command>,
    /// The container that they run in.
    running: running::Running,
    jobs: BTreeMap<u64, Job>,
    processes: detached::Processes,
    deferred: VecDeque<(u64, Request, Vec<OwnedFd>)>,
    /// The client that made the vessel still.
    quiesced_by: Option<u64>,
    /// It has packed the writable layer since.
    packed: bool,
    /// The commands stand still while the writable layer is copied.
    capture: Option<capture::Capture>,
    /// Empty files made to mount something on; removed when no command runs.
    placeholders: Vec<PathBuf>,
    next: u64,
    keep: bool,
    /// How long it stays when nobody is connected, and since when that is so.
    linger: Duration,
    deserted: Option<Instant>,
    leaving: bool,
    /// The vessel is thrown away: its writable layer goes when the last command has ended.
    destroy: bool,
    /// Holds the vessel's lock as long as this process lives.
    lock: OwnedFd,
}

/// What became ready.
#[derive(Debug, Clone, Copy)]
enum Ready {
    Listener,
    Client(u64),
    Starting(u64),
    Control(u64),
    Ended(u64),
    JobEnded(u64),
    SandboxEnded,
    ScratchLeft(u64),
    DiskFull,
    /// The log of a process is complete.
    Logged(u64),
    LoggerEnded(u64),
}

impl Server {
    fn serve(&mut self) {
        while !self.done() {
            let chore = self.has_chore();
            let patience = if chore { Some(self.before_chore()) } else { self.patience() };
            let Ok(ready) = self.wait(patience) else { return };
            self.end_late_capture();
            if chore && ready.is_empty() {
                self.chore();
            }
            self.end_late_processes();
            for event in ready {
                self.handle(event);
            }
        }
        self.leave();
    }

    fn done(&mut self) -> bool {
        if !self.clients.is_empty() {
            self.deserted = None;
        } else if self.deserted.is_none() {
            self.deserted = Some(Instant::now());
        }
        let unused = !self.keep && self.patience().is_some_and(|left| left.is_zero());
        (self.leaving || unused) && !self.is_busy()
    }

    fn is_busy(&self) -> bool {
        !self.commands.is_empty() || !self.jobs.is_empty() || !self.processes.is_empty()
    }

    /// How long it may take until somebody connects; without end while somebody is, or when it is kept.
    fn patience(&self) -> Option<Duration> {
        let since = self.deserted.filter(|_| !self.keep)?;
        // While something ends, its end is what is waited for.
        let left = self.linger.saturating_sub(since.elapsed());
        (!self.is_busy() || !left.is_zero()).then_some(left)
    }

    fn leave(&mut self) {
        self.end_sandboxes();
        if self.destroy {
            self.remove_writable_layer();
        }
        self.network.end();
        let _ = rustix::fs::unlinkat(&self.dirs.vessel, super::client::SOCKET, rustix::fs::AtFlags::empty());
    }

    /// Here, while the right user namespace is at hand. What fails is left to whoever removes the vessel's directory.
    fn remove_writable_layer(&mut self) {
        if let Some(mounted) = self.mounted.take() {
            let generation = format!("gen-{}", mounted.spec.generation);
            if mounted.unmount(Path::new(house::MERGED)).is_ok() {
                let _ = crate::layer::remove_tree(self.dirs.vessel.as_fd(), generation.as_ref());
            }
        }
    }

    fn wait(&self, patience: Option<Duration>) -> io::Result<Vec<Ready>> {
        let mut what = vec![Ready::Listener];
        let mut fds = vec![PollFd::new(&self.listener, PollFlags::IN)];
        for (id, client) in &self.clients {
            what.push(Ready::Client(*id));
            fds.push(PollFd::new(&client.socket, PollFlags::IN));
        }
        for (id, command) in &self.commands {
            if let Some(start) =
                command.start.as_ref().filter(|_| command.announce || command.process.is_some())
            {
                what.push(Ready::Starting(*id));
                fds.push(PollFd::new(start, PollFlags::IN));
            }
            if let Some(control) = &command.control {
                what.push(Ready::Control(*id));
                fds.push(PollFd::new(control, PollFlags::IN));
            }
            what.push(Ready::Ended(*id));
            fds.push(PollFd::new(&command.pidfd, PollFlags::IN));
        }
        if let Some(watch) = self.limiter.disk_watch() {
            what.push(Ready::DiskFull);
            fds.push(PollFd::new(watch, PollFlags::IN));
        }
        for (id, job) in &self.jobs {
            what.push(Ready::JobEnded(*id));
            fds.push(PollFd::new(&job.pidfd, PollFlags::IN));
        }
        let (sandboxes, scratches) = self.running.watched();
        for pidfd in sandboxes {
            what.push(Ready::SandboxEnded);
            fds.push(PollFd::new(pidfd, PollFlags::IN));
        }
        for (id, pidfd) in scratches {
            what.push(Ready::ScratchLeft(id));
            fds.push(PollFd::new(pidfd, PollFlags::IN));
        }
        self.processes.watch(&mut what, &mut fds);
        let patience = self.processes.patience().into_iter().chain(patience).min();
        // One that no clock can express is none.
        let timeout = patience.and_then(|left| rustix::time::Timespec::try_from(left).ok());
        // While commands stand still nobody leaves for want of company.
        let timeout = self.capture.as_ref().map(capture::Capture::left).or(timeout);
        loop {
            match rustix::event::poll(&mut fds, timeout.as_ref()) {
                Err(rustix::io::Errno::INTR) => {}
                other => {
                    other?;
                    break;
                }
            }
        }
        let ready = fds.iter().zip(what).filter(|(fd, _)| !fd.revents().is_empty()).map(|(_, what)| what);
        Ok(ready.collect())
    }

    /// An event may be about something that an earlier event of the same round took away.
    fn handle(&mut self, event: Ready) {
        match event {
            Ready::Listener => self.accept(),
            Ready::Client(id) => self.hear(id),
            Ready::Starting(id) => self.hear_start(id),
            Ready::Control(id) => self.hear_init(id),
            Ready::Ended(id) => self.init_ended(id),
            Ready::JobEnded(id) => self.job_ended(id),
            Ready::SandboxEnded => self.sandbox_ended(),
            Ready::ScratchLeft(id) => self.scratch_left(id),
            Ready::DiskFull => self.limiter.disk_full(&self.commands),
            Ready::Logged(process) => self.process_logged(process),
            Ready::LoggerEnded(process) => self.logger_ended(process),
        }
    }

    fn accept(&mut self) {
        if let Ok((socket, _)) = self.listener.accept() {
            self.welcome(socket);
        }
    }

    fn welcome(&mut self, socket: UnixStream) {
        // A client that stops in the middle of a frame must not stop the vessel.
        let patient = socket
            .set_read_timeout(Some(CLIENT_PATIENCE))
            .and_then(|()| socket.set_write_timeout(Some(CLIENT_PATIENCE)));
        if patient.is_ok() {
            let id = self.number();
            self.clients.insert(id, Client { socket, state: State::Idle });
        }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn hear(&mut self, id: u64) {
        let Some(client) = self.clients.get(&id) else { return };
        match wire::recv::<Request>(&client.socket) {
            Ok(Some((request, fds))) => self.take(id, request, fds),
            Ok(None) | Err(_) => self.farewell(id),
        }
    }

    /// A client is gone: its command dies, its stillness ends.
    fn farewell(&mut self, id: u64) {
        if let Some(Client { state: State::Running(command), .. }) = self.clients.remove(&id)
            && let Some(command) = self.commands.get_mut(&command)
        {
            command.client = None;
            command.kill();
        }
        self.deferred.retain(|(client, ..)| *client != id);
        self.give_up_capture(id);
        if self.quiesced_by == Some(id) {
            self.abandon();
        }
    }

    fn reply(&mut self, id: u64, reply: &Reply, fds: &[OwnedFd]) {
        let Some(client) = self.clients.get(&id) else { return };
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        if wire::send(&client.socket, reply, &fds).is_err() {
            self.farewell(id);
        }
    }

    fn fail(&mut self, id: u64, fault: Fault) {
        self.reply(id, &Reply::Failed(fault), &[]);
    }

    fn idle(&mut self, client: u64) {
        if let Some(client) = self.clients.get_mut(&client) {
            client.state = State::Idle;
        }
    }

    fn remove_placeholders(&mut self) {
        if let Some(mounted) = &self.mounted {
            let created = std::mem::take(&mut self.placeholders);
            // A placeholder that a command wrote to is no longer empty and stays.
            let _ = crate::spec::remove_placeholders(&mounted.root, &created);
        }
    }

    fn job_ended(&mut self, id: u64) {
        let Some(job) = self.jobs.remove(&id) else { return };
        if job.writes {
            self.running.written();
        }
        let answered = reap(job.pid) == Some(0);
        if self.end_capture(id, &job) {
            return;
        }
        if let Some(Client { state: state @ State::Working, .. }) = self.clients.get_mut(&job.client) {
            *state = State::Idle;
            if !answered {
                self.fail(job.client, Fault::new(FaultKind::Internal, "the worker process died"));
            }
        }
    }

    /// A job answers its client itself and ends a moment later: whoever heard the answer must not be told that it goes on.
    fn await_answered_jobs(&mut self) {
        let moment = rustix::time::Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        let writing: Vec<u64> = self.jobs.iter().filter(|(_, job)| job.writes).map(|(id, _)| *id).collect();
        for id in writing {
            let Some(job) = self.jobs.get(&id) else { continue };
            let ended = rustix::event::poll(&mut [PollFd::new(&job.pidfd, PollFlags::IN)], Some(&moment));
            if matches!(ended, Ok(1)) {
                self.job_ended(id);
            }
        }
    }

    /// Whoever made the vessel still is gone. Once the writable layer was packed, a snapshot with its content may be
    /// recorded already: nobody may write to it any more, and who opens the vessel next reads the record.
    fn abandon(&mut self) {
        if self.packed || self.mounted.is_none() {
            self.leaving = true;
        } else {
            self.resume();
        }
    }

    fn resume(&mut self) {
        self.packed = false;
        self.quiesced_by = None;
        self.end_sandboxes();
        if let Some(mounted) = &self.mounted {
            let _ = mounted.set_read_only(false);
        }
        for (id, request, fds) in std::mem::take(&mut self.deferred) {
            self.idle(id);
            self.take(id, request, fds);
        }
    }

    /// Exchanges the layers; the root of those before, if they were still mounted. When the new ones cannot be mounted, the
    /// old ones are again.
    fn remount(&mut self, spec: super::protocol::MountSpec) -> Result<Option<OwnedFd>, Fault> {
        let target = Path::new(house::MERGED);
        self.end_sandboxes();
        let (before, root) = match self.mounted.take() {
            Some(old) => {
                let root = old.root.as_fd().try_clone_to_owned();
                let before = old.spec.clone();
                old.unmount(target)?;
                (before, root.ok())
            }
            None => (self.detached.take().ok_or_else(not_mounted)?, None),
        };
        match Mounted::new(spec, &self.dirs, target) {
            Ok(mounted) => {
                self.mounted = Some(mounted);
                self.detached = None;
                Ok(root)
            }
            Err(fault) => {
                self.mounted = Mounted::new(before, &self.dirs, target).ok();
                Err(fault)
            }
        }
    }
}

fn not_mounted() -> Fault {
    Fault::new(FaultKind::Internal, "the vessel is not mounted")
        .with_remedy("stop the vessel and open it again")
}

/// The exit code, if the process exited by itself.
pub(super) fn reap(pid: rustix::process::Pid) -> Option<i32> {
    let pid = nix::unistd::Pid::from_raw(pid.as_raw_nonzero().get());
    match waitpid(pid, Some(WaitPidFlag::__WALL)) {
        Ok(nix::sys::wait::WaitStatus::Exited(_, code)) => Some(code),
        _ => None,
    }
}
