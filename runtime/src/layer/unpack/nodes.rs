//! Files, links and directories: one operation each.
#![forbid(unsafe_code)]

use std::io::BufRead;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, fstat, ftruncate, linkat, mknodat, openat, statat, symlinkat,
};
use rustix::io::{Errno, pwrite, write};

use super::attrs::{apply, apply_link};
use super::dirs::{Dir, DirState, size_of_meta};
use super::fault::{During, Fault, Step};
use super::lower::Below;
use super::tree::{Tree, is_whiteout, open_child};
use crate::layer::entry::Meta;
use crate::layer::pack::data_segments;
use crate::layer::path::{TreePath, components, join};
use crate::layer::tar::{Mtime, Segment, TarReader};
use crate::layer::{IdPolicy, TreeFormat};

const NEW_FILE: OFlags =
    OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Tree<'_> {
    /// A regular file with the payload that comes next in the archive.
    pub(super) fn file<R: BufRead>(
        &mut self,
        path: &TreePath,
        meta: &Meta,
        size: u64,
        sparse: Option<&[Segment]>,
        tar: &mut TarReader<R>,
    ) -> Step<()> {
        let parent = self.parent(path.parent())?;
        let defaults = self.defaults;
        let exact = defaults.gives_mode(meta.mode) && meta.xattrs.is_empty();
        let mode = if exact { Mode::from_raw_mode(meta.mode) } else { Mode::RUSR | Mode::WUSR };
        let fd =
            self.place(&parent, path.name(), "create", || openat(&parent.fd, path.name(), NEW_FILE, mode))?;
        match sparse {
            None => write_all(&fd, tar)?,
            Some(map) => write_segments(&fd, size, map, tar)?,
        }
        let made = defaults.owner.is_some().then_some(defaults);
        apply(fd.as_fd(), path.as_bytes(), meta, made, &mut self.warnings)
    }

    /// A directory. What it is to be is remembered for the end, when nothing more is put in it.
    pub(super) fn directory(&mut self, path: &TreePath, meta: Meta, opaque: bool) -> Step<()> {
        if path.is_root() {
            return self.root_directory(meta);
        }
        let parent = self.parent(path.parent())?;
        let full = match self.dirs.path(parent.ino) {
            Some(above) if !self.live => join(above, path.name()),
            _ => self.full(path.as_bytes()),
        };
        match open_child(&parent.fd, path.name()) {
            Ok(dir) => self.known_directory(&parent, &dir, full, meta, opaque),
            Err(Errno::NOENT) => self.new_directory(&parent, path, full, meta, opaque),
            Err(Errno::NOTDIR | Errno::LOOP) => {
                let stat = statat(&parent.fd, path.name(), AtFlags::SYMLINK_NOFOLLOW).during("look at")?;
                let hides = self.format == TreeFormat::Overlay && is_whiteout(&stat);
                self.clear_way(&parent, path.name())?;
                self.new_directory(&parent, path, full, meta, opaque || hides)
            }
            Err(errno) => Err(errno).during("open the directory"),
        }
    }

    fn new_directory(
        &mut self,
        parent: &Dir,
        path: &TreePath,
        full: Vec<u8>,
        meta: Meta,
        opaque: bool,
    ) -> Step<()> {
        let dir = self.make_directory(parent, path.name(), full, Some(meta), opaque)?;
        if !self.live {
            self.cache.insert(path.as_bytes(), dir);
        }
        Ok(())
    }

    /// A second entry for a directory: the later one counts.
    fn known_directory(
        &mut self,
        parent: &Dir,
        dir: &Dir,
        path: Vec<u8>,
        meta: Meta,
        opaque: bool,
    ) -> Step<()> {
        let opaque = opaque && self.format == TreeFormat::Overlay;
        self.dirs.charge(size_of_meta(Some(&meta)), self.limits.deferred)?;
        if let Some(state) = self.dirs.get_mut(dir.ino) {
            state.meta = Some(meta);
            state.opaque |= opaque;
            return Ok(());
        }
        let state = DirState { parent: parent.ino, path, meta: Some(meta), opaque };
        self.dirs.insert(dir.ino, state, self.limits.deferred)
    }

    /// The entry of the root itself. In a live tree the place was there before and keeps what it has.
    fn root_directory(&mut self, meta: Meta) -> Step<()> {
        if self.live {
            return Ok(());
        }
        let root = self.parent(b"")?;
        self.dirs.charge(size_of_meta(Some(&meta)), self.limits.deferred)?;
        let state = self.dirs.get_mut(root.ino).expect("the root is in the table from the start");
        state.meta = Some(meta);
        Ok(())
    }

    pub(super) fn symlink(&mut self, path: &TreePath, target: &[u8], meta: &Meta) -> Step<()> {
        let parent = self.parent(path.parent())?;
        self.place(&parent, path.name(), "create the link", || symlinkat(target, &parent.fd, path.name()))?;
        apply_link(parent.fd.as_fd(), path.name(), meta, self.defaults)
    }

    pub(super) fn fifo(&mut self, path: &TreePath, meta: &Meta) -> Step<()> {
        let parent = self.parent(path.parent())?;
        let mode = Mode::RUSR | Mode::WUSR;
        self.place(&parent, path.name(), "create the fifo", || {
            mknodat(&parent.fd, path.name(), FileType::Fifo, mode, 0)
        })?;
        // Not blocking: there is no writer. A live tree may have put something else there meanwhile.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(&parent.fd, path.name(), flags, Mode::empty()).during("open the fifo")?;
        let stat = fstat(&fd).during("look at")?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Fifo {
            return Err(Errno::STALE).during("open the fifo");
        }
        apply(fd.as_fd(), path.as_bytes(), meta, None, &mut self.warnings)
    }

    /// Another name for what the archive, or a layer below, already has under `target`. The entry's own mode and
    /// owner are the target's, or a lie: they are not applied.
    pub(super) fn hardlink(&mut self, path: &TreePath, target: &TreePath) -> Step<()> {
        let source = self.link_source(target)?;
        let parent = self.parent(path.parent())?;
        let name = path.name();
        let same = source.ino == parent.ino && name == target.name();
        if same {
            return Err(Fault::Rejected(crate::layer::entry::Reject::HardlinkToSelf));
        }
        let missing = |fault| match fault {
            Fault::Io { source, .. } if source.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => {
                Fault::LinkMissing { target: target.to_string() }
            }
            other => other,
        };
        self.place(&parent, name, "link", || {
            linkat(&source.fd, target.name(), &parent.fd, name, AtFlags::empty())
        })
        .map_err(missing)
    }

    /// The directory of a hard link's target, after making sure that the target is in it.
    fn link_source(&mut self, target: &TreePath) -> Step<std::rc::Rc<Dir>> {
        if let Some(dir) = self.lookup(target.parent())? {
            match statat(&dir.fd, target.name(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                    return Err(Fault::LinkToDirectory { target: target.to_string() });
                }
                Ok(stat) if self.format == TreeFormat::Overlay && is_whiteout(&stat) => {
                    return Err(Fault::LinkMissing { target: target.to_string() });
                }
                Ok(_) => return Ok(dir),
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno).during("look at the target of the hard link"),
            }
        }
        self.copy_up(target)
    }

    /// Copies a file that only a layer below has, as the overlay does before it links one.
    fn copy_up(&mut self, target: &TreePath) -> Step<std::rc::Rc<Dir>> {
        let missing = || Fault::LinkMissing { target: target.to_string() };
        if self.lowers.is_empty() || self.live {
            return Err(missing());
        }
        let parent = self.parent_if(target.parent(), super::tree::Missing::Stop)?.ok_or_else(missing)?;
        if self.dirs.under_opaque(parent.ino) {
            return Err(missing());
        }
        let place = self.dirs.path(parent.ino).map(<[u8]>::to_vec).ok_or_else(missing)?;
        let place = join(&place, target.name());
        let names: Vec<&[u8]> = components(&place).collect();
        match self.lowers.lookup(&names)? {
            Below::File(dir) => self.copy_file(&dir, &parent, target)?,
            Below::Symlink(text) => {
                symlinkat(text.as_slice(), &parent.fd, target.name()).during("copy up the target of")?;
            }
            Below::Directory(..) => return Err(Fault::LinkToDirectory { target: target.to_string() }),
            Below::Other | Below::Nothing => return Err(missing()),
        }
        Ok(parent)
    }

    fn copy_file(&mut self, from: &OwnedFd, to: &Dir, path: &TreePath) -> Step<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let source = openat(from, path.name(), flags, Mode::empty()).during("open the target of the link")?;
        let stat = fstat(&source).during("look at the target of")?;
        let meta = self.copied_meta(&source, &stat)?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let fd =
            openat(&to.fd, path.name(), NEW_FILE, Mode::RUSR | Mode::WUSR).during("copy up the target of")?;
        ftruncate(&fd, size).during("copy up the target of")?;
        let map = data_segments(source.as_fd(), size, self.limits.sparse).during("read the target of")?;
        for segment in map {
            self.count_bytes(segment.len)?;
            copy_range(&source, &fd, segment)?;
        }
        apply(fd.as_fd(), path.as_bytes(), &meta, None, &mut self.warnings)
    }

    /// Counts content against the limit.
    pub(super) fn count_bytes(&mut self, bytes: u64) -> Step<()> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > self.limits.bytes {
            return Err(Fault::Limit { what: "bytes of content", limit: self.limits.bytes });
        }
        Ok(())
    }
}

