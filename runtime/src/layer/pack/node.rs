//! [`Packer`]: one file of a tree into one entry of an archive.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, fgetxattr, fstat, openat, readlinkat, statat};
use rustix::io::Errno;

use super::data::{data_segments, with_end};
use super::{MAX_RESERVED, PackError, PackOptions};
use crate::layer::path::{escape, join, split};
use crate::layer::report::{PackReport, Warning, WarningKind};
use crate::layer::stream::{Chunk, ChunkSink};
use crate::layer::tar::{
    Head, Mtime, OPAQUE_KEY, Record, Segment, encode_sparse_map, push_headers, xattr_record,
};
use crate::layer::unpack::list_xattrs;
use crate::layer::xattr::{CAPABILITY, FromDisk, from_disk, portable_capability};
use crate::layer::{Dialect, TreeFormat};

/// Writes entries to a sink and keeps what one run needs to know.
pub(super) struct Packer<'o, S> {
    pub(super) options: &'o PackOptions,
    sink: S,
    chunk: Option<Chunk>,
    headers: Vec<u8>,
    pub(super) report: PackReport,
    content: u64,
    /// Names of files that have more than one, until all have been seen.
    links: HashMap<(u64, u64), Link>,
    deferred: usize,
    /// Names that the dialect cannot hold, and how many more there are.
    reserved: (Vec<String>, u64),
    /// Where we are: the path of the entry in the archive, without a trailing slash.
    pub(super) path: Vec<u8>,
}

struct Link {
    path: Vec<u8>,
    left: u64,
}

/// What the attributes of a file say.
#[derive(Default)]
pub(super) struct Attributes {
    records: Vec<Record>,
    opaque: bool,
    whiteout: bool,
}

impl<'o, S: ChunkSink> Packer<'o, S> {
    pub(super) fn new(sink: S, options: &'o PackOptions) -> Self {
        Self {
            options,
            sink,
            chunk: Some(Chunk::new()),
            headers: Vec::new(),
            report: PackReport::default(),
            content: 0,
            links: HashMap::new(),
            deferred: 0,
            reserved: (Vec::new(), 0),
            path: Vec::new(),
        }
    }

    /// Ends the archive: two zero blocks, and whatever is still buffered.
    pub(super) fn finish(mut self) -> Result<(PackReport, S), PackError> {
        if self.is_refused() {
            let (paths, more) = self.reserved;
            return Err(PackError::ReservedNames { paths, more });
        }
        self.bytes(&[0; 1024])?;
        if let Some(chunk) = self.chunk.take() {
            self.sink.put(chunk).map_err(PackError::Write)?;
        }
        Ok((self.report, self.sink))
    }

    /// Notes that the dialect cannot hold the present path.
    pub(super) fn refuse_name(&mut self) {
        match self.reserved.0.len() {
            MAX_RESERVED => self.reserved.1 += 1,
            _ => self.reserved.0.push(escape(&self.path)),
        }
    }

    /// Whether the archive will not be written to its end.
    pub(super) fn is_refused(&self) -> bool {
        !self.reserved.0.is_empty()
    }

    /// Free room in the current chunk; never empty.
    pub(super) fn room(&mut self) -> Result<&mut [u8], PackError> {
        let full = self.chunk.take_if(|chunk| chunk.filled == chunk.buffer.len());
        if let Some(full) = full {
            self.chunk = Some(self.sink.put(full).map_err(PackError::Write)?);
        }
        Ok(self.chunk.get_or_insert_with(Chunk::new).room())
    }

    /// Marks `len` bytes of [`Packer::room`] as written.
    pub(super) fn filled(&mut self, len: usize) {
        if let Some(chunk) = &mut self.chunk {
            chunk.filled += len;
        }
        self.report.size += len as u64;
    }

    pub(super) fn bytes(&mut self, mut bytes: &[u8]) -> Result<(), PackError> {
        while !bytes.is_empty() {
            let room = self.room()?;
            let len = room.len().min(bytes.len());
            room[..len].copy_from_slice(&bytes[..len]);
            self.filled(len);
            bytes = &bytes[len..];
        }
        Ok(())
    }

    fn head(&mut self, head: &Head<'_>, records: Vec<Record>) -> Result<(), PackError> {
        self.report.entries += 1;
        let limits = &self.options.limits;
        if self.report.entries > limits.entries {
            return Err(self.too_much("entries", limits.entries));
        }
        let mut headers = std::mem::take(&mut self.headers);
        headers.clear();
        push_headers(&mut headers, head, records);
        let result = self.bytes(&headers);
        self.headers = headers;
        result
    }

    pub(super) fn too_much(&self, what: &'static str, limit: u64) -> PackError {
        PackError::Limit { path: escape(&self.path), what, limit }
    }

