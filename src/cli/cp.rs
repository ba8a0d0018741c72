//! `cp`: files and directories between this host and a vessel, as tar streams.
#![forbid(unsafe_code)]

mod host;
mod plan;
mod rewrite;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use clap::Args;
use tokio::net::unix::pipe;
use tokio::task::spawn_blocking;
use vesselrt::{ErrorKind, FileInfo, FileType, OpenOptions, Vessel};

use self::host::{Origin, Target};
use self::plan::{Landing, Source, There, is_content, land, last_name};
use self::rewrite::{Direction, Rewritten};
use super::progress::{Counted, Progress};
use super::values::Place;
use super::{Context, Failure, Outcome};

const EXAMPLES: &str = "\
One of the two is in a vessel: ID:PATH, where a relative path begins at the vessel's working directory. Directories are copied \
with everything in them, symlinks as symlinks; modes and times are kept. What is copied in belongs to root of the vessel, what is \
copied out to you, without set-user-ID bits and file capabilities.

A directory that is copied to one that exists becomes an entry of it; to one that does not exist, it becomes that one. SRC/. means \
the content of a directory. With - a tar archive is read from standard input, or written to standard output.

Examples:
  vesselrt cp src ID:/work/           gives /work/src
  vesselrt cp src/. ID:/work          gives the content of src in /work
  vesselrt cp ID:out/report.pdf .
  tar -c docs | vesselrt cp - ID:/work
  vesselrt cp ID:/work - | tar -t";

/// Arguments of `cp`.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(super) struct Cp {
    /// What to copy: PATH, ID:PATH or -
    #[arg(value_name = "SRC")]
    from: OsString,
    /// Where to: ID:PATH, PATH or -
    #[arg(value_name = "DST")]
    to: OsString,
}

pub(super) async fn run(args: Cp, context: &Context) -> Outcome {
    match (Place::parse(&args.from), Place::parse(&args.to)) {
        (Place::Host(from), Place::Vessel { id, path }) => {
            let origin = Origin::new(&from)?;
            context.with_vessel(&id, async |vessel| copy_in(vessel, origin, &path, context).await).await
        }
        (Place::Vessel { id, path }, Place::Host(to)) => {
            context.with_vessel(&id, async |vessel| copy_out(vessel, &path, &to, context).await).await
        }
        (Place::Stream, Place::Vessel { id, path }) => {
            let stdin = tokio::fs::File::from_std(own(io::stdin(), "standard input")?);
            context.with_vessel(&id, async |vessel| Ok(vessel.copy_in(&path, stdin).await?)).await
        }
        (Place::Vessel { id, path }, Place::Stream) => {
            let stdout = tokio::fs::File::from_std(own(io::stdout(), "standard output")?);
            context.with_vessel(&id, async |vessel| Ok(vessel.copy_out(&path, stdout).await?)).await
        }
        (Place::Vessel { .. }, Place::Vessel { .. }) => {
            Err(Failure::invalid("cannot copy from one vessel to another")
                .remedy("vesselrt cp ID:PATH - | vesselrt cp - OTHER:PATH"))
        }
        _ => Err(Failure::invalid("neither of the two is in a vessel").remedy("name one as ID:PATH")),
    }
}

fn own(stream: impl std::os::fd::AsFd, name: &str) -> Outcome<File> {
    let fd = stream.as_fd().try_clone_to_owned().map_err(|e| Failure::io(format!("duplicate {name}"), e))?;
    Ok(File::from(fd))
}

async fn copy_in(vessel: &Vessel, origin: Origin, to: &Path, context: &Context) -> Outcome {
    let there = match vessel.stat(to).await {
        Ok(info) if info.is_dir() => There::Directory,
        Ok(_) => There::Other,
        Err(e) if e.kind() == ErrorKind::NotFound => There::Nothing,
        Err(e) => return Err(e.into()),
    };
    let (dir, stored) = match land(origin.source(), to, there).map_err(Failure::invalid)? {
        Landing::As { dir, name } => (dir, Some(name)),
        Landing::Into(dir) => (dir, None),
    };
    if there != There::Directory && !vessel.stat(&dir).await?.is_dir() {
        return Err(Failure::invalid(format!("{} is not a directory", dir.display())));
    }
    let progress = Progress::new(context, "copying in");
    let (packed, pack_end) = pipe_pair()?;
    let (changed, change_end) = pipe_pair()?;
    let packing =
        spawn_blocking(move || origin.pack(stored.as_deref(), Counted::new(File::from(pack_end), progress)));
    let changing = spawn_blocking(move || {
        io::copy(&mut Rewritten::new(File::from(packed), Direction::In), &mut File::from(change_end))
    });
    let archive = pipe::Receiver::from_owned_fd(changed).map_err(|e| Failure::io("watch a pipe", e))?;
    // An archive that ends early is refused at the other end, so a failure here never looks like the end.
    let copied = vessel.copy_in(&dir, archive).await;
    let packed = packing.await.map_err(|e| Failure::internal(format!("failed to pack: {e}")))?;
    let changed = changing.await.map_err(|e| Failure::internal(format!("failed to pack: {e}")))?;
    // Whoever writes to a reader that has failed sees a broken pipe: the reader's failure is the one that counts.
    match packed {
        Err(failure) if !failure.is_quiet() => return Err(failure),
        Ok(warnings) => warnings.iter().for_each(|warning| context.warn(warning)),
        Err(_) => {}
    }
    if let Err(e) = changed
        && e.kind() != io::ErrorKind::BrokenPipe
    {
        return Err(Failure::io("pass an archive on", e));
    }
    Ok(copied?)
}

