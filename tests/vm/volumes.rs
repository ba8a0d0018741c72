//! `/in`, `/out` and `/persist`.
#![forbid(unsafe_code)]

use std::os::unix::fs::PermissionsExt;

use vesselrt::ErrorKind;

use super::{options, service, service_of};
use crate::testkit::{Store, fails_with, tests};

tests!(directories_have_the_modes_that_they_need, a_kept_volume_is_found_again);

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
    assert!(second.persist && !first.storage.persist_path.exists());
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
