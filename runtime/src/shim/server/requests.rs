//! What each request does.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::OFlags;

use super::{Server, State, house, not_mounted};
use crate::files::{self, Bounds};
use crate::root::Root;
use crate::shim::jobs::{Job, Task};
use crate::shim::mounted::Mounted;
use crate::shim::protocol::{Driver, Fault, FaultKind, MountSpec, Reply, Request, VERSION};

/// What a request comes to.
pub(super) enum Outcome {
    Reply(Reply, Vec<OwnedFd>),
    /// The reply comes later.
    Later,
}

pub(super) type Handled = Result<Outcome, Fault>;

impl Server {
    pub(super) fn take(&mut self, id: u64, request: Request, fds: Vec<OwnedFd>) {
        if self.must_wait(id, &request) {
            if let Some(client) = self.clients.get_mut(&id) {
                client.state = State::Deferred;
            }
            self.deferred.push_back((id, request, fds));
            return;
        }
        match self.dispatch(id, request, fds) {
            Ok(Outcome::Reply(reply, fds)) => self.reply(id, &reply, &fds),
            Ok(Outcome::Later) => {}
            Err(fault) => self.fail(id, fault),
        }
    }

    /// While the vessel is still, whoever would write to it waits; whoever made it still goes on.
    fn must_wait(&self, id: u64, request: &Request) -> bool {
        if self.capture.is_some() {
            return !reads_only(request) && !matches!(request, Request::Shutdown { .. });
        }
        let still = self.quiesced_by.is_some_and(|by| by != id);
        let about_the_shim = matches!(
            request,
            Request::Hello
                | Request::Keep(_)
                | Request::Signal(_)
                | Request::Processes
                | Request::WaitProcess { .. }
        );
        still && (!reads_only(request) || (self.mounted.is_none() && !about_the_shim))
    }

    fn dispatch(&mut self, id: u64, request: Request, fds: Vec<OwnedFd>) -> Handled {
        match request {
            Request::Hello => Ok(Outcome::Reply(self.hello(), Vec::new())),
            Request::Keep(keep) => {
                self.keep = keep;
                done()
            }
            Request::Linger { millis } => {
                self.linger = std::time::Duration::from_millis(millis);
                done()
            }
            Request::Shutdown { destroy } => self.shutdown(destroy),
            Request::Exec(request) => self.exec(id, *request, fds, true),
            Request::Run(request) => self.exec(id, *request, fds, false),
            Request::Limit { limits, groups } => {
                self.limiter.change(*limits, fds, groups)?;
                self.limiter.adopt(&self.commands);
                if !self.commands.is_empty() {
                    self.limiter.watch(&self.dirs)?;
                }
                done()
            }
            Request::Signal(number) => self.signal(id, number),
            Request::CopyOut { path } => self.job(id, &Task::CopyOut { path }, fds),
            Request::CopyIn { path } => self.job(id, &Task::CopyIn { path }, fds),
            Request::Quiesce => self.quiesce(id),
            Request::Detach => self.detach(id),
            Request::Resume => {
                self.only_the_quiescer(id)?;
                self.attach_again()?;
                self.resume();
                done()
            }
            Request::PackUpper => {
                self.only_the_quiescer(id)?;
                self.packed = true;
                self.job(id, &Task::PackUpper, fds)
            }
            Request::Capture { longest_ms } => {
                self.capture(id, std::time::Duration::from_millis(longest_ms), fds)?;
                Ok(Outcome::Later)
            }
            Request::Remount(spec) => self.exchange(id, spec),
            Request::CopyAhead => self.job(id, &Task::CopyAhead, fds),
            request @ (Request::Spawn(_)
            | Request::Processes
            | Request::SignalProcess { .. }
            | Request::WaitProcess { .. }
            | Request::OpenInput { .. }
            | Request::CloseInput { .. }
            | Request::EndProcesses { .. }) => self.on_processes(id, request, fds),
            file => {
                if !reads_only(&file) {
                    self.running.written_from_outside();
                }
                self.attach_missing();
                on_files(&self.mounted()?.root, file, fds)
            }
        }
    }

    /// What could not be mounted may be now. If it still cannot, files are what is done about it with.
    fn attach_missing(&mut self) {
        let incomplete = |mounted: &&mut Mounted| mounted.attached.fault().is_some();
        if let Some(mounted) = self.mounted.as_mut().filter(incomplete)
            && let Ok(true) = mounted.attach_again(&self.dirs)
        {
            // It was made without them.
            self.retire_sandbox();
        }
    }

