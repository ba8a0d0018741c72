//! What people type out of habit with other tools, and what it is called here. Pure, but for what `help` prints.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, Parser};

use super::{Cli, Failure, Outcome, output};

/// A verb that is not here, after which verbs it was typed, and what to say.
type Habit = (&'static [&'static str], &'static str, &'static str);

const CONTAINERS: &str = "vessels need no word before the verb: `vesselrt ls`, `vesselrt rm ID`";
const LIST: &str = "`vesselrt ls` lists the vessels, `vesselrt ps ID` the background processes of one";
const NO_PAUSE: &str = "vessels are not paused: `vesselrt stop ID` ends their commands, and `vesselrt exec` begins where the files are";
const REMOVE: &str = "to remove a vessel: `vesselrt rm ID`";
const SHELL: &str = "for a shell in a vessel: `vesselrt exec -it ID -- sh`";
const SNAPSHOTS: &str = "the snapshots of a vessel: `vesselrt snapshot ls ID`";
const START_AGAIN: &str = "`vesselrt stop ID` and `vesselrt start ID`";

/// Verbs of docker, podman and their like, sorted.
const VERBS: &[Habit] = &[
    (
        &[],
        "build",
        "vesselrt reads no Dockerfile: change a vessel and `vesselrt commit` it, or import what another tool has built",
    ),
    (&[], "checkpoint", "to keep the files of a vessel: `vesselrt snapshot create ID`"),
    (&[], "container", CONTAINERS),
    (&[], "delete", REMOVE),
    (&[], "df", "`vesselrt du`"),
    (&[], "diff", "to see what has changed: `vesselrt snapshot diff ID`"),
    (&[], "enter", SHELL),
    (&[], "events", "`vesselrt ls` and `vesselrt stats --watch` show what runs"),
    (
        &[],
        "export",
        "an image of a vessel: `vesselrt commit ID REF` and `vesselrt save`; its files: `vesselrt cp ID:/ -`",
    ),
    (&[], "history", "`vesselrt image history REF`, or `vesselrt snapshot ls ID --tree`"),
    (&[], "images", "to list images: `vesselrt image ls`"),
    (&[], "import", "`vesselrt image import PATH --ref REF`"),
    (&[], "info", "`vesselrt doctor` says what this host can do"),
    (&[], "load", "`vesselrt image import PATH`"),
    (&[], "networks", "networks are made with the vessel: `vesselrt create --network isolated IMAGE`"),
    (&[], "pause", NO_PAUSE),
    (&[], "port", "published ports: `vesselrt inspect ID`"),
    (&[], "prune", "`vesselrt gc`, or `vesselrt image prune` for images"),
    (&[], "remove", REMOVE),
    (&[], "rename", "a vessel keeps its id; `vesselrt fork ID --id NEW` makes one with another"),
    (&[], "restart", START_AGAIN),
    (&[], "restore", "`vesselrt snapshot restore ID SNAP`"),
    (&[], "rmi", "to remove an image: `vesselrt image rm REF`"),
    (&[], "search", "images are not searched: `vesselrt pull REF` has one from its registry by name"),
    (&[], "shell", SHELL),
    (&[], "snapshots", SNAPSHOTS),
    (&[], "ssh", SHELL),
    (
        &[],
        "system",
        "`vesselrt du` shows what is used, `vesselrt gc` removes what nothing needs, `vesselrt doctor` looks at this host",
    ),
    (&[], "tag", "`vesselrt image tag REF NEW`"),
    (&[], "top", "`vesselrt exec ID -- top`, or `vesselrt stats` for all"),
    (&[], "unpause", NO_PAUSE),
    (&[], "version", "`vesselrt --version`"),
    (&[], "volumes", "`vesselrt volume ls`"),
    (&["image"], "load", "`vesselrt image import PATH`"),
    (&["image"], "pull", "`vesselrt pull REF`"),
    (&["image"], "push", "`vesselrt push REF`"),
    (&["image"], "remove", "`vesselrt image rm REF`"),
    (&["image"], "save", "`vesselrt save REF`"),
    (&["network"], "create", "networks are made with the vessel: `vesselrt create --network isolated IMAGE`"),
    (&["network"], "ls", "the network of a vessel: `vesselrt inspect ID`"),
    (&["snapshot"], "delete", "`vesselrt snapshot rm ID SNAP`"),
    (&["snapshot"], "remove", "`vesselrt snapshot rm ID SNAP`"),
    (&["volume"], "prune", "volumes are removed by name: `vesselrt volume rm NAME`"),
    (&["volume"], "remove", "`vesselrt volume rm NAME`"),
];

