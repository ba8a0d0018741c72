//! `/in`, `/out` and `/persist`.
#![forbid(unsafe_code)]

use std::os::unix::fs::PermissionsExt;

use vesselrt::ErrorKind;

use vesselrt::vm::RunOptions;

use super::{create, json, options, service, service_of, sh, text};
use crate::testkit::{Cap, Store, fails_with, need, tests};

tests!(
    directories_have_the_modes_that_they_need,
    a_kept_volume_is_found_again,
    persist_outlives_the_root_file_system,
    in_and_out_are_directories_of_this_host,
    without_volumes_there_are_none,
    a_guest_cannot_have_us_write_elsewhere,
    what_users_of_a_guest_wrote_is_removed,
);

async fn directories_have_the_modes_that_they_need(store: &Store) {
    for (volumes, mode) in [(false, 0o755), (true, 0o777)] {
        let service = service_of(store, volumes).await;
        let record = service.create(options()).await.unwrap();
        for dir in [&record.storage.input_path, &record.storage.output_path] {
            let found = std::fs::metadata(dir).unwrap().permissions().mode() & 0o7777;
            assert_eq!(found, mode, "{}", dir.display());
        }
        assert_eq!(record.storage.disable_guest_volumes, !volumes);
        service.clean(&record.id, false).await.unwrap();
    }
}

async fn a_kept_volume_is_found_again(store: &Store) {
    let service = service(store).await;
    let first = service.create(options().persist(true)).await.unwrap();
    std::fs::write(first.storage.persist_path.join("file"), "kept").unwrap();
    service.clean(&first.id, true).await.unwrap();
    let kept = service.kept_volumes().await.unwrap();
    assert_eq!((kept.len(), &kept[0].id, &kept[0].path), (1, &first.id, &first.storage.persist_path));
    // Where a creation fails it is still kept.
    let failed = service.create(options().image("localhost/none:1").adopt(&first.id)).await;
    assert_eq!(failed.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(service.kept_volumes().await.unwrap(), kept);
    let second = service.create(options().adopt(&first.id)).await.unwrap();
    assert!(second.persist && second.storage.persist_path == first.storage.persist_path);
    assert_eq!(std::fs::read_to_string(second.storage.persist_path.join("file")).unwrap(), "kept");
    assert!(service.kept_volumes().await.unwrap().is_empty());
    let again = service.create(options().adopt(&first.id)).await;
    fails_with(again, &ErrorKind::NotFound, "no volume was kept of vm");
    service.clean(&second.id, true).await.unwrap();
    service.clean_kept(&second.id).await.unwrap();
    assert!(!second.storage.persist_path.exists() && service.kept_volumes().await.unwrap().is_empty());
    let third = service.create(options().persist(true)).await.unwrap();
    service.clean(&third.id, false).await.unwrap();
    assert!(!third.storage.persist_path.exists());
}

async fn persist_outlives_the_root_file_system(store: &Store) {
    let service = service(store).await;
    let record = service.create(options().persist(true)).await.unwrap();
    sh(&service, &record.id, "echo kept > /persist/file; echo lost > /file").await;
    let path = record.storage.persist_path.join("file");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "kept\n");
    service.stop(&record.id).await.unwrap();
    assert_eq!(
        sh(&service, &record.id, "cat /persist/file; ls /file 2>&- || echo gone").await,
        "kept\ngone\n"
    );
    // Another machine finds it again, by the command line.
    text(store, &["clean", "--vm", &record.id, "--keep-persist"]);
    let kept = json(store, &["list", "--kept"]);
    assert_eq!(kept[0]["ID"], record.id.as_str());
    assert!(text(store, &["list", "--kept"]).contains(&record.id));
    let new = create(store, &["--adopt", &record.id]);
    assert!(text(store, &["run", "--vm", &new, "--cmd", "cat /persist/file"]).ends_with("kept\n"));
    text(store, &["clean", "--vm", &new, "--keep-persist"]);
    text(store, &["clean", "--kept", &new]);
    assert_eq!(json(store, &["list", "--kept"]), serde_json::json!([]));
    assert_eq!(std::fs::read_dir(super::state(store).join("persist")).unwrap().count(), 0);
}

async fn in_and_out_are_directories_of_this_host(store: &Store) {
    let service = service_of(store, true).await;
    let record = service.create(options()).await.unwrap();
    let file = store.beside("job.sh");
    std::fs::write(&file, "echo done > /out/result").unwrap();
    let run = RunOptions::new(&record.id, "sh /in/job.sh").file(&file);
    assert_eq!(service.run(run).await.unwrap().exit_code, 0);
    let result = record.storage.output_path.join("result");
    assert_eq!(std::fs::read_to_string(&result).unwrap(), "done\n");
    let folder = service.run(RunOptions::new(&record.id, "true").file(store.beside(""))).await;
    fails_with(folder, &ErrorKind::InvalidArgument, "input file must not be a directory");
    // They stay when it is stopped, and go with it.
    service.stop(&record.id).await.unwrap();
    assert_eq!(sh(&service, &record.id, "cat /out/result").await, "done\n");
    service.clean(&record.id, false).await.unwrap();
    assert!(!result.exists());
}

async fn without_volumes_there_are_none(store: &Store) {
    let service = service(store).await;
    let record = service.create(options()).await.unwrap();
    assert_eq!(sh(&service, &record.id, "ls -d /in /out /persist 2>&-; true").await, "");
    // With another environment it gets them when it is made again.
    let sharing = service_of(store, true).await;
    let staged = RunOptions::new(&record.id, "cat /in/hostname >/out/copy").file("/etc/hostname");
    let refused = sharing.run(staged.clone()).await;
    fails_with(refused, &ErrorKind::InvalidArgument, "file staging requires guest volume sharing");
    sharing.stop(&record.id).await.unwrap();
    sh(&sharing, &record.id, "true").await;
    assert_eq!(sharing.run(staged).await.unwrap().exit_code, 0);
    sharing.clean(&record.id, false).await.unwrap();
}

async fn a_guest_cannot_have_us_write_elsewhere(store: &Store) {
    let service = service_of(store, true).await;
    let record = service.create(options()).await.unwrap();
    let (file, victim) = (store.beside("input"), store.beside("victim"));
    std::fs::write(&file, "input").unwrap();
    std::fs::write(&victim, "precious").unwrap();
    let links = format!(
        "ln -s {0} /in/input; rm -f /out/*; ln -s {0} /out/stdout.log; mkdir /out/stderr.log",
        victim.display()
    );
    sh(&service, &record.id, &links).await;
    let run = RunOptions::new(&record.id, "echo out; echo err >&2; cat /in/input").file(&file);
    let result = service.run(run).await.unwrap();
    assert_eq!(std::fs::read_to_string(&result.stdout_path).unwrap(), "out\ninput");
    assert_eq!(std::fs::read_to_string(&result.stderr_path).unwrap(), "err\n");
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
    service.clean(&record.id, false).await.unwrap();
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious", "and it is not removed either");
}

async fn what_users_of_a_guest_wrote_is_removed(store: &Store) {
    if !need(&[Cap::SubordinateIds]) {
        return;
    }
    let service = service_of(store, true).await;
    let record = service.create(options().persist(true)).await.unwrap();
    let script = "for dir in /out /persist; do mkdir -p $dir/a/b; echo x > $dir/a/b/c; \
                  chown -R 1000:1000 $dir/a; chmod 700 $dir/a $dir/a/b; done";
    sh(&service, &record.id, script).await;
    service.clean(&record.id, false).await.unwrap();
    assert!(!record.storage.root.exists() && !record.storage.persist_path.exists());
}
