//! `commit` and `save`: a vessel as an image, an image as a file.
#![forbid(unsafe_code)]

use std::io;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::json;
use vesselrt::{CommitOptions, LayerCompression, SaveFormat};

use super::progress::{Counted, Progress};
use super::{Context, Failure, Outcome};

const COMMIT_EXAMPLES: &str = "\
The image has the layers of the vessel's own image, one for each snapshot, and one for what was changed since. The same vessel \
gives the same digests again. Instructions of --change: ENV, WORKDIR, USER, CMD, ENTRYPOINT, LABEL, EXPOSE, VOLUME, STOPSIGNAL.

Examples:
  vesselrt commit build app:1
  vesselrt commit build --from 8a1f0c2b77d0e911 registry.example.org/team/app:1 --change 'CMD [\"/srv/app\"]'
  vesselrt commit build app:2 --change 'ENV MODE=production' --change 'WORKDIR /srv' -m 'second try'";

const SAVE_EXAMPLES: &str = "\
Examples:
  vesselrt save app:1 -o app.tar && podman load -i app.tar
  vesselrt save app:1 -o - --format docker-archive | docker load
  vesselrt save app:1 -o layout --format oci-dir && umoci unpack --rootless --image layout:1 bundle";

/// Arguments of `commit`.
#[derive(Debug, Args)]
#[command(after_long_help = COMMIT_EXAMPLES)]
pub(super) struct Commit {
    /// Id of the vessel
    id: String,
    /// What the image is to be called
    #[arg(value_name = "REF")]
    reference: String,
    /// Commit this snapshot, and not the vessel as it is now
    #[arg(long, value_name = "SNAP")]
    from: Option<String>,
    /// Change the configuration, as in a Dockerfile
    #[arg(short, long = "change", value_name = "INSTRUCTION")]
    changes: Vec<String>,
    /// Who made it
    #[arg(short, long, value_name = "NAME")]
    author: Option<String>,
    /// What to say about it
    #[arg(short, long, value_name = "MSG")]
    message: Option<String>,
    /// How new layers are compressed
    #[arg(long, value_enum, default_value_t)]
    compression: Compression,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Compression {
    /// What every tool reads
    #[default]
    Gzip,
    /// Faster and smaller; docker before version 23 does not read it
    Zstd,
    /// None
    None,
}

/// Arguments of `save`.
#[derive(Debug, Args)]
#[command(after_long_help = SAVE_EXAMPLES)]
pub(super) struct Save {
    /// Reference or digest of the image
    #[arg(value_name = "REF")]
    reference: String,
    /// File or directory to write; `-` is standard output
    #[arg(short, long, value_name = "PATH")]
    output: PathBuf,
    /// What to write
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Format {
    /// An OCI image layout in a tar
    #[default]
    OciArchive,
    /// What `docker save` writes
    DockerArchive,
    /// An OCI image layout in a directory
    OciDir,
}

impl From<Format> for SaveFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::OciArchive => Self::OciArchive,
            Format::DockerArchive => Self::DockerArchive,
            Format::OciDir => Self::OciDir,
        }
    }
}

/// Prints the reference, or the image as JSON.
pub(super) async fn commit(args: Commit, context: &Context) -> Outcome {
    let mut options = CommitOptions::new(args.reference).compression(match args.compression {
        Compression::Gzip => LayerCompression::Gzip,
        Compression::Zstd => LayerCompression::Zstd,
        Compression::None => LayerCompression::None,
    });
    (options.snapshot, options.changes) = (args.from, args.changes);
    (options.author, options.message) = (args.author, args.message);
    let manager = context.manager().await?;
    let progress = Progress::new(context, "committing");
    let tell = progress.clone();
    let report = manager
        .commit_vessel(&args.id, options, move |at| {
            tell.doing(format!("packing layer {}", at.layer));
            tell.bytes(at.bytes, None);
        })
        .await?;
    drop(progress);
    for warning in &report.warnings {
        context.warn(warning);
    }
    match context.json {
        true => context.print_json(&super::image::to_json(&report.image)),
        false => context.print_line(&super::image::name(&report.image)),
    }
}

pub(super) async fn save(args: Save, context: &Context) -> Outcome {
    let manager = context.manager().await?;
    let progress = Progress::new(context, "saving");
    if args.output.as_os_str() != "-" {
        manager.save_image(&args.reference, args.format.into(), &args.output).await?;
        drop(progress);
        return match context.json {
            true => context.print_json(&json!({ "reference": args.reference, "path": args.output })),
            false => Ok(()),
        };
    }
    if io::IsTerminal::is_terminal(&io::stdout()) {
        let remedy = "name a file with -o, or pipe it into something";
        return Err(Failure::invalid("an archive is nothing for a terminal").remedy(remedy));
    }
    let out = Counted::new(io::stdout(), progress);
    Ok(manager.save_image_to(&args.reference, args.format.into(), out).await?)
}