/// Verbs that are here and mean something else there: what is said when something is missing or unknown after them.
const MEANT: &[(&str, &str)] = &[
    ("exec", "`vesselrt exec ID -- COMMAND`, such as `vesselrt exec ID -- ls -l`"),
    (
        "kill",
        "`vesselrt ps ID` lists the processes of a vessel; to end all that runs in it: `vesselrt stop ID`",
    ),
    ("logs", "`vesselrt ps ID` lists the processes of a vessel; that of `vesselrt run -d` is p1"),
    ("ps", LIST),
    ("wait", "`vesselrt ps ID` lists the processes of a vessel; that of `vesselrt run -d` is p1"),
];

/// Flags of docker and podman that have another name here, and the verbs that they were typed after.
const FLAGS: &[(&[&str], &[&str], &str)] = &[
    (
        &["create", "exec", "run"],
        &["--cap-add", "--device", "--privileged", "--security-opt"],
        "commands never get more rights than docs/security.md says",
    ),
    (&["create", "run"], &["--name"], "the name of a vessel is its id: `--id NAME`"),
    (&["create", "run"], &["--net"], "`--network none|isolated|host`"),
    (&["exec", "run"], &["--tty"], "`--terminal`, or `-t`"),
    (&["logs"], &["-n"], "`--tail N`"),
    (&["ls"], &["--all", "-a"], "vessels that do not run are listed, too"),
    (&["ps"], &["--all", "-a"], LIST),
];

/// Arguments of `help`.
#[derive(Debug, Args)]
pub(super) struct Help {
    /// The verb, all that there are without one
    verb: Vec<String>,
}

/// `help VERB` is `VERB --help`.
pub(super) fn help(args: &Help) -> Outcome<ExitCode> {
    let words = std::iter::once("vesselrt").chain(args.verb.iter().map(String::as_str));
    match Cli::try_parse_from(words.chain(["--help"])) {
        Err(error) if error.kind() == ErrorKind::DisplayHelp => Ok(output::rendered(&error)),
        _ => {
            Err(Failure::invalid(format!("there is no verb {:?}", args.verb.join(" ")))
                .remedy("vesselrt --help"))
        }
    }
}

/// Puts what is known about a habit in the place of clap's guess.
pub(super) fn mend(mut error: clap::Error) -> clap::Error {
    if let Some(tip) = tip(&error) {
        for guess in [ContextKind::SuggestedSubcommand, ContextKind::SuggestedArg] {
            error.remove(guess);
        }
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
    error
}

/// What to say to somebody who typed that.
pub(super) fn tip(error: &clap::Error) -> Option<&'static str> {
    let verbs = verbs(error);
    let verb = || verbs.last().map(String::as_str);
    let typed = |kind| match error.get(kind) {
        Some(ContextValue::String(typed)) => Some(typed.as_str()),
        _ => None,
    };
    match error.kind() {
        ErrorKind::InvalidSubcommand => {
            let typed = typed(ContextKind::InvalidSubcommand)?;
            VERBS.iter().find(|(after, habit, _)| *after == verbs && *habit == typed).map(|(.., tip)| *tip)
        }
        ErrorKind::MissingRequiredArgument => {
            MEANT.iter().find(|(habit, _)| Some(*habit) == verb()).map(|(_, tip)| *tip)
        }
        ErrorKind::UnknownArgument => {
            let (verb, typed) = (verb()?, typed(ContextKind::InvalidArg)?);
            let known = |(after, flags, _): &&(&[&str], &[&str], &str)| {
                after.contains(&verb) && flags.contains(&typed)
            };
            FLAGS.iter().find(known).map(|(.., tip)| *tip)
        }
        _ => None,
    }
}

/// The verbs that were understood, as the usage line shows them.
fn verbs(error: &clap::Error) -> Vec<String> {
    let Some(ContextValue::StyledStr(usage)) = error.get(ContextKind::Usage) else { return Vec::new() };
    let usage = usage.to_string();
    let words = usage.split_whitespace().skip_while(|word| *word != "vesselrt").skip(1);
    words.take_while(|word| word.starts_with(|c: char| c.is_ascii_lowercase())).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests;
