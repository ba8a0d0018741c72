//! Commands from their request to their last word, and the sandbox that they run in.
//!
//! What can be done before a command is asked for is done when nothing else is to do ([`Server::chore`]).
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use super::requests::{Handled, Outcome};
use super::{Server, State, not_mounted, wire};
use crate::shim::commands::{self, Command};
use crate::shim::container_init::{FromCommand, FromInit, Start};
use crate::shim::mounted::{Mounted, Scratch};
use crate::shim::protocol::{ExecRequest, ExitStatus, Fault, FaultKind, Reply};
use crate::shim::sandbox::Sandbox;
use crate::spec::{self, MountPointError, MountPoints};

/// Sandboxes that end only when all commands have. More are made only by what goes wrong again and again.
const MOST_RETIRED: usize = 8;

/// How long is waited for a request before anything is made ahead between changes from outside.
const MOMENT: Duration = Duration::from_millis(2);
/// How long is waited for a request before a sandbox is made in a vessel that may not be for commands.
const NO_COMMAND: Duration = Duration::from_millis(50);

/// Why a command could not be started.
enum Refusal {
    /// The vessel, or the host, does not allow it.
    Vessel(Fault),
    /// There was no place for it in the container.
    Place(Fault),
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self::Vessel(fault)
    }
}

/// What the server knows of the sandbox and of what was done to the vessel since it was made.
#[derive(Debug)]
pub(super) struct Running {
    sandbox: Option<Sandbox>,
    /// Those of which the use is over, while commands run in them.
    retired: Vec<Sandbox>,
    /// Those that were killed and are waited for later.
    dying: Vec<Sandbox>,
    /// Throw-away layers of commands that have ended, until their mounts are gone.
    leaving: Vec<(u64, OwnedFd, Scratch)>,
    users: commands::Users,
    /// Something may have happened to what is mounted in the sandbox.
    touched: bool,
    /// How often something was done that may have changed a file.
    writes: u64,
    /// A command that leaves nothing was run: there will be another one.
    throws_away: bool,
    /// The last thing that was done was not to run a command.
    outside: bool,
    /// A command was run.
    has_run: bool,
    /// What is done ahead failed: the next command says why.
    hopeless: bool,
}

impl Default for Running {
    fn default() -> Self {
        Self {
            sandbox: None,
            retired: Vec::new(),
            dying: Vec::new(),
            leaving: Vec::new(),
            users: commands::Users::default(),
            touched: true,
            writes: 0,
            throws_away: false,
            outside: false,
            has_run: false,
            hopeless: false,
        }
    }
}

impl Running {
    /// Files may be changed, now or a moment ago.
    pub(super) fn written(&mut self) {
        self.touched = true;
        self.hopeless = false;
        self.writes += 1;
    }

    /// Files are changed from outside, and may be again and again: nothing is made ahead in between.
    pub(super) fn written_from_outside(&mut self) {
        self.outside = true;
        self.written();
    }

    /// What is polled: the sandboxes, and what leaves.
    pub(super) fn watched(&self) -> (impl Iterator<Item = &OwnedFd>, impl Iterator<Item = (u64, &OwnedFd)>) {
        let sandboxes = self.sandbox.iter().chain(&self.retired).map(|sandbox| &sandbox.pidfd);
        (sandboxes, self.leaving.iter().map(|(id, pidfd, _)| (*id, pidfd)))
    }
}

impl Server {
    /// Runs a command; with `announce` the client is told that it runs.
    pub(super) fn exec(
        &mut self,
        id: u64,
        request: ExecRequest,
        fds: Vec<OwnedFd>,
        announce: bool,
    ) -> Handled {
        let announce = announce || request.terminal.is_some();
        let number = self.begin_command(request, fds)?;
        if let Some(command) = self.commands.get_mut(&number) {
            (command.client, command.announce) = (Some(id), announce);
        }
        if let Some(client) = self.clients.get_mut(&id) {
            client.state = State::Running(number);
        }
        Ok(Outcome::Later)
    }

