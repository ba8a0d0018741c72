//! Where vessels are not available: what is answered, and what is never done silently.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use vesselrt::ErrorKind;
use vesselrt::projects::{
    Availability, ContainerConfig, ContainerManager, LocalFallback, ProjectOptions, ProjectRegistry,
    ProjectState,
};

use super::{argv, base, config_of, exec, state};
use crate::testkit::{Store, fails_with, tests, until};

tests!(
    what_is_not_available_says_why,
    a_registry_without_vessels_degrades_as_documented,
    a_registry_without_a_manager_does_not_crash,
    nothing_runs_on_the_host_unless_asked_by_name,
    a_local_command_stays_in_its_directory,
    a_local_command_that_is_given_up_is_killed_with_its_children,
);

/// A host on which no vessel can be: there is no place for a store.
async fn off(store: &Store) -> ContainerManager {
    ContainerManager::new(config_of(store, store.config().root("/dev/null"))).await.unwrap()
}

async fn what_is_not_available_says_why(store: &Store) {
    for manager in [store.config().root("/dev/null"), store.config().shim_path("/bin/true")] {
        let containers = ContainerManager::new(config_of(store, manager)).await.unwrap();
        assert!(!containers.is_available());
        let Availability::Unavailable { reason, .. } = containers.availability() else { panic!("it is") };
        assert!(!reason.is_empty());
        let error = containers.vessels().unwrap_err();
        assert_eq!(error.chain(), format!("vessels not available: {reason}"));
    }
}

async fn a_registry_without_vessels_degrades_as_documented(store: &Store) {
    let registry = ProjectRegistry::new(base(store), Some(off(store).await)).await.unwrap();
    let project = registry.create_project("web", "", "").await.unwrap();
    assert_eq!(project.status, ProjectState::Created);
    assert!(registry.get_project_path("web").unwrap().is_dir());
    let unsupported = |error: vesselrt::Error, message: &str| {
        assert!(matches!(error.kind(), ErrorKind::Unsupported { .. }), "{error:?}");
        assert_eq!(error.to_string(), message);
        assert!(error.chain().len() > message.len() + 2, "{error:?}");
    };
    unsupported(registry.start_project("web").await.unwrap_err(), "vessels not available");
    unsupported(registry.stop_project("web").await.unwrap_err(), "vessels not available");
    let refused = exec(&registry, "web", "touch ran").await.unwrap_err();
    unsupported(refused, "vessels not available - use direct mode");
    assert!(!registry.get_project_path("web").unwrap().join("ran").exists());
    registry.reconcile().await.unwrap();
    assert_eq!(state(&registry, "web").await, ProjectState::Created);
    let there = registry.get_or_create_project("web", ProjectOptions::new()).await.unwrap();
    assert!(!there.created && there.warning.is_none());
    let containers = registry.containers().unwrap();
    assert_eq!(containers.list_project_containers().await.unwrap(), []);
    assert!(!containers.get_project_status("web").await.running);
    unsupported(
        containers.start_project(ContainerConfig::new("web")).await.unwrap_err(),
        "vessels not available",
    );
    assert_eq!(registry.archive_stale_projects().await.unwrap(), Vec::<String>::new());
    registry.delete_project("web").await.unwrap();
    assert!(registry.get_project_path("web").unwrap().is_dir());
}

async fn a_registry_without_a_manager_does_not_crash(store: &Store) {
    let registry = ProjectRegistry::new(base(store), None).await.unwrap();
    assert_eq!(registry.create_project("web", "", "").await.unwrap().image, "node:20-slim");
    let refused = exec(&registry, "web", "true").await.unwrap_err();
    assert_eq!(refused.to_string(), "vessels not available - use direct mode");
    assert!(registry.start_project("web").await.is_err() && registry.stop_project("web").await.is_err());
    registry.reconcile().await.unwrap();
    registry.delete_project("web").await.unwrap();
}

async fn nothing_runs_on_the_host_unless_asked_by_name(store: &Store) {
    let registry = ProjectRegistry::new(base(store), Some(off(store).await)).await.unwrap();
    registry.create_project_with("web", ProjectOptions::new().env("K", "v")).await.unwrap();
    let local = LocalFallback::new(base(store)).unwrap();
    let output = registry.exec_or_local("web", &argv("echo $K; pwd; exit 3"), &local).await.unwrap();
    let path = registry.get_project_path("web").unwrap();
    assert_eq!((output.exit_code, output.stdout), (3, format!("v\n{}\n", path.display())));
    // Where vessels are available that is where it runs.
    let on = super::registry(store).await;
    let output = on.exec_or_local("web", &argv("pwd"), &local).await.unwrap();
    assert_eq!(output.stdout, "/workspace\n");
    on.delete_project("web").await.unwrap();
}

async fn a_local_command_stays_in_its_directory(store: &Store) {
    let registry = ProjectRegistry::new(base(store), None).await.unwrap();
    registry.create_project("web", "", "").await.unwrap();
    let path = registry.get_project_path("web").unwrap();
    fs::create_dir(path.join("sub")).unwrap();
    let (local, none) = (LocalFallback::new(base(store)).unwrap(), BTreeMap::new());
    for dir in ["sub", "/workspace/sub", "./sub"] {
        let output = local.exec("web", &argv("pwd"), dir, &none).await.unwrap();
        assert_eq!(output.stdout, format!("{}\n", path.join("sub").display()));
    }
    for dir in ["/", "..", "sub/../..", "/workspace/..", "/etc"] {
        let refused = local.exec("web", &argv("pwd"), dir, &none).await;
        fails_with(refused, &ErrorKind::InvalidArgument, "not a directory of project web");
    }
    fails_with(
        local.exec("../x", &argv("pwd"), "", &none).await,
        &ErrorKind::InvalidArgument,
        "invalid name",
    );
    fails_with(local.exec("web", &[], "", &none).await, &ErrorKind::InvalidArgument, "command is required");
    let missing = local.exec("web", &["/no/such-program".to_owned()], "", &none).await;
    fails_with(missing, &ErrorKind::NotFound, "failed to execute");
}

async fn a_local_command_that_is_given_up_is_killed_with_its_children(store: &Store) {
    let registry = ProjectRegistry::new(base(store), None).await.unwrap();
    registry.create_project("web", "", "").await.unwrap();
    let (local, none) = (LocalFallback::new(base(store)).unwrap(), BTreeMap::new());
    let script = argv("sleep 986 & echo $! > child; wait");
    let running = local.exec("web", &script, "", &none);
    assert!(tokio::time::timeout(Duration::from_millis(500), running).await.is_err());
    let path = registry.get_project_path("web").unwrap().join("child");
    let child = fs::read_to_string(path).unwrap().trim().to_owned();
    let lives = || fs::read_to_string(format!("/proc/{child}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
    until("the child is killed", async || !lives()).await;
}
