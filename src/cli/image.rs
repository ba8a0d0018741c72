//! `image import|ls|inspect|history|tag|rm|prune|verify`.
#![forbid(unsafe_code)]

mod upkeep;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use vesselrt::{ImageImport, ImageRecord, ImageUsage, ImportProgress};

use super::batch::Batch;
use super::progress::Progress;
use super::tables::{Table, ago, short, size};
use super::values::printable;
use super::{Context, Failure, Outcome};

const EXAMPLES: &str = "\
PATH is a docker-archive (docker save, podman save), an oci-archive, an OCI layout directory, a tar of a root file system or a \
directory with one; plain, gzip or zstd. Which of them it is shows by its content.

Examples:
  vesselrt image import debian.tar.gz --ref debian:12
  podman save --format oci-archive -o app.tar app:1 && vesselrt image import app.tar --ref app:1
  vesselrt image import layout/ --source v2 --ref app:2";

/// What can be done with images.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Import an image and print its reference
    Import(Import),
    /// List images
    #[command(visible_alias = "list")]
    Ls,
    /// Show an image
    Inspect(Which),
    /// Show how an image was made, layer by layer
    History(Which),
    /// Give an image another name
    Tag(upkeep::Tag),
    /// Remove images that no vessel is based on
    Rm(Rm),
    /// Remove what no image has any more
    Prune(upkeep::Prune),
    /// Compare everything an image is made of with its digest
    Verify(upkeep::Verify),
}

/// Arguments of `image import`.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(super) struct Import {
    /// Archive or directory
    path: PathBuf,
    /// What the image is to be called [default: what the archive says]
    #[arg(long = "ref", value_name = "REF")]
    reference: Option<String>,
    /// Which image of an archive that has several: a reference, a tag or a digest
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Which platform of an archive that has several, such as linux/arm64 [default: this host's]
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<String>,
}

/// An image.
#[derive(Debug, Args)]
pub(super) struct Which {
    /// Reference or digest of the image
    #[arg(value_name = "REF")]
    pub(super) reference: String,
}

/// Arguments of `image rm`.
#[derive(Debug, Args)]
pub(super) struct Rm {
    /// References of images
    #[arg(value_name = "REF", required = true)]
    references: Vec<String>,
}

pub(super) async fn run(verb: Verb, context: &Context) -> Outcome {
    match verb {
        Verb::Import(args) => import(args, context).await,
        Verb::Ls => ls(context).await,
        Verb::Inspect(args) => inspect(&args, context).await,
        Verb::History(args) => upkeep::history(&args, context).await,
        Verb::Tag(args) => upkeep::tag(&args, context).await,
        Verb::Rm(args) => rm(args, context).await,
        Verb::Prune(args) => upkeep::prune(&args, context).await,
        Verb::Verify(args) => upkeep::verify(&args, context).await,
    }
}

async fn import(args: Import, context: &Context) -> Outcome {
    let mut import = ImageImport::new(args.path);
    if let Some(reference) = args.reference {
        import = import.reference(reference);
    }
    if let Some(source) = args.source {
        import = import.source(source);
    }
    if let Some(platform) = args.platform {
        import = import.platform(platform);
    }
    let manager = context.manager().await?;
    let progress = Progress::new(context, "importing");
    let report = manager.import_image_with(import, move |at| tell(&progress, at)).await?;
    for warning in worth_telling(&report.warnings, context.verbose) {
        context.warn(warning);
    }
    match context.json {
        true => context.print_json(&to_json(&report.image)),
        false => context.print_line(&name(&report.image)),
    }
}

/// The sums, or everything for whoever asks, or where there are no sums.
fn worth_telling(warnings: &[String], all: bool) -> Vec<&String> {
    let sums: Vec<&String> = warnings.iter().filter(|warning| warning.starts_with("in all, ")).collect();
    if all || sums.is_empty() { warnings.iter().collect() } else { sums }
}

fn tell(progress: &Progress, at: ImportProgress) {
    match at {
        ImportProgress::Reading { bytes, total } => {
            progress.doing("reading");
            progress.bytes(bytes, total);
        }
        ImportProgress::Unpacking { layer, layers, bytes, total } => {
            progress.doing(format!("unpacking layer {layer} of {layers}"));
            progress.bytes(bytes, Some(total));
        }
        _ => {}
    }
}

/// The reference, or the digest of an image that has none.
pub(super) fn name(image: &ImageRecord) -> String {
    image.reference.clone().unwrap_or_else(|| image.manifest_digest.to_string())
}

