//! `pull`, `push`, `login`, `logout`, and what all transfers show while they run.
#![forbid(unsafe_code)]

mod login;
mod transfers;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use vesselrt::{BlobState, PullOptions, PullPolicy, PullProgress, PushProgress, PushReport, PushState};

pub(super) use self::login::{Login, Logout, login, logout};
pub(super) use self::transfers::Transfers;
use super::{Context, Outcome};

const PULL_EXAMPLES: &str = "\
Credentials are those of podman and docker (auth.json, config.json, credential helpers), or of `vesselrt login`. Mirrors, \
registries without TLS and certificates of your own: ~/.config/vesselrt/config.toml, or registries.conf.
With --json every event is one line, and the last one has the image.

Examples:
  vesselrt pull debian:12
  vesselrt pull --platform linux/arm64 registry.example.org:5000/team/app@sha256:4f53cda1...
  vesselrt --json pull debian:12 | jq -c .event";

/// Arguments of `pull`.
#[derive(Debug, Args)]
#[command(after_long_help = PULL_EXAMPLES)]
pub(super) struct Pull {
    /// Reference of the image
    #[arg(value_name = "REF")]
    reference: String,
    /// Which image, if there are several: os/architecture[/variant] [default: this host's]
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
}

const PUSH_EXAMPLES: &str = "\
Only what the registry lacks is sent.

Examples:
  vesselrt push registry.example.org/team/app:1
  vesselrt push app:1 registry.example.org/team/app:1";

/// Arguments of `push`.
#[derive(Debug, Args)]
#[command(after_long_help = PUSH_EXAMPLES)]
pub(super) struct Push {
    /// Reference or digest of the image
    #[arg(value_name = "REF")]
    reference: String,
    /// Where to push it [default: where its reference says]
    #[arg(value_name = "DEST")]
    target: Option<String>,
}

/// When `create` and `run` pull.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub(super) enum When {
    /// When the image is not here
    #[default]
    Missing,
    /// Whenever the registry has another one
    Always,
    /// Never
    Never,
}

impl From<When> for PullPolicy {
    fn from(when: When) -> Self {
        match when {
            When::Missing => Self::Missing,
            When::Always => Self::Always,
            When::Never => Self::Never,
        }
    }
}

/// Prints the reference.
pub(super) async fn pull(args: Pull, context: &Context) -> Outcome {
    let mut options = PullOptions::new(args.reference);
    options.platform = args.platform;
    let manager = context.manager().await?;
    let transfers = Transfers::new(context);
    let shown = transfers.clone();
    let report = manager.pull_image(options, move |at| shown.pull(&at)).await?;
    transfers.end();
    for warning in &report.warnings {
        context.warn(warning);
    }
    if context.json {
        let image = super::image::to_json(&report.image);
        let done = json!({ "event": "done", "transferred": report.transferred, "image": image });
        return context.print_line(&done.to_string());
    }
    context.print_line(&super::image::name(&report.image))
}

/// Prints the reference with the digest.
pub(super) async fn push(args: Push, context: &Context) -> Outcome {
    let manager = context.manager().await?;
    let transfers = Transfers::new(context);
    let shown = transfers.clone();
    let tell = move |at: PushProgress| shown.push(&at);
    let report = manager.push_image(&args.reference, args.target.as_deref(), tell).await?;
    transfers.end();
    pushed(&report, context)
}

/// Tells what came of a push.
pub(super) fn pushed(report: &PushReport, context: &Context) -> Outcome {
    if context.json {
        let done = json!({
            "event": "done",
            "reference": report.reference,
            "digest": report.digest.to_string(),
            "uploaded": report.uploaded,
            "uploadedBytes": report.uploaded_bytes,
            "mounted": report.mounted,
            "existing": report.existing,
        });
        return context.print_line(&done.to_string());
    }
    let (uploaded, bytes) = (report.uploaded, super::human_size(report.uploaded_bytes));
    let (mounted, existing) = (report.mounted, report.existing);
    context.note(&format!("{uploaded} blobs sent ({bytes}), {mounted} mounted, {existing} were there"));
    context.print_line(&format!("{}@{}", report.reference, report.digest))
}

/// What happens to a blob, in a word, and how far it is.
struct At {
    word: &'static str,
    bytes: Option<(u64, u64)>,
    more: Option<Value>,
}

fn of_blob(state: &BlobState) -> At {
    let at = |word, bytes| At { word, bytes, more: None };
    match state {
        BlobState::Queued { size } => at("queued", Some((0, *size))),
        BlobState::Waiting => at("waiting", None),
        BlobState::Downloading { done, total } => at("downloading", Some((*done, *total))),
        BlobState::Stored { size } => at("verified", Some((*size, *size))),
        BlobState::Exists { size } => at("exists", Some((*size, *size))),
        BlobState::Unpacking { done, total } => at("unpacking", Some((*done, *total))),
        BlobState::Unpacked => at("unpacked", None),
        BlobState::Retrying { after, error } => {
            let millis = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
            let more = json!({ "afterMillis": millis, "error": error });
            At { word: "retrying", bytes: None, more: Some(more) }
        }
        _ => at("busy", None),
    }
}

impl Transfers {
    /// Shows how far a pull is.
    pub(super) fn pull(&self, at: &PullProgress) {
        match at {
            PullProgress::Image(image) => {
                let layers: Vec<String> = image.layers.iter().map(|layer| layer.digest.to_string()).collect();
                let value = json!({ "event": "image", "digest": image.manifest_digest.to_string(), "layers": layers });
                self.event(&value);
            }
            PullProgress::Blob { digest, state } => {
                let at = of_blob(state);
                self.blob(&digest.to_string(), at.word, at.bytes, at.more);
            }
            _ => {}
        }
    }

    /// Shows how far a push is.
    pub(super) fn push(&self, at: &PushProgress) {
        let (word, done) = match at.state {
            PushState::Exists => ("exists", at.size),
            PushState::Mounted => ("mounted", at.size),
            PushState::Uploading { done } => ("uploading", done),
            PushState::Uploaded => ("uploaded", at.size),
            _ => ("busy", 0),
        };
        self.blob(&at.digest.to_string(), word, Some((done, at.size)), None);
    }
}
