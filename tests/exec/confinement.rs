//! What a command finds inside, and what it may not do.
#![forbid(unsafe_code)]

use vesselrt::ExecOptions;

use crate::testkit::commands::must;
use crate::testkit::{
    PATIENCE, Store, sh, sh_ephemeral, tests, tests_on_each_driver, unprivileged, until, within,
};

tests_on_each_driver!(generated_files_of_etc_are_there_and_in_no_snapshot, mounts_and_devices_cannot_be_made);

tests!(
    only_the_three_streams_are_open,
    capabilities_and_filters_are_as_documented,
    root_inside_is_not_root_outside,
    the_host_name_is_the_vessel_s,
    secrets_of_the_kernel_are_masked,
    there_is_a_loopback_interface_and_no_other,
    two_commands_talk_over_the_loopback_interface,
    processes_of_others_are_not_seen,
    the_devices_are_the_usual_ones,
    temporary_files_are_part_of_the_workspace,
    limits_and_umask_are_sane,
    a_vessel_sees_nothing_of_its_store,
    proc_and_sys_cannot_be_changed,
);

async fn only_the_three_streams_are_open(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    // Descriptors that this process has open to all its children must not get in either.
    let leaky = std::fs::File::open("/etc").unwrap();
    rustix::io::fcntl_setfd(&leaky, rustix::io::FdFlags::empty()).unwrap();
    for options in [
        ExecOptions::new(["ls", "/proc/self/fd"]),
        ExecOptions::new(["ls", "/proc/self/fd"]).persist_result(true),
    ] {
        // ls has the directory itself open.
        assert_eq!(must(&vessel, options).await, "0\n1\n2\n3\n");
    }
    let script = "for fd in /proc/$$/fd/*; do readlink $fd; done; ls -l /proc/$$/cwd | sed 's/.*-> //'";
    let targets = sh(&vessel, script).await;
    let inside =
        |line: &&str| ["/dev/null", "/work", "pipe:", "/proc/"].iter().any(|prefix| line.starts_with(prefix));
    assert!(targets.lines().all(|line| inside(&line)), "{targets}");
    drop(leaky);
    vessel.close().await.unwrap();
}

async fn capabilities_and_filters_are_as_documented(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let status = sh(&vessel, "cat /proc/self/status").await;
    let field = |name: &str| {
        let line = status.lines().find(|line| line.split(':').next() == Some(name)).unwrap_or_default();
        line.split_once(':').map_or("", |(_, value)| value.trim()).to_owned()
    };
    // chown dac_override fowner fsetid kill setgid setuid setpcap net_bind_service sys_chroot setfcap
    let expected: u64 = [0, 1, 3, 4, 5, 6, 7, 8, 10, 18, 31].iter().map(|bit| 1u64 << bit).sum();
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(u64::from_str_radix(&field(set), 16).unwrap(), expected, "{set}");
    }
    for set in ["CapInh", "CapAmb"] {
        assert_eq!(u64::from_str_radix(&field(set), 16).unwrap(), 0, "{set}");
    }
    assert_eq!((field("NoNewPrivs").as_str(), field("Seccomp").as_str()), ("1", "2"));
    vessel.close().await.unwrap();
}

async fn root_inside_is_not_root_outside(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let map = sh(&vessel, "id -u; cat /proc/self/uid_map").await;
    assert!(map.starts_with("0\n"), "{map}");
    let outside: Vec<u32> =
        map.lines().skip(1).map(|line| line.split_whitespace().nth(1).unwrap().parse().unwrap()).collect();
    assert!(!outside.contains(&0), "{map}");
    if unprivileged() {
        assert_eq!(outside[0], rustix::process::geteuid().as_raw());
    }
    vessel.close().await.unwrap();
}

async fn the_host_name_is_the_vessel_s(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let name = sh(&vessel, "hostname").await;
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_ne!(name.trim(), host.trim());
    assert_eq!(name, sh(&vessel, "cat /etc/hostname").await);
    assert!(vessel.id().starts_with(name.trim()), "{name} {}", vessel.id());
    vessel.close().await.unwrap();
}

