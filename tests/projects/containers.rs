//! Containers: what they are made from, what they keep, how they end.
#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use vesselrt::ErrorKind;
use vesselrt::projects::{ContainerConfig, LABEL_MANAGED_BY, LABEL_PROJECT, ProjectOptions};
use vesselrt::settings::NetworkMode;
use vesselrt::settings::network::Publish;

use super::{argv, containers, exec, registry, sh, state};
use crate::testkit::{BASE, Cap, PATIENCE, Store, fails_with, leftovers, need, tests, until, within};

tests!(
    a_container_is_a_vessel_with_labels,
    one_that_runs_is_started_once,
    stop_wants_one_that_is_there_and_remove_does_not,
    stop_gives_what_runs_time_to_end,
    remove_gives_it_less_and_then_kills_it,
    commands_begin_where_the_container_says,
    variables_and_image_are_honoured_also_after_a_restart,
    an_exec_starts_one_that_is_stopped_and_makes_one_that_is_not_there,
    the_log_of_the_command_is_both_streams_in_order,
    ports_are_published_and_networks_are_apart,
    a_project_has_a_way_out_unless_it_wants_none,
    an_exec_that_is_given_up_is_killed,
    what_a_command_says_is_kept_within_bounds,
    what_is_made_in_the_workspace_is_ours_and_what_is_there_can_be_changed,
);

async fn a_container_is_a_vessel_with_labels(store: &Store) {
    let containers = containers(store).await;
    let id = containers.start_project(ContainerConfig::new("web")).await.unwrap();
    assert_eq!(id, "vega-web");
    let manifest = store.manager().await.vessel_manifest(&id).await.unwrap();
    assert_eq!(manifest.labels[LABEL_PROJECT], "web");
    assert_eq!(manifest.labels[LABEL_MANAGED_BY], "govega");
    assert_eq!(manifest.work_dir, "/workspace");
    let status = containers.get_project_status("web").await;
    assert_eq!((status.running, status.image.as_str(), status.container_id), (true, BASE, id));
    assert!(status.created.is_some());
    containers.start_project(ContainerConfig::new("idle")).await.unwrap();
    containers.stop_project("idle").await.unwrap();
    let listed = containers.list_project_containers().await.unwrap();
    let seen: Vec<_> = listed.iter().map(|one| (one.name.as_str(), one.status.running)).collect();
    assert_eq!(seen, [("vega-idle", false), ("vega-web", true)]);
    for name in ["web", "idle"] {
        containers.remove_project(name).await.unwrap();
    }
    assert!(containers.list_project_containers().await.unwrap().is_empty());
}

async fn one_that_runs_is_started_once(store: &Store) {
    let containers = containers(store).await;
    let config = ContainerConfig::new("web").command(["sh", "-c", "echo begun >> /begun; exec sleep 1000"]);
    let starts: Vec<_> = (0..6)
        .map(|_| {
            let (containers, config) = (containers.clone(), config.clone());
            tokio::spawn(async move { containers.start_project(config).await })
        })
        .collect();
    for start in starts {
        assert_eq!(start.await.unwrap().unwrap(), "vega-web");
    }
    let shown = containers.exec("web", &argv("cat /begun"), "").await.unwrap();
    assert_eq!(shown.stdout, "begun\n");
    containers.remove_project("web").await.unwrap();
}

async fn stop_wants_one_that_is_there_and_remove_does_not(store: &Store) {
    let containers = containers(store).await;
    let missing = containers.stop_project("web").await;
    fails_with(missing, &ErrorKind::NotFound, "container not found: vega-web");
    fails_with(containers.get_logs("web", None).await, &ErrorKind::NotFound, "container not found: vega-web");
    containers.remove_project("web").await.unwrap();
    assert!(!containers.get_project_status("web").await.running);
    containers.start_project(ContainerConfig::new("web")).await.unwrap();
    containers.stop_project("web").await.unwrap();
    containers.stop_project("web").await.unwrap();
    containers.remove_project("web").await.unwrap();
}

async fn stop_gives_what_runs_time_to_end(store: &Store) {
    let registry = registry(store).await;
    let script = "trap 'usleep 3000000; echo saved > /workspace/saved; exit' TERM; echo ready; while :; do usleep 50000; done";
    let options = ProjectOptions::new().command(["sh", "-c", script]);
    registry.create_project_with("web", options).await.unwrap();
    let containers = registry.containers().unwrap();
    until("it is ready", async || containers.get_logs("web", None).await.unwrap() == "ready\n").await;
    let begun = Instant::now();
    registry.stop_project("web").await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
    assert_eq!(sh(&registry, "web", "cat saved").await, "saved\n");
    // The shell of the second start waits for nothing.
    registry.delete_project("web").await.unwrap();
}

