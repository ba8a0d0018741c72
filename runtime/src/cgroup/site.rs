//! [`Site`]: where this process may make groups.
//!
//! Below the group that it is in, so that a limit on that group holds for vessels too. In the unified hierarchy a group that
//! has processes cannot have groups with controllers below it: in one that is delegated to us its processes, our
//! own among them, are moved to a group below; root takes the nearest group above that has no processes.
#![forbid(unsafe_code)]

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD};

use super::mounts::{self, Hierarchy};
use super::{CgroupError, Controller, Group, PROCS, Place, Version, io_error};
use crate::settings::Limits;

/// The group below ours that the processes of ours move to.
const ASIDE: &str = "vesselrt-aside";
const SUBTREE: &str = "cgroup.subtree_control";
const BEST_EFFORT: &str = "or ask for what can be had without control groups: --best-effort";

/// Where groups are made: a directory in each hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    version: Version,
    places: Vec<Place>,
}

impl Site {
    /// Finds it. In a delegated group of the unified hierarchy processes may be moved for it.
    ///
    /// # Errors
    /// [`CgroupError::Unsupported`] where this user cannot have all that `limits` need.
    pub fn here(limits: &Limits) -> Result<Self, CgroupError> {
        let read = |path: &str| std::fs::read_to_string(path).map_err(io_error(format!("read {path}")));
        let hierarchies = mounts::hierarchies(&read("/proc/self/mountinfo")?);
        let own = read("/proc/self/cgroup")?;
        let needed = Controller::needed(limits);
        let legacy =
            |controller: &Controller| hierarchies.iter().any(|it| it.has(controller.name(Version::V1)));
        if needed.iter().any(legacy) {
            return v1(&hierarchies, &own, &needed);
        }
        let unified = hierarchies.iter().find(|hierarchy| hierarchy.controllers.is_none());
        match unified.and_then(|unified| Some((unified, unified.own(&own)?))) {
            Some((unified, own)) => v2(&unified.mount, &own, &needed),
            None => Err(CgroupError::Unsupported {
                what: "limits cannot be set: no control groups are mounted".to_owned(),
                remedy: format!("mount cgroup2 on /sys/fs/cgroup, {BEST_EFFORT}"),
            }),
        }
    }

    /// The group of that name here; it need not exist.
    pub(super) fn group(&self, name: &str) -> Group {
        let place =
            |place: &Place| Place { path: place.path.join(name), controllers: place.controllers.clone() };
        Group { version: self.version, places: self.places.iter().map(place).collect() }
    }
}

/// A hierarchy for each controller; those that are not needed count what is used, where they can be had.
fn v1(hierarchies: &[Hierarchy], own: &str, needed: &[Controller]) -> Result<Site, CgroupError> {
    let mut places: Vec<Place> = Vec::new();
    for controller in Controller::ALL {
        let hierarchy = hierarchies.iter().find(|it| it.has(controller.name(Version::V1)));
        let dir = hierarchy.and_then(|it| it.own(own)).filter(|dir| is_writable(dir));
        let Some(dir) = dir else {
            if needed.contains(&controller) {
                return Err(no_v1(controller));
            }
            continue;
        };
        match places.iter_mut().find(|place| place.path == dir) {
            Some(place) => place.controllers.push(controller),
            None => places.push(Place { path: dir, controllers: vec![controller] }),
        }
    }
    Ok(Site { version: Version::V1, places })
}

/// Whether this user can limit everything in hierarchies of v1.
pub(crate) fn can_limit_by_v1() -> bool {
    let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let needed = [Controller::Cpu, Controller::Memory, Controller::Pids];
    v1(&mounts::hierarchies(&mountinfo), &own, &needed).is_ok()
}

fn v2(mount: &Path, own: &Path, needed: &[Controller]) -> Result<Site, CgroupError> {
    let is_aside = own.file_name().is_some_and(|name| name == ASIDE);
    let base = own.parent().filter(|_| is_aside).unwrap_or(own);
    if ![".", PROCS, SUBTREE].iter().all(|name| is_writable(&base.join(name))) {
        return Err(CgroupError::Unsupported {
            what: format!("limits cannot be set: the control group {base:?} is not delegated to this user"),
            remedy: format!("{DELEGATE}, {BEST_EFFORT}"),
        });
    }
    for base in bases(mount, base) {
        let offered = controllers_of(&base, "cgroup.controllers")?;
        if let Some(missing) = needed.iter().find(|wanted| !offered.contains(wanted)) {
            return Err(no_controller(*missing, Version::V2));
        }
        if enable_all(&base, needed)? {
            for other in offered.iter().filter(|one| !needed.contains(one)) {
                // It only counts.
                let _ = enable(&base, *other);
            }
            let controllers = controllers_of(&base, SUBTREE)?;
            return Ok(Site { version: Version::V2, places: vec![Place { path: base, controllers }] });
        }
    }
    Err(CgroupError::Unsupported {
        what: format!("limits cannot be set: processes are in the control group {base:?} itself"),
        remedy: format!("{DELEGATE}, {BEST_EFFORT}"),
    })
}