    /// Requests about detached processes.
    fn on_processes(&mut self, id: u64, request: Request, fds: Vec<OwnedFd>) -> Handled {
        match request {
            Request::Spawn(request) => self.spawn(id, &request, fds).map(|()| Outcome::Later),
            Request::Processes => Ok(Outcome::Reply(self.running_processes(), Vec::new())),
            Request::SignalProcess { process, signal } => {
                self.signal_process(process, signal)?;
                done()
            }
            Request::WaitProcess { process } => match self.await_process(id, process) {
                true => Ok(Outcome::Later),
                false => done(),
            },
            Request::OpenInput { process } => {
                let (reply, input) = self.open_input(process)?;
                Ok(Outcome::Reply(reply, vec![input]))
            }
            Request::CloseInput { process } => {
                self.close_input(process)?;
                done()
            }
            Request::EndProcesses { grace_ms } => {
                match self.end_processes(id, std::time::Duration::from_millis(grace_ms)) {
                    true => Ok(Outcome::Later),
                    false => done(),
                }
            }
            _ => Err(not_mounted()),
        }
    }

    fn mounted(&self) -> Result<&crate::shim::mounted::Mounted, Fault> {
        self.mounted.as_ref().ok_or_else(not_mounted)
    }

    fn hello(&self) -> Reply {
        Reply::Hello {
            version: VERSION,
            pid: std::process::id(),
            others: u32::try_from(self.clients.len().saturating_sub(1)).unwrap_or(u32::MAX),
            running: u32::try_from(self.commands.len()).unwrap_or(u32::MAX),
            kept: self.keep,
            linger_ms: u64::try_from(self.linger.as_millis()).unwrap_or(u64::MAX),
            driver: self.mounted.as_ref().map_or(Driver::Kernel, |m| m.spec.driver),
        }
    }

    /// Signals have no reply: nothing is told to a client whose command has just ended.
    fn signal(&mut self, id: u64, number: i32) -> Handled {
        if let Some(capture) = &mut self.capture {
            // It could wake what stands still.
            capture.signals.push((id, number));
            return Ok(Outcome::Later);
        }
        if let Some(State::Running(command)) = self.clients.get(&id).map(|c| &c.state)
            && let Some(command) = self.commands.get(command)
        {
            command.signal(number);
        }
        Ok(Outcome::Later)
    }

    fn job(&mut self, id: u64, task: &Task, fds: Vec<OwnedFd>) -> Handled {
        let number = self.number();
        let client = self.clients.get_mut(&id).ok_or_else(not_mounted)?;
        let mounted = self.mounted.as_ref().ok_or_else(not_mounted)?;
        let job = Job::start(id, task, fds, &client.socket, mounted, self.ground.ids)?;
        client.state = State::Working;
        if job.writes {
            self.running.written();
        }
        self.jobs.insert(number, job);
        Ok(Outcome::Later)
    }

    fn quiesce(&mut self, id: u64) -> Handled {
        if let Some(command) = self.commands.values().next() {
            let others = self.commands.len() - 1;
            let message = match others {
                0 => format!("a command is running in the vessel: {:?}", command.name),
                n => format!("commands are running in the vessel: {:?} and {n} more", command.name),
            };
            return Err(
                Fault::new(FaultKind::Busy, message).with_remedy("wait for it to end, or stop the vessel")
            );
        }
        self.await_answered_jobs();
        if self.jobs.values().any(|job| job.writes) {
            return Err(Fault::new(FaultKind::Busy, "files are being copied into the vessel"));
        }
        self.remove_placeholders();
        self.mounted()?.set_read_only(true)?;
        self.quiesced_by = Some(id);
        // They have the layers mounted that are exchanged next.
        self.kill_sandboxes();
        done()
    }

    fn only_the_quiescer(&self, id: u64) -> Result<(), Fault> {
        if self.quiesced_by == Some(id) {
            Ok(())
        } else {
            Err(Fault::new(FaultKind::InvalidArgument, "this connection has not made the vessel still"))
        }
    }

    fn detach(&mut self, id: u64) -> Handled {
        self.only_the_quiescer(id)?;
        if self.mounted()?.spec.driver == Driver::Fuse {
            return Err(not_anew());
        }
        self.end_sandboxes();
        let mounted = self.mounted.take().ok_or_else(not_mounted)?;
        self.detached = Some(mounted.spec.clone());
        mounted.unmount(Path::new(house::MERGED))?;
        done()
    }

    /// Mounts again what was detached.
    fn attach_again(&mut self) -> Result<(), Fault> {
        if let Some(spec) = self.detached.take() {
            self.mounted = Some(Mounted::new(spec, &self.dirs, Path::new(house::MERGED))?);
        }
        Ok(())
    }

    fn exchange(&mut self, id: u64, spec: MountSpec) -> Handled {
        self.only_the_quiescer(id)?;
        if spec.driver == Driver::Fuse || self.mounted.as_ref().is_some_and(|m| m.spec.driver == Driver::Fuse)
        {
            return Err(not_anew());
        }
        let before = self.remount(spec)?;
        self.resume();
        Ok(Outcome::Reply(Reply::Done, before.into_iter().collect()))
    }

