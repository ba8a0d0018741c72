//! The directory of the store: its file system, who may use it, how much space there is.
#![forbid(unsafe_code)]

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, StatVfsMountFlags};

use super::Verdict;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// File systems by their magic numbers (statfs(2), linux/magic.h), and whether an upper layer works on them.
const FILESYSTEMS: [(u64, &str, Fitness); 16] = [
    (0xef53, "ext4", Fitness::Good),
    (0x5846_5342, "xfs", Fitness::Good),
    (0x9123_683e, "btrfs", Fitness::Good),
    (0xf2f5_2010, "f2fs", Fitness::Good),
    (0xca45_1a4e, "bcachefs", Fitness::Good),
    (0x0102_1994, "tmpfs", Fitness::Volatile),
    (0x2fc1_2fc1, "zfs", Fitness::Unsure),
    (0x6573_5546, "a FUSE file system", Fitness::Unsure),
    (0x794c_7630, "overlayfs", Fitness::Unfit),
    (0x6969, "NFS", Fitness::Unfit),
    (0xff53_4d42, "CIFS", Fitness::Unfit),
    (0xfe53_4d42, "SMB", Fitness::Unfit),
    (0x4d44, "FAT", Fitness::Unfit),
    (0x2011_bab0, "exFAT", Fitness::Unfit),
    (0x0102_1997, "9p", Fitness::Unfit),
    (0x5346_544e, "NTFS", Fitness::Unfit),
];

/// Whether an overlay's upper layer works on a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fitness {
    Good,
    /// Gone at the next boot.
    Volatile,
    /// Depends on its version or on the program behind it.
    Unsure,
    Unfit,
}

/// Facts about the nearest directory that exists.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) path: PathBuf,
    /// It is the store itself, not a directory above it.
    pub(super) is_store: bool,
    pub(super) magic: u64,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) is_directory: bool,
    pub(super) writable: bool,
    pub(super) noexec: bool,
    pub(super) readonly: bool,
    /// Bytes that this user may still use.
    pub(super) free: u64,
    /// Files that may still be created; 0 of 0 where the file system does not count them.
    pub(super) free_files: u64,
    pub(super) files: u64,
}

pub(super) type Store = Result<Found, String>;

pub(super) fn read(store: &Path) -> Store {
    let absolute = std::path::absolute(store).map_err(|error| format!("{}: {error}", store.display()))?;
    for path in absolute.ancestors() {
        match path.metadata() {
            Ok(metadata) => return facts(path, path == absolute, &metadata),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("{}: {error}", path.display())),
        }
    }
    Err(format!("{}: no directory above it exists", store.display()))
}

fn facts(path: &Path, is_store: bool, metadata: &std::fs::Metadata) -> Store {
    let failed = |errno: rustix::io::Errno| format!("{}: {errno}", path.display());
    let statfs = rustix::fs::statfs(path).map_err(failed)?;
    let statvfs = rustix::fs::statvfs(path).map_err(failed)?;
    let access = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
    Ok(Found {
        path: path.to_owned(),
        is_store,
        // 32 bits matter; some architectures sign-extend them.
        magic: statfs.f_type as u64 & 0xffff_ffff,
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        is_directory: metadata.is_dir(),
        writable: rustix::fs::accessat(CWD, path, access, AtFlags::EACCESS).is_ok(),
        noexec: statvfs.f_flag.contains(StatVfsMountFlags::NOEXEC),
        readonly: statvfs.f_flag.contains(StatVfsMountFlags::RDONLY),
        free: statvfs.f_bavail.saturating_mul(statvfs.f_frsize),
        free_files: statvfs.f_favail,
        files: statvfs.f_files,
    })
}

const ELSEWHERE: &str =
    "put the store elsewhere: export VESSELRT_ROOT=/a/directory/of/yours (ext4, xfs or btrfs)";

pub(super) fn filesystem(store: &Store) -> Verdict {
    let found = match store {
        Ok(found) => found,
        Err(problem) => return Verdict::fail(problem.clone(), ELSEWHERE),
    };
    let known = FILESYSTEMS.iter().find(|known| known.0 == found.magic);
    let (name, fitness) =
        known.map_or(("an unknown file system", Fitness::Unsure), |known| (known.1, known.2));
    let place = format!("{name} at {}", found.path.display());
    match fitness {
        _ if found.readonly => Verdict::fail(format!("{place}, mounted read-only"), ELSEWHERE),
        Fitness::Unfit => Verdict::fail(format!("{place}: no overlay can be written there"), ELSEWHERE),
        _ if found.noexec => {
            Verdict::fail(format!("{place}, mounted noexec: no program of a vessel would run"), ELSEWHERE)
        }
        Fitness::Volatile => {
            Verdict::warn(format!("{place}: everything is lost at the next boot"), ELSEWHERE)
        }
        Fitness::Unsure => Verdict::warn(format!("{place}: it may lack what overlayfs needs"), ELSEWHERE),
        Fitness::Good => Verdict::ok(place),
    }
}