    /// Starts a command, of nobody so far; its number.
    pub(super) fn begin_command(
        &mut self,
        mut request: ExecRequest,
        mut fds: Vec<OwnedFd>,
    ) -> Result<u64, Fault> {
        self.network.check()?;
        self.network.complete(&mut request.env);
        let watched = self.limiter.prepare(&mut request.confinement, &mut fds)?;
        let mounted = self.mounted.as_ref().ok_or_else(not_mounted)?;
        let start = commands::resolve(&request, &mounted.root, &self.ground, &mut self.running.users)?;
        let number = self.number();
        self.limiter.watch(&self.dirs)?;
        let launched = match self.launch(number, &start, &fds, request.ephemeral) {
            // Somebody may have killed the container, or a part of it.
            Err(Refusal::Place(_)) if self.running.retired.len() < MOST_RETIRED => {
                self.retire_sandbox();
                self.launch(number, &start, &fds, request.ephemeral)
            }
            other => other,
        };
        let command = launched.map_err(|refusal| {
            self.settle();
            match refusal {
                Refusal::Vessel(fault) | Refusal::Place(fault) => fault,
            }
        })?;
        self.commands.insert(number, command);
        (self.running.has_run, self.running.outside) = (true, false);
        self.limiter.begin(number, watched);
        Ok(number)
    }

    fn launch(
        &mut self,
        number: u64,
        start: &Start,
        fds: &[OwnedFd],
        ephemeral: bool,
    ) -> Result<Command, Refusal> {
        self.ready_sandbox()?;
        let quiet = !self.commands.values().any(Command::persists);
        let running = &mut self.running;
        let sandbox = running.sandbox.as_mut().ok_or_else(not_mounted)?;
        let slot = if ephemeral {
            running.throws_away = true;
            if !quiet || !sandbox.has_throw_away(running.writes) {
                let mounted = self.mounted.as_ref().ok_or_else(not_mounted)?;
                sandbox.make_throw_away(number, running.writes, mounted, &self.dirs)?;
            }
            sandbox.take_throw_away(&self.dirs)
        } else {
            running.writes += 1;
            sandbox.take(&self.dirs)
        };
        let slot = slot.map_err(Refusal::Place)?;
        Command::new(slot, start, fds).map_err(|(fault, slot)| {
            if let Some(scratch) = slot.scratch {
                running.leaving.push((number, slot.pidfd, scratch));
            }
            Refusal::Place(fault)
        })
    }

    /// Makes sure that there is a sandbox, and that what is mounted in it is what a new one would have.
    fn ready_sandbox(&mut self) -> Result<(), Fault> {
        if self.running.sandbox.is_some() && !self.running.touched {
            return Ok(());
        }
        if self.mounted.as_mut().ok_or_else(not_mounted)?.attach_again(&self.dirs)? {
            self.retire_sandbox();
        }
        let points = self.prepare_mount_points()?;
        let root = &self.mounted.as_ref().ok_or_else(not_mounted)?.root;
        if !self.running.sandbox.as_ref().is_some_and(|sandbox| sandbox.is_current(root, &points)) {
            self.retire_sandbox();
            let number = self.number();
            let root = &self.mounted.as_ref().ok_or_else(not_mounted)?.root;
            self.running.sandbox =
                Some(Sandbox::new(number, &self.ground, root, &points, self.lock.as_fd())?);
        }
        // What a command does meanwhile is looked at when it has ended, or before the next one starts.
        self.running.touched = self.commands.values().any(Command::persists);
        Ok(())
    }

    fn prepare_mount_points(&mut self) -> Result<MountPoints, Fault> {
        let Mounted { root, attached, .. } = self.mounted.as_ref().ok_or_else(not_mounted)?;
        let mut points = spec::prepare_mount_points(root).map_err(|e| mount_point_fault(&e))?;
        points.mounts = attached.outermost();
        // What the settings mount there is what is meant.
        points
            .etc_files
            .retain(|file| !points.mounts.iter().any(|place| file.destination.starts_with(place)));
        self.placeholders.extend_from_slice(&points.created);
        Ok(points)
    }

    /// No command begins in this sandbox any more; those that run in it go on.
    pub(super) fn retire_sandbox(&mut self) {
        let Some(sandbox) = self.running.sandbox.take() else { return };
        if self.commands.is_empty() {
            sandbox.end(&self.dirs);
        } else {
            self.running.retired.push(sandbox);
        }
    }

