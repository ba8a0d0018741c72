//! Control groups: which version, and whether limits can be set.
#![forbid(unsafe_code)]

use std::path::{Component, Path, PathBuf};

use rustix::fs::Access;

use super::{Verdict, read_trimmed};

const ROOT: &str = "/sys/fs/cgroup";
/// CGROUP2_SUPER_MAGIC of linux/magic.h.
const CGROUP2: u64 = 0x6367_7270;

/// How the hierarchies are mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Unified,
    Hybrid,
    Legacy,
    None,
}

/// What the cgroup of this process allows.
#[derive(Debug)]
pub(super) struct Cgroups {
    pub(super) mode: Mode,
    /// Its controllers, of a unified hierarchy.
    pub(super) controllers: Vec<String>,
    /// This user may make groups below it and move processes there.
    pub(super) delegated: bool,
    /// This user may make groups in the hierarchies of v1.
    pub(super) legacy: bool,
}

pub(super) fn read() -> Cgroups {
    let is_cgroup2 =
        |path: &str| rustix::fs::statfs(path).is_ok_and(|it| u64::try_from(it.f_type) == Ok(CGROUP2));
    let mode = match () {
        () if is_cgroup2(ROOT) => Mode::Unified,
        () if is_cgroup2("/sys/fs/cgroup/unified") => Mode::Hybrid,
        () if Path::new("/proc/self/cgroup").exists() && Path::new("/sys/fs/cgroup/memory").exists() => {
            Mode::Legacy
        }
        () => Mode::None,
    };
    let own = read_trimmed("/proc/self/cgroup").and_then(|text| unified_path(&text));
    let Some(own) = own.filter(|_| mode == Mode::Unified) else {
        let legacy = mode != Mode::Unified && crate::cgroup::can_limit_by_v1();
        return Cgroups { mode, controllers: Vec::new(), delegated: false, legacy };
    };
    let writable = |name: &str| {
        rustix::fs::accessat(rustix::fs::CWD, own.join(name), Access::WRITE_OK, rustix::fs::AtFlags::EACCESS)
            .is_ok()
    };
    let controllers = std::fs::read_to_string(own.join("cgroup.controllers")).unwrap_or_default();
    Cgroups {
        mode,
        controllers: controllers.split_whitespace().map(str::to_owned).collect(),
        delegated: writable("") && writable("cgroup.procs") && writable("cgroup.subtree_control"),
        legacy: false,
    }
}

/// The directory of the line `0::/path` of /proc/self/cgroup.
fn unified_path(text: &str) -> Option<PathBuf> {
    let path = Path::new(text.lines().find_map(|line| line.strip_prefix("0::/"))?);
    // `/../x`: outside of this cgroup namespace, where the mount does not reach.
    let plain = path.components().all(|component| matches!(component, Component::Normal(_)));
    plain.then(|| Path::new(ROOT).join(path))
}

pub(super) fn check(cgroups: &Cgroups) -> Verdict {
    const DELEGATE: &str =
        "run it in a scope of its own: systemd-run --user --scope -p Delegate=yes -- vesselrt …";
    const UNIFIED: &str = "boot with systemd.unified_cgroup_hierarchy=1 on the kernel's command line";
    let missing: Vec<_> = ["memory", "pids", "cpu"]
        .into_iter()
        .filter(|wanted| !cgroups.controllers.iter().any(|controller| controller == wanted))
        .collect();
    match cgroups.mode {
        Mode::None => Verdict::warn("none: limits cannot be set", UNIFIED),
        Mode::Legacy if cgroups.legacy => Verdict::ok("v1: cpus, memory and pids can be limited"),
        Mode::Hybrid if cgroups.legacy => Verdict::ok("hybrid: cpus, memory and pids can be limited, by v1"),
        Mode::Legacy => Verdict::warn("v1: limits cannot be set without root", UNIFIED),
        Mode::Hybrid => Verdict::warn("hybrid (v1 and v2): limits cannot be set without root", UNIFIED),
        Mode::Unified if !cgroups.delegated => {
            Verdict::warn("v2, this group is not delegated: limits cannot be set", DELEGATE)
        }
        Mode::Unified if missing.is_empty() => {
            Verdict::ok(format!("v2, delegated: {}", cgroups.controllers.join(" ")))
        }
        Mode::Unified => Verdict::warn(
            format!("v2, delegated without {}", missing.join(", ")),
            "sudo mkdir -p /etc/systemd/system/user@.service.d && printf '[Service]\\nDelegate=cpu memory pids\\n' | \
             sudo tee /etc/systemd/system/user@.service.d/delegate.conf && sudo systemctl daemon-reload, then log in again",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Status::{Ok as Good, Warn};
    use super::*;

    #[test]
    fn hierarchies_by_mode_and_delegation() {
        let case = |mode, controllers: &str, delegated| {
            let controllers = controllers.split_whitespace().map(str::to_owned).collect();
            check(&Cgroups { mode, controllers, delegated, legacy: false })
        };
        for mode in [Mode::Hybrid, Mode::Legacy] {
            let root = Cgroups { mode, controllers: Vec::new(), delegated: false, legacy: true };
            assert_eq!(check(&root).status, Good, "{mode:?}");
        }
        assert_eq!(case(Mode::Unified, "cpu io memory pids", true).status, Good);
        let partly = case(Mode::Unified, "memory pids", true);
        assert!(partly.status == Warn && partly.found.ends_with("without cpu"));
        assert!(case(Mode::Unified, "cpu memory pids", false).remedy.unwrap().contains("Delegate=yes"));
        for mode in [Mode::Hybrid, Mode::Legacy, Mode::None] {
            assert_eq!(case(mode, "", false).status, Warn, "{mode:?}");
        }
    }

    #[test]
    fn the_unified_line_is_found_among_the_others() {
        let text = "12:pids:/x\n1:name=systemd:/y\n0::/user.slice/a.scope";
        assert_eq!(unified_path(text).unwrap(), Path::new("/sys/fs/cgroup/user.slice/a.scope"));
        assert_eq!(unified_path("0::/").unwrap(), Path::new("/sys/fs/cgroup"));
        assert_eq!(unified_path("0::/../../x"), None);
        assert_eq!(unified_path("3:cpu:/"), None);
    }
}
