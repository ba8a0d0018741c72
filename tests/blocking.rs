//! The library for programs without an async runtime: the same vessel by calls that block.
#![forbid(unsafe_code)]

use std::io::{Read, Seek, SeekFrom, Write};
use std::time::Duration;

use vesselrt::blocking::{Manager, Vessel};
use vesselrt::settings::Settings;
use vesselrt::{
    ErrorKind, ExecOptions, LogOptions, OpenOptions, OverlayDriver, ProcessEvent, SnapshotRead, SpawnOptions,
};

use crate::testkit::{BASE, Cap, Store, capture, fails, image, need};

/// Runs `test` on a new store, from a thread without a runtime, and checks that nothing is left.
fn run(test: impl FnOnce(&Store, &Manager, &Vessel)) {
    if !need(&[Cap::UserNamespaces, Cap::Busybox]) {
        return;
    }
    let store = Store::new(OverlayDriver::Auto);
    let tar = store.beside("base.tar");
    std::fs::write(&tar, image::base_tar()).unwrap();
    let manager = Manager::new(store.config()).unwrap();
    manager.import_image(&tar, BASE, |_| {}).unwrap();
    let vessel = manager.create_vessel(BASE, "/work").unwrap();
    test(&store, &manager, &vessel);
    vessel.close().unwrap();
    drop(vessel);
    manager.close().unwrap();
    drop(manager);
    store.finish();
}

fn sh(vessel: &Vessel, script: &str) -> String {
    let out = capture();
    let options = ExecOptions::new(["sh", "-c", script]).persist_result(true).stdout(out.clone());
    assert!(vessel.exec(options).unwrap().success(), "{script}");
    out.text()
}

#[test]
fn the_main_job_works_without_a_runtime() {
    run(|_store, manager, vessel| {
        assert_eq!(sh(vessel, "echo hello > output.txt; pwd"), "/work\n");
        assert_eq!(vessel.read_file("output.txt").unwrap(), b"hello\n");
        let snapshot = vessel.create_snapshot("init workspace").unwrap();
        vessel.delete_file("output.txt").unwrap();
        fails(vessel.read_file("output.txt"), &ErrorKind::NotFound);
        vessel.restore_snapshot(&snapshot.id).unwrap();
        assert_eq!(vessel.read_file("output.txt").unwrap(), b"hello\n");
        assert_eq!(vessel.list_snapshots().unwrap(), [snapshot]);
        vessel.close().unwrap();
        let again = manager.open_vessel(vessel.id()).unwrap();
        assert_eq!(again.read_file("output.txt").unwrap(), b"hello\n");
        again.close().unwrap();
        manager.delete_vessel(vessel.id()).unwrap();
        fails(manager.open_vessel(vessel.id()), &ErrorKind::NotFound);
    });
}

#[test]
fn a_file_is_the_standard_library_s_reader_and_writer() {
    run(|_store, _manager, vessel| {
        let options = OpenOptions::new().read(true).write(true).create(true).mode(0o600);
        let mut file = vessel.open_file("f", &options).unwrap();
        file.write_all(b"0123456789").unwrap();
        file.seek(SeekFrom::Start(4)).unwrap();
        let mut rest = String::new();
        file.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "456789");
        file.write_at(b"XY", 0).unwrap();
        let mut two = [0; 2];
        assert_eq!(file.read_at(&mut two, 0).unwrap(), 2);
        assert_eq!(&two, b"XY");
        file.truncate(3).unwrap();
        file.sync().unwrap();
        let info = file.stat().unwrap();
        assert_eq!((info.size, info.mode), (3, 0o600));
        file.close().unwrap();
        assert_eq!(vessel.read_file("f").unwrap(), b"XY2");
    });
}

#[test]
fn every_file_verb_is_there() {
    run(|_store, _manager, vessel| {
        vessel.make_dir("d", 0o755).unwrap();
        vessel.make_dir_all("d/a/b", 0o755).unwrap();
        vessel.write_file("d/f", "x", 0o640).unwrap();
        vessel.rename_file("d/f", "d/g").unwrap();
        assert_eq!(vessel.stat("d/g").unwrap().mode, 0o640);
        assert!(vessel.symlink_stat("/srv/link").unwrap().is_symlink());
        assert_eq!(vessel.read_dir("d").unwrap().len(), 2);
        let mut tar = Vec::new();
        vessel.copy_out("d", &mut tar).unwrap();
        vessel.make_dir("copy", 0o755).unwrap();
        vessel.copy_in("copy", tar.as_slice()).unwrap();
        assert_eq!(sh(vessel, "find copy -name g | wc -l").trim(), "1");
        vessel.delete_file("d/g").unwrap();
        vessel.delete_all("d").unwrap();
        fails(vessel.stat("d"), &ErrorKind::NotFound);
    });
}

#[test]
fn a_command_is_signalled_and_timed() {
    run(|_store, _manager, vessel| {
        let mut running = vessel.spawn(ExecOptions::new(["sleep", "1000"])).unwrap();
        running.signal(15).unwrap();
        assert_eq!(running.wait().unwrap().exit_code, 143);
        let late =
            vessel.exec(ExecOptions::new(["sleep", "1000"]).timeout(Duration::from_millis(100))).unwrap();
        assert!(late.timed_out);
        drop(vessel.spawn(ExecOptions::new(["sleep", "1000"])).unwrap());
    });
}