impl Tree<'_> {
    /// What a directory is to be that the archive has files in but no entry for.
    pub(super) fn implicit_meta(&self) -> Meta {
        let owner = (self.ids != IdPolicy::Ignore).then_some((0, 0));
        Meta { mode: 0o755, owner, mtime: Mtime::default(), xattrs: Vec::new() }
    }
}

fn write_all<R: BufRead>(fd: &OwnedFd, tar: &mut TarReader<R>) -> Step<()> {
    loop {
        let chunk = tar.data()?;
        if chunk.is_empty() {
            return Ok(());
        }
        let written = rustix::io::retry_on_intr(|| write(fd, chunk)).during("write")?;
        tar.consume(written);
    }
}

fn write_segments<R: BufRead>(fd: &OwnedFd, size: u64, map: &[Segment], tar: &mut TarReader<R>) -> Step<()> {
    ftruncate(fd, size).during("set the size of")?;
    for segment in map {
        let (mut at, mut left) = (segment.offset, segment.len);
        while left > 0 {
            let chunk = tar.data()?;
            let len = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let written = rustix::io::retry_on_intr(|| pwrite(fd, &chunk[..len], at)).during("write")?;
            tar.consume(written);
            at += written as u64;
            left -= written as u64;
        }
    }
    Ok(())
}

fn copy_range(from: &OwnedFd, to: &OwnedFd, segment: Segment) -> Step<()> {
    let mut buffer = vec![0; 256 << 10];
    let end = segment.offset + segment.len;
    let mut at = segment.offset;
    while at < end {
        let want = buffer.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
        let len = rustix::io::pread(from, &mut buffer[..want], at).during("read the target of")?;
        if len == 0 {
            return Ok(());
        }
        let mut done = 0;
        while done < len {
            done += pwrite(to, &buffer[done..len], at + done as u64).during("copy up the target of")?;
        }
        at += len as u64;
    }
    Ok(())
}
