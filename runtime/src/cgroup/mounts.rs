//! Where hierarchies are mounted, and which groups of them a process is in: pure readers of /proc.
#![forbid(unsafe_code)]

use std::path::{Component, Path, PathBuf};

/// A mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hierarchy {
    /// Controllers of a v1 hierarchy; `None`: the unified one.
    pub(super) controllers: Option<Vec<String>>,
    /// Where it is mounted.
    pub(super) mount: PathBuf,
    /// The group that is mounted there.
    root: PathBuf,
}

/// The hierarchies in the text of /proc/self/mountinfo (proc_pid_mountinfo(5)).
pub(super) fn hierarchies(mountinfo: &str) -> Vec<Hierarchy> {
    mountinfo.lines().filter_map(hierarchy).collect()
}

fn hierarchy(line: &str) -> Option<Hierarchy> {
    let (mount, fs) = line.split_once(" - ")?;
    let mut mount = mount.split(' ').skip(3);
    let (root, point) = (mount.next()?, mount.next()?);
    let mut fs = fs.split(' ');
    let (kind, options) = (fs.next()?, fs.nth(1)?);
    let controllers = match kind {
        "cgroup2" => None,
        "cgroup" => Some(options.split(',').map(str::to_owned).collect()),
        _ => return None,
    };
    Some(Hierarchy { controllers, mount: point.into(), root: root.into() })
}

impl Hierarchy {
    /// Whether it is the v1 hierarchy of a controller.
    pub(super) fn has(&self, controller: &str) -> bool {
        self.controllers.as_ref().is_some_and(|all| all.iter().any(|one| one == controller))
    }

    /// The directory of the group that the text of /proc/self/cgroup (cgroups(7)) names for this hierarchy; `None` when it
    /// is outside of what is mounted.
    pub(super) fn own(&self, cgroup: &str) -> Option<PathBuf> {
        let path = cgroup.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (names, path) = rest.split_once(':')?;
            let mine = match &self.controllers {
                None => names.is_empty(),
                Some(_) => names.split(',').any(|name| !name.is_empty() && self.has(name)),
            };
            mine.then_some(path)
        })?;
        let below = Path::new(path).strip_prefix(&self.root).ok()?;
        // `/../x`: outside of this cgroup namespace, where the mount does not reach.
        let plain = below.components().all(|component| matches!(component, Component::Normal(_)));
        // Joining nothing would leave a slash at the end.
        plain.then(|| if below == Path::new("") { self.mount.clone() } else { self.mount.join(below) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
24 1 0:20 / /proc rw,relatime - proc proc rw
30 24 0:26 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
31 24 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
32 24 0:28 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate";
    const OWN: &str = "9:name=systemd:/\n4:memory:/a/b\n3:cpu,cpuacct:/\n0::/user.slice/x.scope\n";

    #[test]
    fn the_own_group_of_each_hierarchy_is_found() {
        let found = hierarchies(HYBRID);
        assert_eq!(found.len(), 3);
        let of = |name: &str| found.iter().find(|it| it.has(name)).unwrap().own(OWN).unwrap();
        assert_eq!(of("memory"), Path::new("/sys/fs/cgroup/memory/a/b"));
        assert_eq!(of("cpu"), Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(of("cpuacct"), of("cpu"));
        let unified = found.iter().find(|it| it.controllers.is_none()).unwrap();
        assert_eq!(unified.own(OWN).unwrap(), Path::new("/sys/fs/cgroup/unified/user.slice/x.scope"));
        assert!(!unified.has("memory"));
    }

    #[test]
    fn a_mount_of_a_part_of_a_hierarchy_hides_the_rest() {
        let line = "30 24 0:26 /docker/x /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory";
        let part = &hierarchies(line)[0];
        assert_eq!(part.own("4:memory:/docker/x/y").unwrap(), Path::new("/sys/fs/cgroup/memory/y"));
        assert_eq!(part.own("4:memory:/elsewhere"), None);
        let all = &hierarchies(HYBRID)[0];
        assert_eq!(all.own("4:memory:/../x"), None);
        assert_eq!(all.own("4:pids:/x"), None);
    }
}
