//! Which extended attributes travel, and under which name they lie on disk.
//!
//! The law, tested below: for every name that travels, `from_disk(to_disk(name)) == name`, and what one direction
//! drops the other never makes. Sources: Documentation/filesystems/overlayfs.rst, "Nesting overlayfs mounts" (escaping)
//! and "userxattr"; xattr(7); capabilities(7), "File capability extended attribute versioning".
#![forbid(unsafe_code)]

use super::{Dialect, TreeFormat};

/// Attributes of the kernel's overlay when it is mounted with `userxattr`.
const OVERLAY: &[u8] = b"user.overlay.";

/// An attribute of a guest whose own name begins with [`OVERLAY`], as the kernel (6.7 and later) stores it.
const ESCAPED: &[u8] = b"user.overlay.overlay.";

/// File capabilities.
pub(crate) const CAPABILITY: &[u8] = b"security.capability";

/// The attribute that makes an upper directory hide the lower ones.
pub(crate) const OPAQUE: &[u8] = b"user.overlay.opaque";

/// What becomes of an attribute from an archive.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ToDisk {
    /// Set under this name.
    Set(Vec<u8>),
    /// Left out and reported.
    Drop,
}

/// What an attribute on disk means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FromDisk {
    /// It travels under this name.
    Keep(Vec<u8>),
    /// The overlay's own bookkeeping: of no meaning elsewhere, not worth a word.
    Private,
    /// Left out and reported.
    Drop,
    /// The directory is opaque, if the value says so.
    Opaque,
    /// A whiteout in the form of an empty file.
    Whiteout,
    /// The tree was written by an overlay with other options; its files are not all here.
    Foreign,
}

/// How an attribute of an archive is to be stored.
pub(crate) fn to_disk(name: &[u8], dialect: Dialect, format: TreeFormat) -> ToDisk {
    if !travels(name, dialect) {
        return ToDisk::Drop;
    }
    match (name.strip_prefix(OVERLAY), format, dialect) {
        (Some(rest), TreeFormat::Overlay, _) => ToDisk::Set([ESCAPED, rest].concat()),
        // An image must not prepare a plain directory to be an overlay's layer one day.
        (Some(_), TreeFormat::Plain, Dialect::Oci) => ToDisk::Drop,
        _ => ToDisk::Set(name.to_vec()),
    }
}

/// What an attribute on disk is in an archive.
pub(crate) fn from_disk(name: &[u8], dialect: Dialect, format: TreeFormat) -> FromDisk {
    if format == TreeFormat::Overlay {
        if let Some(rest) = name.strip_prefix(ESCAPED) {
            return FromDisk::Keep([OVERLAY, rest].concat());
        }
        if let Some(rest) = name.strip_prefix(OVERLAY) {
            return match rest {
                b"opaque" => FromDisk::Opaque,
                b"whiteout" => FromDisk::Whiteout,
                b"redirect" | b"metacopy" => FromDisk::Foreign,
                _ => FromDisk::Private,
            };
        }
        // With `userxattr` the kernel writes none of these: another mount did.
        if let Some(rest) = name.strip_prefix(b"trusted.overlay.") {
            return match rest {
                b"redirect" | b"metacopy" | b"opaque" | b"whiteout" => FromDisk::Foreign,
                _ => FromDisk::Private,
            };
        }
    }
    if format == TreeFormat::FuseOverlay
        && let Some(known) = from_fuse(name)
    {
        return known;
    }
    if travels(name, dialect) { FromDisk::Keep(name.to_vec()) } else { FromDisk::Drop }
}

/// fuse-overlayfs marks opaque directories under three names, one after the other, by what it may set; it has no
/// escaping, so a guest's attribute of such a name cannot be told from its own.
fn from_fuse(name: &[u8]) -> Option<FromDisk> {
    let opaque: [&[u8]; 3] = [OPAQUE, b"user.fuseoverlayfs.opaque", b"trusted.overlay.opaque"];
    if opaque.contains(&name) {
        return Some(FromDisk::Opaque);
    }
    let own: [&[u8]; 4] = [OVERLAY, b"user.fuseoverlayfs.", b"trusted.overlay.", b"user.containers."];
    own.iter().any(|prefix| name.starts_with(prefix)).then_some(FromDisk::Private)
}

