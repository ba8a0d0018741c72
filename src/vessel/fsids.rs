//! Reading and writing a vessel's files as the root of the store's id mapping.
//!
//! A process of real root is no user of the vessel's namespace. overlayfs does not mind, as it works with the credentials of
//! whoever mounted it; FUSE does: a request from an id that its user namespace does not know is EOVERFLOW.
#![forbid(unsafe_code)]

use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use vesselrt_runtime::idmap::IdMapping;

/// Does `work` with the file system ids of the mapping's root, on this thread alone (setfsuid(2)).
pub(crate) fn as_mapped_root<T>(ids: &IdMapping, work: impl FnOnce() -> T) -> T {
    let (uid, gid) = ids.root();
    if uid == Uid::effective().as_raw() {
        return work();
    }
    let _back = Back { gid: setfsgid(Gid::from_raw(gid)), uid: setfsuid(Uid::from_raw(uid)) };
    work()
}

/// Goes back also when the work panics: the thread is used again.
struct Back {
    uid: Uid,
    gid: Gid,
}

impl Drop for Back {
    fn drop(&mut self) {
        setfsuid(self.uid);
        setfsgid(self.gid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vesselrt_runtime::idmap::Extent;

    #[test]
    fn the_thread_comes_back_as_it_was() {
        let extents = vec![Extent { inside: 0, outside: 1_000_000, count: 1 }];
        let ids = IdMapping { uids: extents.clone(), gids: extents };
        let now = || std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let ids_of = |status: &str| {
            let lines = status.lines().filter(|line| line.starts_with("Uid:") || line.starts_with("Gid:"));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        let before = ids_of(&now());
        let during = as_mapped_root(&ids, || ids_of(&now()));
        assert_eq!(ids_of(&now()), before);
        // Only real root may become somebody else.
        assert_eq!(during.iter().all(|line| line.ends_with("\t1000000")), Uid::effective().is_root());
    }
}