async fn ls(context: &Context) -> Outcome {
    let images = context.manager().await?.image_usage().await?;
    if context.json {
        let value = |usage: &ImageUsage| {
            let mut value = to_json(&usage.image);
            value["ownSize"] = usage.own.into();
            value["sharedSize"] = usage.shared.into();
            value
        };
        return context.print_json(&images.iter().map(value).collect::<Vec<_>>());
    }
    if context.quiet {
        return context.print_ids(&images.iter().map(|usage| name(&usage.image)).collect::<Vec<_>>());
    }
    let now = OffsetDateTime::now_utc();
    let mut table = Table::new(&["REFERENCE", "DIGEST", "SIZE", "OWN", "SHARED", "LAYERS", "CREATED"]);
    for ImageUsage { image, own, shared, .. } in &images {
        table.row([
            name(image),
            short(&image.manifest_digest.to_string()).to_owned(),
            size(image.size),
            size(*own),
            size(*shared),
            image.layers.len().to_string(),
            created(image).map_or_else(|| "-".to_owned(), |created| ago(created, now)),
        ]);
    }
    context.print(&table.render())
}

fn created(image: &ImageRecord) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(image.created.as_deref()?, &Rfc3339).ok()
}

async fn inspect(args: &Which, context: &Context) -> Outcome {
    let image = context.manager().await?.inspect_image(&args.reference).await?;
    if context.json {
        let mut value = to_json(&image);
        value["config"] = serde_json::to_value(&image.config)
            .map_err(|e| Failure::internal(format!("failed to write a configuration as JSON: {e}")))?;
        return context.print_json(&value);
    }
    let config = image.config.config().clone().unwrap_or_default();
    let list = |parts: &Option<Vec<String>>| parts.clone().unwrap_or_default();
    let safe = |text: &str| if text.is_empty() { "-".to_owned() } else { printable(text.as_bytes()) };
    let mut table = Table::bare();
    table.row(["reference".to_owned(), name(&image)]);
    table.row(["digest".to_owned(), image.manifest_digest.to_string()]);
    table.row(["config".to_owned(), image.config_digest.to_string()]);
    table.row([
        "platform".to_owned(),
        safe(&format!("{}/{}", image.config.os(), image.config.architecture())),
    ]);
    table.row(["size".to_owned(), size(image.size)]);
    table.row(["created".to_owned(), safe(image.created.as_deref().unwrap_or_default())]);
    table.row(["entrypoint".to_owned(), safe(&list(config.entrypoint()).join(" "))]);
    table.row(["command".to_owned(), safe(&list(config.cmd()).join(" "))]);
    table.row(["workdir".to_owned(), safe(config.working_dir().as_deref().unwrap_or_default())]);
    table.row(["user".to_owned(), safe(config.user().as_deref().unwrap_or_default())]);
    for variable in list(config.env()) {
        table.row(["env".to_owned(), safe(&variable)]);
    }
    for layer in &image.layers {
        table.row(["layer".to_owned(), format!("{}  {}", layer.digest, size(layer.size))]);
    }
    context.print(&table.render())
}

async fn rm(args: Rm, context: &Context) -> Outcome {
    let manager = context.manager().await?;
    let mut removed = Batch::default();
    for reference in args.references {
        let outcome = manager.remove_image(&reference).await;
        removed.note(reference, outcome);
    }
    // The space is free when this ends, and not some time later.
    manager.close().await?;
    removed.finish(context)
}

pub(super) fn to_json(image: &ImageRecord) -> Value {
    let layer = |layer: &vesselrt::LayerRecord| {
        json!({
            "digest": layer.digest.to_string(),
            "size": layer.size,
            "mediaType": layer.media_type,
            "diffId": layer.diff_id.to_string(),
        })
    };
    json!({
        "reference": image.reference,
        "digest": image.manifest_digest.to_string(),
        "configDigest": image.config_digest.to_string(),
        "os": image.config.os().to_string(),
        "architecture": image.config.architecture().to_string(),
        "size": image.size,
        "created": image.created,
        "layers": image.layers.iter().map(layer).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_told_and_the_rest_on_request() {
        let warnings = ["dev/null: device skipped".to_owned(), "in all, device skipped: 1".to_owned()];
        assert_eq!(worth_telling(&warnings, false), [&warnings[1]]);
        assert_eq!(worth_telling(&warnings, true).len(), 2);
        assert_eq!(worth_telling(&warnings[..1], false).len(), 1);
    }
}
