//! The sandbox: the one container of a vessel, in which slots for commands are made.
//!
//! It is built by a process of its own ([`super::outer_init`]), and slots can be ordered while it is.
//!
//! The sandbox holds the mount of the vessel: it has to go before layers are exchanged. What is mounted in it is mounted on files of
//! the vessel; when one of those is removed or replaced from outside, its mount is gone with it, and so is the use of the sandbox.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::OFlags;
use rustix::process::{Pid, PidfdFlags, Signal};

use super::commands::Ground;
use super::container_init::Facts;
use super::house;
use super::mounted::{Dirs, Mounted, Scratch};
use super::outer_init::{self, OuterInit};
use super::protocol::Fault;
use super::slots::{Ordered, Slot};
use super::wire;
use crate::root::Root;
use crate::seccomp;
use crate::spec::{ContainerParams, EtcFile, MountPoints};

/// Group of terminals on every Linux.
const TTY_GID: u32 = 5;
/// Slots that wait for commands, where there are many.
const SPARE: usize = 2;
/// How long is waited after the first command of a sandbox, which may be the last one, before anything is made for more.
const MOMENT: Duration = Duration::from_millis(2);

/// A container that runs.
#[derive(Debug)]
pub(super) struct Sandbox {
    number: u64,
    control: UnixStream,
    /// Where its outer init says why it could not be built.
    report: UnixStream,
    /// Its outer init.
    pid: Pid,
    pub(super) pidfd: OwnedFd,
    etc_files: Vec<EtcFile>,
    /// What it is mounted on, kept open: the number of none of them is given to another file while it is.
    places: Vec<Place>,
    slots: Vec<Ordered>,
    /// Commands that have had one.
    taken: u64,
    /// One for a command that leaves nothing, and how often the vessel had been written to when it was made.
    throw_away: Option<(Ordered, u64)>,
}

#[derive(Debug)]
struct Place {
    path: PathBuf,
    _held: OwnedFd,
    identity: (u64, u64),
}

