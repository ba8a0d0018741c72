//! Limits: that they hold, that what met one is told so, that they change while commands run, and that nothing of them is
//! left on the host.
#![forbid(unsafe_code)]

mod cli;
mod detached;
mod disk;
mod host;
mod machine;
mod without;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use vesselrt::settings::Limits;
use vesselrt::{CreateOptions, Enforcement, ErrorKind, ExecOptions, Manager, Vessel};

use crate::crash::shim_of;
use crate::testkit::{BASE, Cap, Store, fails_with, leftovers, need, run_in, sh, tests, until, within};

tests!(
    without_limits_there_is_no_group,
    a_memory_hog_is_killed_and_told,
    a_fork_bomb_stops_and_the_vessel_remains_usable,
    half_a_processor_is_half_a_processor,
    limits_change_under_a_running_command,
    a_limit_that_cannot_be_is_refused_and_the_old_ones_stay,
    a_command_has_tighter_limits_of_its_own,
    the_group_goes_with_the_shim_however_it_goes,
    nothing_inside_sees_or_changes_the_groups,
    files_and_time_are_limited_for_every_command,
    a_fork_has_the_limits_of_its_origin,
);

/// More than any limit here, in the memory of one process, which is alone in having any.
pub(crate) const HOG: &str = "dd if=/dev/zero of=/dev/null bs=200M count=1 2>/dev/null && echo whole";

/// A vessel of the base image with these limits.
async fn limited(manager: &Manager, limits: Limits) -> Vessel {
    let options = CreateOptions::new(BASE).work_dir("/work").limits(limits);
    manager.create_vessel_with(options).await.unwrap()
}

/// The control groups of a vessel, in whatever hierarchy.
fn groups(id: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(dir) = dirs.pop() {
        for entry in leftovers::entries(&dir).into_iter().filter(|path| path.is_dir() && !path.is_symlink()) {
            let name = entry.file_name().unwrap().to_string_lossy().into_owned();
            if name.starts_with("vesselrt-") && name.ends_with(&format!("-{id}")) {
                found.push(entry);
            } else {
                dirs.push(entry);
            }
        }
    }
    found
}

/// What the first of these files in the groups says.
fn said(groups: &[PathBuf], files: [&str; 2]) -> String {
    let paths = groups.iter().flat_map(|group| files.map(|file| group.join(file)));
    paths.filter_map(|path| std::fs::read_to_string(path).ok()).next().unwrap().trim().to_owned()
}

async fn without_limits_there_is_no_group(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    sh(&vessel, "true").await;
    assert_eq!(groups(vessel.id()), Vec::<PathBuf>::new());
    let status = vessel.limits().await.unwrap();
    assert_eq!((status.limits, status.enforcement), (Limits::new(), Enforcement::None));
    let running = vessel.spawn(ExecOptions::new(["sleep", "60"])).await.unwrap();
    let stats = vessel.stats().await.unwrap();
    assert!(stats.running && !stats.grouped && stats.commands == 1);
    assert!(stats.usage.pids.unwrap() >= 2, "the command and its init: {stats:?}");
    assert!(stats.usage.memory.unwrap() > 0 && stats.disk > 0, "{stats:?}");
    drop(running);
    // Those that hold for single processes need none either.
    let vessel = limited(&manager, Limits::new().nofile(100).disk(1 << 30)).await;
    sh(&vessel, "true").await;
    assert_eq!(groups(vessel.id()), Vec::<PathBuf>::new());
}

async fn a_memory_hog_is_killed_and_told(store: &Store) {
    if !need(&[Cap::ControlGroups]) {
        return;
    }
    let manager = store.stocked().await;
    let vessel = limited(&manager, Limits::new().memory(32 << 20)).await;
    let hog = |script: &str| ExecOptions::new(["sh", "-c", script]);
    let ran = run_in(&vessel, hog(HOG)).await.unwrap();
    assert!(ran.result.oom_killed && !ran.result.success(), "{ran:?}");
    assert_eq!((ran.result.exit_code, ran.out.as_str()), (137, ""));
    let survivor = run_in(&vessel, hog(&format!("({HOG}); exit 3"))).await.unwrap();
    assert_eq!((survivor.result.exit_code, survivor.result.oom_killed), (3, true));
    let well = run_in(&vessel, hog("echo fine; exit 3")).await.unwrap();
    assert_eq!((well.result.exit_code, well.result.oom_killed), (3, false), "it was not this one");
    let stats = vessel.stats().await.unwrap();
    assert!(stats.grouped && stats.usage.oom_kills.unwrap() >= 2, "{stats:?}");
    let peak = stats.usage.memory_peak.unwrap();
    assert!((16 << 20..=32 << 20).contains(&peak), "{peak}");
    assert_eq!(stats.limits.memory, Some(32 << 20));
}

