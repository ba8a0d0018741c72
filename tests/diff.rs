//! What differs between two states of a vessel: told path by path, as it is seen inside.
#![forbid(unsafe_code)]

mod contents;
mod model;
mod patches;
mod unusual;

use vesselrt::{Change, ChangeKind, Diff, DiffOptions, DiffPoint, ErrorKind, ExecOptions, FileType, Vessel};

use crate::testkit::{Store, fails, sh, tests, tests_on_each_driver, until};

tests_on_each_driver!(
    what_was_done_since_the_last_snapshot_is_told,
    a_directory_that_was_made_anew_hides_what_was_in_it,
    files_and_directories_change_places,
    a_file_that_was_only_copied_up_does_not_differ,
    siblings_differ_by_what_was_done_on_both_ways,
    a_restored_vessel_differs_in_nothing,
    the_last_snapshot_may_be_one_of_a_running_vessel,
    snapshots_that_are_only_archives_are_compared_too,
);

tests!(
    owners_modes_times_and_attributes_are_told_apart,
    files_and_directories_are_found_under_new_names,
    renames_are_not_looked_for_if_nobody_wants_them,
    only_the_paths_that_were_asked_for_are_told,
    commands_go_on_while_it_is_compared,
    an_unknown_snapshot_cannot_be_compared,
);

fn snapshot(id: &str) -> DiffPoint {
    DiffPoint::Snapshot(id.to_owned())
}

async fn between(vessel: &Vessel, from: DiffPoint, to: DiffPoint) -> Diff {
    vessel.diff(DiffOptions::new().from(from).to(to)).await.unwrap()
}

async fn since_last(vessel: &Vessel) -> Vec<String> {
    lines(&vessel.diff(DiffOptions::new()).await.unwrap().changes)
}

/// `M /path`, and for what was renamed `R /old /new`.
fn lines(changes: &[Change]) -> Vec<String> {
    changes.iter().map(line).collect()
}

fn line(change: &Change) -> String {
    let letter = match change.kind {
        ChangeKind::Added => 'A',
        ChangeKind::Modified => 'M',
        ChangeKind::Deleted => 'D',
        ChangeKind::Renamed => 'R',
    };
    match &change.old_path {
        Some(old) => format!("{letter} {} {}", old.display(), change.path.display()),
        None => format!("{letter} {}", change.path.display()),
    }
}

async fn what_was_done_since_the_last_snapshot_is_told(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    sh(&vessel, "mkdir -p d/e; echo one > d/f; echo two > d/e/g; echo three > h").await;
    vessel.create_snapshot("").await.unwrap();
    assert_eq!(since_last(&vessel).await, Vec::<String>::new());
    sh(&vessel, "echo more >> d/f; rm d/e/g; echo new > d/n; rm -r /srv/sub; echo changed > /etc/motd").await;
    let expected = [
        "M /etc/motd",
        "D /srv/sub",
        "D /srv/sub/a-too",
        "D /srv/sub/b",
        "D /srv/sub/c",
        "D /work/d/e/g",
        "M /work/d/f",
        "A /work/d/n",
    ];
    assert_eq!(since_last(&vessel).await, expected);
    let diff = vessel.diff(DiffOptions::new()).await.unwrap();
    let changed = diff.changes.iter().find(|change| change.path.ends_with("d/f")).unwrap();
    let (old, new) = (changed.old.as_ref().unwrap(), changed.new.as_ref().unwrap());
    assert_eq!((old.size, new.size, new.file_type, new.mode), (4, 9, FileType::File, 0o644));
    assert!(changed.differences.content && changed.differences.mtime && !changed.differences.mode);
    assert_eq!(diff.to, None);
    vessel.close().await.unwrap();
}

async fn the_last_snapshot_may_be_one_of_a_running_vessel(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    sh(&vessel, "echo 1 > a").await;
    let base = vessel.create_snapshot("").await.unwrap();
    sh(&vessel, "echo 2 > b").await;
    let sleeps = || ExecOptions::new(["sh", "-c", "echo up > up; exec sleep 1000"]).persist_result(true);
    let running = vessel.spawn(sleeps()).await.unwrap();
    until("it is up", async || vessel.read_file("up").await.is_ok_and(|text| text == b"up\n")).await;
    let copied = vessel.create_snapshot("").await.unwrap();
    assert_eq!(copied.parent_id, base.id, "it was taken while something ran");
    vessel.write_file("c", b"3", 0o644).await.unwrap();
    assert_eq!(since_last(&vessel).await, ["A /work/c"]);
    let based_on = between(&vessel, DiffPoint::Current, DiffPoint::Now).await;
    assert_eq!(lines(&based_on.changes), ["A /work/b", "A /work/c", "A /work/up"]);
    drop(running);
    until("it is gone", async || vessel.restore_snapshot(&base.id).await.is_ok()).await;
    vessel.write_file("d", b"4", 0o644).await.unwrap();
    assert_eq!(since_last(&vessel).await, ["A /work/d"], "what is now does not come from the copy");
    vessel.close().await.unwrap();
    let vessel = manager.open_vessel(vessel.id()).await.unwrap();
    let running = vessel.spawn(sleeps()).await.unwrap();
    until("it is up", async || vessel.read_file("up").await.is_ok_and(|text| text == b"up\n")).await;
    let copied = vessel.create_snapshot("").await.unwrap();
    drop(running);
    until("it is deleted", async || vessel.delete_snapshot(&copied.id).await.is_ok()).await;
    assert_eq!(since_last(&vessel).await, ["A /work/d", "A /work/up"], "there is none but the one below");
    vessel.close().await.unwrap();
}

