//! What stays and what goes: commands that leave nothing, work that survives, layers that are rebuilt from archives.
#![forbid(unsafe_code)]

mod rebuilt;

pub(crate) use rebuilt::wipe;

use vesselrt::{ErrorKind, ExecOptions, OpenOptions};

use crate::testkit::commands::must;
use crate::testkit::image::MOTD;
use crate::testkit::tree;
use crate::testkit::{Store, fails, sh, sh_ephemeral, tests, tests_on_each_driver};

tests_on_each_driver!(
    an_ephemeral_command_sees_everything_and_leaves_nothing,
    close_and_reopen_keeps_unsnapshotted_work,
    whiteouts_and_opaque_directories_survive_reopening,
);

tests!(
    ephemeral_is_the_default,
    ephemeral_commands_at_once_do_not_see_each_other,
    an_ephemeral_command_sees_what_is_written_before_it_starts,
    an_ephemeral_command_makes_no_layer,
    an_ephemeral_command_that_is_killed_leaves_nothing,
    persistent_and_ephemeral_commands_run_side_by_side,
    a_volatile_vessel_works_like_any_other,
    reopening_many_times_adds_nothing,
);

/// Changes everything that can be changed.
const WRECK: &str = "
    echo new > new; echo changed > old; rm gone; mv moved moved-away; chmod 0 mode; chown 7:7 owner 2>/dev/null
    ln -s x link; mkfifo fifo; rm -r full; mkdir full; rm -rf /etc/motd /srv; mv /var /var2
    rm -rf /bin/sed; truncate -s 0 empty; ln new hard; touch -d @1 time; true";
const SETUP: &str = "
    echo old > old; echo gone > gone; echo m > moved; echo m > mode; echo o > owner; mkdir -p full/a/b
    echo f > full/a/b/f; echo e > empty; echo t > time";

async fn an_ephemeral_command_sees_everything_and_leaves_nothing(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    sh(&vessel, SETUP).await;
    let before = [tree::inside(&vessel, "/work", false).await, tree::inside(&vessel, "/srv", false).await];
    let seen = sh_ephemeral(
        &vessel,
        &format!("cat old full/a/b/f; {WRECK}; cat new old hard; ls full; ls / | grep var"),
    )
    .await;
    assert_eq!(seen, "old\nf\nnew\nchanged\nnew\nvar2\n");
    let after = [tree::inside(&vessel, "/work", false).await, tree::inside(&vessel, "/srv", false).await];
    assert_eq!(after, before);
    assert_eq!(vessel.read_file("/etc/motd").await.unwrap(), MOTD);
    fails(vessel.stat("new").await, &ErrorKind::NotFound);
    assert!(vessel.stat("/var").await.unwrap().is_dir());
    // The same, and now it stays.
    sh(&vessel, WRECK).await;
    assert_eq!(sh(&vessel, "cat new old; ls full | wc -l").await, "new\nchanged\n0\n");
    fails(vessel.stat("/etc/motd").await, &ErrorKind::NotFound);
    vessel.close().await.unwrap();
}

async fn ephemeral_is_the_default(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    must(&vessel, ExecOptions::new(["touch", "default"])).await;
    must(&vessel, ExecOptions::new(["touch", "no"]).persist_result(false)).await;
    must(&vessel, ExecOptions::new(["touch", "yes"]).persist_result(true)).await;
    assert_eq!(sh(&vessel, "ls").await, "yes\n");
    // Not even the working directory that it asked for.
    must(&vessel, ExecOptions::new(["true"]).work_dir("/made/for/it")).await;
    fails(vessel.stat("/made").await, &ErrorKind::NotFound);
    vessel.close().await.unwrap();
}

async fn ephemeral_commands_at_once_do_not_see_each_other(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    sh(&vessel, "echo 0 > shared; mkdir dir").await;
    let tasks: Vec<_> = (0..10)
        .map(|i| {
            let vessel = vessel.clone();
            tokio::spawn(async move {
                let script = format!(
                    "[ $(cat shared) = 0 ] && echo {i} > shared && touch dir/{i} && usleep 200000 && cat shared && ls dir"
                );
                sh_ephemeral(&vessel, &script).await
            })
        })
        .collect();
    for (i, task) in tasks.into_iter().enumerate() {
        assert_eq!(task.await.unwrap(), format!("{i}\n{i}\n"));
    }
    assert_eq!(sh(&vessel, "cat shared; ls dir").await, "0\n");
    vessel.close().await.unwrap();
}

async fn an_ephemeral_command_sees_what_is_written_before_it_starts(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    for round in 0..10 {
        vessel.write_file("f", format!("{round}"), 0o644).await.unwrap();
        assert_eq!(sh_ephemeral(&vessel, "cat f; echo no > f").await, format!("{round}"));
        sh(&vessel, &format!("echo {round} > g; rm -f h{}", round - 1)).await;
        assert_eq!(sh_ephemeral(&vessel, "cat g; ls").await, format!("{round}\nf\ng\n"));
    }
    vessel.close().await.unwrap();
}

