//! The database: damaged, used by many processes at once, read by those who must not change it.
#![forbid(unsafe_code)]

use std::process::Stdio;

use redb::{Database, TableDefinition};
use vesselrt::ErrorKind;
use vesselrt::vm::RunOptions;

use super::{call, command, create, options, service, state, text, vm};
use crate::testkit::{BASE, Store, fails_with, tests};

tests!(
    one_that_is_damaged_is_an_error_and_stays_as_it_is,
    an_entry_that_cannot_be_read_is_an_error,
    what_only_reads_changes_nothing,
    a_run_does_not_write_to_it,
    processes_that_do_everything_at_once_lose_nothing,
);

async fn one_that_is_damaged_is_an_error_and_stays_as_it_is(store: &Store) {
    let service = service(store).await;
    let record = vm(&service).await;
    let file = state(store).join("agent.redb");
    let whole = std::fs::read(&file).unwrap();
    let mut overwritten = whole.clone();
    overwritten[..4096].fill(0);
    let mut other_pages = whole.clone();
    other_pages[12] = 1;
    let damaged = [
        Vec::new(),
        b"not a database\n".to_vec(),
        whole[..whole.len() / 2].to_vec(),
        whole[..5000].to_vec(),
        vec![0; whole.len()],
        overwritten,
        other_pages,
    ];
    for (n, bytes) in damaged.iter().enumerate() {
        std::fs::write(&file, bytes).unwrap();
        for result in [
            service.list().await.map(drop),
            service.create(options()).await.map(drop),
            service.run(RunOptions::new(&record.id, "true")).await.map(drop),
            service.clean(&record.id, false).await.map(drop),
        ] {
            fails_with(result, &ErrorKind::IntegrityViolation, "is not a database, or is damaged");
        }
        let output = call(store, &["list"]);
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(
            output.status.code() == Some(1) && told.contains("agent.redb is not a database"),
            "{n}: {told}"
        );
        assert_eq!(&std::fs::read(&file).unwrap(), bytes, "{n}");
    }
    assert_eq!(store.manager().await.list_vessels().await.unwrap().len(), 1, "a vessel that nobody knows");
    std::fs::write(&file, whole).unwrap();
    assert_eq!(service.list().await.unwrap(), std::slice::from_ref(&record));
    service.clean(&record.id, false).await.unwrap();
}

async fn an_entry_that_cannot_be_read_is_an_error(store: &Store) {
    let service = service(store).await;
    let record = vm(&service).await;
    let file = state(store).join("agent.redb");
    let entry = |json: Option<&[u8]>| {
        let table: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("vms");
        let database = Database::open(&file).unwrap();
        let transaction = database.begin_write().unwrap();
        {
            let mut table = transaction.open_table(table).unwrap();
            match json {
                Some(json) => table.insert("strange", json).unwrap().is_none(),
                None => table.remove("strange").unwrap().is_some(),
            };
        }
        transaction.commit().unwrap();
    };
    for json in [&b"{}"[..], b"", b"[1]", br#"{"ID":"strange"}"#] {
        entry(Some(json));
        fails_with(service.list().await, &ErrorKind::IntegrityViolation, "an entry of");
        assert_eq!(call(store, &["exec", "--all", "--cmd", "true"]).status.code(), Some(1));
    }
    entry(None);
    service.clean(&record.id, false).await.unwrap();
}

async fn what_only_reads_changes_nothing(store: &Store) {
    let service = service(store).await;
    let record = vm(&service).await;
    let file = state(store).join("agent.redb");
    let before = (std::fs::read(&file).unwrap(), std::fs::metadata(&file).unwrap().modified().unwrap());
    // Beside each other, and beside somebody who has it open to read.
    let _open = std::fs::File::open(&file).unwrap();
    let readers: Vec<_> =
        (0..8).map(|_| command(store, &["list", "-q"]).stdout(Stdio::piped()).spawn().unwrap()).collect();
    for reader in readers {
        let output = reader.wait_with_output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{}\n", record.id));
    }
    service.list().await.unwrap();
    service.kept_volumes().await.unwrap();
    let after = (std::fs::read(&file).unwrap(), std::fs::metadata(&file).unwrap().modified().unwrap());
    assert!(before == after, "it was written to");
    service.clean(&record.id, false).await.unwrap();
}

async fn a_run_does_not_write_to_it(store: &Store) {
    let service = service(store).await;
    let record = vm(&service).await;
    assert_eq!(record.last_run_at, None);
    let file = state(store).join("agent.redb");
    let before = std::fs::read(&file).unwrap();
    let began = time::OffsetDateTime::now_utc() - time::Duration::SECOND;
    service.run(RunOptions::new(&record.id, "true")).await.unwrap();
    text(store, &["exec", "--all", "--cmd", "true"]);
    assert!(std::fs::read(&file).unwrap() == before, "it was written to");
    let ran = service.get(&record.id).await.unwrap().last_run_at.unwrap();
    assert!(began < ran && ran <= time::OffsetDateTime::now_utc(), "{ran}");
    // It is found in the list, and stays when the machine is stopped.
    assert_eq!(service.list().await.unwrap()[0].last_run_at, Some(ran));
    let stopped = service.stop(&record.id).await.unwrap();
    assert!(stopped.last_run_at.unwrap() >= ran);
    service.clean(&record.id, false).await.unwrap();
}

async fn processes_that_do_everything_at_once_lose_nothing(store: &Store) {
    store.stocked().await;
    let ids: Vec<String> = (0..4).map(|_| create(store, &[])).collect();
    let spawn = |args: &[&str]| {
        let spawned = command(store, args).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        (args.join(" "), spawned.unwrap())
    };
    let make = ["create", "--language", "ruby", "--image", BASE, "--best-effort"];
    let mut children = Vec::new();
    for _ in 0..2 {
        children.push(spawn(&["list", "--all"]));
        children.push(spawn(&["exec", "--vm", &ids[0], "--cmd", "true"]));
        children.push(spawn(&["run", "--vm", &ids[0], "--cmd", "true"]));
        children.push(spawn(&make));
    }
    children.push(spawn(&["stop", "--vm", &ids[1]]));
    children.push(spawn(&["clean", "--vm", &ids[2]]));
    children.push(spawn(&["run", "--vm", &ids[3], "--cmd", "sleep 1"]));
    for (line, mut child) in children {
        assert!(child.wait().unwrap().success(), "{line}");
    }
    let listed = text(store, &["list", "--all"]);
    for id in [&ids[0], &ids[3]] {
        assert!(listed.contains(&format!("{id}  python    ready")), "{id}: {listed}");
    }
    assert!(listed.contains(&format!("{}  python    stopped", ids[1])), "{listed}");
    assert!(!listed.contains(&ids[2]) && listed.ends_with("\nTotal: 5\n"), "{listed}");
    text(store, &["clean", "--all"]);
    assert!(store.manager().await.list_vessels().await.unwrap().is_empty());
}
