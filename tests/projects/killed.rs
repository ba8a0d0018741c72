//! Each verb, killed with SIGKILL at every stage: the registry can be read, and what was left can be used and removed.
#![forbid(unsafe_code)]

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use vesselrt::projects::{ProjectOptions, ProjectState};

use super::{base, registry, sh};
use crate::testkit::{BASE, Store, tests};

tests!(
    a_creation_that_is_killed_can_be_used_or_done_again,
    whatever_is_killed_the_registry_and_the_directory_are_whole,
);

const PAUSES: [u64; 6] = [2, 8, 16, 30, 50, 80];

fn kill_after(store: &Store, args: &[&str], millis: u64) {
    let base = base(store);
    let line = [&["project", "--base", base.to_str().unwrap()], args].concat();
    let mut command = store.cli(&line);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(millis));
    child.kill().unwrap();
    child.wait().unwrap();
}

async fn a_creation_that_is_killed_can_be_used_or_done_again(store: &Store) {
    let registry = registry(store).await;
    for pause in PAUSES {
        kill_after(store, &["create", "web", "--image", BASE, "--network", "none"], pause);
        let listed = registry.list_projects().await.unwrap();
        if listed.is_empty() {
            registry.create_project("web", "", "").await.unwrap();
        }
        // One that was being created is started by its first command.
        assert_eq!(sh(&registry, "web", "echo up").await, "up\n", "after {pause} ms: {listed:?}");
        assert_eq!(registry.get_project("web").await.unwrap().status, ProjectState::Running);
        registry.delete_project("web").await.unwrap();
        let left = store.manager().await.list_vessels().await.unwrap();
        assert!(left.is_empty(), "after {pause} ms: {left:?}");
    }
}

async fn whatever_is_killed_the_registry_and_the_directory_are_whole(store: &Store) {
    let registry = registry(store).await;
    let create = async || {
        let options = ProjectOptions::new().env("K", "v");
        registry.get_or_create_project("web", options).await.unwrap();
    };
    create().await;
    let path = registry.get_project_path("web").unwrap();
    fs::write(path.join("mine"), "mine").unwrap();
    for verb in ["stop", "start", "reconcile", "exec", "rm"] {
        for pause in PAUSES {
            let line: &[&str] = match verb {
                "reconcile" => &["reconcile"],
                "exec" => &["exec", "web", "--", "sleep", "976"],
                verb => &[verb, "web"],
            };
            kill_after(store, line, pause);
            assert!(registry.list_projects().await.unwrap().len() <= 1, "{verb} after {pause} ms");
            create().await;
            let seen = sh(&registry, "web", "cat mine; echo $K").await;
            assert_eq!(seen, "minev\n", "{verb} after {pause} ms");
        }
    }
    registry.delete_project("web").await.unwrap();
    assert_eq!(fs::read_to_string(path.join("mine")).unwrap(), "mine");
    assert!(store.manager().await.list_vessels().await.unwrap().is_empty());
}