async fn an_ephemeral_command_makes_no_layer(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let first = vessel.create_snapshot("first").await.unwrap();
    for _ in 0..5 {
        sh_ephemeral(&vessel, "echo x > x; rm -rf /srv").await;
    }
    let second = vessel.create_snapshot("second").await.unwrap();
    assert_eq!(second.parent_id, first.id);
    // The system it follows could not delete a snapshot any more after such a command.
    vessel.delete_snapshot(&second.id).await.unwrap();
    assert_eq!(vessel.list_snapshots().await.unwrap().len(), 1);
    assert_eq!(sh(&vessel, "ls; ls /srv | wc -l").await, "3\n");
    vessel.close().await.unwrap();
}

async fn an_ephemeral_command_that_is_killed_leaves_nothing(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    sh(&vessel, SETUP).await;
    let before = tree::inside(&vessel, "/work", false).await;
    let options = ExecOptions::new(["sh", "-c", &format!("{WRECK}; sleep 1000")]);
    let ran = vessel.exec(options.timeout(std::time::Duration::from_millis(400))).await.unwrap();
    assert!(ran.timed_out);
    assert_eq!(tree::inside(&vessel, "/work", false).await, before);
    vessel.create_snapshot("").await.unwrap();
    vessel.close().await.unwrap();
}

async fn persistent_and_ephemeral_commands_run_side_by_side(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let writer = vessel.clone();
    let persistent = tokio::spawn(async move {
        sh(&writer, "for i in $(seq 1 200); do echo $i > f$i; usleep 2000; done").await;
    });
    for _ in 0..10 {
        sh_ephemeral(&vessel, "rm -rf /work/* /srv; ls / > /dev/null").await;
    }
    persistent.await.unwrap();
    assert_eq!(sh(&vessel, "ls | wc -l; ls /srv | wc -l").await, "200\n3\n");
    vessel.close().await.unwrap();
}

async fn close_and_reopen_keeps_unsnapshotted_work(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    sh(&vessel, SETUP).await;
    vessel.create_snapshot("middle").await.unwrap();
    sh(&vessel, WRECK).await;
    let mut file = vessel.open_file("by-api", &OpenOptions::new().write(true).create(true)).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut file, b"api").await.unwrap();
    file.close().await.unwrap();
    let before = tree::inside(&vessel, "/work", false).await;
    vessel.close().await.unwrap();
    manager.close().await.unwrap();
    let manager = store.manager().await;
    let vessel = manager.open_vessel(vessel.id()).await.unwrap();
    assert_eq!(tree::inside(&vessel, "/work", false).await, before);
    assert_eq!(vessel.read_file("by-api").await.unwrap(), b"api");
    fails(vessel.stat("/etc/motd").await, &ErrorKind::NotFound);
    vessel.close().await.unwrap();
}

async fn whiteouts_and_opaque_directories_survive_reopening(store: &Store) {
    let (manager, mut vessel) = store.vessel().await;
    sh(&vessel, "rm /srv/a /srv/link; rm -r /srv/sub; mkdir /srv/sub; echo n > /srv/sub/n; rm -r /home; echo f > /home").await;
    for _ in 0..2 {
        vessel.close().await.unwrap();
        vessel = manager.open_vessel(vessel.id()).await.unwrap();
        assert_eq!(sh(&vessel, "find /srv | sort; cat /home").await, "/srv\n/srv/sub\n/srv/sub/n\nf\n");
    }
    sh(&vessel, "rm -r /srv/sub /home; mkdir /srv/sub /home").await;
    vessel.close().await.unwrap();
    vessel = manager.open_vessel(vessel.id()).await.unwrap();
    assert_eq!(sh(&vessel, "ls -A /srv/sub /home | grep -v :").await.trim(), "");
    vessel.close().await.unwrap();
}

async fn a_volatile_vessel_works_like_any_other(store: &Store) {
    let manager = store.stocked().await;
    let options = vesselrt::CreateOptions::new(crate::testkit::BASE).work_dir("/work").volatile(true);
    let vessel = manager.create_vessel_with(options).await.unwrap();
    sh(&vessel, "echo 1 > f; rm /etc/motd").await;
    let snapshot = vessel.create_snapshot("").await.unwrap();
    sh(&vessel, "echo 2 > f").await;
    vessel.restore_snapshot(&snapshot.id).await.unwrap();
    assert_eq!(vessel.read_file("f").await.unwrap(), b"1\n");
    vessel.close().await.unwrap();
    manager.delete_vessel(vessel.id()).await.unwrap();
}

async fn reopening_many_times_adds_nothing(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    vessel.write_file("f", "x", 0o644).await.unwrap();
    vessel.close().await.unwrap();
    let names = || crate::testkit::leftovers::entries(&store.root().join("vessels").join(vessel.id()));
    let before = names();
    for _ in 0..10 {
        let vessel = manager.open_vessel(vessel.id()).await.unwrap();
        assert_eq!(vessel.read_file("f").await.unwrap(), b"x");
        vessel.close().await.unwrap();
    }
    assert_eq!(names(), before);
}
