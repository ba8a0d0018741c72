//! The main job: write, snapshot, destroy, restore, compare.
#![forbid(unsafe_code)]

use std::ffi::OsStr;

use vesselrt::{ErrorKind, ExecOptions, ExecResult, Manager, SnapshotManifest, Vessel};

use super::IMAGE;
use super::fingerprint::Fingerprint;
use super::show::Show;
use crate::cli::{Failure, Outcome, human_size};

const WORK_DIR: &str = "/work";
const NOTES: &str = "notes.md";
const NOTES_TEXT: &[u8] = b"# Notes\n\nWritten from outside, through the file API.\n";
/// Only what a shell has built in, and `mkdir`: every image with a shell can do it.
const BUILD: &str =
    "mkdir src && i=0 && while [ $i -lt 300 ]; do echo \"file $i\" > src/$i.txt; i=$((i + 1)); done";
const DESTROY: &[&str] = &["rm", "-rf", "/work", "/usr"];

/// Does it and shows it.
///
/// # Errors
/// Whatever fails; a conflict if the restored workspace is not the same.
pub(super) async fn run(manager: &Manager, library_path: Option<&OsStr>, show: &mut Show<'_>) -> Outcome {
    let created = async { Ok(manager.create_vessel(IMAGE, WORK_DIR).await?) };
    let vessel = show.step("create a vessel", created, |vessel| vessel.id().to_owned()).await?;
    let inside = Inside { vessel: &vessel, library_path };
    write(&inside, show).await?;
    let before = look(&inside, "fingerprint of the workspace", show).await?;
    let sealed = async { Ok(vessel.create_snapshot("before the disaster").await?) };
    let told = |snapshot: &SnapshotManifest| format!("{}, {}", snapshot.id, human_size(snapshot.size));
    let snapshot = show.step("snapshot", sealed, told).await?;
    destroy(&inside, show).await?;
    let restored = async { Ok(vessel.restore_snapshot(&snapshot.id).await?) };
    show.step("restore the snapshot", restored, |()| snapshot.id.clone()).await?;
    let after = look(&inside, "fingerprint again", show).await?;
    if after != before {
        return Err(Failure::conflict(format!(
            "the restored workspace is not the same: {after} instead of {before}"
        )));
    }
    verify(&inside, show).await?;
    let closed = async { Ok(vessel.close().await?) };
    show.step("close the vessel", closed, |()| "its processes and mounts are gone".to_owned()).await
}

/// A vessel and how its commands find their libraries.
struct Inside<'a> {
    vessel: &'a Vessel,
    library_path: Option<&'a OsStr>,
}

impl Inside<'_> {
    async fn exec(&self, command: &[&str]) -> Result<ExecResult, vesselrt::Error> {
        let mut options = ExecOptions::new(command.iter().copied()).persist_result(true);
        if let Some(path) = self.library_path {
            options = options.env("LD_LIBRARY_PATH", path);
        }
        self.vessel.exec(options).await
    }

    /// A command that must succeed.
    async fn succeed(&self, command: &[&str]) -> Outcome {
        match self.exec(command).await? {
            done if done.success() => Ok(()),
            done => {
                Err(Failure::internal(format!("{:?} ended with exit code {}", command[0], done.exit_code)))
            }
        }
    }
}

async fn write(inside: &Inside<'_>, show: &mut Show<'_>) -> Outcome {
    let built = inside.succeed(&["sh", "-c", BUILD]);
    show.step("exec: a command writes 300 files", built, |()| "exit code 0".to_owned()).await?;
    let noted = async {
        inside.vessel.write_file(NOTES, NOTES_TEXT, 0o644).await?;
        same(&inside.vessel.read_file(NOTES).await?)
    };
    show.step("file API: write a file, read it back", noted, |()| {
        format!("{NOTES}, {} bytes", NOTES_TEXT.len())
    })
    .await
}

async fn look(inside: &Inside<'_>, label: &str, show: &mut Show<'_>) -> Outcome<String> {
    let hashed = async {
        let mut fingerprint = Fingerprint::default();
        inside.vessel.copy_out(WORK_DIR, fingerprint.stream()).await?;
        Ok(fingerprint.finish())
    };
    let told = |(bytes, hex): &(u64, String)| {
        format!("sha256 {}… of {}", hex.get(..16).unwrap_or_default(), human_size(*bytes))
    };
    Ok(show.step(label, hashed, told).await?.1)
}

async fn destroy(inside: &Inside<'_>, show: &mut Show<'_>) -> Outcome {
    let label = format!("exec: {}", DESTROY.join(" "));
    show.step(&label, inside.succeed(DESTROY), |()| "exit code 0".to_owned()).await?;
    let looked = async {
        match inside.vessel.read_file(NOTES).await {
            Ok(_) => return Err(Failure::conflict("the file is still there")),
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(e.into()),
        }
        Ok(inside.vessel.stat("/bin/sh").await.is_err_and(|e| e.kind() == ErrorKind::NotFound))
    };
    let told = |&shell_gone: &bool| match shell_gone {
        true => "all is gone, even the shell".to_owned(),
        false => "all is gone".to_owned(),
    };
    show.step("look for what was there", looked, told).await?;
    Ok(())
}

async fn verify(inside: &Inside<'_>, show: &mut Show<'_>) -> Outcome {
    let checked = async {
        same(&inside.vessel.read_file(NOTES).await?)?;
        let files = inside.vessel.read_dir("src").await?.len();
        inside.succeed(&["sh", "-c", "test -s notes.md && test -s src/299.txt"]).await?;
        Ok(files)
    };
    show.step("verify, inside and outside", checked, |files| format!("the same, {} files", files + 1))
        .await?;
    Ok(())
}

fn same(text: &[u8]) -> Outcome {
    if text == NOTES_TEXT {
        Ok(())
    } else {
        Err(Failure::conflict(format!("{NOTES} is not what was written")))
    }
}
