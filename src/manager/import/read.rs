//! Reading an archive or a directory into the images of the store.
#![forbid(unsafe_code)]

use std::error::Error as _;
use std::io::{PipeReader, PipeWriter, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use vesselrt_runtime::layer::{self, Dialect, PackOptions, TreeFormat};
use vesselrt_runtime::worker::Job;
use vesselrt_storage::archive::{self, ArchiveError, ArchiveKind, ImportLimits, ImportOptions};
use vesselrt_storage::image::platform::Platform;
use vesselrt_storage::{ImageRecord, Reference, StorageError};

use crate::error::{Error, Result};
use crate::manager::ManagerInner;
use crate::manager::images::{ImageImport, ImportProgress, ImportReport, Progress, parse_reference};
use crate::manager::taps::Taps;
use crate::offload::blocking;
use crate::store::dirs;

const NAME_IT: &str = "say what it is to be called: `--ref NAME:TAG`";
const CHOOSE: &str = "say which one: `--source NAME`";

fn parse_platform(text: &str) -> Result<Platform> {
    text.parse().map_err(|e| Error::invalid(format!("invalid platform: {text:?}")).with_source(e))
}

/// What the archive leaves open is a remedy.
fn not_imported(path: &Path, error: StorageError) -> Error {
    let causes = std::iter::successors(error.source(), |cause| (*cause).source());
    let remedy = causes.filter_map(|cause| cause.downcast_ref()).find_map(|cause| match cause {
        ArchiveError::NoReference => Some(NAME_IT),
        ArchiveError::SeveralImages { .. } => Some(CHOOSE),
        _ => None,
    });
    let failed = Error::storage(format!("failed to import {}", path.display()), error);
    remedy.into_iter().fold(failed, Error::with_remedy)
}

impl ManagerInner {
    pub(super) async fn import_or_fail(
        self: Arc<Self>,
        import: ImageImport,
        mut progress: Progress,
    ) -> Result<ImportReport> {
        let reference = import.reference.as_deref().map(parse_reference).transpose()?;
        blocking(move || {
            let _in_use = self.store.use_images()?;
            let before = reference.as_ref().map(|name| self.content.resolve(name)).transpose();
            let before = before.ok().flatten().flatten();
            let mut taps = Taps::new(&self);
            let image = self.import_path(&import, reference, &mut *progress, &mut taps)?;
            let tapped = taps.publish();
            let unpacked = tapped.and_then(|mut warnings| {
                warnings.extend(self.unpack_image(&image, &mut *progress)?);
                Ok(warnings)
            });
            let warnings = unpacked.inspect_err(|_| self.take_name_back(&image, before.as_ref()))?;
            Ok(ImportReport { image, warnings })
        })
        .await
    }

    /// An image whose layers cannot be unpacked is none: its name leads to what it led to before. The name is given back
    /// as well as possible; the reason why it has to be counts.
    fn take_name_back(&self, image: &ImageRecord, before: Option<&ImageRecord>) {
        let Some(Ok(name)) = image.reference.as_deref().map(Reference::parse) else { return };
        let _ = match before {
            Some(before) => self.content.tag_digest(&name, &before.manifest_digest).map(|_| ()),
            None => self.content.untag(&name).map(|_| ()),
        };
    }

    pub(in crate::manager) fn import_path(
        &self,
        import: &ImageImport,
        reference: Option<Reference>,
        progress: &mut dyn FnMut(ImportProgress),
        taps: &mut Taps<'_>,
    ) -> Result<ImageRecord> {
        let path = import.path.as_path();
        let platform = import.platform.as_deref().map(parse_platform).transpose()?;
        let limits =
            ImportLimits { archive_bytes: self.config.limits.image_archive_bytes, ..ImportLimits::default() };
        let failed = |e| not_imported(path, e);
        if path.is_dir() && archive::detect(path, &limits).map_err(failed)?.0 == ArchiveKind::RootfsDirectory
        {
            let reference = reference
                .ok_or_else(|| Error::invalid("a root file system has no name").with_remedy(NAME_IT))?;
            return self.import_directory(path, &reference);
        }
        let options = ImportOptions { reference, source: import.source.clone(), platform, limits };
        let mut tell = |at| {
            if let archive::ImportProgress::Decompressing { bytes } = at {
                progress(ImportProgress::Reading { bytes, total: None });
            } else if let archive::ImportProgress::Layer { bytes, total, .. } = at {
                progress(ImportProgress::Reading { bytes, total });
            }
        };
        archive::import_tapped(&self.content, path, &options, &mut tell, Some(taps)).map_err(failed)
    }

    /// Packs a root file system on its way into the store.
    fn import_directory(&self, path: &Path, reference: &Reference) -> Result<ImageRecord> {
        let failed = |e: std::io::Error| Error::io(format!("failed to import {}", path.display()), e);
        let (tree, pack) = (dirs::open_path(path)?, self.packer()?);
        let (read, write) = std::io::pipe().map_err(failed)?;
        let packer = std::thread::Builder::new().name("vesselrt-pack".into());
        let packer = packer.spawn(move || pack(tree, write)).map_err(failed)?;
        let reader = Verified { read, packer: Some(packer) };
        archive::import_rootfs_stream(&self.content, reader, reference).map_err(|e| not_imported(path, e))
    }

    /// A user's directory has ids of the user's own range: a worker sees them as they will be inside. Real root's has
    /// them as they are meant.
    fn packer(&self) -> Result<Packer> {
        if self.store.ids().root().0 != rustix::process::geteuid().as_raw() {
            let options = PackOptions::new(Dialect::Oci, TreeFormat::Plain);
            return Ok(Box::new(move |tree, out| {
                let packed = layer::pack(tree.as_fd(), out, &options);
                packed.map(drop).map_err(|e| Error::internal("failed to pack the directory").with_source(e))
            }));
        }
        let mut worker = self.launcher()?.worker()?;
        Ok(Box::new(move |tree, out| {
            worker.run(&Job::PackTree, &[tree.as_fd(), out.as_fd()], &mut |_| {})?;
            Ok(())
        }))
    }
}

type Packer = Box<dyn FnOnce(OwnedFd, PipeWriter) -> Result<()> + Send>;

/// A stream that ends well only if its writer did.
struct Verified {
    read: PipeReader,
    packer: Option<JoinHandle<Result<()>>>,
}

impl Read for Verified {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.read.read(buffer)?;
        if read == 0
            && !buffer.is_empty()
            && let Some(packer) = self.packer.take()
        {
            packer.join().map_err(|_| std::io::Error::other("the packing thread panicked"))??;
        }
        Ok(read)
    }
}
