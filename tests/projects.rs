//! Projects: their registry, their containers, and the command line of both.
#![forbid(unsafe_code)]

mod archive;
mod cli;
mod containers;
mod killed;
mod locks;
mod off;

use std::fs;
use std::path::PathBuf;

use vesselrt::projects::{
    ContainerManager, ContainerManagerConfig, ExecOutput, ProjectOptions, ProjectRegistry, ProjectState,
};
use vesselrt::settings::NetworkMode;
use vesselrt::{Error, ErrorKind, ManagerConfig};

use crate::testkit::{BASE, Store, fails_with, tests};

tests!(
    a_project_is_created_used_stopped_and_deleted,
    the_registry_s_file_is_an_array_indented_by_two,
    a_registry_that_is_corrupt_is_an_error_and_stays_as_it_is,
    names_cannot_leave_the_base_directory,
    get_or_create_gives_what_is_there,
    get_or_create_tells_that_a_container_could_not_be_started,
    a_start_that_fails_leaves_the_directory_that_was_there,
    reconcile_says_what_runs,
    two_bases_in_one_store_do_not_meet,
);

pub(super) fn base(store: &Store) -> PathBuf {
    store.beside("base")
}

/// What a manager of containers is made from here: busybox, without a way out.
pub(super) fn config(store: &Store) -> ContainerManagerConfig {
    config_of(store, store.config())
}

pub(super) fn config_of(store: &Store, manager: ManagerConfig) -> ContainerManagerConfig {
    ContainerManagerConfig::new(base(store), manager).default_image(BASE).network(NetworkMode::None)
}

/// A store with the base image, and the containers of its projects.
pub(super) async fn containers(store: &Store) -> ContainerManager {
    store.stocked().await;
    let containers = ContainerManager::new(config(store)).await.unwrap();
    assert!(containers.is_available(), "{:?}", containers.availability());
    containers
}

pub(super) async fn registry(store: &Store) -> ProjectRegistry {
    ProjectRegistry::new(base(store), Some(containers(store).await)).await.unwrap()
}

pub(super) fn argv(script: &str) -> Vec<String> {
    ["sh", "-c", script].map(str::to_owned).to_vec()
}

pub(super) async fn exec(registry: &ProjectRegistry, name: &str, script: &str) -> Result<ExecOutput, Error> {
    registry.exec(name, &argv(script)).await
}

/// What a script that must succeed writes.
pub(super) async fn sh(registry: &ProjectRegistry, name: &str, script: &str) -> String {
    let output = exec(registry, name, script).await.unwrap();
    assert_eq!(output.exit_code, 0, "{script}: {output:?}");
    output.stdout
}

pub(super) async fn state(registry: &ProjectRegistry, name: &str) -> ProjectState {
    registry.get_project(name).await.unwrap().status
}

async fn a_project_is_created_used_stopped_and_deleted(store: &Store) {
    let registry = registry(store).await;
    let project = registry.create_project("web", "a shop", "").await.unwrap();
    assert_eq!((project.status, project.image.as_str()), (ProjectState::Running, BASE));
    assert_eq!(registry.get_project("web").await.unwrap(), project);
    assert_eq!(registry.list_projects().await.unwrap(), [project]);
    let again = registry.create_project("web", "", "").await;
    fails_with(again, &ErrorKind::AlreadyExists, "project already exists: web");
    assert_eq!(sh(&registry, "web", "pwd; echo kept > file").await, "/workspace\n");
    let failed = exec(&registry, "web", "echo out; echo err >&2; exit 7").await.unwrap();
    assert_eq!((failed.exit_code, failed.stdout.as_str(), failed.stderr.as_str()), (7, "out\n", "err\n"));
    registry.stop_project("web").await.unwrap();
    assert_eq!(state(&registry, "web").await, ProjectState::Stopped);
    assert!(!registry.containers().unwrap().get_project_status("web").await.running);
    registry.start_project("web").await.unwrap();
    assert_eq!(state(&registry, "web").await, ProjectState::Running);
    assert_eq!(sh(&registry, "web", "cat file").await, "kept\n");
    let path = registry.get_project_path("web").unwrap();
    assert_eq!(fs::read_to_string(path.join("file")).unwrap(), "kept\n", "/workspace is the directory");
    fs::write(path.join("mine"), "mine").unwrap();
    assert_eq!(sh(&registry, "web", "cat mine").await, "mine");
    registry.delete_project("web").await.unwrap();
    fails_with(registry.get_project("web").await, &ErrorKind::NotFound, "project not found: web");
    assert_eq!(fs::read_to_string(path.join("mine")).unwrap(), "mine", "the directory is kept");
    assert_eq!(store.manager().await.list_vessels().await.unwrap(), []);
    for missing in [
        registry.start_project("web").await,
        registry.stop_project("web").await,
        registry.delete_project("web").await,
        exec(&registry, "web", "true").await.map(drop),
    ] {
        fails_with(missing, &ErrorKind::NotFound, "project not found: web");
    }
}