/// What the user does who has no delegated group.
pub(crate) const DELEGATE: &str =
    "run it in a scope of its own: systemd-run --user --scope -p Delegate=yes -- vesselrt …";

/// The group itself, and for root those above.
fn bases(mount: &Path, base: &Path) -> Vec<PathBuf> {
    let above = base.ancestors().skip(1).take_while(|dir| dir.starts_with(mount));
    let root = rustix::process::geteuid().is_root();
    std::iter::once(base).chain(above.filter(|_| root)).map(Path::to_path_buf).collect()
}

/// False when there are processes in the way which are not ours to move. They are looked for first: to give some controllers
/// to the groups below a group that has processes is no error, but makes it one of threads, below which no process may be.
fn enable_all(base: &Path, needed: &[Controller]) -> Result<bool, CgroupError> {
    // The root group may have both; it is the one that has no type.
    if base.join("cgroup.type").exists() && !processes_of(base)?.is_empty() {
        if !is_delegated(base) {
            return Ok(false);
        }
        move_aside(base)?;
    }
    let enabled = needed.iter().try_for_each(|controller| enable(base, *controller));
    enabled.map_err(io_error(format!("enable controllers in {base:?}")))?;
    Ok(true)
}

/// The processes in a group itself. 0 is one of another pid namespace, which is not ours.
fn processes_of(base: &Path) -> Result<Vec<u32>, CgroupError> {
    let path = base.join(PROCS);
    let text = std::fs::read_to_string(&path).map_err(io_error(format!("read {path:?}")))?;
    Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
}

/// Gives the groups below a controller. One that they have already need not be given.
pub(super) fn enable(base: &Path, controller: Controller) -> io::Result<()> {
    std::fs::write(base.join(SUBTREE), format!("+{}", controller.name(Version::V2)))
}

/// Whether the processes in a group are ours to arrange: systemd marks what it delegates (systemd.resource-control(5)), and
/// where there is no systemd, whoever gave us the group meant it.
fn is_delegated(base: &Path) -> bool {
    let marked = |name: &str| {
        let mut value = [0u8; 4];
        rustix::fs::getxattr(base, name, &mut value).is_ok_and(|length| value.get(..length) == Some(b"1"))
    };
    !Path::new("/run/systemd/system").exists()
        || ["user.delegate", "trusted.delegate"].into_iter().any(marked)
}

/// Moves the processes of a group to one below it. New ones may come meanwhile: children of those that are still there.
fn move_aside(base: &Path) -> Result<(), CgroupError> {
    let aside = base.join(ASIDE);
    let place = Place { path: aside.clone(), controllers: Vec::new() };
    let group = Group { version: Version::V2, places: vec![place] };
    group.make_dirs()?;
    for _ in 0..16 {
        let processes = processes_of(base)?;
        if processes.is_empty() {
            return Ok(());
        }
        group.adopt(&processes)?;
    }
    Err(CgroupError::Unsupported {
        what: format!("limits cannot be set: processes keep coming in the control group {base:?}"),
        remedy: format!("{DELEGATE}, {BEST_EFFORT}"),
    })
}

fn controllers_of(base: &Path, file: &str) -> Result<Vec<Controller>, CgroupError> {
    let path = base.join(file);
    let text = std::fs::read_to_string(&path).map_err(io_error(format!("read {path:?}")))?;
    let is_named =
        |controller: &Controller| text.split_whitespace().any(|it| it == controller.name(Version::V2));
    Ok(Controller::ALL.into_iter().filter(|it| *it != Controller::Cpuacct).filter(is_named).collect())
}

fn is_writable(path: &Path) -> bool {
    rustix::fs::accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS).is_ok()
}

fn no_v1(controller: Controller) -> CgroupError {
    let name = controller.name(Version::V1);
    CgroupError::Unsupported {
        what: format!("{name} cannot be limited: this host has control groups v1, which only root may use"),
        remedy: format!(
            "boot with systemd.unified_cgroup_hierarchy=1 on the kernel's command line, be root, {BEST_EFFORT}"
        ),
    }
}

/// A controller that the group does not have.
pub(super) fn no_controller(controller: Controller, version: Version) -> CgroupError {
    let name = controller.name(version);
    let remedy = match version {
        Version::V1 => "stop the vessel, so that it begins with that limit".to_owned(),
        Version::V2 => format!(
            "let systemd delegate it: printf '[Service]\\nDelegate=cpu memory pids\\n' in \
             /etc/systemd/system/user@.service.d/delegate.conf, then log in again, {BEST_EFFORT}"
        ),
    };
    CgroupError::Unsupported {
        what: format!("{name} cannot be limited: its controller is not delegated"),
        remedy,
    }
}