    fn shutdown(&mut self, destroy: bool) -> Handled {
        for command in self.commands.values() {
            command.kill();
        }
        self.processes.are_stopped();
        self.keep = false;
        self.leaving = true;
        self.destroy = destroy;
        done()
    }
}

fn not_anew() -> Fault {
    Fault::new(FaultKind::Unsupported, "fuse-overlayfs cannot be mounted anew by a running shim")
        .with_remedy("start a new shim")
}

fn done() -> Handled {
    Ok(Outcome::Reply(Reply::Done, Vec::new()))
}

fn reads_only(request: &Request) -> bool {
    match request {
        Request::Hello
        | Request::Keep(_)
        | Request::Linger { .. }
        | Request::Signal(_)
        | Request::Limit { .. }
        | Request::Stat { .. }
        | Request::Processes
        | Request::WaitProcess { .. }
        | Request::OpenInput { .. }
        | Request::CloseInput { .. }
        | Request::ReadDir { .. }
        | Request::CopyOut { .. } => true,
        Request::Open { flags, .. } => {
            let flags = OFlags::from_bits_retain(*flags);
            !flags.intersects(OFlags::WRONLY | OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC)
        }
        Request::Within { request, .. } => reads_only(request),
        _ => false,
    }
}

/// A request about one file or directory, done as a user in a directory that it stays in.
fn within(root: &Root, bounds: &Bounds<'_>, request: &Request, fds: Vec<OwnedFd>) -> Handled {
    let (path, follow) = match request {
        Request::Open { path, .. } | Request::WriteFile { path, .. } | Request::ReadDir { path } => {
            (path, true)
        }
        Request::Stat { path, follow } => (path, *follow),
        // What is there may be a symlink to a directory.
        Request::MakeDir { path, parents, .. } => (path, *parents),
        Request::Remove { path, .. } => (path, false),
        Request::Rename { from, to } => {
            return bounds.work(root, from, false, |_, from| {
                // Both are below the same directory.
                bounds.work(root, to, false, |root, to| {
                    on_files(root, Request::Rename { from: from.to_vec(), to: to.to_vec() }, fds)
                })
            });
        }
        _ => return Err(Fault::new(FaultKind::InvalidArgument, "not a request about files")),
    };
    bounds.work(root, path, follow, |root, inside| {
        let path = inside.to_vec();
        let request = match request {
            Request::Open { flags, mode, .. } => Request::Open { path, flags: *flags, mode: *mode },
            Request::WriteFile { mode, .. } => Request::WriteFile { path, mode: *mode },
            Request::Stat { follow, .. } => Request::Stat { path, follow: *follow },
            Request::MakeDir { mode, parents, .. } => {
                Request::MakeDir { path, mode: *mode, parents: *parents }
            }
            Request::Remove { recursive, .. } => Request::Remove { path, recursive: *recursive },
            _ => Request::ReadDir { path },
        };
        on_files(root, request, fds)
    })
}

/// Requests about one file or directory.
fn on_files(root: &Root, request: Request, mut fds: Vec<OwnedFd>) -> Handled {
    let reply = match request {
        Request::Open { path: name, flags, mode } => {
            return Ok(Outcome::Reply(Reply::File, vec![files::open(root, &name, flags, mode)?]));
        }
        Request::WriteFile { path: name, mode } => {
            files::write_file(root, &name, mode, content(fds.pop())?)?;
            Reply::Done
        }
        Request::SetLen { size } => {
            content(fds.pop())?.set_len(size).map_err(|e| Fault::io("truncate", &e))?;
            Reply::Done
        }
        Request::Stat { path: name, follow } => Reply::Stat(Box::new(files::stat(root, &name, follow)?)),
        Request::ReadDir { path: name } => Reply::Entries(files::read_dir(root, &name)?),
        Request::MakeDir { path: name, mode, parents } => {
            files::make_dir(root, &name, mode, parents)?;
            Reply::Done
        }
        Request::Remove { path: name, recursive } => {
            files::remove(root, &name, recursive)?;
            Reply::Done
        }
        Request::Rename { from, to } => {
            files::rename(root, &from, &to)?;
            Reply::Done
        }
        Request::SetOwner { path: name, uid, gid } => {
            files::set_owner(root, &name, uid, gid)?;
            Reply::Done
        }
        Request::Within { uid, gid, base, request } => {
            return within(root, &Bounds { uid, gid, base: &base }, &request, fds);
        }
        _ => return Err(Fault::new(FaultKind::InvalidArgument, "not a request about files")),
    };
    Ok(Outcome::Reply(reply, Vec::new()))
}

/// A regular file or one in memory: a pipe could make the shim wait for its client.
fn content(fd: Option<OwnedFd>) -> Result<std::fs::File, Fault> {
    let file = fd.map(std::fs::File::from);
    file.filter(|f| f.metadata().is_ok_and(|m| m.is_file()))
        .ok_or_else(|| Fault::new(FaultKind::InvalidArgument, "the content must come as a file or memfd"))
}