#[test]
fn threads_share_a_vessel() {
    run(|_store, _manager, vessel| {
        std::thread::scope(|scope| {
            for i in 0..6 {
                scope.spawn(move || {
                    sh(vessel, &format!("echo {i} > f{i}"));
                    assert_eq!(vessel.read_file(format!("f{i}")).unwrap(), format!("{i}\n").as_bytes());
                });
            }
        });
        assert_eq!(vessel.read_dir("").unwrap().len(), 6);
    });
}

#[test]
fn dropping_everything_in_any_order_is_fine() {
    run(|store, _manager, vessel| {
        let manager = Manager::new(store.config()).unwrap();
        let other = manager.open_vessel(vessel.id()).unwrap();
        let file = other.open_file("/etc/motd", &OpenOptions::new().read(true)).unwrap();
        drop(manager);
        assert_eq!(other.read_file("/etc/motd").unwrap(), image::MOTD);
        drop(other);
        let mut text = String::new();
        let mut file = file;
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text.as_bytes(), image::MOTD);
    });
}

#[test]
fn a_detached_process_is_written_to_read_from_and_waited_for() {
    run(|_store, manager, vessel| {
        let command = ExecOptions::new(["sh", "-c", "read a; echo got $a; echo err >&2; exit 5"]);
        let process = vessel.spawn_detached(SpawnOptions::new(command).input(true)).unwrap();
        let again = manager.process(vessel.id(), &process.id()).unwrap();
        again.input().unwrap().write_all(b"this\n").unwrap();
        let (mut out, mut err, mut ended) = (Vec::new(), Vec::new(), None);
        for event in process.events(LogOptions::new().follow(true)).unwrap() {
            match event.unwrap() {
                ProcessEvent::Stdout { data, .. } => out.extend(data),
                ProcessEvent::Stderr { data, .. } => err.extend(data),
                ProcessEvent::Exited(end) => ended = Some(end),
                _ => {}
            }
        }
        assert_eq!((out.as_slice(), err.as_slice()), (&b"got this\n"[..], &b"err\n"[..]));
        assert_eq!(ended.as_ref(), Some(&again.wait().unwrap()));
        assert_eq!(ended.unwrap().result.unwrap().exit_code, 5);
        assert_eq!(vessel.processes().unwrap(), manager.processes(vessel.id()).unwrap());
        fails(process.signal(9), &ErrorKind::Conflict);
        assert_eq!(manager.prune_processes(vessel.id()).unwrap(), ["p1"]);
        fails(vessel.process("p1"), &ErrorKind::NotFound);
    });
}

#[test]
fn files_of_a_user_and_of_a_snapshot_are_read_without_a_runtime() {
    run(|_store, manager, vessel| {
        assert!(manager.probe().is_ok());
        assert_eq!(manager.vessel_settings(vessel.id()).unwrap(), Settings::default());
        assert_eq!(manager.denied_connections(vessel.id()).unwrap(), []);
        vessel.write_file("note", b"first", 0o640).unwrap();
        let snapshot = vessel.create_snapshot("").unwrap();
        vessel.write_file("note", b"second", 0o640).unwrap();
        assert_eq!(vessel.read_snapshot_file(&snapshot.id, "note").unwrap(), b"first");
        let mut file =
            manager.open_snapshot_file(vessel.id(), &snapshot.id, "note", SnapshotRead::default()).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), file.size(), file.mode()), ("first", 5, 0o640));
        let one = vessel.user_files(0, 0, "/work");
        assert_eq!(one.read_file("note").unwrap(), b"second");
        assert!(fails(one.read_file("/etc/passwd"), &ErrorKind::PermissionDenied).leads_outside());
        if manager.id_count() == 1 {
            fails(vessel.set_owner("note", 2001, 2001), &ErrorKind::InvalidArgument);
            return;
        }
        vessel.make_dir("/home/one", 0o700).unwrap();
        vessel.set_owner("/home/one", 2001, 2001).unwrap();
        let one = vessel.user_files(2001, 2001, "/home/one");
        one.make_dir_all("a/b", 0o755).unwrap();
        one.write_file("a/b/f", b"one's", 0o600).unwrap();
        one.rename_file("a/b/f", "a/g").unwrap();
        let mut opened = one.open_file("a/g", &OpenOptions::new().read(true)).unwrap();
        text.clear();
        opened.read_to_string(&mut text).unwrap();
        opened.close().unwrap();
        assert_eq!((text.as_str(), one.stat("a/g").unwrap().uid), ("one's", 2001));
        assert_eq!((one.read_dir("a").unwrap().len(), one.symlink_stat("a").unwrap().is_dir()), (2, true));
        one.delete_all("a").unwrap();
        assert!(one.read_dir(".").unwrap().is_empty());
        assert_eq!(one.base(), std::path::Path::new("/home/one"));
    });
}
