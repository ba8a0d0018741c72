//! `demo`: the main job before the reader's eyes, in a store of its own that is removed at the end.
#![forbid(unsafe_code)]

mod elf;
mod fingerprint;
pub(crate) mod rootfs;
pub(crate) mod scratch;
mod show;
mod steps;
pub(crate) mod tools;

use std::ffi::OsString;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use vesselrt::{ImageImport, Manager};

use self::scratch::Scratch;
use self::show::Show;
use crate::cli::{Context, Failure, Interrupts, Outcome, human_size};

/// The name of the image in the store of the demo.
const IMAGE: &str = "demo.invalid/base:latest";

const ABOUT_IT: &str = "\
Without --image the base image is made of this host's own shell and tools and the libraries that they need. Nothing is downloaded, \
nothing is installed, and nothing is left behind. The exit code is 0 only if the restored workspace is the same as before.";

/// Arguments of `demo`.
#[derive(Debug, Args)]
#[command(after_long_help = ABOUT_IT)]
pub(crate) struct Demo {
    /// Use this image instead: an archive or directory, or the reference of an imported image with a shell
    #[arg(long, value_name = "REF|PATH")]
    image: Option<OsString>,
    /// Leave the store there, to look around in it
    #[arg(long)]
    keep: bool,
}

pub(crate) async fn run(args: Demo, context: &Context) -> Outcome<ExitCode> {
    // From here on no signal ends us before everything is removed.
    let mut interrupts = Interrupts::new()?;
    let mut scratch = Scratch::anywhere(&context.root())?;
    let manager = Manager::new(context.config_at(scratch.path())).await?;
    let mut show = Show::new(context);
    show.title(scratch.path())?;
    let shown = tokio::select! {
        shown = everything(&args, context, &manager, &scratch, &mut show) => shown.map(|()| None),
        signal = interrupts.next() => Ok(Some(signal)),
    };
    let keep = args.keep && matches!(shown, Ok(None));
    let removed = if keep {
        scratch.keep();
        stop(&manager).await
    } else {
        clean_up(&manager, scratch).await
    };
    match shown? {
        Some(signal) => {
            removed?;
            Ok(ExitCode::from(u8::try_from(signal.saturating_add(128)).unwrap_or(u8::MAX)))
        }
        None => {
            removed?;
            show.end(keep)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn everything(
    args: &Demo,
    context: &Context,
    manager: &Manager,
    scratch: &Scratch,
    show: &mut Show<'_>,
) -> Outcome {
    let (import, library_path) = match &args.image {
        Some(image) => (named_image(image, context), None),
        None => {
            let (path, library_path) = host_image(scratch, show).await?;
            (ImageImport::new(path), Some(library_path))
        }
    };
    let import = import.reference(IMAGE);
    let imported = async { Ok(manager.import_image_with(import, |_| {}).await?) };
    let verified =
        |report: &vesselrt::ImportReport| format!("{} verified and unpacked", human_size(report.image.size));
    show.step("import it", imported, verified).await?;
    steps::run(manager, library_path.as_deref(), show).await
}

/// Something at that path, or else an image of the real store, which is an OCI layout that can be imported from.
fn named_image(image: &OsString, context: &Context) -> ImageImport {
    let path = Path::new(image);
    if path.exists() {
        return ImageImport::new(path);
    }
    ImageImport::new(context.root().join("images")).source(image.to_string_lossy())
}

/// Makes a tar of this host's tools; the path, and where the libraries in it are.
async fn host_image(scratch: &Scratch, show: &mut Show<'_>) -> Outcome<(PathBuf, OsString)> {
    let path = scratch.path().join("base.tar");
    let target = path.clone();
    let made = async move {
        let made = tokio::task::spawn_blocking(move || write_host_image(&target)).await;
        made.map_err(|e| Failure::internal(format!("failed to make the base image: {e}")))?
    };
    let counted = |tools: &tools::Tools| {
        format!("{} programs, {} libraries, {}", tools.programs, tools.libraries, human_size(tools.size()))
    };
    let tools = show.step("base image of this host's own tools", made, counted).await?;
    Ok((path, tools.library_path()))
}

/// Also for the trial of `doctor`.
pub(crate) fn write_host_image(path: &Path) -> Outcome<tools::Tools> {
    let tools = tools::collect()?;
    let failed = |e| Failure::io(format!("write {}", path.display()), e);
    let file = File::create_new(path).map_err(failed)?;
    rootfs::write(&tools, BufWriter::new(file)).map_err(failed)?;
    Ok(tools)
}

async fn stop(manager: &Manager) -> Outcome {
    manager.stop_all().await?;
    Ok(())
}

/// Stops and deletes everything in the order that works, and goes on when something does not.
pub(crate) async fn clean_up(manager: &Manager, scratch: Scratch) -> Outcome {
    let deleted = remove_all(manager).await;
    // What could not be deleted one by one may go as a whole: only if it does not is there something to tell.
    scratch.remove().or_else(|failure| deleted.and(Err(failure)))
}

/// Stops all vessels and deletes them and all images; the first failure, after everything was tried.
pub(crate) async fn remove_all(manager: &Manager) -> Outcome {
    let stopped = stop(manager).await;
    let mut deleted = Ok(());
    for manifest in manager.list_vessels().await.unwrap_or_default() {
        deleted = deleted.and(manager.delete_vessel(&manifest.id).await);
    }
    for image in manager.list_images().await.unwrap_or_default() {
        if let Some(reference) = image.reference {
            deleted = deleted.and(manager.remove_image(&reference).await);
        }
    }
    manager.close().await?;
    stopped.and(deleted.map_err(Failure::from))
}