async fn generated_files_of_etc_are_there_and_in_no_snapshot(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    let hosts = sh(&vessel, "cat /etc/hosts").await;
    assert!(hosts.contains("127.0.0.1") && hosts.contains("localhost"), "{hosts}");
    sh(&vessel, "cat /etc/resolv.conf > /dev/null").await;
    let written = vessel
        .exec(ExecOptions::new(["sh", "-c", "echo x >> /etc/hosts"]).persist_result(true))
        .await
        .unwrap();
    assert!(!written.success(), "the generated file is read-only");
    assert_eq!(sh(&vessel, "cat /etc/hosts").await, hosts);
    let snapshot = vessel.create_snapshot("").await.unwrap();
    let mut names = archive(store, vessel.id(), &snapshot.id);
    names.retain(|name| name.contains("etc"));
    assert!(names.is_empty(), "{names:?}");
    assert_eq!(vessel.read_file("/etc/hosts").await.unwrap(), hosts.as_bytes(), "the file API sees the same");
    // A file that the user wrote there is the user's.
    vessel.write_file("/etc/hosts", "10.0.0.1 mine\n", 0o644).await.unwrap();
    vessel.close().await.unwrap();
    let vessel = manager.open_vessel(vessel.id()).await.unwrap();
    sh(&vessel, "true").await;
    assert_eq!(vessel.read_file("/etc/hosts").await.unwrap(), b"10.0.0.1 mine\n");
    vessel.close().await.unwrap();
}

/// The names in a stored snapshot.
fn archive(store: &Store, vessel: &str, snapshot: &str) -> Vec<String> {
    let path = store.root().join(format!("data/vessels/{vessel}/snapshots/{snapshot}.tar.zst"));
    let tar = zstd::decode_all(std::fs::File::open(path).unwrap()).unwrap();
    let mut archive = tar::Archive::new(tar.as_slice());
    let path = |entry: tar::Entry<'_, &[u8]>| String::from_utf8_lossy(&entry.path_bytes()).into_owned();
    archive.entries().unwrap().map(|entry| path(entry.unwrap())).collect()
}

async fn secrets_of_the_kernel_are_masked(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    for file in ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug", "/proc/interrupts"] {
        let size = sh(&vessel, &format!("[ ! -e {file} ] || head -c 4096 {file} | wc -c")).await;
        assert!(["", "0"].contains(&size.trim()), "{file}: {size}");
    }
    for dir in ["/sys/firmware", "/proc/acpi", "/proc/scsi", "/sys/devices/virtual/powercap"] {
        assert_eq!(sh(&vessel, &format!("[ ! -d {dir} ] || ls -A {dir}")).await, "", "{dir}");
    }
    // The masks cannot be taken off.
    let off = vessel.exec(ExecOptions::new(["umount", "/proc/kcore"])).await.unwrap();
    assert!(!off.success());
    assert_eq!(sh(&vessel, "ls -A /sys/fs/cgroup | wc -l").await.trim(), "0");
    vessel.close().await.unwrap();
}

async fn mounts_and_devices_cannot_be_made(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    sh(&vessel, "mkdir -p m").await;
    for script in [
        "mount -t tmpfs none m",
        "mount --bind /etc m",
        "mount -o remount,rw /proc",
        "umount /proc",
        "unshare -m true",
        "unshare -U true",
        "unshare -r mount -t tmpfs none m",
        "unshare -n true",
        "mknod device c 1 3",
        "mknod device b 8 0",
        "mknod whiteout c 0 0",
        "hostname other",
        "dmesg",
    ] {
        let tried = vessel.exec(ExecOptions::new(["sh", "-c", script]).persist_result(true)).await.unwrap();
        assert!(!tried.success(), "{script} was allowed");
    }
    // fuse-overlayfs 1.10 forgets a directory for a while when a device was refused in it.
    if store.driver() != vesselrt::OverlayDriver::Fuse {
        assert_eq!(sh(&vessel, "ls -A m; ls").await, "m\n");
    }
    vessel.close().await.unwrap();
}

async fn there_is_a_loopback_interface_and_no_other(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    assert_eq!(sh(&vessel, "ls /sys/class/net").await, "lo\n");
    let flags = sh(&vessel, "cat /sys/class/net/lo/flags").await;
    let flags = u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16).unwrap();
    assert_eq!(flags & 1, 1, "it is up");
    assert_eq!(sh(&vessel, "tail -n +2 /proc/net/route | wc -l").await.trim(), "0");
    let out = vessel.exec(ExecOptions::new(["nc", "-w", "2", "1.1.1.1", "53"])).await.unwrap();
    assert!(!out.success());
    vessel.close().await.unwrap();
}