    /// Begins what [`Self::end_sandboxes`] ends: processes and mounts take a while to go, and something else can be done meanwhile.
    pub(super) fn kill_sandboxes(&mut self) {
        let running = &mut self.running;
        let before = running.dying.len();
        running.dying.extend(running.sandbox.take().into_iter().chain(running.retired.drain(..)));
        running.dying[before..].iter().for_each(Sandbox::kill);
    }

    /// Takes every process and mount of the container away. No command runs.
    pub(super) fn end_sandboxes(&mut self) {
        self.kill_sandboxes();
        let running = &mut self.running;
        for sandbox in running.dying.drain(..) {
            sandbox.end(&self.dirs);
        }
        // They were in one of those.
        for (.., scratch) in running.leaving.drain(..) {
            scratch.remove(&self.dirs);
        }
        running.hopeless = false;
    }

    /// A sandbox is gone, with everything in it.
    pub(super) fn sandbox_ended(&mut self) {
        let has_ended = |sandbox: &mut Sandbox| sandbox.has_ended();
        let running = &mut self.running;
        let ended = running.sandbox.take_if(has_ended).into_iter();
        for sandbox in ended.chain(running.retired.extract_if(.., has_ended)) {
            sandbox.end(&self.dirs);
        }
        // Whoever ended it would do so again, or it could not be built: the next command sees.
        running.hopeless = true;
    }

    /// When no command runs: what was made only for commands and can be seen goes, and with it what is mounted on it.
    fn settle(&mut self) {
        if !self.commands.is_empty() {
            return;
        }
        self.limiter.rest();
        for sandbox in self.running.retired.drain(..) {
            sandbox.end(&self.dirs);
        }
        if !self.placeholders.is_empty() {
            self.end_sandboxes();
            self.remove_placeholders();
            // Made ahead it would be in sight again.
            self.running.hopeless = true;
        }
    }

    /// Whether [`Self::chore`] has something to do.
    pub(super) fn has_chore(&self) -> bool {
        let still = self.quiesced_by.is_some() || self.capture.is_some() || self.mounted.is_none();
        if still || self.leaving || self.running.hopeless {
            return false;
        }
        let running = &self.running;
        match &running.sandbox {
            None => true,
            Some(sandbox) if self.is_for_one(sandbox) => false,
            Some(sandbox) => {
                sandbox.wants()
                    || (running.touched && self.commands.is_empty())
                    || self.wants_throw_away(sandbox)
            }
        }
    }

    /// A vessel that is thrown away was made for one command; nothing is made ready for a second one before there was one.
    fn is_for_one(&self, sandbox: &Sandbox) -> bool {
        sandbox.taken() == 1 && self.mounted.as_ref().is_some_and(|mounted| mounted.spec.volatile)
    }

    fn wants_throw_away(&self, sandbox: &Sandbox) -> bool {
        let running = &self.running;
        let quiet = !self.commands.values().any(Command::persists);
        running.throws_away && quiet && !running.touched && !sandbox.has_throw_away(running.writes)
    }

    /// How long is waited for a request before a chore.
    pub(super) fn before_chore(&self) -> Duration {
        match &self.running.sandbox {
            Some(_) if self.running.outside => MOMENT,
            Some(sandbox) => sandbox.moment(),
            // One that is thrown away was made for a command.
            None if self.running.has_run || self.mounted.as_ref().is_some_and(|m| m.spec.volatile) => {
                Duration::ZERO
            }
            None => NO_COMMAND,
        }
    }

    /// Does one thing for the commands to come.
    pub(super) fn chore(&mut self) {
        let done = self.try_chore();
        // Whoever runs the next command hears what is wrong.
        self.running.hopeless |= !matches!(done, Ok(true));
        if self.commands.is_empty() && !self.placeholders.is_empty() {
            self.settle();
        }
    }