async fn a_fork_bomb_stops_and_the_vessel_remains_usable(store: &Store) {
    if !need(&[Cap::ControlGroups]) {
        return;
    }
    let manager = store.stocked().await;
    let vessel = limited(&manager, Limits::new().pids(24)).await;
    let bomb = "bomb() { bomb | bomb & }; bomb; bomb; sleep 60";
    let mut running = vessel.spawn(ExecOptions::new(["sh", "-c", bomb])).await.unwrap();
    let mut most = 0;
    // It may take a while to begin, and then it is looked at for a while.
    for look in 0..500 {
        most = most.max(vessel.stats().await.unwrap().usage.pids.unwrap());
        if most >= 4 && look >= 20 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!((4..=24).contains(&most), "{most}");
    // Files are read and written while it goes on.
    vessel.write_file("/work/note", b"still here", 0o644).await.unwrap();
    running.signal(9).unwrap();
    within(Duration::from_secs(20), "the bomb", running.wait()).await.unwrap();
    drop(running);
    let many = "i=0; while [ $i -lt 40 ]; do sleep 60 & i=$((i+1)); done";
    let ran = run_in(&vessel, ExecOptions::new(["sh", "-c", many])).await.unwrap();
    assert!(!ran.result.success() && ran.err.contains("fork"), "{ran:?}");
    assert_eq!(sh(&vessel, "cat note").await, "still here");
}

async fn half_a_processor_is_half_a_processor(store: &Store) {
    if !need(&[Cap::ControlGroups]) {
        return;
    }
    let manager = store.stocked().await;
    let vessel = limited(&manager, Limits::new().milli_cpus(500)).await;
    // Two that could have a processor each.
    let busy = "(while :; do :; done) & while :; do :; done";
    let running = vessel.spawn(ExecOptions::new(["sh", "-c", busy])).await.unwrap();
    assert!(share(&vessel).await < 0.75);
    // However little a busy machine has left for it, it is more than that.
    vessel.update(|limits| limits.milli_cpus = Some(20)).await.unwrap();
    until("the group has used its time up", async || {
        vessel.stats().await.unwrap().usage.throttled.unwrap() > Duration::ZERO
    })
    .await;
    assert!(share(&vessel).await < 0.15);
    drop(running);
}

/// How many processors a vessel has in use, over a second and a half.
async fn share(vessel: &Vessel) -> f64 {
    let (before, began) = (vessel.stats().await.unwrap().usage.cpu_time.unwrap(), Instant::now());
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let used = vessel.stats().await.unwrap().usage.cpu_time.unwrap() - before;
    // The time is measured from after the first look to after the second.
    used.as_secs_f64() / began.elapsed().as_secs_f64()
}

async fn limits_change_under_a_running_command(store: &Store) {
    if !need(&[Cap::ControlGroups]) {
        return;
    }
    let manager = store.stocked().await;
    // It has none to begin with: its processes are moved to a group.
    let vessel = limited(&manager, Limits::new()).await;
    let (input, feed) = tokio::io::duplex(64);
    let script = format!("read go; {HOG}");
    let options = ExecOptions::new(["sh", "-c", &script]).stdin(input);
    let mut running = vessel.spawn(options).await.unwrap();
    let status = vessel.update(|limits| limits.memory = Some(48 << 20)).await.unwrap();
    assert!(matches!(status.enforcement, Enforcement::CgroupV1 | Enforcement::CgroupV2), "{status:?}");
    assert!(vessel.stats().await.unwrap().usage.pids.unwrap() >= 2);
    let found = groups(vessel.id());
    let files = ["memory.max", "memory.limit_in_bytes"];
    assert_eq!(said(&found, files), (48 << 20).to_string());
    drop(feed);
    let ended = running.wait().await.unwrap();
    assert!(ended.oom_killed && ended.exit_code == 137, "the limit came later: {ended:?}");
    // One that begins now.
    let ran = run_in(&vessel, ExecOptions::new(["sh", "-c", HOG])).await.unwrap();
    assert!(ran.result.oom_killed, "{ran:?}");
    vessel.update(|limits| limits.memory = Some(1 << 30)).await.unwrap();
    assert_eq!(said(&found, files), (1u64 << 30).to_string());
    assert_eq!(sh(&vessel, HOG).await.trim(), "whole");
    vessel.update(|limits| limits.memory = None).await.unwrap();
    assert!(said(&found, files) == "max" || said(&found, files).len() > 18);
    assert_eq!(manager.vessel_limits(vessel.id()).await.unwrap().limits, Limits::new());
}

async fn a_limit_that_cannot_be_is_refused_and_the_old_ones_stay(store: &Store) {
    let manager = store.stocked().await;
    let vessel = limited(&manager, Limits::new().nofile(64)).await;
    for (change, text) in [
        (Limits::new().memory(1), "memory of 1 is too little"),
        (Limits::new().pids(0), "pids of 0"),
        (Limits::new().milli_cpus(1), "cpus"),
        (Limits::new().nofile(1), "nofile"),
    ] {
        let refused = change.clone();
        let update = vessel.update(move |limits| *limits = refused).await;
        fails_with(update, &ErrorKind::InvalidArgument, text);
        let created = manager.create_vessel_with(CreateOptions::new(BASE).limits(change)).await;
        fails_with(created, &ErrorKind::InvalidArgument, text);
    }
    assert_eq!(vessel.limits().await.unwrap().limits, Limits::new().nofile(64));
    let disk = ExecOptions::new(["true"]).limits(Limits::new().disk(1 << 20));
    fails_with(vessel.exec(disk).await, &ErrorKind::InvalidArgument, "not for one command");
    assert_eq!(manager.list_vessels().await.unwrap().len(), 1, "what was refused was not made");
}

async fn a_command_has_tighter_limits_of_its_own(store: &Store) {
    if !need(&[Cap::ControlGroups]) {
        return;
    }
    let manager = store.stocked().await;
    for limits in [Limits::new(), Limits::new().memory(1 << 30)] {
        let vessel = limited(&manager, limits).await;
        let tight = |script: &str| {
            ExecOptions::new(["sh", "-c", script]).limits(Limits::new().memory(24 << 20).pids(6).nofile(33))
        };
        let ran = run_in(&vessel, tight(HOG)).await.unwrap();
        assert!(ran.result.oom_killed, "{ran:?}");
        assert_eq!(sh(&vessel, HOG).await.trim(), "whole", "the others are as free as before");
        let ran =
            run_in(&vessel, tight("ulimit -n; for i in 1 2 3 4 5 6 7 8; do sleep 9 & done")).await.unwrap();
        assert!(!ran.result.success() && ran.out == "33\n", "{ran:?}");
        let id = vessel.id().to_owned();
        until("the command's group is gone", async || {
            let inside = groups(&id).into_iter().flat_map(|group| leftovers::entries(&group));
            inside.filter(|path| path.is_dir()).all(|path| path.ends_with("commands"))
        })
        .await;
    }
}

async fn the_group_goes_with_the_shim_however_it_goes(store: &Store) {
    if !need(&[Cap::ControlGroups]) {
        return;
    }
    let manager = store.stocked().await;
    let limits = Limits::new().memory(64 << 20).pids(50);
    // Closed by who started it.
    let vessel = limited(&manager, limits.clone()).await;
    let id = vessel.id().to_owned();
    assert!(!groups(&id).is_empty());
    vessel.close().await.unwrap();
    assert_eq!(groups(&id), Vec::<PathBuf>::new(), "closed");
    // Stopped.
    let vessel = manager.open_vessel(&id).await.unwrap();
    let running = vessel.spawn(ExecOptions::new(["sleep", "60"])).await.unwrap();
    assert!(manager.stop_vessel(&id).await.unwrap());
    assert_eq!(groups(&id), Vec::<PathBuf>::new(), "stopped");
    drop(running);
    vessel.close().await.unwrap();
    // Killed, with the process that started it: what that left is collected, or taken over.
    for collected in [true, false] {
        let started = store.cli(&["start", &id]).output().unwrap();
        assert!(started.status.success(), "{started:?}");
        kill(shim_of(store, &id).unwrap());
        leftovers::none_locked(&store.root().join("vessels"));
        assert!(!groups(&id).is_empty(), "nobody was there to remove it");
        match collected {
            true => manager.collect_garbage().await.unwrap(),
            false => {
                let vessel = manager.open_vessel(&id).await.unwrap();
                sh(&vessel, "true").await;
                vessel.close().await.unwrap();
            }
        }
        assert_eq!(groups(&id), Vec::<PathBuf>::new(), "collected: {collected}");
    }
    // Deleted while it runs.
    let vessel = manager.open_vessel(&id).await.unwrap();
    assert!(!groups(&id).is_empty());
    manager.delete_vessel(&id).await.unwrap();
    assert_eq!(groups(&id), Vec::<PathBuf>::new(), "deleted");
    drop(vessel);
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

async fn nothing_inside_sees_or_changes_the_groups(store: &Store) {
    if !need(&[Cap::ControlGroups]) {
        return;
    }
    let manager = store.stocked().await;
    let vessel = limited(&manager, Limits::new().memory(64 << 20).pids(50).nofile(100)).await;
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let inside = sh(&vessel, "cat /proc/self/cgroup").await;
    for path in own.lines().filter_map(|line| line.rsplit(':').next()).filter(|path| *path != "/") {
        assert!(!inside.contains(path), "{path} of the host in {inside}");
    }
    assert_eq!(sh(&vessel, "ls -A /sys/fs/cgroup | wc -l").await.trim(), "0");
    assert_eq!(sh(&vessel, "grep -c cgroup /proc/mounts || true").await.trim(), "0");
    for attempt in [
        "mkdir -p /m && mount -t cgroup2 cgroup2 /m",
        "mkdir -p /m && mount -t cgroup -o memory cgroup /m",
        "unshare -C true",
        "unshare -U true",
        "ulimit -n 101",
        "ulimit -H -n 101",
        "echo 0 > /proc/1/fd/3",
    ] {
        let ran = run_in(&vessel, ExecOptions::new(["sh", "-c", attempt])).await.unwrap();
        assert!(!ran.result.success(), "{attempt} worked: {ran:?}");
    }
    assert!(Path::new("/sys/fs/cgroup").is_dir(), "the host's are as they were");
}

async fn files_and_time_are_limited_for_every_command(store: &Store) {
    let manager = store.stocked().await;
    let limits = Limits::new().nofile(40).timeout(Duration::from_millis(700));
    let vessel = limited(&manager, limits).await;
    assert_eq!(sh(&vessel, "ulimit -n; ulimit -H -n").await, "40\n40\n");
    let late = vessel.exec(ExecOptions::new(["sleep", "60"])).await.unwrap();
    assert!(late.timed_out && late.exit_code == 124);
    let own = ExecOptions::new(["sleep", "1"]).timeout(Duration::from_secs(60));
    assert!(vessel.exec(own).await.unwrap().success(), "a command's own time counts");
    let tighter = ExecOptions::new(["sh", "-c", "ulimit -n"]).limits(Limits::new().nofile(20));
    assert_eq!(run_in(&vessel, tighter).await.unwrap().out, "20\n");
    let looser = ExecOptions::new(["sh", "-c", "ulimit -n"]).limits(Limits::new().nofile(80));
    assert_eq!(run_in(&vessel, looser).await.unwrap().out, "40\n", "the tighter one counts");
    vessel.update(|limits| (limits.nofile, limits.timeout_ms) = (Some(60), None)).await.unwrap();
    assert_eq!(sh(&vessel, "sleep 1; ulimit -n").await, "60\n");
}

async fn a_fork_has_the_limits_of_its_origin(store: &Store) {
    let manager = store.stocked().await;
    let limits = Limits::new().nofile(77).disk(1 << 30).timeout(Duration::from_secs(99));
    let vessel = limited(&manager, limits.clone()).await;
    let forks = manager.fork_vessel(vessel.id(), vesselrt::ForkOptions::new()).await.unwrap();
    assert_eq!(manager.vessel_limits(&forks[0].id).await.unwrap().limits, limits);
    let fork = manager.open_vessel(&forks[0].id).await.unwrap();
    assert_eq!(sh(&fork, "ulimit -n").await, "77\n");
}
