//! The container that the commands of a vessel share, and what each has of its own in it.
#![forbid(unsafe_code)]

use std::fs;

use vesselrt::{ErrorKind, ExecOptions, Vessel};

use crate::crash::shim_of;
use crate::testkit::{PATIENCE, Store, sh, sh_ephemeral, tests, tests_on_each_driver, until, within};

tests_on_each_driver!(what_leaves_nothing_sees_all_that_was_written_before);

tests!(
    what_a_command_does_to_its_devices_is_not_seen_by_the_next_one,
    the_container_leaves_before_layers_are_exchanged,
    commands_die_with_their_container_and_the_next_one_has_another,
    many_commands_leave_nothing_in_the_shim,
    generated_files_come_back_for_commands_and_stay_away_for_others,
    a_database_of_users_that_never_ends_stops_nobody,
    a_command_that_cannot_be_executed_leaves_the_next_one_alone,
    many_commands_at_once_are_apart,
    the_init_of_a_command_has_no_more_than_the_command,
);

/// The processes below `pid` that have this name.
fn below(pid: u32, name: &str) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let mut found = Vec::new();
    for child in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
        let comm = fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
        found.extend((comm.trim() == name).then_some(child));
        found.extend(below(child, name));
    }
    found
}

async fn sandbox(shim: u32) -> u32 {
    let find = || below(shim, "vesselrt-sbox").first().copied();
    until("there is a container", async || find().is_some()).await;
    find().unwrap()
}

fn shim(store: &Store, vessel: &Vessel) -> u32 {
    shim_of(store, vessel.id()).expect("its shim runs")
}

async fn what_leaves_nothing_sees_all_that_was_written_before(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    sh(&vessel, "mkdir -p deep/er").await;
    for round in 0..12 {
        let text = format!("{round}\n");
        // From outside, by a command, by renaming; and nothing at all in between.
        match round % 4 {
            0 => vessel.write_file("deep/er/file", &text, 0o644).await.unwrap(),
            1 => drop(sh(&vessel, &format!("echo {round} > deep/er/file")).await),
            2 => {
                vessel.write_file("deep/new", &text, 0o644).await.unwrap();
                vessel.rename_file("deep/new", "deep/er/file").await.unwrap();
            }
            _ => {
                sh(&vessel, &format!("rm -rf deep; mkdir -p deep/er; echo {round} > deep/er/file")).await;
            }
        }
        let script = "cat deep/er/file; ls deep/er; echo gone > deep/er/file; rm -rf deep; mkdir /here";
        for _ in 0..2 {
            assert_eq!(sh_ephemeral(&vessel, script).await, format!("{text}file\n"), "round {round}");
        }
    }
    assert_eq!(vessel.stat("/here").await.unwrap_err().kind(), ErrorKind::NotFound);
    vessel.close().await.unwrap();
}

async fn what_a_command_does_to_its_devices_is_not_seen_by_the_next_one(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let harm = "echo x > /dev/shm/left; rm -f /dev/fd /dev/stdin; echo y > /dev/left; rm -rf /dev/* 2>/dev/null; true";
    let look = "ls /dev/shm; ls -d /dev/left; readlink /dev/fd; echo lost > /dev/null; ls /dev | wc -l";
    let before = sh(&vessel, &format!("({look}) 2>/dev/null")).await;
    assert!(before.starts_with("/proc/self/fd\n"), "{before}");
    for _ in 0..3 {
        sh(&vessel, harm).await;
        assert_eq!(sh(&vessel, &format!("({look}) 2>/dev/null")).await, before);
        sh_ephemeral(&vessel, harm).await;
        assert_eq!(sh_ephemeral(&vessel, &format!("({look}) 2>/dev/null")).await, before);
    }
    vessel.close().await.unwrap();
}

