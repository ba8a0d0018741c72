//! What is mounted in a vessel besides its layers: directories and files of the host, volumes, file systems in memory.
#![forbid(unsafe_code)]

mod cli;
mod escape;
mod layers;
mod machine;
mod volumes;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use vesselrt::settings::Mount;
use vesselrt::{CreateOptions, ErrorKind, ExecOptions, Manager, Vessel};

use crate::testkit::{
    BASE, Cap, Store, fails, fails_with, need, run_in, sh, sh_ephemeral, tests, tests_on_each_driver, until,
};

tests_on_each_driver!(
    a_directory_of_the_caller_is_read_and_written_by_root_inside,
    what_was_mounted_is_the_same_for_commands_and_for_file_operations,
    a_command_that_leaves_nothing_writes_to_mounts_all_the_same,
    what_is_mounted_read_only_cannot_be_written_by_any_way,
);

tests!(
    a_file_and_a_socket_can_be_mounted,
    what_is_mounted_has_no_set_id_and_no_devices,
    a_file_system_in_memory_is_empty_at_each_start_and_holds_what_it_may,
    files_in_memory_count_as_memory_of_the_commands,
    mounts_lie_in_each_other_whatever_their_order,
    what_the_host_mounts_below_is_there_when_the_vessel_starts,
    places_of_generated_files_can_be_taken,
    a_background_process_has_the_mounts_as_well,
    a_source_that_is_not_there_is_named_and_nothing_is_left,
    what_is_no_source_is_refused,
    a_vessel_whose_source_went_away_says_so_and_is_well_when_it_is_back,
);

/// An empty directory of the host, beside the store.
fn host_dir(store: &Store, name: &str) -> PathBuf {
    let dir = store.beside(name);
    fs::create_dir(&dir).unwrap();
    dir
}

fn options(mounts: impl IntoIterator<Item = Mount>) -> CreateOptions {
    mounts.into_iter().fold(CreateOptions::new(BASE).work_dir("/work"), CreateOptions::mount)
}

/// A vessel of the base image with these mounts.
async fn vessel(store: &Store, mounts: impl IntoIterator<Item = Mount>) -> (Manager, Vessel) {
    let manager = store.stocked().await;
    let vessel = manager.create_vessel_with(options(mounts)).await.unwrap();
    (manager, vessel)
}

fn bind(source: &Path, destination: &str) -> Mount {
    Mount::bind(source, destination).unwrap()
}

async fn fails_inside(vessel: &Vessel, script: &str) {
    for persist in [true, false] {
        let options = ExecOptions::new(["sh", "-c", script]).persist_result(persist);
        let ran = run_in(vessel, options).await.unwrap();
        assert!(!ran.result.success(), "{script}: {ran:?}");
    }
}