async fn copy_out(vessel: &Vessel, from: &Path, to: &Path, context: &Context) -> Outcome {
    let follow = from.as_os_str().as_encoded_bytes().ends_with(b"/") || is_content(from);
    let info = if follow { vessel.stat(from).await? } else { vessel.symlink_stat(from).await? };
    let source = Source {
        is_dir: info.is_dir(),
        name: last_name(from).unwrap_or_default().to_owned(),
        content: is_content(from) || last_name(from).is_none(),
    };
    let landing = land(&source, to, host::there(to)?).map_err(Failure::invalid)?;
    match (info.file_type, landing) {
        (FileType::Directory, landing) => tree_out(vessel, from, &info, landing, context).await,
        (FileType::File, Landing::As { dir, name }) => {
            file_out(vessel, from, &Target::open(&dir)?, &name, context).await
        }
        (FileType::Symlink, Landing::As { dir, name }) => {
            let text = info.link_target.clone().unwrap_or_default();
            Target::open(&dir)?.symlink(&name, &text, &info)
        }
        _ => Err(Failure::invalid(format!(
            "cannot copy {}: it is no file, directory or symlink",
            from.display()
        ))),
    }
}

async fn file_out(vessel: &Vessel, from: &Path, target: &Target, name: &OsStr, context: &Context) -> Outcome {
    let mut file = vessel.open_file(from, &OpenOptions::new().read(true)).await?;
    let info = file.stat().await?;
    let progress = Progress::new(context, "copying out");
    let staged = target.stage()?;
    let mut writer = tokio::fs::File::from_std(staged.file()?);
    let mut done = 0;
    let mut chunk = vec![0; 256 << 10];
    loop {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let read =
            file.read(&mut chunk).await.map_err(|e| Failure::io(format!("read {}", from.display()), e))?;
        if read == 0 {
            writer.flush().await.map_err(|e| staged.failed("write", e))?;
            break;
        }
        writer.write_all(&chunk[..read]).await.map_err(|e| staged.failed("write", e))?;
        done += read as u64;
        progress.bytes(done, Some(info.size));
    }
    staged.publish(name, &info)
}

async fn tree_out(
    vessel: &Vessel,
    from: &Path,
    info: &FileInfo,
    landing: Landing,
    context: &Context,
) -> Outcome {
    let (dest, attributes) = match landing {
        Landing::As { dir, name } => (Target::open(&dir)?.directory(&name)?, Some(info.clone())),
        Landing::Into(dir) => (Target::open(&dir)?, None),
    };
    let progress = Progress::new(context, "copying out");
    let (packed, pack_end) = pipe_pair()?;
    let extracting = spawn_blocking(move || {
        let archive = Rewritten::new(Counted::new(File::from(packed), progress), Direction::Out);
        dest.extract(archive, attributes.as_ref())
    });
    let archive = pipe::Sender::from_owned_fd(pack_end).map_err(|e| Failure::io("watch a pipe", e))?;
    let copied = vessel.copy_out(from, archive).await;
    let extracted = extracting.await.map_err(|e| Failure::internal(format!("failed to extract: {e}")))?;
    match (copied, extracted) {
        // An archive that stopped because of the vessel is not the fault of whoever read it.
        (Err(e), Err(failure)) if failure.is_bad_archive() => Err(e.into()),
        (_, Err(failure)) => Err(failure.into()),
        (Err(e), Ok(_)) => Err(e.into()),
        (Ok(()), Ok(warnings)) => {
            warnings.iter().for_each(|warning| context.warn(warning));
            Ok(())
        }
    }
}

/// Read end and write end.
fn pipe_pair() -> Outcome<(OwnedFd, OwnedFd)> {
    let (read, write) = io::pipe().map_err(|e| Failure::io("make a pipe", e))?;
    Ok((read.into(), write.into()))
}
