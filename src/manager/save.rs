//! Saving an image to a file that any container tool reads.
//!
//! Every blob is verified while it is written. A file or directory appears under its name when it is whole, or not at
//! all.
#![forbid(unsafe_code)]

mod docker;
mod layout;

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vesselrt_storage::{Digest, ImageRecord, Reference};

use self::layout::Layout;
use super::ManagerInner;
use crate::error::{Error, ErrorKind, Result};
use crate::offload::blocking;
use crate::store::staged::unique;

/// What an image is saved as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum SaveFormat {
    /// An OCI image layout in a tar: podman, skopeo, containerd, docker since version 25.
    #[default]
    OciArchive,
    /// What `docker save` writes: every docker, podman, skopeo.
    DockerArchive,
    /// An OCI image layout in a directory: umoci, skopeo, podman.
    OciDir,
}

/// Bytes that fit one read and one write.
const BUFFER: usize = 1 << 20;

pub(super) async fn save(
    manager: Arc<ManagerInner>,
    reference: String,
    format: SaveFormat,
    path: PathBuf,
) -> Result<()> {
    blocking(move || {
        let _in_use = manager.store.use_images()?;
        let image = manager.find_image(&reference)?;
        if format == SaveFormat::OciDir {
            return directory(&manager, &image, &path);
        }
        let failed = |e: io::Error| Error::io(format!("failed to write {}", path.display()), e);
        if fs::metadata(&path).is_ok_and(|there| !there.is_file() && !there.is_dir()) {
            let out = File::options().write(true).open(&path).map_err(failed)?;
            return archive(&manager, &image, format, out);
        }
        let (staged, out) = staged_file(&path).map_err(failed)?;
        let written = archive(&manager, &image, format, &out)
            .and_then(|()| out.sync_all().and_then(|()| fs::rename(&staged, &path)).map_err(failed))
            .and_then(|()| sync_parent(&path).map_err(failed));
        if written.is_err() {
            // It may have its name already; nothing is to be done about what cannot be removed.
            let _ = fs::remove_file(&staged);
        }
        written
    })
    .await
}

pub(super) async fn save_to(
    manager: Arc<ManagerInner>,
    reference: String,
    format: SaveFormat,
    out: impl Write + Send + 'static,
) -> Result<()> {
    blocking(move || {
        let _in_use = manager.store.use_images()?;
        let image = manager.find_image(&reference)?;
        archive(&manager, &image, format, out)
    })
    .await
}

fn archive(manager: &ManagerInner, image: &ImageRecord, format: SaveFormat, out: impl Write) -> Result<()> {
    let mut tar = Tar::new(BufWriter::with_capacity(BUFFER, out));
    match format {
        SaveFormat::OciArchive => Layout::new(manager, image)?.write(&mut |file| match file {
            layout::File::Directory(name) => tar.directory(name),
            layout::File::Bytes(name, bytes) => tar.file(name, bytes.len() as u64, &mut &*bytes),
            layout::File::Blob(name, size, blob) => tar.file(name, size, blob),
        })?,
        SaveFormat::DockerArchive => docker::write(manager, image, &mut tar)?,
        SaveFormat::OciDir => return Err(Error::invalid("a directory cannot be written to a stream")),
    }
    tar.finish()
}

/// Writes the layout beside its place, and gives it its name.
fn directory(manager: &ManagerInner, image: &ImageRecord, path: &Path) -> Result<()> {
    let failed = |e: io::Error| Error::io(format!("failed to write {}", path.display()), e);
    if fs::symlink_metadata(path).is_ok() && fs::read_dir(path).map_err(failed)?.next().is_some() {
        let message = format!("{} is not empty", path.display());
        return Err(Error::new(ErrorKind::AlreadyExists, message).with_remedy("choose another directory"));
    }
    let staged = beside(path).map_err(failed)?;
    fs::create_dir(&staged).map_err(failed)?;
    let written = Layout::new(manager, image)
        .and_then(|layout| {
            layout.write(&mut |file| match file {
                layout::File::Directory(name) => fs::create_dir(staged.join(name)).map_err(failed),
                layout::File::Bytes(name, bytes) => {
                    new_file(&staged.join(name), &mut &*bytes).map_err(failed)
                }
                layout::File::Blob(name, _, blob) => new_file(&staged.join(name), blob).map_err(failed),
            })
        })
        .and_then(|()| fs::rename(&staged, path).and_then(|()| sync_parent(path)).map_err(failed));
    if written.is_err() {
        let _ = fs::remove_dir_all(&staged);
    }
    written
}

fn new_file(path: &Path, content: &mut dyn Read) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    io::copy(content, &mut file)?;
    file.sync_all()
}

/// A hidden name in the same directory, which nobody else has.
fn beside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
    Ok(path.with_file_name(unique(&format!(".{}", name.to_string_lossy()))))
}

fn staged_file(path: &Path) -> io::Result<(PathBuf, File)> {
    if path.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    let staged = beside(path)?;
    let file = File::create_new(&staged)?;
    Ok((staged, file))
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

/// A tar whose bytes depend on nothing but its content.
struct Tar<W: Write>(tar::Builder<W>);

impl<W: Write> Tar<W> {
    fn new(out: W) -> Self {
        Self(tar::Builder::new(out))
    }

    fn directory(&mut self, name: &str) -> Result<()> {
        let mut header = header(tar::EntryType::Directory, 0o755, 0);
        self.0.append_data(&mut header, format!("{name}/"), io::empty()).map_err(unwritten)
    }

    /// Exactly `size` bytes of `content`.
    fn file(&mut self, name: &str, size: u64, content: &mut dyn Read) -> Result<()> {
        let mut header = header(tar::EntryType::Regular, 0o644, size);
        let mut counted = Counted { inner: content, read: 0 };
        self.0.append_data(&mut header, name, &mut counted).map_err(unwritten)?;
        if counted.read == size {
            return Ok(());
        }
        Err(Error::integrity(format!("{name} has {} bytes and not {size}", counted.read)))
    }

    fn finish(self) -> Result<()> {
        let mut out = self.0.into_inner().map_err(unwritten)?;
        out.flush().map_err(unwritten)
    }
}

fn unwritten(error: io::Error) -> Error {
    Error::io("failed to write the archive", error)
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header
}

struct Counted<'a> {
    inner: &'a mut dyn Read,
    read: u64,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.read += read as u64;
        Ok(read)
    }
}

/// The reference of an image that has one, as it is to be written.
fn reference_of(image: &ImageRecord) -> Option<Reference> {
    Reference::parse(image.reference.as_deref()?).ok()
}

/// The path of a blob in a layout.
fn blob_name(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex())
}
