//! What must not wait for each other, and what must.
#![forbid(unsafe_code)]

use std::time::Duration;

use vesselrt::projects::{ProjectOptions, ProjectRegistry};

use super::{base, exec, registry, sh};
use crate::testkit::{PATIENCE, Store, tests, within};

tests!(
    delete_and_reconcile_do_not_deadlock,
    everything_at_once_ends,
    many_processes_lose_no_entry,
    a_command_that_runs_holds_up_nobody,
    more_callers_than_threads_wait_for_one_start,
);

async fn delete_and_reconcile_do_not_deadlock(store: &Store) {
    let registry = registry(store).await;
    registry.create_project("web", "", "").await.unwrap();
    within(PATIENCE, "reconcile", registry.reconcile()).await.unwrap();
    within(PATIENCE, "delete", registry.delete_project("web")).await.unwrap();
    within(PATIENCE, "reconcile of none", registry.reconcile()).await.unwrap();
    within(PATIENCE, "archive", registry.archive_stale_projects()).await.unwrap();
}

async fn everything_at_once_ends(store: &Store) {
    let registry = registry(store).await;
    let tasks: Vec<_> = (0..12)
        .map(|n| {
            let (registry, name) = (registry.clone(), format!("p{}", n % 3));
            tokio::spawn(async move {
                // Each may meet what another one does to the same project; none may wait for ever.
                let _ = registry.get_or_create_project(&name, ProjectOptions::new()).await;
                let _ = exec(&registry, &name, "true").await;
                let _ = registry.reconcile().await;
                let _ = registry.stop_project(&name).await;
                let _ = registry.delete_project(&name).await;
            })
        })
        .collect();
    for task in tasks {
        within(Duration::from_secs(100), "a task", task).await.unwrap();
    }
    for project in registry.list_projects().await.unwrap() {
        registry.delete_project(&project.name).await.unwrap();
    }
    let containers = registry.containers().unwrap();
    for left in containers.list_project_containers().await.unwrap() {
        containers.remove_project(&left.project).await.unwrap();
    }
    assert!(store.manager().await.list_vessels().await.unwrap().is_empty(), "a vessel that no project knows");
}

async fn many_processes_lose_no_entry(store: &Store) {
    let writers: Vec<_> = (0..16)
        .map(|n| {
            let base = base(store);
            tokio::spawn(async move {
                // Nothing is shared but the file.
                let registry = ProjectRegistry::new(base, None).await.unwrap();
                for m in 0..8 {
                    registry.create_project(&format!("p{n}-{m}"), "", "").await.unwrap();
                }
                registry.delete_project(&format!("p{n}-0")).await.unwrap();
            })
        })
        .collect();
    for writer in writers {
        within(PATIENCE, "a writer", writer).await.unwrap();
    }
    let registry = ProjectRegistry::new(base(store), None).await.unwrap();
    assert_eq!(registry.list_projects().await.unwrap().len(), 16 * 7);
}

async fn a_command_that_runs_holds_up_nobody(store: &Store) {
    let registry = registry(store).await;
    registry.create_project("web", "", "").await.unwrap();
    let long = tokio::spawn({
        let registry = registry.clone();
        async move { exec(&registry, "web", "echo up > up; sleep 985").await }
    });
    crate::testkit::until("it runs", async || sh(&registry, "web", "cat up || true").await == "up\n").await;
    let quick = Duration::from_secs(20);
    within(quick, "list", registry.list_projects()).await.unwrap();
    within(quick, "reconcile", registry.reconcile()).await.unwrap();
    within(quick, "another project", registry.create_project("api", "", "")).await.unwrap();
    within(quick, "the stop of the same", registry.stop_project("web")).await.unwrap();
    let ended = within(PATIENCE, "the command", long).await.unwrap();
    assert!(
        ended.as_ref().map_or(true, |output| output.exit_code == 137),
        "killed with its vessel: {ended:?}"
    );
    for name in ["web", "api"] {
        registry.delete_project(name).await.unwrap();
    }
}

async fn more_callers_than_threads_wait_for_one_start(store: &Store) {
    let registry = registry(store).await;
    registry.create_project("web", "", "").await.unwrap();
    // As many as there are threads for what blocks (512), and more: whoever starts it needs some of them.
    let callers: Vec<_> = (0..600)
        .map(|_| {
            let registry = registry.clone();
            tokio::spawn(async move { registry.start_project("web").await })
        })
        .collect();
    for caller in callers {
        within(Duration::from_secs(100), "a caller", caller).await.unwrap().unwrap();
    }
    registry.delete_project("web").await.unwrap();
}