async fn a_directory_that_was_made_anew_hides_what_was_in_it(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    sh(&vessel, "mkdir -p d/sub; echo 1 > d/a; echo 2 > d/b; echo 3 > d/sub/c").await;
    let one = vessel.create_snapshot("").await.unwrap();
    sh(&vessel, "rm -r d; mkdir d; echo 22 > d/b; echo 4 > d/new").await;
    let expected = ["D /work/d/a", "M /work/d/b", "A /work/d/new", "D /work/d/sub", "D /work/d/sub/c"];
    assert_eq!(since_last(&vessel).await, expected);
    vessel.create_snapshot("").await.unwrap();
    sh(&vessel, "echo 5 > d/a").await;
    assert_eq!(since_last(&vessel).await, ["A /work/d/a"]);
    let all = between(&vessel, snapshot(&one.id), DiffPoint::Now).await;
    let expected = ["M /work/d/a", "M /work/d/b", "A /work/d/new", "D /work/d/sub", "D /work/d/sub/c"];
    assert_eq!(lines(&all.changes), expected);
    vessel.close().await.unwrap();
}

async fn files_and_directories_change_places(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    sh(&vessel, "mkdir -p d/e; echo 11 > d/e/f; echo 2 > x; ln -s x l").await;
    let one = vessel.create_snapshot("").await.unwrap();
    sh(&vessel, "rm -r d x l; echo d > d; mkdir -p x/y; echo 333 > x/y/z; echo l > l").await;
    let expected = [
        "M /work/d",
        "D /work/d/e",
        "D /work/d/e/f",
        "M /work/l",
        "M /work/x",
        "A /work/x/y",
        "A /work/x/y/z",
    ];
    let forth = vessel.diff(DiffOptions::new()).await.unwrap();
    assert_eq!(lines(&forth.changes), expected);
    let kinds =
        |change: &Change| (change.old.as_ref().unwrap().file_type, change.new.as_ref().unwrap().file_type);
    assert_eq!(kinds(&forth.changes[0]), (FileType::Directory, FileType::File));
    assert_eq!(kinds(&forth.changes[3]), (FileType::Symlink, FileType::File));
    assert_eq!(kinds(&forth.changes[4]), (FileType::File, FileType::Directory));
    assert!(forth.changes[0].differences.kind && !forth.changes[0].differences.content);
    let back = between(&vessel, DiffPoint::Now, snapshot(&one.id)).await;
    let swapped: Vec<String> = expected
        .iter()
        .map(|line| match line.split_at(1) {
            ("A", path) => format!("D{path}"),
            ("D", path) => format!("A{path}"),
            (other, path) => format!("{other}{path}"),
        })
        .collect();
    assert_eq!(lines(&back.changes), swapped);
    vessel.close().await.unwrap();
}

async fn a_file_that_was_only_copied_up_does_not_differ(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    vessel.create_snapshot("").await.unwrap();
    // Opened for writing, linked and given back what they had: all of it copies up.
    sh(&vessel, "true >> /etc/motd; ln /srv/a /srv/second; rm /srv/second; chmod 600 /etc/group; chmod 644 /etc/group")
        .await;
    assert_eq!(since_last(&vessel).await, Vec::<String>::new());
    sh(&vessel, "chmod 700 /srv/sub; touch /srv").await;
    assert_eq!(since_last(&vessel).await, ["M /srv/sub"]);
    vessel.close().await.unwrap();
}