    /// A directory whose attributes are already read. The root is `./`.
    pub(super) fn directory(&mut self, stat: &Stat, attributes: Attributes) -> Result<(), PackError> {
        let mut records = attributes.records;
        if attributes.opaque && self.options.dialect == Dialect::Snapshot {
            records.push((OPAQUE_KEY.into(), b"y".to_vec()));
        }
        let stored = if self.path.is_empty() { b"./".to_vec() } else { [&self.path, &b"/"[..]].concat() };
        self.head(&Head { flag: b'5', path: &stored, ..head_of(stat) }, records)?;
        match self.options.dialect {
            Dialect::Oci if attributes.opaque => self.oci_mark(&join(&self.path, b".wh..wh..opq")),
            Dialect::Plain if attributes.opaque => Err(PackError::Whiteout { path: escape(&self.path) }),
            _ => Ok(()),
        }
    }

    /// Everything but a directory; `self.path` is its path.
    pub(super) fn leaf(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        kind: FileType,
    ) -> Result<(), PackError> {
        if kind == FileType::RegularFile {
            return self.file(parent, name);
        }
        let stat = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| PackError::io("look at", &self.path, errno))?;
        let path = self.path.clone();
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => {
                let text = readlinkat(parent, name, Vec::new())
                    .map_err(|errno| PackError::io("read the link", &path, errno))?;
                self.head(&Head { flag: b'2', path: &path, link: text.as_bytes(), ..head_of(&stat) }, vec![])
            }
            FileType::Fifo => self.head(&Head { flag: b'6', path: &path, ..head_of(&stat) }, vec![]),
            FileType::CharacterDevice if stat.st_rdev == 0 && self.options.format != TreeFormat::Plain => {
                self.whiteout(&path)
            }
            FileType::CharacterDevice | FileType::BlockDevice => self.skip(WarningKind::DeviceSkipped),
            FileType::Socket => self.skip(WarningKind::SocketSkipped),
            FileType::RegularFile => self.file(parent, name),
            FileType::Directory | FileType::Unknown => Err(PackError::Changed { path: escape(&path) }),
        }
    }

    fn skip(&mut self, kind: WarningKind) -> Result<(), PackError> {
        self.report.warnings.push(Warning::new(kind, &self.path, b""));
        Ok(())
    }

    /// A deletion. Whiteouts share one inode, whose owner and times mean nothing.
    pub(super) fn whiteout(&mut self, path: &[u8]) -> Result<(), PackError> {
        match self.options.dialect {
            Dialect::Snapshot => self.head(&Head { flag: b'3', path, ..EMPTY }, vec![]),
            Dialect::Oci => {
                let (parent, name) = split(path);
                self.oci_mark(&join(parent, &[b".wh.", name].concat()))
            }
            Dialect::Plain => Err(PackError::Whiteout { path: escape(path) }),
        }
    }

    fn oci_mark(&mut self, path: &[u8]) -> Result<(), PackError> {
        self.head(&Head { flag: b'0', path, ..EMPTY }, vec![])
    }

    fn file(&mut self, parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), PackError> {
        // Not blocking, should something else than a file stand there by now.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let open = openat(parent, name, flags, Mode::empty());
        let fd = open.map_err(|errno| PackError::io("open", &self.path, errno))?;
        let stat = fstat(&fd).map_err(|errno| PackError::io("look at", &self.path, errno))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(PackError::Changed { path: escape(&self.path) });
        }
        let path = self.path.clone();
        if stat.st_nlink > 1
            && let Some(first) = self.known_link(&stat)?
        {
            return self.head(&Head { flag: b'1', path: &path, link: &first, ..head_of(&stat) }, vec![]);
        }
        let attributes = self.attributes(fd.as_fd())?;
        if attributes.whiteout && stat.st_size == 0 {
            return self.whiteout(&path);
        }
        self.regular(&fd, &stat, &path, attributes.records)
    }

    /// The first name of a file that was already packed; else remembers this one as the first.
    fn known_link(&mut self, stat: &Stat) -> Result<Option<Vec<u8>>, PackError> {
        let id = (stat.st_dev, stat.st_ino);
        if let Some(link) = self.links.get_mut(&id) {
            link.left -= 1;
            if link.left > 0 {
                return Ok(Some(link.path.clone()));
            }
            let link = self.links.remove(&id).expect("it was just there");
            self.deferred -= link.path.len() + size_of::<Link>();
            return Ok(Some(link.path));
        }
        self.deferred += self.path.len() + size_of::<Link>();
        if self.deferred > self.options.limits.deferred {
            return Err(self.too_much("bytes of hard link names", self.options.limits.deferred as u64));
        }
        // 32 bits on some architectures.
        #[allow(clippy::useless_conversion)]
        let left = u64::from(stat.st_nlink) - 1;
        self.links.insert(id, Link { path: self.path.clone(), left });
        Ok(None)
    }

    fn regular(
        &mut self,
        fd: &OwnedFd,
        stat: &Stat,
        path: &[u8],
        mut records: Vec<Record>,
    ) -> Result<(), PackError> {
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let whole = Segment { offset: 0, len: size };
        let mut map = vec![whole];
        // Only a file with fewer blocks than bytes can have holes.
        if u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512) < size {
            map = data_segments(fd.as_fd(), size, self.options.limits.sparse)
                .map_err(|errno| PackError::io("find the holes of", path, errno))?;
        }
        self.content = map.iter().fold(self.content, |sum, segment| sum.saturating_add(segment.len));
        if self.content > self.options.limits.bytes {
            return Err(self.too_much("bytes of content", self.options.limits.bytes));
        }
        if size == 0 || map == [whole] {
            self.head(&Head { flag: b'0', path, size, ..head_of(stat) }, records)?;
            self.data(fd.as_fd(), whole)?;
            return self.pad(size);
        }
        let map = with_end(map, size);
        let text = encode_sparse_map(&map);
        let stored = text.len() as u64 + map.iter().map(|segment| segment.len).sum::<u64>();
        let (parent, name) = split(path);
        let alias = join(&join(parent, b"GNUSparseFile.0"), name);
        records.extend(sparse_records(path, size));
        self.head(&Head { flag: b'0', path: &alias, size: stored, ..head_of(stat) }, records)?;
        self.bytes(&text)?;
        for segment in map {
            self.data(fd.as_fd(), segment)?;
        }
        self.pad(stored)
    }

    /// Reads the attributes of an open file or directory.
    pub(super) fn attributes(&mut self, fd: BorrowedFd<'_>) -> Result<Attributes, PackError> {
        let names = match list_xattrs(fd) {
            Ok(names) => names,
            Err(Errno::OPNOTSUPP) => Vec::new(),
            Err(errno) => return Err(PackError::io("list the attributes of", &self.path, errno)),
        };
        let mut found = Attributes::default();
        for name in names.split(|&b| b == 0).filter(|name| !name.is_empty()) {
            self.attribute(fd, name, &mut found)?;
        }
        Ok(found)
    }

    fn attribute(
        &mut self,
        fd: BorrowedFd<'_>,
        name: &[u8],
        found: &mut Attributes,
    ) -> Result<(), PackError> {
        match from_disk(name, self.options.dialect, self.options.format) {
            FromDisk::Private => {}
            FromDisk::Drop => {
                self.report.warnings.push(Warning::new(WarningKind::XattrDropped, &self.path, name));
            }
            FromDisk::Whiteout => found.whiteout = true,
            // `x` says only that there are whiteouts in the form of files.
            FromDisk::Opaque => found.opaque = self.value(fd, name)?.as_deref() == Some(b"y"),
            FromDisk::Foreign => {
                return Err(PackError::ForeignOverlay { path: escape(&self.path), attribute: escape(name) });
            }
            FromDisk::Keep(stored) => {
                let Some(mut value) = self.value(fd, name)? else { return Ok(()) };
                if name == CAPABILITY {
                    let Some(portable) = portable_capability(&value) else { return Ok(()) };
                    value = portable;
                }
                found.records.push(xattr_record(&stored, value));
            }
        }
        Ok(())
    }

    /// The value of an attribute; `None` when it went away.
    fn value(&self, fd: BorrowedFd<'_>, name: &[u8]) -> Result<Option<Vec<u8>>, PackError> {
        let mut value = vec![0; 256];
        loop {
            match fgetxattr(fd, name, value.as_mut_slice()) {
                Ok(len) => {
                    value.truncate(len);
                    return Ok(Some(value));
                }
                Err(Errno::RANGE) if value.len() < 65_536 => value.resize(65_536, 0),
                Err(Errno::NODATA) => return Ok(None),
                Err(errno) => return Err(PackError::io("read an attribute of", &self.path, errno)),
            }
        }
    }
}

const EMPTY: Head<'static> = Head {
    flag: b'0',
    path: b"",
    link: b"",
    mode: 0,
    uid: 0,
    gid: 0,
    mtime: Mtime { seconds: 0, nanos: 0 },
    size: 0,
};

fn head_of(stat: &Stat) -> Head<'static> {
    Head {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: Mtime { seconds: stat.st_mtime, nanos: stat.st_mtime_nsec as u32 },
        ..EMPTY
    }
}

fn sparse_records(path: &[u8], size: u64) -> [Record; 4] {
    [
        (b"GNU.sparse.major".to_vec(), b"1".to_vec()),
        (b"GNU.sparse.minor".to_vec(), b"0".to_vec()),
        (b"GNU.sparse.name".to_vec(), path.to_vec()),
        (b"GNU.sparse.realsize".to_vec(), size.to_string().into_bytes()),
    ]
}
