//! `fork`.
#![forbid(unsafe_code)]

use clap::Args;
use vesselrt::ForkOptions;

use super::{Context, Outcome, values};

/// Arguments of `fork`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Forks share with the vessel what they have in common and change nothing of each other's; a fork takes a few kilobytes and no process \
until it is used. The vessel can be removed before its forks. Without --from, what the vessel is now becomes a snapshot first, \
unless nothing was written since the last one. Its archive is packed later, once for all: `vesselrt snapshot wait FORK` waits for it.

Examples:
  vesselrt fork build
  vesselrt fork build -n 100
  vesselrt fork build --from \"$snap\" --id try-a --id try-b --label task=42")]
pub(super) struct Fork {
    /// Id of the vessel
    id: String,
    /// Snapshot to begin at [default: what the vessel is now]
    #[arg(long, value_name = "SNAP")]
    from: Option<String>,
    /// How many to make [default: as many as ids are given, or 1]
    #[arg(short = 'n', long = "count", value_name = "N")]
    count: Option<usize>,
    /// Id of a fork; may be repeated [default: 16 random hexadecimal digits]
    #[arg(long = "id", value_name = "NAME")]
    ids: Vec<String>,
    /// Label of the forks, besides those of the vessel
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = values::label)]
    labels: Vec<(String, String)>,
    /// What to say about the snapshot, should one be made
    #[arg(short, long, value_name = "MSG")]
    message: Option<String>,
}

impl Fork {
    fn options(self) -> ForkOptions {
        let mut options = self.ids.into_iter().fold(ForkOptions::new(), ForkOptions::id);
        if let Some(count) = self.count {
            options = options.count(count);
        }
        if let Some(snapshot) = self.from {
            options = options.from(snapshot);
        }
        if let Some(message) = self.message {
            options = options.message(message);
        }
        self.labels.into_iter().fold(options, |options, (key, value)| options.label(key, value))
    }
}

pub(super) async fn fork(args: Fork, context: &Context) -> Outcome {
    let id = args.id.clone();
    let forks = context.manager().await?.fork_vessel(&id, args.options()).await?;
    match context.json {
        true => context.print_json(&forks),
        false => {
            let ids: Vec<String> = forks.into_iter().map(|fork| fork.id).collect();
            context.print_ids(&ids)
        }
    }
}