async fn remove_gives_it_less_and_then_kills_it(store: &Store) {
    let registry = registry(store).await;
    let trap = "trap 'echo saved > /workspace/saved; exit' TERM; while :; do usleep 50000; done";
    let deaf = "trap '' TERM; echo up; while :; do usleep 50000; done";
    for (name, script) in [("web", trap), ("deaf", deaf)] {
        let options = ProjectOptions::new().command(["sh", "-c", script]);
        registry.create_project_with(name, options).await.unwrap();
    }
    let saved = registry.get_project_path("web").unwrap().join("saved");
    let begun = Instant::now();
    registry.delete_project("web").await.unwrap();
    assert_eq!(std::fs::read_to_string(saved).unwrap(), "saved\n");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let begun = Instant::now();
    registry.delete_project("deaf").await.unwrap();
    let took = begun.elapsed();
    assert!(Duration::from_secs(5) <= took && took < Duration::from_secs(9), "{took:?}");
}

async fn commands_begin_where_the_container_says(store: &Store) {
    let containers = containers(store).await;
    let config =
        ContainerConfig::new("web").work_dir("/workspace/app").command(["sh", "-c", "pwd; exec sleep 999"]);
    containers.start_project(config).await.unwrap();
    let placed = containers.exec("web", &argv("pwd; echo x > made"), "").await.unwrap();
    assert_eq!(placed.stdout, "/workspace/app\n");
    until("its command, too", async || containers.get_logs("web", None).await.unwrap() == "/workspace/app\n")
        .await;
    containers.stop_project("web").await.unwrap();
    let again = containers.exec("web", &argv("pwd; cat made"), "").await.unwrap();
    assert_eq!(again.stdout, "/workspace/app\nx\n", "also after a restart");
    containers.remove_project("web").await.unwrap();
}

async fn variables_and_image_are_honoured_also_after_a_restart(store: &Store) {
    let registry = registry(store).await;
    // Not the default.
    store.manager().await.tag_image(BASE, "localhost/other:1").await.unwrap();
    let options = ProjectOptions::new().image("localhost/other:1").env("TOKEN", "x y=z").env("PATH", "/bin");
    registry.create_project_with("web", options).await.unwrap();
    assert_eq!(sh(&registry, "web", "echo \"$TOKEN $PATH\"").await, "x y=z /bin\n");
    registry.stop_project("web").await.unwrap();
    registry.start_project("web").await.unwrap();
    assert_eq!(sh(&registry, "web", "echo \"$TOKEN\"").await, "x y=z\n");
    // Also where only the containers are asked, and by another process.
    let other = vesselrt::projects::ContainerManager::new(super::config(store)).await.unwrap();
    let direct = other.exec("web", &argv("echo \"$TOKEN\""), "/").await.unwrap();
    assert_eq!(direct.stdout, "x y=z\n");
    // A container that was removed behind the registry's back is made of the project's image.
    store.manager().await.delete_vessel("vega-web").await.unwrap();
    assert_eq!(sh(&registry, "web", "echo \"$TOKEN\"").await, "x y=z\n");
    let manifest = store.manager().await.vessel_manifest("vega-web").await.unwrap();
    assert_eq!(manifest.base_image_ref, "localhost/other:1");
    registry.delete_project("web").await.unwrap();
}

async fn an_exec_starts_one_that_is_stopped_and_makes_one_that_is_not_there(store: &Store) {
    let registry = registry(store).await;
    registry.create_project("web", "", "").await.unwrap();
    registry.stop_project("web").await.unwrap();
    assert_eq!(sh(&registry, "web", "echo up").await, "up\n");
    assert_eq!(state(&registry, "web").await, vesselrt::projects::ProjectState::Running);
    assert!(registry.containers().unwrap().get_project_status("web").await.running);
    let containers = registry.containers().unwrap();
    let made = containers.exec("unlisted", &argv("pwd"), "").await.unwrap();
    assert_eq!(made.stdout, "/workspace\n");
    let placed = containers.exec("unlisted", &argv("pwd"), "sub/dir").await.unwrap();
    assert_eq!(placed.stdout, "/workspace/sub/dir\n");
    fails_with(
        containers.exec("unlisted", &[], "").await,
        &ErrorKind::InvalidArgument,
        "command is required",
    );
    containers.remove_project("unlisted").await.unwrap();
    registry.delete_project("web").await.unwrap();
}