async fn the_container_leaves_before_layers_are_exchanged(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    sh(&vessel, "echo one > file").await;
    sh_ephemeral(&vessel, "true").await;
    let shim = shim(store, &vessel);
    let first = sandbox(shim).await;
    let snapshot = vessel.create_snapshot("").await.unwrap();
    assert_eq!(sh(&vessel, "cat file; echo two > file").await, "one\n");
    let second = sandbox(shim).await;
    assert_ne!(first, second);
    vessel.restore_snapshot(&snapshot.id).await.unwrap();
    assert_eq!(sh_ephemeral(&vessel, "cat file").await, "one\n");
    let third = sandbox(shim).await;
    assert_ne!(second, third);
    for gone in [first, second] {
        assert!(!std::path::Path::new(&format!("/proc/{gone}")).exists(), "{gone} is still there");
    }
    vessel.close().await.unwrap();
}

async fn commands_die_with_their_container_and_the_next_one_has_another(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let mark = format!("{}.25", 6_000_000 + std::process::id());
    for name in ["vesselrt-sbox", "vesselrt-outer"] {
        let script = format!("touch started; (setsid sleep {mark} &); sleep {mark}");
        let running =
            vessel.spawn(ExecOptions::new(["sh", "-c", &script]).persist_result(true)).await.unwrap();
        until("the command has started", async || vessel.stat("started").await.is_ok()).await;
        vessel.delete_file("started").await.unwrap();
        let shim = shim(store, &vessel);
        sandbox(shim).await;
        let victim = i32::try_from(below(shim, name)[0]).unwrap();
        let victim = rustix::process::Pid::from_raw(victim).unwrap();
        rustix::process::kill_process(victim, rustix::process::Signal::KILL).unwrap();
        let mut running = running;
        let result = within(PATIENCE, "the command", running.wait()).await.unwrap();
        assert_eq!(result.signal, Some(9), "{name}");
        assert!(crate::testkit::leftovers::processes_named(&mark).is_empty(), "{name}");
        assert_eq!(sh(&vessel, "echo fine").await, "fine\n");
        assert_eq!(sh_ephemeral(&vessel, "echo fine").await, "fine\n");
    }
    vessel.close().await.unwrap();
}

/// Descriptors, mounts and children of a process.
fn belongings(pid: u32) -> [usize; 3] {
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap().lines().count();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    [fds, mounts, children.split_whitespace().count()]
}

async fn many_commands_leave_nothing_in_the_shim(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let both = async |count: usize| {
        for n in 0..count {
            let done = vessel.exec(ExecOptions::new(["true"]).persist_result(n % 2 == 0)).await.unwrap();
            assert!(done.success());
        }
    };
    both(10).await;
    let shim = shim(store, &vessel);
    let sandbox = sandbox(shim).await;
    // Two ready for each kind of command at most.
    let settled = || belongings(shim);
    until("nothing is being made", async || {
        let now = settled();
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        now == settled()
    })
    .await;
    let before = (belongings(shim), belongings(sandbox));
    both(300).await;
    until("all is as before", async || (belongings(shim), belongings(sandbox)) == before).await;
    let names = fs::read_dir(store.root().join("vessels").join(vessel.id())).unwrap();
    let scratch = names.flatten().filter(|e| e.file_name().to_string_lossy().starts_with("scratch-")).count();
    // One is ready; the one of the last command may not be gone yet.
    assert!(scratch <= 2, "{scratch} throw-away layers");
    vessel.close().await.unwrap();
    let names = fs::read_dir(store.root().join("vessels").join(vessel.id())).unwrap();
    assert!(!names.flatten().any(|e| e.file_name().to_string_lossy().starts_with("scratch-")));
}

