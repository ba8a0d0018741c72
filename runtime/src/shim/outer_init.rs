//! The process that builds the sandbox, and below which everything of it is.
//!
//! The only place that names libcontainer besides the init ([`super::container_init`]). It clones without the C library knowing,
//! changes the working directory and clears the dumpable flag of its caller, takes its time, and what it starts does not end with
//! its caller before it is done. So its caller is a fork of the shim, as process 1 of a pid namespace: the shim goes on
//! meanwhile, and when that process ends, or the shim, the kernel ends everything below.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::rc::Rc;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::wait::{WaitPidFlag, waitpid};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::CWD;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags};
use rustix::process::{Pid, PidfdFlags, Signal};

use super::container_init::{Facts, Init};
use super::house;
use super::protocol::Fault;
use super::wire;
use crate::spec::{self, ContainerParams};
use crate::sys;

/// What the process is given.
#[derive(Debug)]
pub(super) struct OuterInit {
    /// Names the container.
    pub(super) number: u64,
    pub(super) params: ContainerParams,
    pub(super) facts: Facts,
    /// The sandbox's end of its socket.
    pub(super) control: UnixStream,
    /// Where it says why the sandbox could not be built.
    pub(super) report: UnixStream,
}

impl OuterInit {
    /// Starts it.
    pub(super) fn start(self) -> Result<Pid, Fault> {
        let shim = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())
            .map_err(|e| Fault::io("pidfd_open", &e.into()))?;
        sys::fork_into(CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS, move || {
            i32::from(self.run(&shim).is_err())
        })
        .map_err(|e| Fault::io("fork a process for the container", &e).of_host())
    }

    fn run(self, shim: &OwnedFd) -> io::Result<()> {
        let Self { number, params, facts, control, report } = self;
        // Copies of all descriptors of the shim are here. First of all: who is connected to it must see it end.
        let kept = [control.as_fd(), report.as_fd(), facts.lock.as_fd(), shim.as_fd()];
        let [control_, report_, lock, shim] = sys::keep_only(kept, 3)?;
        std::mem::forget((control, report)); // closed just now
        let (control, report) = (UnixStream::from(control_), UnixStream::from(report_));
        let _ = rustix::thread::set_name(c"vesselrt-outer"); // for ps; nothing depends on it
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // It may have died before it was said what is to happen then.
        let now = rustix::time::Timespec::default();
        if rustix::event::poll(&mut [PollFd::new(&shim, PollFlags::IN)], Some(&now))? != 0 {
            return Ok(());
        }
        drop(shim);
        // It has the lock to the end, as everything below it.
        let lock = Rc::new(lock);
        let facts = Facts { lock: Rc::clone(&lock), ..facts };
        if let Err(fault) = build(number, &params, Init::new(Rc::new(control), facts)) {
            return wire::send(&report, &fault, &[]);
        }
        drop(report);
        // The store is the shim's alone; whoever waits for the sandbox need not wait for this.
        for place in house::STORE {
            let _ = rustix::mount::unmount(format!("/{place}"), UnmountFlags::DETACH);
        }
        for number in 0..crate::settings::MAX_MOUNTS {
            let place = format!("{}/{number}", house::MOUNTS);
            if rustix::mount::unmount(place, UnmountFlags::DETACH).is_err() {
                break; // That was the last one.
            }
        }
        while !matches!(waitpid(None, Some(WaitPidFlag::__WALL)), Err(Errno::ECHILD)) {}
        Ok(())
    }
}

fn build(number: u64, params: &ContainerParams, init: Init) -> Result<(), Fault> {
    mount_proc().map_err(|e| Fault::io("mount /proc for the container", &e))?;
    let failed = |step: &str, e: &dyn std::error::Error| Fault::internal(format!("{step} the container"), e);
    let bundle = Path::new(house::BUNDLE);
    spec::build(params).save(bundle.join("config.json")).map_err(|e| failed("describe", &e))?;
    let mut container = ContainerBuilder::new(container_id(number), SyscallType::default())
        .with_executor(init)
        .with_root_path(house::STATE)
        .map_err(|e| failed("place", &e))?
        .as_init(bundle)
        .with_systemd(false)
        .with_detach(true)
        .build()
        .map_err(|e| failed("create", &e))?;
    container.start().map_err(|e| failed("start", &e))
}

/// The name of the container, and of its directory below [`house::STATE`].
pub(super) fn container_id(number: u64) -> String {
    format!("c{number}")
}

/// libcontainer looks its processes up there, by the numbers that they have in this pid namespace.
fn mount_proc() -> io::Result<()> {
    let fs = rustix::mount::fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(&fs)?;
    let attrs = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let proc = rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attrs)?;
    Ok(rustix::mount::move_mount(&proc, "", CWD, "/proc", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}