async fn the_log_of_the_command_is_both_streams_in_order(store: &Store) {
    let registry = registry(store).await;
    let script =
        "for n in 1 2 3; do echo out $n; usleep 50000; echo err $n >&2; usleep 50000; done; exec sleep 1000";
    let options = ProjectOptions::new().command(["sh", "-c", script]);
    registry.create_project_with("web", options).await.unwrap();
    let containers = registry.containers().unwrap();
    let all = "out 1\nerr 1\nout 2\nerr 2\nout 3\nerr 3\n";
    until("all is written", async || containers.get_logs("web", None).await.unwrap() == all).await;
    assert_eq!(containers.get_logs("web", Some(2)).await.unwrap(), "out 3\nerr 3\n");
    sh(&registry, "web", "echo not logged").await;
    registry.stop_project("web").await.unwrap();
    assert_eq!(containers.get_logs("web", None).await.unwrap(), all, "also of one that is stopped");
    registry.delete_project("web").await.unwrap();
    registry.create_project("quiet", "", "").await.unwrap();
    assert_eq!(containers.get_logs("quiet", None).await.unwrap(), "");
    registry.delete_project("quiet").await.unwrap();
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

async fn ports_are_published_and_networks_are_apart(store: &Store) {
    let registry = registry(store).await;
    let port = free_port();
    let server = ["nc", "-ll", "-p", "80", "-e", "cat"];
    let options = ProjectOptions::new().port(Publish::new(port, 80)).command(server);
    registry.create_project_with("web", options).await.unwrap();
    let echo = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"ping")?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map(|_| answer)
    };
    until("the server answers", async || echo().is_ok_and(|answer| answer == "ping")).await;
    registry.create_project("api", "", "").await.unwrap();
    let other = exec(&registry, "api", "echo ping | nc -w 1 127.0.0.1 80").await.unwrap();
    assert_ne!(other.exit_code, 0, "another project reaches it: {other:?}");
    // One that is taken is told, and nothing is left of the project.
    let taken = ProjectOptions::new().port(Publish::new(port, 80));
    let error = registry.create_project_with("late", taken).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{}", error.chain());
    // Ports are those of the project also after a restart.
    registry.stop_project("web").await.unwrap();
    assert!(echo().is_err());
    registry.start_project("web").await.unwrap();
    until("the server answers again", async || echo().is_ok_and(|answer| answer == "ping")).await;
    for name in ["web", "api"] {
        registry.delete_project(name).await.unwrap();
    }
}

async fn a_project_has_a_way_out_unless_it_wants_none(store: &Store) {
    if !need(&[Cap::Pasta]) {
        return;
    }
    store.stocked().await;
    let config = super::config(store).network(NetworkMode::Isolated);
    let containers = vesselrt::projects::ContainerManager::new(config).await.unwrap();
    let interfaces = "ls /sys/class/net | wc -l";
    containers.start_project(ContainerConfig::new("web")).await.unwrap();
    let with = containers.exec("web", &argv("ip route | grep -c default"), "").await.unwrap();
    assert_eq!(with.stdout, "1\n", "{with:?}");
    containers.start_project(ContainerConfig::new("alone").network(NetworkMode::None)).await.unwrap();
    let without = containers.exec("alone", &argv(interfaces), "").await.unwrap();
    assert_eq!(without.stdout, "1\n", "only lo: {without:?}");
    for name in ["web", "alone"] {
        containers.remove_project(name).await.unwrap();
    }
}

async fn an_exec_that_is_given_up_is_killed(store: &Store) {
    let registry = registry(store).await;
    registry.create_project("web", "", "").await.unwrap();
    let running = tokio::time::timeout(
        Duration::from_millis(700),
        exec(&registry, "web", "sleep 987 & echo $$ > /begun; sleep 987"),
    );
    assert!(running.await.is_err(), "it ended by itself");
    // Commands do not see each other.
    let gone = async || leftovers::processes_named("sleep 987").is_empty();
    until("it is killed with its children", gone).await;
    assert_ne!(sh(&registry, "web", "cat /begun").await, "", "it ran");
    within(PATIENCE, "the stop", registry.stop_project("web")).await.unwrap();
    registry.delete_project("web").await.unwrap();
}

async fn what_a_command_says_is_kept_within_bounds(store: &Store) {
    let containers = containers(store).await;
    let loud = containers.exec("web", &argv("head -c 20000000 /dev/zero; echo err >&2"), "").await.unwrap();
    assert_eq!((loud.stdout.len(), loud.truncated, loud.exit_code), (16 << 20, true, 0));
    assert_eq!(loud.stderr, "err\n");
    containers.remove_project("web").await.unwrap();
}

async fn what_is_made_in_the_workspace_is_ours_and_what_is_there_can_be_changed(store: &Store) {
    use std::os::unix::fs::MetadataExt;
    let registry = registry(store).await;
    let path = registry.get_project_path("web").unwrap();
    std::fs::create_dir_all(path.join("sub")).unwrap();
    std::fs::write(path.join("sub/there"), "before\n").unwrap();
    registry.create_project("web", "", "").await.unwrap();
    sh(&registry, "web", "echo after >> sub/there; mkdir made; echo new > made/file").await;
    assert_eq!(std::fs::read_to_string(path.join("sub/there")).unwrap(), "before\nafter\n");
    let owner = std::fs::metadata(path.join("made/file")).unwrap().uid();
    assert_eq!(owner, rustix::process::geteuid().as_raw());
    // Not even what is mounted leads out.
    sh(&registry, "web", "ln -s /etc/motd link").await;
    assert_eq!(sh(&registry, "web", "cat link").await, "the base image\n");
    registry.stop_project("web").await.unwrap();
    registry.start_project("web").await.unwrap();
    assert_eq!(sh(&registry, "web", "cat made/file").await, "new\n");
    // A directory that was moved away is a new one.
    registry.stop_project("web").await.unwrap();
    std::fs::rename(&path, path.with_file_name("moved")).unwrap();
    assert_eq!(sh(&registry, "web", "ls").await, "");
    registry.delete_project("web").await.unwrap();
}