pub(super) fn directory(store: &Store, uid: u32) -> Verdict {
    let found = match store {
        Ok(found) => found,
        Err(problem) => return Verdict::fail(problem.clone(), ELSEWHERE),
    };
    let path = found.path.display();
    match found {
        _ if !found.is_directory => Verdict::fail(format!("{path} is not a directory"), ELSEWHERE),
        _ if !found.writable => Verdict::fail(format!("{path} is not writable by this user"), ELSEWHERE),
        _ if !found.is_store => Verdict::ok(format!("does not exist yet; will be made below {path}")),
        _ if found.uid != uid => {
            Verdict::fail(format!("{path} belongs to uid {}, not to {uid}", found.uid), ELSEWHERE)
        }
        _ if found.mode & 0o022 != 0 => Verdict::fail(
            format!("{path} is writable by others (mode {:04o})", found.mode),
            format!("chmod 0700 '{path}'"),
        ),
        _ if found.mode & 0o055 != 0 => Verdict::warn(
            format!(
                "{path} is open to others (mode {:04o}): they could run setuid programs of images",
                found.mode
            ),
            format!("chmod 0700 '{path}'"),
        ),
        _ => Verdict::ok(format!("{path}, mode {:04o}", found.mode)),
    }
}

pub(super) fn space(store: &Store) -> Verdict {
    let found = match store {
        Ok(found) => found,
        Err(problem) => return Verdict::fail(problem.clone(), ELSEWHERE),
    };
    let amount = match found.free {
        free if free >= 10 * GIB => format!("{} GiB free", free / GIB),
        free => format!("{} MiB free", free / MIB),
    };
    let few_files = found.files > 0 && found.free_files < 100_000;
    let remedy = format!("remove vessels and images that are not needed, or {ELSEWHERE}");
    match found.free {
        free if free < 64 * MIB => Verdict::fail(amount, remedy),
        free if free < GIB => Verdict::warn(amount, remedy),
        _ if few_files => Verdict::warn(format!("{amount}, but only {} files", found.free_files), remedy),
        _ => Verdict::ok(amount),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Status::{Fail, Ok as Good, Warn};
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn found() -> Found {
        Found {
            path: "/s".into(),
            is_store: true,
            magic: 0xef53,
            mode: 0o700,
            uid: 1000,
            is_directory: true,
            writable: true,
            noexec: false,
            readonly: false,
            free: 20 * GIB,
            free_files: 1 << 20,
            files: 1 << 21,
        }
    }

    #[test]
    fn filesystems_by_kind_and_mount_flags() {
        let case = |magic| filesystem(&Ok(Found { magic, ..found() })).status;
        assert_eq!([case(0xef53), case(0x0102_1994), case(0x1234), case(0x6969)], [Good, Warn, Warn, Fail]);
        assert_eq!(case(0x794c_7630), Fail);
        assert_eq!(filesystem(&Ok(Found { noexec: true, ..found() })).status, Fail);
        assert_eq!(filesystem(&Ok(Found { readonly: true, ..found() })).status, Fail);
        assert_eq!(filesystem(&Err("gone".into())).found, "gone");
    }

    #[test]
    fn directories_by_owner_and_mode() {
        let mode = |mode| directory(&Ok(Found { mode, ..found() }), 1000).status;
        assert_eq!(
            [mode(0o700), mode(0o711), mode(0o755), mode(0o770), mode(0o1777)],
            [Good, Warn, Warn, Fail, Fail]
        );
        assert_eq!(directory(&Ok(found()), 1001).status, Fail);
        assert_eq!(directory(&Ok(Found { writable: false, ..found() }), 1000).status, Fail);
        assert_eq!(directory(&Ok(Found { is_directory: false, ..found() }), 1000).status, Fail);
        let above = Found { is_store: false, mode: 0o1777, uid: 0, ..found() };
        assert_eq!(directory(&Ok(above), 1000).status, Good);
    }

    #[test]
    fn space_by_amount() {
        let free = |free| space(&Ok(Found { free, ..found() })).status;
        assert_eq!([free(GIB), free(GIB - 1), free(MIB)], [Good, Warn, Fail]);
        assert_eq!(space(&Ok(Found { free_files: 10, ..found() })).status, Warn);
        assert_eq!(space(&Ok(Found { free_files: 0, files: 0, ..found() })).status, Good);
    }

    #[test]
    fn a_store_that_does_not_exist_is_judged_by_what_is_above() {
        let dir = tempfile::tempdir().unwrap();
        let found = read(&dir.path().join("a/b/c")).unwrap();
        assert!(!found.is_store && found.path == dir.path() && found.writable && found.free > 0);
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o750)).unwrap();
        let found = read(dir.path()).unwrap();
        assert!(found.is_store && found.mode == 0o750);
        fs::write(dir.path().join("file"), "").unwrap();
        assert!(read(&dir.path().join("file/x")).is_err());
    }
}
