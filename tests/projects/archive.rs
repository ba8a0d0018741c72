//! Archiving stale projects, which never loses a directory.
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use vesselrt::projects::{ProjectRegistry, STALE_PROJECT_AGE};

use super::{base, registry};
use crate::testkit::{Store, tests};

tests!(
    only_what_is_old_and_was_not_changed_is_archived,
    the_same_name_on_the_same_day_loses_nothing,
    an_entry_whose_directory_is_gone_goes,
    a_directory_that_cannot_be_moved_keeps_its_entry_and_container,
);

/// Makes a project old: its entry, and perhaps its directory.
fn age(store: &Store, name: &str, directory: bool) {
    let file = base(store).join("vega.work/projects.json");
    let mut projects: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    for project in projects.as_array_mut().unwrap().iter_mut().filter(|project| project["name"] == name) {
        project["created"] = "2024-01-02T03:04:05Z".into();
    }
    fs::write(&file, projects.to_string()).unwrap();
    if directory {
        touch(&base(store).join("vega.work/projects").join(name), "31 days ago");
    }
}

fn touch(path: &Path, when: &str) {
    assert!(Command::new("touch").args(["-d", when]).arg(path).status().unwrap().success());
}

fn archived(store: &Store) -> Vec<PathBuf> {
    let dir = fs::read_dir(base(store).join("vega.work/archive/projects")).into_iter().flatten();
    let mut found: Vec<_> = dir.map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

async fn names(registry: &ProjectRegistry) -> Vec<String> {
    registry.list_projects().await.unwrap().into_iter().map(|project| project.name).collect()
}

async fn only_what_is_old_and_was_not_changed_is_archived(store: &Store) {
    assert_eq!(STALE_PROJECT_AGE.as_secs(), 30 * 24 * 3600);
    let registry = registry(store).await;
    for name in ["new", "used", "edge", "old"] {
        registry.create_project(name, "", "").await.unwrap();
        fs::write(registry.get_project_path(name).unwrap().join("file"), name).unwrap();
    }
    assert_eq!(registry.archive_stale_projects().await.unwrap(), Vec::<String>::new());
    age(store, "used", false);
    age(store, "edge", true);
    touch(&registry.get_project_path("edge").unwrap(), "29 days ago");
    age(store, "old", true);
    assert_eq!(registry.archive_stale_projects().await.unwrap(), ["old"]);
    assert_eq!(names(&registry).await, ["new", "used", "edge"]);
    let found = archived(store);
    let name = found[0].file_name().unwrap().to_str().unwrap();
    let date = name.strip_prefix("old-").unwrap();
    assert!(date.len() == 10 && date.matches('-').count() == 2 && date.starts_with("20"), "{name}");
    assert_eq!(fs::read_to_string(found[0].join("file")).unwrap(), "old");
    assert!(!registry.get_project_path("old").unwrap().exists());
    let left = registry.containers().unwrap().list_project_containers().await.unwrap();
    assert_eq!(left.len(), 3, "its container is gone: {left:?}");
    for name in ["new", "used", "edge"] {
        registry.delete_project(name).await.unwrap();
    }
}

async fn the_same_name_on_the_same_day_loses_nothing(store: &Store) {
    let registry = ProjectRegistry::new(base(store), None).await.unwrap();
    for content in ["first", "second", "third"] {
        registry.create_project("web", "", "").await.unwrap();
        fs::write(registry.get_project_path("web").unwrap().join("file"), content).unwrap();
        age(store, "web", true);
        assert_eq!(registry.archive_stale_projects().await.unwrap(), ["web"]);
    }
    let contents: Vec<_> =
        archived(store).iter().map(|dir| fs::read_to_string(dir.join("file")).unwrap()).collect();
    assert_eq!(contents, ["first", "second", "third"]);
    assert!(names(&registry).await.is_empty());
}

async fn an_entry_whose_directory_is_gone_goes(store: &Store) {
    let registry = registry(store).await;
    registry.create_project("web", "", "").await.unwrap();
    age(store, "web", false);
    registry.stop_project("web").await.unwrap();
    fs::remove_dir_all(registry.get_project_path("web").unwrap()).unwrap();
    assert_eq!(registry.archive_stale_projects().await.unwrap(), ["web"]);
    assert!(names(&registry).await.is_empty() && archived(store).is_empty());
    assert!(store.manager().await.list_vessels().await.unwrap().is_empty());
}

async fn a_directory_that_cannot_be_moved_keeps_its_entry_and_container(store: &Store) {
    let registry = registry(store).await;
    for name in ["stuck", "web"] {
        registry.create_project(name, "", "").await.unwrap();
        age(store, name, true);
    }
    // A file where the archive is to be: nothing can be moved there.
    fs::write(base(store).join("vega.work/archive"), "").unwrap();
    assert!(registry.archive_stale_projects().await.is_err());
    assert_eq!(names(&registry).await, ["stuck", "web"]);
    assert_eq!(registry.containers().unwrap().list_project_containers().await.unwrap().len(), 2);
    assert!(registry.get_project_path("web").unwrap().is_dir());
    fs::remove_file(base(store).join("vega.work/archive")).unwrap();
    assert_eq!(registry.archive_stale_projects().await.unwrap(), ["stuck", "web"]);
    assert_eq!(archived(store).len(), 2);
}