async fn a_directory_of_the_caller_is_read_and_written_by_root_inside(store: &Store) {
    let host = host_dir(store, "host");
    fs::set_permissions(&host, fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(host.join("secret"), "for root\n").unwrap();
    fs::set_permissions(host.join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    let (_manager, vessel) = vessel(store, [bind(&host, "/data")]).await;
    assert_eq!(
        sh(&vessel, "cat /data/secret; stat -c %u:%g /data /data/secret").await,
        "for root\n0:0\n0:0\n"
    );
    sh(
        &vessel,
        "echo more >> /data/secret; mkdir -p /data/a/b; echo new > /data/a/b/c; chmod 640 /data/a/b/c",
    )
    .await;
    assert_eq!(fs::read_to_string(host.join("secret")).unwrap(), "for root\nmore\n");
    let made = fs::metadata(host.join("a/b/c")).unwrap();
    let caller = rustix::process::geteuid().as_raw();
    assert_eq!((made.uid(), made.mode() & 0o7777), (caller, 0o640), "it is the caller's on the host");
    vessel.close().await.unwrap();
}

async fn what_was_mounted_is_the_same_for_commands_and_for_file_operations(store: &Store) {
    let host = host_dir(store, "host");
    let (_manager, vessel) = vessel(store, [bind(&host, "/work/data")]).await;
    vessel.write_file("data/by-api", b"api", 0o644).await.unwrap();
    assert_eq!(sh(&vessel, "cat data/by-api").await, "api");
    assert_eq!(fs::read(host.join("by-api")).unwrap(), b"api");
    sh(&vessel, "echo sh > data/by-sh; echo over > across").await;
    assert_eq!(vessel.read_file("data/by-sh").await.unwrap(), b"sh\n");
    vessel.rename_file("across", "data/across").await.unwrap();
    assert_eq!(fs::read(host.join("across")).unwrap(), b"over\n");
    vessel.delete_file("data/by-sh").await.unwrap();
    let mut names: Vec<_> =
        vessel.read_dir("data").await.unwrap().into_iter().map(|entry| entry.name).collect();
    names.sort();
    assert_eq!(names, ["across", "by-api"]);
    // The place itself is in use.
    vessel.delete_file("data").await.unwrap_err();
    vessel.rename_file("data", "elsewhere").await.unwrap_err();
    assert_eq!(sh(&vessel, "ls data").await, "across\nby-api\n");
    vessel.close().await.unwrap();
}

async fn a_command_that_leaves_nothing_writes_to_mounts_all_the_same(store: &Store) {
    let host = host_dir(store, "host");
    let mounts = [bind(&host, "/data"), Mount::volume("v", "/vol").unwrap(), Mount::tmpfs("/mem").unwrap()];
    let (_manager, vessel) = vessel(store, mounts).await;
    sh(&vessel, "echo before > /data/before").await;
    for n in 0..3 {
        let script = format!(
            "cat /data/before; echo {n} >> /data/kept; echo {n} >> /vol/kept; echo {n} >> /mem/kept; touch /gone"
        );
        assert_eq!(sh_ephemeral(&vessel, &script).await, "before\n");
    }
    assert_eq!(
        sh(&vessel, "cat /data/kept /vol/kept /mem/kept; ls /gone 2>/dev/null || true").await,
        "0\n1\n2\n".repeat(3)
    );
    assert_eq!(fs::read_to_string(host.join("kept")).unwrap(), "0\n1\n2\n");
    vessel.close().await.unwrap();
}

async fn what_is_mounted_read_only_cannot_be_written_by_any_way(store: &Store) {
    let host = host_dir(store, "host");
    fs::create_dir(host.join("sub")).unwrap();
    fs::write(host.join("f"), "is").unwrap();
    let mounts = [
        bind(&host, "/ro").read_only(true),
        bind(&host, "/rw"),
        Mount::volume("v", "/vol").unwrap().read_only(true),
    ];
    let (_manager, vessel) = vessel(store, mounts).await;
    for script in [
        "echo no > /ro/f",
        "touch /ro/new",
        "rm /ro/f",
        "mkdir /ro/sub/d",
        "chmod 777 /ro/sub",
        "mount -o remount,rw /ro && echo no > /ro/f",
        "mount -o remount,bind,rw /ro /ro && echo no > /ro/f",
        "umount /ro && echo no > /ro/f",
        "touch /vol/x",
    ] {
        fails_inside(&vessel, script).await;
    }
    vessel.write_file("/ro/f", b"no", 0o644).await.unwrap_err();
    vessel.write_file("/ro/new", b"no", 0o644).await.unwrap_err();
    vessel.delete_file("/ro/f").await.unwrap_err();
    vessel.make_dir("/ro/d", 0o755).await.unwrap_err();
    assert_eq!(fs::read(host.join("f")).unwrap(), b"is");
    sh(&vessel, "echo written > /rw/f").await;
    assert_eq!(vessel.read_file("/ro/f").await.unwrap(), b"written\n", "it is the same directory");
    vessel.close().await.unwrap();
}

async fn a_file_and_a_socket_can_be_mounted(store: &Store) {
    let file = store.beside("file");
    fs::write(&file, "one").unwrap();
    let socket = store.beside("socket");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let mounts = [bind(&file, "/etc/app/file.conf"), bind(&socket, "/run/agent")];
    let (_manager, vessel) = vessel(store, mounts).await;
    assert_eq!(sh(&vessel, "cat /etc/app/file.conf").await, "one");
    vessel.write_file("/etc/app/file.conf", b"two", 0o644).await.unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"two", "the file itself was written, and not replaced");
    sh(&vessel, "echo three > /etc/app/file.conf").await;
    assert_eq!(vessel.read_file("/etc/app/file.conf").await.unwrap(), b"three\n");
    fails_inside(&vessel, "rm /etc/app/file.conf").await;
    assert_eq!(sh(&vessel, "[ -S /run/agent ] && echo socket").await, "socket\n");
    drop(listener);
    vessel.close().await.unwrap();
}

async fn what_is_mounted_has_no_set_id_and_no_devices(store: &Store) {
    let host = host_dir(store, "host");
    fs::copy(crate::testkit::image::BUSYBOX, host.join("id")).unwrap();
    let mounts = [bind(&host, "/data"), Mount::volume("v", "/vol").unwrap(), Mount::tmpfs("/mem").unwrap()];
    let (_manager, vessel) = vessel(store, mounts).await;
    for place in ["/data", "/vol", "/mem"] {
        let options = sh(&vessel, &format!("grep ' {place} ' /proc/self/mounts | cut -d' ' -f4")).await;
        assert!(options.contains("nosuid") && options.contains("nodev"), "{place}: {options}");
    }
    sh(&vessel, "chmod 4755 /data/id; chmod 755 /data").await;
    if Cap::SubordinateIds.is_there() {
        let ran = run_in(&vessel, ExecOptions::new(["/data/id", "-u"]).user("user")).await.unwrap();
        assert_eq!(ran.out, "1000\n", "{ran:?}");
    }
    vessel.close().await.unwrap();
}

async fn a_file_system_in_memory_is_empty_at_each_start_and_holds_what_it_may(store: &Store) {
    let mount = Mount::tmpfs("/mem").unwrap().size(1 << 20).mode(0o700);
    let (manager, vessel) = vessel(store, [mount]).await;
    assert_eq!(sh(&vessel, "stat -c %a:%u /mem; echo x > /mem/f").await, "700:0\n");
    fails_inside(&vessel, "dd if=/dev/zero of=/mem/big bs=64k count=32").await;
    assert!(sh(&vessel, "stat -c %s /mem/big").await.trim().parse::<u64>().unwrap() <= 1 << 20);
    let snapshot = vessel.create_snapshot("memory").await.unwrap();
    vessel.restore_snapshot(&snapshot.id).await.unwrap();
    if store.driver() == vesselrt::OverlayDriver::Kernel {
        assert_eq!(sh(&vessel, "cat /mem/f").await, "x\n", "the vessel was not stopped");
    }
    vessel.close().await.unwrap();
    manager.stop_vessel(vessel.id()).await.unwrap();
    let vessel = manager.open_vessel(vessel.id()).await.unwrap();
    assert_eq!(sh(&vessel, "ls -A /mem").await, "");
    vessel.close().await.unwrap();
}

async fn files_in_memory_count_as_memory_of_the_commands(store: &Store) {
    if !need(&[Cap::ControlGroups]) {
        return;
    }
    let manager = store.stocked().await;
    let limits = vesselrt::settings::Limits::new().memory(32 << 20);
    let options = options([Mount::tmpfs("/mem").unwrap()]).limits(limits);
    let vessel = manager.create_vessel_with(options).await.unwrap();
    let fill = |count: u32| format!("dd if=/dev/zero of=/mem/f bs=1M count={count} 2>/dev/null");
    let run =
        async |script: &str| run_in(&vessel, ExecOptions::new(["sh", "-c", script])).await.unwrap().result;
    assert!(run(&fill(4)).await.success());
    let killed = run(&fill(64)).await;
    assert!(killed.oom_killed && !killed.success(), "{killed:?}");
    vessel.delete_file("/mem/f").await.unwrap();
    assert!(run("true").await.success());
    vessel.close().await.unwrap();
}

async fn mounts_lie_in_each_other_whatever_their_order(store: &Store) {
    let (outer, inner) = (host_dir(store, "outer"), host_dir(store, "inner"));
    fs::write(inner.join("f"), "inner").unwrap();
    let mounts =
        [bind(&inner, "/data/deep/in"), Mount::tmpfs("/data/deep/in/mem").unwrap(), bind(&outer, "/data")];
    fs::create_dir(inner.join("mem")).unwrap();
    let (_manager, vessel) = vessel(store, mounts).await;
    for persist in [true, false] {
        let script =
            "cat /data/deep/in/f; echo x > /data/deep/in/mem/x; echo y > /data/deep/in/y; echo z > /data/z";
        let ran =
            run_in(&vessel, ExecOptions::new(["sh", "-c", script]).persist_result(persist)).await.unwrap();
        assert_eq!(ran.out, "inner", "{ran:?}");
    }
    let names = |dir: &Path| {
        let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|it| it.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&outer), ["deep", "z"]);
    assert_eq!(names(&inner), ["f", "mem", "y"]);
    assert!(names(&inner.join("mem")).is_empty());
    vessel.close().await.unwrap();
}

