//! Moving stale projects to the archive.
#![forbid(unsafe_code)]

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;
use time::OffsetDateTime;

use super::layout::Layout;
use super::name::ProjectName;
use super::project::{Project, ProjectState};
use super::registry::ProjectRegistry;
use crate::error::{Error, Result};
use crate::offload::blocking;

/// How many projects of one name are archived on one day.
const MOST_A_DAY: u32 = 10_000;

pub(super) async fn archive(registry: &ProjectRegistry, age: Duration) -> Result<Vec<String>> {
    let cutoff = OffsetDateTime::now_utc() - age;
    let (mut archived, mut failure) = (Vec::new(), None);
    for project in registry.list_projects().await? {
        match archive_one(registry, &project, cutoff).await {
            Ok(true) => archived.push(project.name),
            Ok(false) => {}
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    failure.map_or(Ok(archived), Err)
}

async fn archive_one(registry: &ProjectRegistry, project: &Project, cutoff: OffsetDateTime) -> Result<bool> {
    // What is no name is nothing that we made, and its path may be anything.
    let Ok(name) = ProjectName::parse(&project.name) else { return Ok(false) };
    let layout = Arc::clone(registry.layout());
    let dir = layout.project(&name);
    let (looked, path) = (project.clone(), dir.clone());
    if !blocking(move || is_stale(&looked, &path, cutoff)).await? {
        return Ok(false);
    }
    if let Some(containers) = registry.containers().filter(|containers| containers.is_available()) {
        match containers.stop_project(name.as_str()).await {
            Err(e) if e.kind() != crate::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    // The directory before the container: where it cannot be moved, nothing is lost but that it runs.
    blocking(move || put_away(&layout, &name, &dir)).await?;
    registry.remove_container(&ProjectName::parse(&project.name)?).await?;
    registry.forget(&project.name).await?;
    Ok(true)
}

/// It is old, and its directory was not changed lately, or is gone.
fn is_stale(project: &Project, dir: &Path, cutoff: OffsetDateTime) -> Result<bool> {
    if project.created >= cutoff || project.status == ProjectState::Creating {
        return Ok(false);
    }
    match std::fs::symlink_metadata(dir).and_then(|meta| meta.modified()) {
        Ok(modified) => Ok(OffsetDateTime::from(modified) < cutoff),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(e) => Err(Error::io(format!("failed to look at {}", dir.display()), e)),
    }
}

/// Moves the directory under a name that nothing has.
fn put_away(layout: &Layout, name: &ProjectName, dir: &Path) -> Result<()> {
    let archive = layout.archive();
    Layout::open(&archive)?;
    let day = OffsetDateTime::now_utc().date();
    for number in 1..=MOST_A_DAY {
        let target = target(&archive, name, day, number);
        match rustix::fs::renameat_with(CWD, dir, CWD, &target, RenameFlags::NOREPLACE) {
            Ok(()) => return sync(&[&archive, &layout.projects()]),
            Err(Errno::EXIST) => {}
            Err(Errno::NOENT) => return Ok(()),
            Err(e) => {
                return Err(Error::io(
                    format!("failed to move {} to {}", dir.display(), target.display()),
                    e,
                ));
            }
        }
    }
    Err(Error::conflict(format!("project {name} was archived {MOST_A_DAY} times today")))
}

/// `NAME-YYYY-MM-DD`, and with a number the second time on a day.
fn target(archive: &Path, name: &ProjectName, day: time::Date, number: u32) -> PathBuf {
    let (year, month, date) = (day.year(), u8::from(day.month()), day.day());
    let plain = format!("{name}-{year:04}-{month:02}-{date:02}");
    archive.join(if number == 1 { plain } else { format!("{plain}-{number}") })
}

fn sync(dirs: &[&Path]) -> Result<()> {
    for dir in dirs {
        let opened = std::fs::File::open(dir).and_then(|dir| dir.sync_all());
        opened.map_err(|e| Error::io(format!("failed to sync {}", dir.display()), e))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_of_a_day_has_a_number_and_a_directory_that_is_gone_is_no_error() {
        let base = tempfile::tempdir().unwrap();
        let layout = Layout::new(base.path()).unwrap();
        let name = ProjectName::parse("web").unwrap();
        for content in ["one", "two"] {
            layout.make_project(&name).unwrap();
            std::fs::write(layout.project(&name).join("file"), content).unwrap();
            put_away(&layout, &name, &layout.project(&name)).unwrap();
        }
        put_away(&layout, &name, &layout.project(&name)).unwrap();
        let mut found: Vec<_> =
            std::fs::read_dir(layout.archive()).unwrap().map(|entry| entry.unwrap().path()).collect();
        found.sort();
        let contents: Vec<_> =
            found.iter().map(|dir| std::fs::read_to_string(dir.join("file")).unwrap()).collect();
        assert_eq!(contents, ["one", "two"], "{found:?}");
    }
}