async fn the_registry_s_file_is_an_array_indented_by_two(store: &Store) {
    let registry = ProjectRegistry::new(base(store), None).await.unwrap();
    registry.create_project("b", "", "img").await.unwrap();
    let options = ProjectOptions::new().image("img").description("d").env("K", "v");
    registry.create_project_with("a", options).await.unwrap();
    let text = fs::read_to_string(base(store).join("vega.work/projects.json")).unwrap();
    let created = |name: &str| {
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let entry = value.as_array().unwrap().iter().find(|entry| entry["name"] == name).unwrap().clone();
        entry["created"].as_str().unwrap().to_owned()
    };
    let expected = format!(
        "[\n  {{\n    \"name\": \"b\",\n    \"image\": \"img\",\n    \"created\": \"{}\",\n    \"status\": \"created\"\n  }},\n  {{\n    \
         \"name\": \"a\",\n    \"description\": \"d\",\n    \"image\": \"img\",\n    \"created\": \"{}\",\n    \"status\": \"created\",\n    \
         \"env\": {{\n      \"K\": \"v\"\n    }}\n  }}\n]\n",
        created("b"),
        created("a")
    );
    assert_eq!(text, expected);
    assert!(created("a").ends_with('Z') && created("a").len() > 20, "{}", created("a"));
}

async fn a_registry_that_is_corrupt_is_an_error_and_stays_as_it_is(store: &Store) {
    let open = ProjectRegistry::new(base(store), None).await.unwrap();
    let file = base(store).join("vega.work/projects.json");
    for corrupt in ["{ not json", "{}", r#"[{"name":"a"}]"#, ""] {
        fs::write(&file, corrupt).unwrap();
        let results = [
            ProjectRegistry::new(base(store), None).await.map(drop),
            open.create_project("b", "", "").await.map(drop),
            open.list_projects().await.map(drop),
            open.delete_project("a").await,
            open.archive_stale_projects().await.map(drop),
        ];
        for result in results {
            fails_with(result, &ErrorKind::IntegrityViolation, "is not a registry of projects");
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), corrupt);
    }
    assert!(!base(store).join("vega.work/projects/b").exists());
}

async fn names_cannot_leave_the_base_directory(store: &Store) {
    let registry = registry(store).await;
    for name in ["../../../escape", "..", ".", "", "/tmp/escape", "a/b", "a\0b"] {
        fails_with(registry.create_project(name, "", "").await, &ErrorKind::InvalidArgument, "invalid name");
        fails_with(registry.get_project_path(name), &ErrorKind::InvalidArgument, "invalid name");
        let direct = registry.containers().unwrap().exec(name, &argv("true"), "").await;
        fails_with(direct, &ErrorKind::InvalidArgument, "invalid name");
    }
    // A file that somebody else wrote.
    let entry =
        r#"[{"name":"../../victim","image":"i","created":"2001-01-01T00:00:00Z","status":"created"}]"#;
    fs::write(base(store).join("vega.work/projects.json"), entry).unwrap();
    let victim = base(store).join("victim");
    fs::create_dir(&victim).unwrap();
    assert_eq!(registry.archive_stale_projects().await.unwrap(), Vec::<String>::new());
    registry.reconcile().await.unwrap();
    let started = registry.start_project("../../victim").await;
    fails_with(started, &ErrorKind::InvalidArgument, "invalid name");
    registry.delete_project("../../victim").await.unwrap();
    assert!(victim.is_dir());
    assert!(registry.list_projects().await.unwrap().is_empty());
}