async fn siblings_differ_by_what_was_done_on_both_ways(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    sh(&vessel, "echo 0 > both; echo 0 > left; echo 0 > right; mkdir d; echo 0 > d/f").await;
    let root = vessel.create_snapshot("").await.unwrap();
    sh(&vessel, "echo 1 > both; echo 1 > left; rm -r d").await;
    vessel.create_snapshot("").await.unwrap();
    sh(&vessel, "echo l > only-left").await;
    let left = vessel.create_snapshot("").await.unwrap();
    vessel.restore_snapshot(&root.id).await.unwrap();
    sh(&vessel, "echo 1 > both; touch -d @1600000000 both; echo 1 > right; echo new > d/g").await;
    let right = vessel.create_snapshot("").await.unwrap();
    let expected = [
        "M /work/both",
        "A /work/d",
        "A /work/d/f",
        "A /work/d/g",
        "M /work/left",
        "D /work/only-left",
        "M /work/right",
    ];
    let diff = between(&vessel, snapshot(&left.id), snapshot(&right.id)).await;
    assert_eq!(lines(&diff.changes), expected);
    assert!(!diff.changes[0].differences.content && diff.changes[0].differences.mtime);
    assert_eq!((diff.from, diff.to), (Some(left.id.clone()), Some(right.id.clone())));
    assert_eq!(
        lines(&between(&vessel, snapshot(&right.id), DiffPoint::Now).await.changes),
        Vec::<String>::new()
    );
    assert_eq!(
        lines(&between(&vessel, snapshot(&left.id), DiffPoint::Now).await.changes),
        expected,
        "what is now is what the snapshot is"
    );
    vessel.close().await.unwrap();
}

async fn a_restored_vessel_differs_in_nothing(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    sh(&vessel, "mkdir d; echo 1 > d/f").await;
    let one = vessel.create_snapshot("").await.unwrap();
    sh(&vessel, "rm -r d; echo 2 > g").await;
    let two = vessel.create_snapshot("").await.unwrap();
    sh(&vessel, "echo lost > h").await;
    vessel.restore_snapshot(&one.id).await.unwrap();
    assert_eq!(since_last(&vessel).await, Vec::<String>::new());
    let ahead = between(&vessel, DiffPoint::Now, snapshot(&two.id)).await;
    assert_eq!(lines(&ahead.changes), ["D /work/d", "D /work/d/f", "A /work/g"]);
    sh(&vessel, "echo 3 > d/f").await;
    let from_image = between(&vessel, DiffPoint::Base, DiffPoint::Now).await;
    assert_eq!(lines(&from_image.changes), ["A /work", "A /work/d", "A /work/d/f"]);
    vessel.close().await.unwrap();
}

async fn snapshots_that_are_only_archives_are_compared_too(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    sh(&vessel, "mkdir d; echo 1 > d/f; echo 1 > e; echo 1 > /etc/motd").await;
    let one = vessel.create_snapshot("").await.unwrap();
    sh(&vessel, "rm -r d; mkdir d; rm e; mkfifo p; ln -s nowhere l").await;
    let two = vessel.create_snapshot("").await.unwrap();
    let expected = ["D /work/d/f", "D /work/e", "A /work/l", "A /work/p"];
    let compare =
        async |vessel: &Vessel| lines(&between(vessel, snapshot(&one.id), snapshot(&two.id)).await.changes);
    assert_eq!(compare(&vessel).await, expected);
    vessel.close().await.unwrap();
    crate::persistence::wipe(store);
    let vessel = manager.open_vessel(vessel.id()).await.unwrap();
    assert_eq!(compare(&vessel).await, expected);
    assert_eq!(since_last(&vessel).await, Vec::<String>::new());
    vessel.close().await.unwrap();
}

async fn owners_modes_times_and_attributes_are_told_apart(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    sh(&vessel, "for f in content mode time; do echo 1 > $f; touch -d @1600000000 $f; done").await;
    vessel.create_snapshot("").await.unwrap();
    sh(&vessel, "echo 2 > content; touch -d @1600000000 content; chmod 4711 mode; touch -d @1600000001 time")
        .await;
    let diff = vessel.diff(DiffOptions::new()).await.unwrap();
    assert_eq!(lines(&diff.changes), ["M /work/content", "M /work/mode", "M /work/time"]);
    let told = |index: usize| {
        let differences = diff.changes[index].differences;
        (differences.content, differences.mode, differences.mtime, differences.kind, differences.owner)
    };
    assert_eq!(told(0), (true, false, false, false, false), "same size and time, other bytes");
    assert_eq!(told(1), (false, true, false, false, false));
    assert_eq!(told(2), (false, false, true, false, false));
    let mode = diff.changes[1].new.as_ref().unwrap();
    assert_eq!((mode.mode, mode.uid, mode.gid), (0o4711, 0, 0));
    vessel.close().await.unwrap();
}