async fn two_commands_talk_over_the_loopback_interface(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let server = vessel.clone();
    // A connection that takes too long is given up by either of them.
    let serve = "until grep -qs hello got; do nc -l -p 4242 < /dev/null > got; done; cat got";
    let serving = tokio::spawn(async move { sh(&server, serve).await });
    let client =
        "until grep -qs hello got; do echo hello | nc -w 2 127.0.0.1 4242 2>/dev/null; usleep 20000; done";
    within(PATIENCE, "the client", sh(&vessel, client)).await;
    assert_eq!(within(PATIENCE, "the server", serving).await.unwrap(), "hello\n");
    vessel.close().await.unwrap();
}

async fn processes_of_others_are_not_seen(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let other = vessel.clone();
    let sleeping = tokio::spawn(async move {
        other
            .exec(ExecOptions::new(["sh", "-c", "touch started; exec sleep 1000"]).persist_result(true))
            .await
    });
    until("the other command has started", async || vessel.stat("started").await.is_ok()).await;
    let seen = sh(&vessel, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '").await;
    assert!(!seen.contains("sleep 1000") && !seen.contains("integration"), "{seen}");
    let many: u32 = sh(&vessel, "ls -d /proc/[0-9]* | wc -l").await.trim().parse().unwrap();
    assert!(many < 8, "{many} processes");
    sleeping.abort();
    vessel.close().await.unwrap();
}

async fn the_devices_are_the_usual_ones(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let script = "echo x > /dev/null; head -c 4 /dev/zero | od -An -tx1; head -c 8 /dev/urandom | wc -c
        [ -c /dev/full ] && [ -c /dev/random ] && [ -d /dev/shm ] && [ -d /dev/pts ] && echo all
        echo x > /dev/full || echo full; echo y > /dev/shm/f && cat /dev/shm/f; echo z > /dev/stderr";
    let said = sh(&vessel, &format!("{{ {script}; }} 2>/work/err; cat /work/err")).await;
    assert_eq!(said, " 00 00 00 00\n8\nall\nfull\ny\nz\n");
    let blocks =
        sh(&vessel, "find /dev -type b; find /dev -type c | grep -cE 'sd|nvme|mem|kmsg|fuse|loop' || true")
            .await;
    assert_eq!(blocks, "0\n");
    vessel.close().await.unwrap();
}

async fn temporary_files_are_part_of_the_workspace(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    sh(&vessel, "echo kept > /tmp/f").await;
    assert_eq!(vessel.read_file("/tmp/f").await.unwrap(), b"kept\n");
    vessel.create_snapshot("").await.unwrap();
    assert_eq!(sh_ephemeral(&vessel, "cat /tmp/f; stat -c %a /tmp").await, "kept\n1777\n");
    vessel.close().await.unwrap();
}

async fn limits_and_umask_are_sane(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    assert_eq!(sh(&vessel, "umask; ulimit -c").await, "0022\n0\n");
    let files: u64 = sh(&vessel, "ulimit -n").await.trim().parse().unwrap();
    assert!(files >= 1024, "{files}");
    vessel.close().await.unwrap();
}

async fn a_vessel_sees_nothing_of_its_store(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let mounts = sh(&vessel, "cat /proc/self/mountinfo /proc/self/mounts").await;
    let path = store.root();
    assert!(!mounts.contains(path.to_str().unwrap()), "{mounts}");
    assert_eq!(
        sh(&vessel, "ls -A / | tr '\\n' ' '").await,
        "bin dev etc home proc root srv sys tmp usr var work "
    );
    assert_eq!(sh(&vessel, "cd /; ls -A ..; pwd").await.lines().last(), Some("/"));
    vessel.close().await.unwrap();
}

async fn proc_and_sys_cannot_be_changed(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let pattern = std::fs::read("/proc/sys/kernel/core_pattern").unwrap();
    for script in [
        "echo '|/work/evil' > /proc/sys/kernel/core_pattern",
        "echo 1 > /proc/sys/kernel/sysrq",
        "echo b > /proc/sysrq-trigger",
        "echo x > /sys/kernel/uevent_helper",
        "mkdir /sys/fs/cgroup/x",
    ] {
        let tried = vessel.exec(ExecOptions::new(["sh", "-c", script]).persist_result(true)).await.unwrap();
        assert!(!tried.success(), "{script} was allowed");
    }
    assert_eq!(std::fs::read("/proc/sys/kernel/core_pattern").unwrap(), pattern);
    vessel.close().await.unwrap();
}
