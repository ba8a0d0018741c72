//! `fs cat|write|ls|stat|mkdir|rm|mv`: files of a vessel from outside.
#![forbid(unsafe_code)]

pub(super) mod show;

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use vesselrt::{ErrorKind, FileInfo, OpenOptions, Vessel};

use super::{Context, Failure, Outcome, values};

/// What is read and written at once, in bytes.
const CHUNK: usize = 256 << 10;
/// The largest content that `write` replaces a file by: it is collected first, so that the file changes all at once.
const MAX_WRITE: u64 = 1 << 30;

/// A file by what it is called.
type Named = (OsString, FileInfo);

/// What can be done with files.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Print files
    Cat(Paths),
    /// Replace a file, or create it, by what standard input has; all at once
    Write(Write),
    /// List a directory
    Ls(Ls),
    /// Show what files are
    Stat(Stat),
    /// Make directories
    Mkdir(Mkdir),
    /// Remove files and empty directories
    Rm(Rm),
    /// Rename a file or directory, or move it into a directory
    Mv(Mv),
}

/// Files of a vessel.
#[derive(Debug, Args)]
pub(super) struct Paths {
    /// Id of the vessel
    id: String,
    /// Paths inside; relative ones begin at the vessel's working directory
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
}

/// Arguments of `fs write`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  echo hello | vesselrt fs write ID greeting
  vesselrt fs write ID --mode 755 bin/tool < tool")]
pub(super) struct Write {
    /// Id of the vessel
    id: String,
    /// Path inside
    path: PathBuf,
    /// Permissions of a file that is created, in octal
    #[arg(long, value_name = "MODE", value_parser = values::mode, default_value = "644")]
    mode: u32,
    /// Write at the end of the file
    #[arg(long)]
    append: bool,
}

/// Arguments of `fs ls`.
#[derive(Debug, Args)]
pub(super) struct Ls {
    /// Show permissions, owners, sizes and times
    #[arg(short, long)]
    long: bool,
    /// Id of the vessel
    id: String,
    /// Path inside [default: the working directory]
    path: Option<PathBuf>,
}

/// Arguments of `fs stat`.
#[derive(Debug, Args)]
pub(super) struct Stat {
    /// Show what a symlink leads to
    #[arg(short = 'L', long)]
    follow: bool,
    #[command(flatten)]
    which: Paths,
}

/// Arguments of `fs mkdir`.
#[derive(Debug, Args)]
pub(super) struct Mkdir {
    /// Make what is missing above, and do not mind if it is there
    #[arg(short, long)]
    parents: bool,
    /// Permissions, in octal
    #[arg(short, long, value_name = "MODE", value_parser = values::mode, default_value = "755")]
    mode: u32,
    #[command(flatten)]
    which: Paths,
}

/// Arguments of `fs rm`.
#[derive(Debug, Args)]
pub(super) struct Rm {
    /// Remove directories with everything in them
    #[arg(short, long)]
    recursive: bool,
    #[command(flatten)]
    which: Paths,
}

/// Arguments of `fs mv`.
#[derive(Debug, Args)]
pub(super) struct Mv {
    /// Id of the vessel
    id: String,
    /// What it is called
    from: PathBuf,
    /// What it is to be called, or the directory it is to be in
    to: PathBuf,
}

pub(super) async fn run(verb: Verb, context: &Context) -> Outcome {
    match verb {
        Verb::Cat(args) => context.with_vessel(&args.id, async |v| cat(v, &args.paths, context).await).await,
        Verb::Write(args) => write(args, context).await,
        Verb::Ls(args) => ls(&args, context).await,
        Verb::Stat(args) => stat(&args, context).await,
        Verb::Mkdir(args) => {
            let each = async |vessel: &Vessel, path: &Path| match args.parents {
                true => vessel.make_dir_all(path, args.mode).await,
                false => vessel.make_dir(path, args.mode).await,
            };
            for_each(context, &args.which, each).await
        }
        Verb::Rm(args) => {
            let each = async |vessel: &Vessel, path: &Path| match args.recursive {
                true => vessel.delete_all(path).await,
                false => vessel.delete_file(path).await,
            };
            for_each(context, &args.which, each).await
        }
        Verb::Mv(args) => context.with_vessel(&args.id, async |v| mv(v, &args).await).await,
    }
}

/// Does it to all paths; the first failure is the verb's.
async fn for_each(
    context: &Context,
    which: &Paths,
    each: impl AsyncFn(&Vessel, &Path) -> vesselrt::Result<()>,
) -> Outcome {
    context
        .with_vessel(&which.id, async |vessel| {
            let mut outcome = Ok(());
            for path in &which.paths {
                outcome = outcome.and(each(vessel, path).await);
            }
            Ok(outcome?)
        })
        .await
}

