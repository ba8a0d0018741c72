//! `image tag|history|prune|verify`.
#![forbid(unsafe_code)]

use clap::Args;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use vesselrt::{DamagedTree, ErrorKind, ImageRecord, TreeReport, VerifyReport};

use super::{Which, to_json};
use crate::cli::tables::{Table, ago, short, size};
use crate::cli::values::printable;
use crate::cli::{Context, Failure, Outcome};

/// Arguments of `image tag`.
#[derive(Debug, Args)]
pub(crate) struct Tag {
    /// Reference or digest of the image
    #[arg(value_name = "REF")]
    source: String,
    /// Its new name
    #[arg(value_name = "NEW")]
    target: String,
}

/// Arguments of `image prune`.
#[derive(Debug, Args)]
pub(crate) struct Prune {
    /// Remove all images that no vessel is based on, not only what has no name any more
    #[arg(short, long)]
    all: bool,
}

/// Arguments of `image verify`.
#[derive(Debug, Args)]
#[command(
    after_long_help = "Reads every blob and compares it with its digest. With --trees every layer is also unpacked once \
                       more, and compared with the unpacked layer that vessels are mounted on; --repair then puts the \
                       new one in its place, unless a vessel runs on it. Exit code 125 when something is damaged."
)]
pub(crate) struct Verify {
    /// Reference or digest of the image [default: all]
    #[arg(value_name = "REF")]
    reference: Option<String>,
    /// Have what is damaged again from the registry, or unpack it anew
    #[arg(long)]
    repair: bool,
    /// Compare unpacked layers with their blobs, too
    #[arg(long)]
    trees: bool,
}

pub(crate) async fn tag(args: &Tag, context: &Context) -> Outcome {
    let image = context.manager().await?.tag_image(&args.source, &args.target).await?;
    match context.json {
        true => context.print_json(&to_json(&image)),
        false => context.print_line(&super::name(&image)),
    }
}

pub(crate) async fn prune(args: &Prune, context: &Context) -> Outcome {
    let report = context.manager().await?.prune_images(args.all).await?;
    if context.json {
        let (images, blobs, bytes, layers) = (report.images, report.blobs, report.bytes, report.layers);
        return context.print_json(
            &json!({ "images": images, "blobs": blobs, "bytes": bytes, "unpackedLayers": layers }),
        );
    }
    for image in &report.images {
        context.print_line(image)?;
    }
    let (blobs, bytes, layers) = (report.blobs, size(report.bytes), report.layers);
    context.note(&format!("removed {blobs} blobs ({bytes}) and {layers} unpacked layers"));
    Ok(())
}

pub(crate) async fn verify(args: &Verify, context: &Context) -> Outcome {
    let manager = context.manager().await?;
    let report = manager.verify_images(args.reference.as_deref(), args.repair).await?;
    let trees = match args.trees {
        true => Some(manager.verify_trees(args.reference.as_deref(), args.repair).await?),
        false => None,
    };
    tell(&report, trees.as_ref(), context)
}

fn tell(report: &VerifyReport, trees: Option<&TreeReport>, context: &Context) -> Outcome {
    let left: Vec<_> = report.damaged.iter().filter(|blob| !report.repaired.contains(&blob.digest)).collect();
    let bad = trees.iter().flat_map(|trees| &trees.damaged).filter(|tree| !tree.repaired);
    let bad: Vec<String> =
        bad.map(|tree| format!("unpacked layer {} ({})", tree.chain_id, tree.reasons.join("; "))).collect();
    let whole = left.is_empty() && bad.is_empty();
    if context.json && whole {
        let damaged: Vec<Value> = report
            .damaged
            .iter()
            .map(|blob| {
                let repaired = report.repaired.contains(&blob.digest);
                json!({ "digest": blob.digest.to_string(), "reason": blob.reason, "repaired": repaired })
            })
            .collect();
        let mut found = json!({ "blobs": report.blobs, "bytes": report.bytes, "damaged": damaged });
        if let Some(trees) = trees {
            found["trees"] = in_json(trees);
        }
        return context.print_json(&found);
    }
    for tree in trees.iter().flat_map(|trees| &trees.damaged).filter(|tree| tree.repaired) {
        context.warn(&format!("unpacked layer {} was damaged and is unpacked anew", tree.chain_id));
    }
    for digest in &report.repaired {
        context.warn(&format!("{digest} was damaged and is repaired"));
    }
    if whole {
        let (blobs, bytes) = (report.blobs, size(report.bytes));
        let layers = trees.map_or_else(String::new, |trees| format!(", {} unpacked layers", trees.layers));
        return context.print_line(&format!("{blobs} blobs, {bytes}{layers}: all as they must be"));
    }
    let list: Vec<String> = left.iter().map(|blob| format!("{} ({})", blob.digest, blob.reason)).collect();
    let error = match list.is_empty() {
        true => format!("{} damaged trees: {}", bad.len(), bad.join(", ")),
        false => format!("{} damaged blobs: {}", left.len(), [list, bad].concat().join(", ")),
    };
    Err(Failure::of_kind(&ErrorKind::IntegrityViolation, error)
        .remedy("vesselrt image verify --repair, or pull or import the image again"))
}

fn in_json(trees: &TreeReport) -> Value {
    let damaged = |tree: &DamagedTree| {
        let (digest, chain) = (tree.digest.to_string(), tree.chain_id.to_string());
        let (different, reasons, repaired) = (tree.different, &tree.reasons, tree.repaired);
        json!({ "digest": digest, "chainId": chain, "different": different, "reasons": reasons, "repaired": repaired })
    };
    json!({ "layers": trees.layers, "damaged": trees.damaged.iter().map(damaged).collect::<Vec<_>>() })
}

pub(crate) async fn history(args: &Which, context: &Context) -> Outcome {
    let image = context.manager().await?.inspect_image(&args.reference).await?;
    let entries = entries(&image);
    if context.json {
        return context.print_json(&entries);
    }
    let now = OffsetDateTime::now_utc();
    let mut table = Table::new(&["LAYER", "CREATED", "SIZE", "CREATED BY", "COMMENT"]);
    for entry in entries.iter().rev() {
        let text = |key: &str| entry[key].as_str().unwrap_or_default();
        let created = OffsetDateTime::parse(text("created"), &Rfc3339);
        table.row([
            if text("layer").is_empty() { "-".to_owned() } else { short(text("layer")).to_owned() },
            created.map_or_else(|_| "-".to_owned(), |created| ago(created, now)),
            size(entry["size"].as_u64().unwrap_or(0)),
            clipped(text("createdBy")),
            clipped(text("comment")),
        ]);
    }
    context.print(&table.render())
}

/// What fits a line, harmless.
fn clipped(text: &str) -> String {
    const MOST: usize = 60;
    let flat: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match flat.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}…", printable(&flat.as_bytes()[..at])),
        None => printable(flat.as_bytes()),
    }
}

/// The history with the layers that its entries made, the oldest first. What the history does not tell of comes after.
fn entries(image: &ImageRecord) -> Vec<Value> {
    let mut layers = image.layers.iter();
    let mut list = Vec::new();
    for entry in image.config.history().iter().flatten() {
        let layer = if entry.empty_layer() == Some(true) { None } else { layers.next() };
        list.push(json!({
            "layer": layer.map(|layer| layer.digest.to_string()),
            "size": layer.map_or(0, |layer| layer.size),
            "created": entry.created(),
            "createdBy": entry.created_by(),
            "author": entry.author(),
            "comment": entry.comment(),
        }));
    }
    list.extend(layers.map(|layer| json!({ "layer": layer.digest.to_string(), "size": layer.size })));
    list
}