impl Sandbox {
    /// Starts one on what is mounted; `points` are as they were prepared just now, `lock` is held as long as
    /// anything of it is there.
    pub(super) fn new(
        number: u64,
        ground: &Ground,
        root: &Root,
        points: &MountPoints,
        lock: BorrowedFd<'_>,
    ) -> Result<Self, Fault> {
        let lock = lock.try_clone_to_owned().map_err(|e| Fault::io("dup", &e))?;
        let places = places(root, &points.etc_files)?;
        let params = ContainerParams {
            rootfs: PathBuf::from(house::MERGED),
            hostname: ground.hostname.clone(),
            cgroups_path: PathBuf::from(format!("/vesselrt-{number}")),
            tty_gid_mapped: ground.ids > TTY_GID,
            files_dir: PathBuf::from(house::FILES),
            etc_files: points.etc_files.clone(),
            extra_masked: ground.masked.clone(),
            bind_sys: ground.bind_sys,
        };
        let facts = Facts {
            lock: Rc::new(lock),
            tty_gid_mapped: params.tty_gid_mapped,
            etc_files: points.etc_files.iter().map(|file| file.destination.clone()).collect(),
            mounts: points.mounts.clone(),
            seccomp: seccomp::default_program()
                .map_err(|e| Fault::internal("compile the system call filter", &e))?,
        };
        let pair = || UnixStream::pair().map_err(|e| Fault::io("socketpair", &e));
        let ((control, theirs), (report, reporting)) = (pair()?, pair()?);
        let pid = OuterInit { number, params, facts, control: theirs, report: reporting }.start()?;
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())
            .map_err(|e| Fault::io("pidfd_open", &e.into()))?;
        let (etc_files, slots) = (points.etc_files.clone(), Vec::new());
        Ok(Self { number, control, report, pid, pidfd, etc_files, places, slots, taken: 0, throw_away: None })
    }

    /// Whether everything that is mounted in it still is, and is what would be mounted now; `points` were prepared just now.
    pub(super) fn is_current(&self, root: &Root, points: &MountPoints) -> bool {
        let same =
            |place: &Place| look(root, &place.path).is_ok_and(|(_, identity)| identity == place.identity);
        points.etc_files == self.etc_files && self.places.iter().all(same)
    }

    /// Orders one for the commands to come; false when that failed.
    pub(super) fn refill(&mut self) -> bool {
        match Ordered::new(&self.control, None) {
            Ok(ordered) => self.slots.push(ordered),
            Err(_) => return false,
        }
        true
    }

    /// How many commands began in it.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// Whether [`Self::refill`] has something to do.
    pub(super) fn wants(&self) -> bool {
        self.slots.len() < if self.taken == 0 { 1 } else { SPARE }
    }

    /// How long is waited for a request before anything is made for commands to come.
    pub(super) fn moment(&self) -> Duration {
        if self.taken == 1 { MOMENT } else { Duration::ZERO }
    }

    /// Whether one is ready for a command that leaves nothing, and sees all that was written, if there were `writes`.
    pub(super) fn has_throw_away(&self, writes: u64) -> bool {
        self.throw_away.as_ref().is_some_and(|(_, made)| *made == writes)
    }

    /// Makes one.
    pub(super) fn make_throw_away(
        &mut self,
        number: u64,
        writes: u64,
        mounted: &Mounted,
        dirs: &Dirs,
    ) -> Result<(), Fault> {
        self.drop_throw_away(dirs);
        let scratch = Scratch::new(number, mounted, dirs)?;
        let ordered = Ordered::new(&self.control, Some(scratch));
        let ordered = ordered.map_err(|e| Fault::io("order a place for a command", &e))?;
        self.throw_away = Some((ordered, writes));
        Ok(())
    }

    fn drop_throw_away(&mut self, dirs: &Dirs) {
        if let Some((stale, _)) = self.throw_away.take() {
            stale.cancel(dirs);
        }
    }

    /// A slot for a command whose changes stay.
    pub(super) fn take(&mut self, dirs: &Dirs) -> Result<Slot, Fault> {
        if self.slots.is_empty() {
            self.refill();
        }
        self.taken += 1;
        let slot = match self.slots.is_empty() {
            true => Err(Slot::gone()),
            false => self.slots.remove(0).ready(dirs),
        };
        slot.map_err(|fault| self.explain(fault))
    }

    /// What its outer init says, if it says something.
    fn explain(&self, fault: Fault) -> Fault {
        let moment = rustix::time::Timespec { tv_sec: 1, tv_nsec: 0 };
        let said = rustix::event::poll(&mut [PollFd::new(&self.report, PollFlags::IN)], Some(&moment));
        match (said, wire::recv::<Fault>(&self.report)) {
            (Ok(1), Ok(Some((why, _)))) => why.of_host(),
            _ => fault,
        }
    }

    /// The slot that [`Self::make_throw_away`] made.
    pub(super) fn take_throw_away(&mut self, dirs: &Dirs) -> Result<Slot, Fault> {
        self.taken += 1;
        let (ordered, _) = self.throw_away.take().ok_or_else(Slot::gone)?;
        ordered.ready(dirs).map_err(|fault| self.explain(fault))
    }

    /// Whether somebody killed it.
    pub(super) fn has_ended(&self) -> bool {
        let now = rustix::time::Timespec::default();
        matches!(rustix::event::poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], Some(&now)), Ok(1))
    }

    /// Kills everything in it. It is gone with its mounts when [`Self::end`] says so.
    pub(super) fn kill(&self) {
        // ESRCH: it has ended.
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Kills everything in it, and waits until it and its mounts are gone.
    pub(super) fn end(mut self, dirs: &Dirs) {
        self.kill();
        let ended = || rustix::event::poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], None);
        while matches!(ended(), Err(rustix::io::Errno::INTR)) {}
        super::server::reap(self.pid);
        self.drop_throw_away(dirs);
        // What libcontainer wrote down; its cgroup was never made where we may not.
        let _ = std::fs::remove_dir_all(Path::new(house::STATE).join(outer_init::container_id(self.number)));
    }
}

/// Where the sandbox has mounts that could be lost.
fn places(root: &Root, etc_files: &[EtcFile]) -> Result<Vec<Place>, Fault> {
    let directories = ["/dev", "/proc", "/sys"].map(PathBuf::from);
    let files = etc_files.iter().map(|file| file.destination.clone());
    let place = |path: PathBuf| {
        let (held, identity) = look(root, &path)
            .map_err(|e| Fault::io(format!("look at the mount point {}", path.display()), &e))?;
        Ok(Place { path, _held: held, identity })
    };
    directories.into_iter().chain(files).map(place).collect()
}

fn look(root: &Root, path: &Path) -> io::Result<(OwnedFd, (u64, u64))> {
    let held = root.open_without_symlinks(path, OFlags::PATH | OFlags::NOFOLLOW)?;
    let stat = rustix::fs::fstat(held.as_fd())?;
    Ok((held, (stat.st_dev, stat.st_ino)))
}