async fn generated_files_come_back_for_commands_and_stay_away_for_others(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let generated = sh(&vessel, "cat /etc/hosts").await;
    for round in 0..3 {
        // The mount on it is gone with the file.
        vessel.delete_file("/etc/hosts").await.unwrap();
        assert_eq!(sh(&vessel, "cat /etc/hosts").await, generated, "round {round}");
        let seen = vessel.stat("/etc/hosts").await;
        assert_eq!(seen.unwrap_err().kind(), ErrorKind::NotFound, "what was made to mount on is not seen");
        assert_eq!(sh_ephemeral(&vessel, "cat /etc/hosts").await, generated);
        vessel.write_file("/etc/hosts", "mine\n", 0o644).await.unwrap();
        assert_eq!(sh(&vessel, "cat /etc/hosts").await, generated);
        assert_eq!(vessel.read_file("/etc/hosts").await.unwrap(), b"mine\n");
    }
    // A command can move what they are mounted on.
    sh(&vessel, "mv /etc /etc2; mkdir /etc; echo other > /etc/motd").await;
    assert_eq!(sh(&vessel, "cat /etc/hosts /etc/motd").await, format!("{generated}other\n"));
    vessel.close().await.unwrap();
}

async fn a_database_of_users_that_never_ends_stops_nobody(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    sh(&vessel, "rm -f /etc/passwd /etc/nsswitch.conf; mkfifo /etc/passwd /etc/nsswitch.conf").await;
    vessel.close().await.unwrap();
    let vessel = manager.open_vessel(vessel.id()).await.unwrap();
    // Root is root whatever is there, and nothing of ours asks the guest who that is.
    assert_eq!(within(PATIENCE, "the command", sh(&vessel, "echo fine")).await, "fine\n");
    vessel.close().await.unwrap();
}

async fn a_command_that_cannot_be_executed_leaves_the_next_one_alone(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    for _ in 0..4 {
        let missing = vessel.exec(ExecOptions::new(["no-such-program"]).persist_result(true)).await;
        assert_eq!(missing.unwrap_err().kind(), ErrorKind::NotFound);
        let missing = vessel.spawn(ExecOptions::new(["no-such-program"])).await;
        assert_eq!(missing.unwrap_err().kind(), ErrorKind::NotFound);
        vessel.write_file("/file", "", 0o644).await.unwrap();
        assert!(vessel.exec(ExecOptions::new(["true"]).work_dir("/file")).await.is_err());
        assert!(vessel.exec(ExecOptions::new(["true"]).work_dir("/made/now")).await.unwrap().success());
        let made = vessel.stat("/made").await;
        assert_eq!(made.unwrap_err().kind(), ErrorKind::NotFound, "it was to leave nothing");
    }
    vessel.create_snapshot("nothing runs").await.unwrap();
    vessel.close().await.unwrap();
}

async fn many_commands_at_once_are_apart(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let script =
        "echo $$ > /dev/shm/pid; sleep 0.2; [ $(ls -d /proc/[0-9]* | wc -l) -lt 8 ] && cat /dev/shm/pid";
    let running: Vec<_> = (0..12)
        .map(|n| {
            let vessel = vessel.clone();
            tokio::spawn(async move {
                if n % 2 == 0 { sh(&vessel, script).await } else { sh_ephemeral(&vessel, script).await }
            })
        })
        .collect();
    for command in running {
        assert_eq!(within(PATIENCE, "a command", command).await.unwrap(), "2\n");
    }
    vessel.close().await.unwrap();
}

async fn the_init_of_a_command_has_no_more_than_the_command(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    for persist in [true, false] {
        let script = "grep ^Cap /proc/1/status; grep ^Cap /proc/self/status; \
             { for fd in /proc/1/fd/*; do readlink $fd; done; cat /proc/1/maps /proc/1/environ; } 2>/dev/null | wc -l";
        let options = ExecOptions::new(["sh", "-c", script]).persist_result(persist);
        let said = crate::testkit::run_in(&vessel, options).await.unwrap().out;
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines.len(), 11, "{said}");
        assert_eq!(lines[..5], lines[5..10], "{said}");
        assert_eq!(lines[10].trim(), "0", "what the init has open and mapped is not to be looked at: {said}");
    }
    vessel.close().await.unwrap();
}
