//! `doctor`: what this host can and cannot do, found by looking and by trying.
#![forbid(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use vesselrt::{ExecOptions, Manager, ManagerConfig, OverlayDriver, Vessel};
use vesselrt_runtime::doctor::{Check, CheckInput, Status, probe};

use super::tables::Table;
use super::{Context, Failure, Outcome, Progress};
use crate::demo;
use crate::demo::scratch::Scratch;

/// The name of the image of the trial.
const IMAGE: &str = "doctor.invalid/base:latest";
/// How long the trial command may take.
const PATIENCE: Duration = Duration::from_secs(20);

const ABOUT_IT: &str = "\
Besides looking, it tries: a vessel on this host's own tools, in a temporary store that is removed, with a file written and a \
command run in it. The exit code is 1 if something fails that vessels need.";

/// Arguments of `doctor`.
#[derive(Debug, Args)]
#[command(after_long_help = ABOUT_IT)]
pub(super) struct Doctor {
    /// Only look, do not try
    #[arg(long)]
    no_trial: bool,
}

pub(super) async fn run(args: &Doctor, context: &Context) -> Outcome<ExitCode> {
    let root = std::path::absolute(context.root()).map_err(|e| Failure::io("find the store", e))?;
    let (input, tried) = match args.no_trial {
        true => (CheckInput::default(), None),
        false => {
            let trial = trial(&root, context).await;
            (CheckInput { overlay_mount: trial.kernel }, Some(trial.check))
        }
    };
    let mut checks = probe(&root, &input);
    checks.extend(tried);
    let failed = checks.iter().any(|check| check.status == Status::Fail);
    match context.json {
        true => context.print_json(&checks)?,
        false => context.print(&text(&checks))?,
    }
    Ok(ExitCode::from(u8::from(failed)))
}

/// What came of trying.
struct Trial {
    /// Whether the kernel's overlayfs could be mounted, if that could be found out.
    kernel: Option<Result<(), String>>,
    check: Check,
}

async fn trial(root: &Path, context: &Context) -> Trial {
    let _progress = Progress::new(context, "trying a vessel");
    let (kernel, outcome) = match Scratch::near(root) {
        Ok(scratch) => tried_in(scratch, context).await,
        Err(failure) => (None, Err(failure)),
    };
    let (status, found, remedy) = match outcome {
        Ok(found) => (Status::Ok, found, None),
        Err(failure) => {
            let remedy = failure.remedy_text().unwrap_or("see the findings above").to_owned();
            (Status::Fail, failure.message().to_owned(), Some(remedy))
        }
    };
    Trial { kernel, check: Check { id: "trial", title: "A vessel, tried", status, found, remedy } }
}

async fn tried_in(scratch: Scratch, context: &Context) -> (Option<Result<(), String>>, Outcome<String>) {
    let kernel = context.config_at(scratch.path()).overlay(OverlayDriver::Kernel);
    let manager = match Manager::new(kernel).await {
        Ok(manager) => manager,
        Err(e) => return (None, Err(e.into())),
    };
    let (mounted, outcome) = match import(&manager, &scratch).await {
        Ok(library_path) => with_kernel(&manager, &scratch, &library_path).await,
        Err(failure) => (None, Err(failure)),
    };
    let removed = demo::clean_up(&manager, scratch).await;
    (mounted, outcome.and_then(|found| removed.map(|()| found)))
}

/// Whether it mounts is one finding, whether a command runs in it another.
async fn with_kernel(
    manager: &Manager,
    scratch: &Scratch,
    library_path: &OsStr,
) -> (Option<Result<(), String>>, Outcome<String>) {
    let begun = Instant::now();
    match manager.create_vessel(IMAGE, "/").await {
        Ok(vessel) => {
            let used = used(&vessel, library_path).await;
            (Some(Ok(())), used.map(|()| worked("the kernel's overlayfs", begun)))
        }
        Err(e) => {
            let failure = Failure::from(e);
            let reason = failure.message().to_owned();
            let without = with_fuse(scratch, library_path, &reason).await;
            (Some(Err(reason)), without.map_err(|_| failure))
        }
    }
}

/// The fallback: it works, and says what did not.
async fn with_fuse(scratch: &Scratch, library_path: &OsStr, kernel: &str) -> Outcome<String> {
    let manager = Manager::new(ManagerConfig::new(scratch.path()).overlay(OverlayDriver::Fuse)).await?;
    let begun = Instant::now();
    let vessel = manager.create_vessel(IMAGE, "/").await?;
    used(&vessel, library_path).await?;
    Ok(format!("{}; the kernel's did not: {kernel}", worked("fuse-overlayfs", begun)))
}

fn worked(by: &str, begun: Instant) -> String {
    format!("mounted by {by}, a file written, a command run, in {} ms", begun.elapsed().as_millis())
}

async fn import(manager: &Manager, scratch: &Scratch) -> Outcome<OsString> {
    let path = scratch.path().join("base.tar");
    let target = path.clone();
    let made = tokio::task::spawn_blocking(move || demo::write_host_image(&target)).await;
    let tools = made.map_err(|e| Failure::internal(format!("failed to make an image: {e}")))??;
    manager.import_image(path, IMAGE, |_| {}).await?;
    Ok(tools.library_path())
}

async fn used(vessel: &Vessel, library_path: &OsStr) -> Outcome {
    let worked = async {
        vessel.write_file("trial", "works", 0o644).await?;
        let options = ExecOptions::new(["sh", "-c", "test -s /trial"])
            .env("LD_LIBRARY_PATH", library_path)
            .timeout(PATIENCE);
        vessel.exec(options).await
    };
    let worked = worked.await;
    vessel.close().await?;
    match worked? {
        done if done.success() => Ok(()),
        done => Err(Failure::internal(format!("the command ended with exit code {}", done.exit_code))),
    }
}

/// One line a finding, the remedy below those that have one.
fn text(checks: &[Check]) -> String {
    let mut table = Table::bare();
    for check in checks {
        table.row([state(check.status), check.title, &check.found]);
    }
    let remedies = checks.iter().map(|check| check.remedy.as_deref());
    let mut text = String::new();
    for (line, remedy) in table.render().lines().zip(remedies) {
        text.push_str(line);
        text.push('\n');
        for line in remedy.unwrap_or_default().lines() {
            text.push_str(&format!("        {line}\n"));
        }
    }
    text
}

fn state(status: Status) -> &'static str {
    match status {
        Status::Ok => "ok",
        Status::Warn => "warn",
        Status::Fail => "FAIL",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remedies_are_below_their_findings() {
        let check = |status, remedy: Option<&str>| Check {
            id: "x",
            title: "Some thing",
            status,
            found: "found".into(),
            remedy: remedy.map(str::to_owned),
        };
        let shown = text(&[check(Status::Ok, None), check(Status::Fail, Some("do this\nand that"))]);
        assert_eq!(
            shown,
            "ok    Some thing  found\nFAIL  Some thing  found\n        do this\n        and that\n"
        );
    }
}