async fn what_the_host_mounts_below_is_there_when_the_vessel_starts(store: &Store) {
    // Others have no mounts of their own.
    if !need(&[Cap::Root]) {
        return;
    }
    let host = host_dir(store, "host");
    fs::create_dir(host.join("below")).unwrap();
    let place = host.join("below");
    rustix::mount::mount("tmpfs", &place, "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
    let mounted = scopeguard(place.clone());
    fs::write(place.join("f"), "below").unwrap();
    let (manager, vessel) = vessel(store, [bind(&host, "/data").read_only(true)]).await;
    assert_eq!(sh(&vessel, "cat /data/below/f").await, "below");
    assert_eq!(sh_ephemeral(&vessel, "cat /data/below/f").await, "below");
    fails_inside(&vessel, "touch /data/below/new").await;
    drop(mounted);
    assert_eq!(sh(&vessel, "cat /data/below/f").await, "below", "what the host does later does not show");
    vessel.close().await.unwrap();
    manager.stop_vessel(vessel.id()).await.unwrap();
}

/// Unmounts when it goes.
fn scopeguard(place: PathBuf) -> impl Drop {
    struct Mounted(PathBuf);
    impl Drop for Mounted {
        fn drop(&mut self) {
            let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
        }
    }
    Mounted(place)
}

async fn places_of_generated_files_can_be_taken(store: &Store) {
    let hosts = store.beside("hosts");
    fs::write(&hosts, "127.0.0.1 mine\n").unwrap();
    let (_manager, vessel) = vessel(store, [bind(&hosts, "/etc/hosts")]).await;
    for persist in [true, false] {
        let ran =
            run_in(&vessel, ExecOptions::new(["cat", "/etc/hosts"]).persist_result(persist)).await.unwrap();
        assert_eq!(ran.out, "127.0.0.1 mine\n");
    }
    assert!(sh(&vessel, "cat /etc/hostname").await.contains(vessel.id()));
    vessel.close().await.unwrap();
}

async fn a_background_process_has_the_mounts_as_well(store: &Store) {
    let host = host_dir(store, "host");
    let (_manager, vessel) = vessel(store, [bind(&host, "/data")]).await;
    let script =
        "echo $$ > /data/begun; while [ ! -e /data/go ]; do sleep 0.05; done; echo done > /data/done";
    let process = vessel.spawn_detached(ExecOptions::new(["sh", "-c", script])).await.unwrap();
    until("it has begun", async || host.join("begun").exists()).await;
    fs::write(host.join("go"), "").unwrap();
    process.wait().await.unwrap();
    assert_eq!(fs::read_to_string(host.join("done")).unwrap(), "done\n");
    vessel.close().await.unwrap();
}

async fn a_source_that_is_not_there_is_named_and_nothing_is_left(store: &Store) {
    let manager = store.stocked().await;
    let missing = store.beside("missing");
    let made = manager.create_vessel_with(options([bind(&missing, "/data")])).await;
    let error = fails_with(made, &ErrorKind::InvalidArgument, missing.to_str().unwrap());
    assert!(error.remedy().is_some());
    assert!(!missing.exists() && manager.list_vessels().await.unwrap().is_empty());
}

async fn what_is_no_source_is_refused(store: &Store) {
    let manager = store.stocked().await;
    let fifo = store.beside("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let link = store.beside("link");
    std::os::unix::fs::symlink(store.root().join("vessels"), &link).unwrap();
    let mut sources =
        vec![fifo, link, "/dev/null".into(), "/".into(), store.root(), store.root().join("volumes")];
    sources.push(store.root().parent().unwrap().to_owned());
    sources.push(store.root().join("version"));
    for source in sources {
        let made = manager.create_vessel_with(options([bind(&source, "/data")])).await;
        fails_with(made, &ErrorKind::InvalidArgument, source.to_str().unwrap());
    }
    let twice = [Mount::tmpfs("/a").unwrap(), Mount::volume("v", "/a/").unwrap()];
    fails(manager.create_vessel_with(options(twice)).await, &ErrorKind::InvalidArgument);
    assert!(manager.list_vessels().await.unwrap().is_empty());
    assert!(manager.list_volumes().await.unwrap().is_empty());
}

async fn a_vessel_whose_source_went_away_says_so_and_is_well_when_it_is_back(store: &Store) {
    let host = host_dir(store, "host");
    let (manager, vessel) = vessel(store, [bind(&host, "/data")]).await;
    sh(&vessel, "echo kept > /work/kept").await;
    vessel.close().await.unwrap();
    fs::rename(&host, store.beside("away")).unwrap();
    let error = fails_with(
        manager.open_vessel(vessel.id()).await,
        &ErrorKind::InvalidArgument,
        host.to_str().unwrap(),
    );
    assert!(error.remedy().is_some());
    fs::write(&host, "a file now").unwrap();
    let vessel = manager.open_vessel(vessel.id()).await.unwrap();
    fails_with(vessel.exec(ExecOptions::new(["true"])).await, &ErrorKind::InvalidArgument, "/data");
    vessel.close().await.unwrap();
    manager.stop_vessel(vessel.id()).await.unwrap();
    fs::remove_file(&host).unwrap();
    fs::create_dir(&host).unwrap();
    fs::write(host.join("other"), "another directory").unwrap();
    let vessel = manager.open_vessel(vessel.id()).await.unwrap();
    assert_eq!(sh(&vessel, "cat /data/other /work/kept").await, "another directorykept\n");
    vessel.close().await.unwrap();
}