async fn files_and_directories_are_found_under_new_names(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    sh(
        &vessel,
        "mkdir -p dir/sub/empty; seq 100 > dir/a; seq 200 > dir/sub/b; : > dir/none; ln -s a dir/l
         seq 300 > single; seq 400 > twin; seq 3000000 > /srv/large",
    )
    .await;
    vessel.create_snapshot("").await.unwrap();
    sh(&vessel, "mv dir moved; mv single other; chmod 600 other; cp twin twin2; rm twin; seq 401 > x; mv /srv/large .")
        .await;
    let diff = vessel.diff(DiffOptions::new()).await.unwrap();
    let expected = [
        "R /srv/large /work/large",
        "R /work/dir /work/moved",
        "R /work/dir/a /work/moved/a",
        "R /work/dir/l /work/moved/l",
        "R /work/dir/none /work/moved/none",
        "R /work/dir/sub /work/moved/sub",
        "R /work/dir/sub/b /work/moved/sub/b",
        "R /work/dir/sub/empty /work/moved/sub/empty",
        "R /work/single /work/other",
        "R /work/twin /work/twin2",
        "A /work/x",
    ];
    assert_eq!(lines(&diff.changes), expected);
    let other = &diff.changes[8];
    assert!(other.differences.mode && !other.differences.content && !other.differences.mtime);
    assert_eq!((other.old.as_ref().unwrap().mode, other.new.as_ref().unwrap().mode), (0o644, 0o600));
    vessel.close().await.unwrap();
}

async fn renames_are_not_looked_for_if_nobody_wants_them(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    sh(&vessel, "seq 10 > a; : > empty").await;
    vessel.create_snapshot("").await.unwrap();
    sh(&vessel, "mv a b; mv empty void").await;
    assert_eq!(since_last(&vessel).await, ["R /work/a /work/b", "D /work/empty", "A /work/void"]);
    let diff = vessel.diff(DiffOptions::new().renames(false)).await.unwrap();
    assert_eq!(lines(&diff.changes), ["D /work/a", "A /work/b", "D /work/empty", "A /work/void"]);
    vessel.close().await.unwrap();
}

async fn only_the_paths_that_were_asked_for_are_told(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    vessel.create_snapshot("").await.unwrap();
    sh(
        &vessel,
        "mkdir -p d/e dd; echo 1 > d/f; echo 2 > d/e/g; echo 3 > dd/h; echo 4 > /etc/motd; rm -r /srv",
    )
    .await;
    let only = async |paths: &[&str]| {
        let options = paths.iter().fold(DiffOptions::new(), DiffOptions::path);
        lines(&vessel.diff(options).await.unwrap().changes)
    };
    assert_eq!(only(&["d"]).await, ["A /work/d", "A /work/d/e", "A /work/d/e/g", "A /work/d/f"]);
    assert_eq!(only(&["d/e/g", "/etc"]).await, ["M /etc/motd", "A /work/d/e/g"]);
    assert_eq!(
        only(&["/srv/sub/"]).await,
        ["D /srv/sub", "D /srv/sub/a-too", "D /srv/sub/b", "D /srv/sub/c"]
    );
    assert_eq!(only(&["/nowhere", "../../../bin"]).await, Vec::<String>::new());
    assert_eq!(only(&["/"]).await, since_last(&vessel).await);
    vessel.close().await.unwrap();
}

async fn commands_go_on_while_it_is_compared(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    sh(&vessel, "mkdir d; seq 2000 | while read n; do echo $n > d/$n; done").await;
    vessel.create_snapshot("").await.unwrap();
    let busy = vessel.clone();
    let churn =
        "i=0; while [ ! -e /tmp/stop ]; do i=$((i+1)); mkdir -p d/x$i/y; echo $i > d/x$i/y/z; echo $i > d/$i;
                 mv d/x$i d/y$i; rm -rf d/y$((i-3)); done; echo $i > /work/rounds";
    let running = tokio::spawn(async move { sh(&busy, churn).await });
    for _ in 0..20 {
        let diff = vessel.diff(DiffOptions::new()).await.unwrap();
        let known = |change: &Change| change.path.starts_with("/work/d") || change.path.starts_with("/tmp");
        assert!(diff.changes.iter().all(known), "{:?}", lines(&diff.changes));
    }
    vessel.write_file("/tmp/stop", "", 0o644).await.unwrap();
    running.await.unwrap();
    let rounds: usize =
        String::from_utf8(vessel.read_file("rounds").await.unwrap()).unwrap().trim().parse().unwrap();
    let still = vessel.diff(DiffOptions::new().renames(false)).await.unwrap();
    let modified = still.changes.iter().filter(|change| change.kind == ChangeKind::Modified).count();
    assert_eq!(modified, rounds.min(2000), "what has come to rest is told exactly");
    vessel.close().await.unwrap();
}

async fn an_unknown_snapshot_cannot_be_compared(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    for id in ["0123456789abcdef", "", "..", "../../etc"] {
        for options in [DiffOptions::new().from(snapshot(id)), DiffOptions::new().to(snapshot(id))] {
            let error = fails(vessel.diff(options).await, &ErrorKind::NotFound);
            assert_eq!(error.to_string(), format!("snapshot not found: {id}"));
        }
    }
    vessel.close().await.unwrap();
}