async fn cat(vessel: &Vessel, paths: &[PathBuf], context: &Context) -> Outcome {
    let mut chunk = vec![0; CHUNK];
    for path in paths {
        let mut file = vessel.open_file(path, &OpenOptions::new().read(true)).await?;
        loop {
            let read = file.read(&mut chunk).await;
            match read.map_err(|e| Failure::io(format!("read {path:?}"), e))? {
                0 => break,
                n => context.print_bytes(&chunk[..n])?,
            }
        }
    }
    Ok(())
}

/// Standard input is read before the vessel is opened: whoever writes it may take a vessel of their own for that.
async fn write(args: Write, context: &Context) -> Outcome {
    if args.append {
        return context.with_vessel(&args.id, async |vessel| append(vessel, &args).await).await;
    }
    let mut data = Vec::new();
    let read = std::io::stdin().lock().take(MAX_WRITE + 1).read_to_end(&mut data);
    read.map_err(|e| Failure::io("read standard input", e))?;
    if data.len() as u64 > MAX_WRITE {
        return Err(Failure::limit(format!("standard input has more than {MAX_WRITE} bytes"))
            .remedy("put it in a file and use vesselrt cp FILE ID:PATH"));
    }
    let work = async |vessel: &Vessel| Ok(vessel.write_file(&args.path, data, args.mode).await?);
    context.with_vessel(&args.id, work).await
}

async fn append(vessel: &Vessel, args: &Write) -> Outcome {
    let failed = |e| Failure::io(format!("write to {:?}", args.path), e);
    let options = OpenOptions::new().append(true).create(true).mode(args.mode);
    let mut file = vessel.open_file(&args.path, &options).await?;
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = std::io::stdin().lock().read(&mut chunk);
        match read.map_err(|e| Failure::io("read standard input", e))? {
            0 => break,
            n => file.write_all(&chunk[..n]).await.map_err(failed)?,
        }
    }
    Ok(file.close().await?)
}

async fn ls(args: &Ls, context: &Context) -> Outcome {
    let path = args.path.as_deref().unwrap_or(Path::new(""));
    let entries = context.with_vessel(&args.id, async |vessel| listed(vessel, path).await).await?;
    match (context.json, args.long) {
        (true, _) => {
            context.print_json(&entries.iter().map(|(name, info)| show::json(name, info)).collect::<Vec<_>>())
        }
        (false, true) => context.print(&show::long(&entries)),
        (false, false) => context.print(&show::names(&entries)),
    }
}

/// The entries of a directory, or the one thing that is no directory.
async fn listed(vessel: &Vessel, path: &Path) -> Outcome<Vec<Named>> {
    match vessel.read_dir(path).await {
        Ok(entries) => Ok(entries.into_iter().map(|entry| (entry.name, entry.info)).collect()),
        Err(e) if e.kind() == ErrorKind::InvalidArgument => {
            let info = vessel.symlink_stat(path).await?;
            Ok(vec![(path.as_os_str().to_owned(), info)])
        }
        Err(e) => Err(e.into()),
    }
}

async fn stat(args: &Stat, context: &Context) -> Outcome {
    let mut found: Vec<Named> = Vec::new();
    let outcome = context
        .with_vessel(&args.which.id, async |vessel| {
            for path in &args.which.paths {
                let info = match args.follow {
                    true => vessel.stat(path).await?,
                    false => vessel.symlink_stat(path).await?,
                };
                found.push((path.as_os_str().to_owned(), info));
            }
            Ok(())
        })
        .await;
    outcome?;
    match context.json {
        true => {
            context.print_json(&found.iter().map(|(path, info)| show::json(path, info)).collect::<Vec<_>>())
        }
        false => context.print(&found.iter().map(|(path, info)| show::stat(path, info)).collect::<String>()),
    }
}

/// As mv(1): into a directory that is there, otherwise under the new name.
async fn mv(vessel: &Vessel, args: &Mv) -> Outcome {
    let into = match vessel.stat(&args.to).await {
        Ok(info) => info.is_dir(),
        Err(e) if e.kind() == ErrorKind::NotFound => false,
        Err(e) => return Err(e.into()),
    };
    let to = match args.from.file_name().filter(|_| into) {
        Some(name) => args.to.join(name),
        None => args.to.clone(),
    };
    Ok(vessel.rename_file(&args.from, &to).await?)
}