/// Whether an attribute means the same on every machine.
fn travels(name: &[u8], dialect: Dialect) -> bool {
    if name == CAPABILITY || is_acl(name) {
        return true;
    }
    if !name.starts_with(b"user.") || name.len() == b"user.".len() {
        return false;
    }
    // Orders to other drivers (fuse-overlayfs, containers/storage, rootlesscontainers), not a guest's data.
    let foreign = name.starts_with(b"user.fuseoverlayfs.")
        || name.starts_with(b"user.containers.")
        || name.starts_with(b"user.rootlesscontainers");
    dialect == Dialect::Plain || !foreign
}

/// Whether the attribute of a lower file comes along when it is copied into an upper layer, name unchanged.
pub(crate) fn is_copied_up(name: &[u8]) -> bool {
    match name.strip_prefix(OVERLAY) {
        Some(_) => name.starts_with(ESCAPED),
        None => name.starts_with(b"user.") || name == CAPABILITY || is_acl(name),
    }
}

/// Whether `name` is a POSIX access control list.
pub(crate) fn is_acl(name: &[u8]) -> bool {
    matches!(name, b"system.posix_acl_access" | b"system.posix_acl_default")
}

/// File capabilities without the user namespace they were made for: version 3 becomes version 2, which the kernel
/// binds again to the namespace that sets it. `None` when it is no capability.
pub(crate) fn portable_capability(value: &[u8]) -> Option<Vec<u8>> {
    let revision = value.get(3)?;
    match (revision, value.len()) {
        (1, 12) | (2, 20) => Some(value.to_vec()),
        (3, 24) => {
            let mut value = value[..20].to_vec();
            value[3] = 2;
            Some(value)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIALECTS: [Dialect; 3] = [Dialect::Oci, Dialect::Snapshot, Dialect::Plain];
    const FORMATS: [TreeFormat; 2] = [TreeFormat::Overlay, TreeFormat::Plain];

    const NAMES: [&str; 14] = [
        "user.x",
        "user.overlay.opaque",
        "user.overlay.overlay.opaque",
        "user.overlay.redirect",
        "user.overlay.",
        "user.overlayx",
        "user.fuseoverlayfs.opaque",
        "user.containers.override_stat",
        "user.rootlesscontainers",
        "trusted.overlay.redirect",
        "security.capability",
        "security.selinux",
        "system.posix_acl_access",
        "system.nfs4_acl",
    ];

    #[test]
    fn what_is_stored_reads_back_as_itself() {
        for name in NAMES {
            for (dialect, format) in DIALECTS.iter().flat_map(|d| FORMATS.map(|f| (*d, f))) {
                if let ToDisk::Set(disk) = to_disk(name.as_bytes(), dialect, format) {
                    let back = from_disk(&disk, dialect, format);
                    assert_eq!(back, FromDisk::Keep(name.into()), "{name} {dialect:?} {format:?}");
                }
            }
        }
    }

    #[test]
    fn no_archive_can_set_an_attribute_that_steers_an_overlay() {
        for name in NAMES {
            for (dialect, format) in DIALECTS.iter().flat_map(|d| FORMATS.map(|f| (*d, f))) {
                if let ToDisk::Set(disk) = to_disk(name.as_bytes(), dialect, format) {
                    assert!(!disk.starts_with(b"trusted."));
                    let steers = disk.starts_with(OVERLAY) && !disk.starts_with(ESCAPED);
                    assert!(!steers || (format == TreeFormat::Plain && dialect != Dialect::Oci), "{name}");
                }
            }
        }
    }

    #[test]
    fn capabilities_lose_their_namespace() {
        let mut v3 = vec![1, 0, 0, 3];
        v3.resize(20, 7);
        v3.extend(1001u32.to_le_bytes());
        let v2 = portable_capability(&v3).unwrap();
        assert_eq!((v2.len(), v2[3], v2[19]), (20, 2, 7));
        assert_eq!(portable_capability(&v2), Some(v2));
        for bad in [&b""[..], b"\0\0\0\x02", b"\0\0\0\x04aaaaaaaaaaaaaaaa"] {
            assert_eq!(portable_capability(bad), None);
        }
    }
}