async fn get_or_create_gives_what_is_there(store: &Store) {
    let registry = registry(store).await;
    let new = registry.get_or_create_project("web", ProjectOptions::new()).await.unwrap();
    assert!(new.created && new.warning.is_none());
    registry.stop_project("web").await.unwrap();
    let there = registry.get_or_create_project("web", ProjectOptions::new()).await.unwrap();
    assert!(!there.created && there.warning.is_none(), "{there:?}");
    assert_eq!(there.project.status, ProjectState::Running);
    // Of many that ask at once one creates it.
    let many: Vec<_> = (0..8)
        .map(|_| {
            let registry = registry.clone();
            tokio::spawn(async move { registry.get_or_create_project("api", ProjectOptions::new()).await })
        })
        .collect();
    let mut created = 0;
    for one in many {
        created += usize::from(one.await.unwrap().unwrap().created);
    }
    assert_eq!((created, registry.list_projects().await.unwrap().len()), (1, 2));
    for name in ["web", "api"] {
        registry.delete_project(name).await.unwrap();
    }
}

async fn get_or_create_tells_that_a_container_could_not_be_started(store: &Store) {
    let registry = registry(store).await;
    let entry =
        r#"[{"name":"web","image":"localhost/none:1","created":"2025-01-01T00:00:00Z","status":"created"}]"#;
    fs::write(base(store).join("vega.work/projects.json"), entry).unwrap();
    let there = registry.get_or_create_project("web", ProjectOptions::new()).await.unwrap();
    assert!(!there.created && there.warning.is_some(), "{there:?}");
    assert_eq!(there.project.status, ProjectState::Created);
}

async fn a_start_that_fails_leaves_the_directory_that_was_there(store: &Store) {
    let registry = registry(store).await;
    let path = registry.get_project_path("web").unwrap();
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join("mine"), "mine").unwrap();
    for options in
        [ProjectOptions::new().image("localhost/none:1"), ProjectOptions::new().command(["no-such-program"])]
    {
        let error = registry.create_project_with("web", options.clone()).await.unwrap_err();
        assert!(error.chain().starts_with("failed to start container of project web: "), "{}", error.chain());
        assert_eq!(fs::read_to_string(path.join("mine")).unwrap(), "mine");
        assert_eq!(
            registry.create_project_with("new", options).await.unwrap_err().kind(),
            ErrorKind::NotFound
        );
        assert!(!registry.get_project_path("new").unwrap().exists(), "one that was made for nothing goes");
    }
    assert!(registry.list_projects().await.unwrap().is_empty());
    assert!(store.manager().await.list_vessels().await.unwrap().is_empty());
    registry.create_project("web", "", "").await.unwrap();
    registry.delete_project("web").await.unwrap();
}

async fn reconcile_says_what_runs(store: &Store) {
    let registry = registry(store).await;
    for name in ["up", "down", "gone"] {
        registry.create_project(name, "", "").await.unwrap();
    }
    let manager = store.manager().await;
    manager.stop_vessel("vega-down").await.unwrap();
    manager.delete_vessel("vega-gone").await.unwrap();
    assert_eq!(state(&registry, "down").await, ProjectState::Running, "nobody has looked");
    registry.reconcile().await.unwrap();
    assert_eq!(state(&registry, "up").await, ProjectState::Running);
    assert_eq!(state(&registry, "down").await, ProjectState::Stopped);
    assert_eq!(state(&registry, "gone").await, ProjectState::Stopped);
    let gone = registry.containers().unwrap().get_project_status("gone").await;
    assert_eq!((gone.running, gone.container_id.as_str()), (false, ""));
    // It is made again of what it was made from.
    assert_eq!(sh(&registry, "gone", "echo back").await, "back\n");
    for name in ["up", "down", "gone"] {
        registry.delete_project(name).await.unwrap();
    }
}

async fn two_bases_in_one_store_do_not_meet(store: &Store) {
    let one = registry(store).await;
    let mut config = config(store);
    config.base_dir = store.beside("other");
    let containers = ContainerManager::new(config).await.unwrap();
    let two = ProjectRegistry::new(store.beside("other"), Some(containers)).await.unwrap();
    for registry in [&one, &two] {
        registry.create_project("web", "", "").await.unwrap();
        assert_eq!(registry.containers().unwrap().list_project_containers().await.unwrap().len(), 1);
    }
    sh(&one, "web", "echo one > /tmp-file").await;
    let other = exec(&two, "web", "cat /tmp-file").await.unwrap();
    assert_eq!(other.exit_code, 1, "{other:?}");
    one.delete_project("web").await.unwrap();
    assert_eq!(sh(&two, "web", "echo here").await, "here\n");
    two.delete_project("web").await.unwrap();
}