    fn try_chore(&mut self) -> Result<bool, Fault> {
        if self.running.sandbox.is_none() || (self.running.touched && self.commands.is_empty()) {
            self.ready_sandbox()?;
            return Ok(true);
        }
        if let Some(sandbox) = self.running.sandbox.as_mut().filter(|sandbox| sandbox.wants()) {
            return Ok(sandbox.refill());
        }
        if !self.running.sandbox.as_ref().is_some_and(|sandbox| self.wants_throw_away(sandbox)) {
            return Ok(false);
        }
        let number = self.number();
        let (running, mounted) = (&mut self.running, self.mounted.as_ref().ok_or_else(not_mounted)?);
        let sandbox = running.sandbox.as_mut().ok_or_else(not_mounted)?;
        sandbox.make_throw_away(number, running.writes, mounted, &self.dirs)?;
        Ok(true)
    }

    /// The process that becomes the command says something, or was replaced by it.
    pub(super) fn hear_start(&mut self, id: u64) {
        let Some(command) = self.commands.get_mut(&id) else { return };
        let Some(start) = &command.start else { return };
        match wire::recv::<FromCommand>(start) {
            Ok(Some((FromCommand::Ready, _))) => {}
            Ok(Some((FromCommand::Terminal, fds))) => command.terminal = fds,
            // Told when the command is gone: its client may want a vessel in which nothing runs next.
            Ok(Some((FromCommand::NotStarted(fault), _))) => command.failure = Some(fault),
            Ok(None) | Err(_) => {
                command.start = None;
                if let (Some(process), None) = (command.process, &command.failure) {
                    let fds = std::mem::take(&mut command.terminal);
                    self.process_started(process, fds);
                } else if command.announce && command.failure.is_none() {
                    command.announce = false;
                    let (client, fds) = (command.client, std::mem::take(&mut command.terminal));
                    if let Some(client) = client {
                        self.reply(client, &Reply::Started, &fds);
                    }
                }
            }
        }
    }

    pub(super) fn hear_init(&mut self, id: u64) {
        let Some(command) = self.commands.get_mut(&id) else { return };
        let Some(control) = &command.control else { return };
        match wire::recv::<FromInit>(control) {
            Ok(Some((FromInit::Exited(status), _))) => {
                command.status = Some(status);
                self.command_ended(id);
            }
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => command.control = None,
        }
    }

    /// The init of a command is gone.
    pub(super) fn init_ended(&mut self, id: u64) {
        // What it had to say may still lie in its socket.
        while self.commands.get(&id).is_some_and(|c| c.control.is_some()) {
            self.hear_init(id);
        }
        self.command_ended(id);
    }

    /// A command has ended, and everything that it had started.
    fn command_ended(&mut self, id: u64) {
        while self.commands.get(&id).is_some_and(|c| c.start.is_some()) {
            self.hear_start(id);
        }
        let Some(command) = self.commands.remove(&id) else { return };
        if command.persists() {
            self.running.written();
        }
        let last_word = self.limiter.judge(id, last_word(&command));
        if let Some(client) = command.client {
            self.idle(client);
            self.reply(client, &last_word, &[]);
        }
        if let Some(process) = command.process {
            self.process_ended(process, last_word);
        }
        if let Some(scratch) = command.scratch {
            self.running.leaving.push((id, command.pidfd, scratch));
        }
        self.settle();
    }

    /// The mount of a throw-away layer is gone.
    pub(super) fn scratch_left(&mut self, id: u64) {
        if let Some(place) = self.running.leaving.iter().position(|(number, ..)| *number == id) {
            let (.., scratch) = self.running.leaving.swap_remove(place);
            scratch.remove(&self.dirs);
        }
    }
}

/// What the client of an ended command hears.
fn last_word(command: &Command) -> Reply {
    match &command.failure {
        Some(fault) => Reply::Failed(fault.clone()),
        None => {
            let killed = ExitStatus::Signal(rustix::process::Signal::KILL.as_raw());
            Reply::Exited(command.status.unwrap_or(killed))
        }
    }
}

fn mount_point_fault(error: &MountPointError) -> Fault {
    let fault = Fault::new(FaultKind::InvalidArgument, crate::shim::fault::chain(error));
    match error.remedy() {
        Some(remedy) => fault.with_remedy(remedy),
        None => fault,
    }
}
