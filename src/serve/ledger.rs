//! [`Ledger`]: what the service remembers when it is not running, in one file of redb.
//!
//! One thread writes. Changes are handed to it in the order in which they happen; those that wait become one transaction,
//! which is on disk when [`Written`] is ready. One process has the file: redb holds a lock on it.
#![forbid(unsafe_code)]
#![allow(clippy::result_large_err, reason = "errors of redb are large, and rare")]

mod rows;

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread::JoinHandle;

use redb::{Database, DatabaseError, ReadableTable, TableDefinition};
use tokio::sync::{mpsc, oneshot};

use crate::error::{Error, Result};
pub(super) use rows::{SessionRow, ShipRow, Status};

/// The file, in the directory of the state.
const FILE: &str = "bay.redb";
const SHIPS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("ships");
/// By ship and session.
const SESSIONS: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("sessions");
const META: TableDefinition<'_, &str, &str> = TableDefinition::new("meta");
/// The format of what is in the file.
const FORMAT: &str = "1";
/// Changes that become one transaction, at most.
const BATCH: usize = 1024;
/// Bytes of the database that are kept in memory.
const CACHE: usize = 4 << 20;

/// One change of what is remembered.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Ship(ShipRow),
    NoShip(String),
    Session(SessionRow),
    NoSession { ship: String, session: String },
}

/// Everything that was remembered.
#[derive(Debug)]
pub(super) struct Remembered {
    /// The name of this state, which its vessels are labelled with.
    pub(super) name: String,
    pub(super) ships: Vec<ShipRow>,
    pub(super) sessions: Vec<SessionRow>,
}

struct Work {
    changes: Vec<Change>,
    done: oneshot::Sender<Result<(), String>>,
}

/// Where changes are written to.
#[derive(Debug)]
pub(super) struct Ledger {
    work: std::sync::Mutex<Option<mpsc::UnboundedSender<Work>>>,
    writer: std::sync::Mutex<Option<JoinHandle<()>>>,
}

/// Changes that are on their way to the disk.
#[derive(Debug)]
#[must_use = "what is not waited for may not be on disk"]
pub(super) struct Written(oneshot::Receiver<Result<(), String>>);

impl Written {
    /// Waits until they are there.
    ///
    /// # Errors
    /// [`Internal`](crate::ErrorKind::Internal) when they could not be written.
    pub(super) async fn wait(self) -> Result<()> {
        match self.0.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(text)) => {
                Err(Error::internal(format!("failed to write the state of the service: {text}")))
            }
            Err(_) => Err(Error::internal("failed to write the state of the service: it is closed")),
        }
    }

    /// Leaves it to the writer, which tells of errors.
    pub(super) fn later(self) {}
}

impl Ledger {
    /// Opens the state in the directory `data`, or makes one.
    ///
    /// # Errors
    /// [`Conflict`](crate::ErrorKind::Conflict) when another process has it;
    /// [`IntegrityViolation`](crate::ErrorKind::IntegrityViolation) when it is damaged, which it is left as.
    pub(super) fn open(data: &Path) -> Result<(Self, Remembered)> {
        let path = data.join(FILE);
        let database = database(&path)?;
        let damaged = |e: redb::Error| {
            Error::integrity(format!("failed to read the state of the service in {}", path.display()))
                .with_source(e)
        };
        let remembered = remembered(&database).map_err(damaged)??;
        let (work, jobs) = mpsc::unbounded_channel();
        let writer = std::thread::Builder::new().name("ledger".to_owned()).spawn(|| write(database, jobs));
        let writer = writer.map_err(|e| Error::io("failed to start the writer of the state", e))?;
        Ok((Self { work: Some(work).into(), writer: Some(writer).into() }, remembered))
    }

    /// Hands changes to the writer.
    pub(super) fn submit(&self, changes: Vec<Change>) -> Written {
        let (done, written) = oneshot::channel();
        let work = self.work.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(work) = &*work {
            // When the writer is gone the sender of `done` is dropped, and whoever waits hears of it.
            let _ = work.send(Work { changes, done });
        }
        Written(written)
    }

    /// Waits until all is on disk; what is submitted later is not written.
    pub(super) fn close(&self) {
        drop(self.work.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take());
        let writer = self.writer.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(writer) = writer {
            let _ = writer.join();
        }
    }
}

fn database(path: &Path) -> Result<Database> {
    let failed = |e: redb::Error| {
        Error::integrity(format!("failed to open the state of the service in {}", path.display()))
            .with_source(e)
    };
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(path).map_err(|e| {
        Error::io(format!("failed to open the state of the service in {}", path.display()), e)
    })?;
    // A new one has no bytes yet.
    if file.metadata().is_ok_and(|metadata| metadata.len() > 0) {
        crate::database::check(path, &file)?;
    }
    match redb::Builder::new().set_cache_size(CACHE).create_file(file) {
        Ok(database) => Ok(database),
        Err(DatabaseError::DatabaseAlreadyOpen) => {
            Err(Error::conflict(format!("another service has the state in {}", path.display()))
                .with_remedy("stop it, or use another directory: --data-dir"))
        }
        Err(error) => Err(failed(error.into())),
    }
}

/// Reads everything; a new database gets its tables and a name.
fn remembered(database: &Database) -> Result<Result<Remembered>, redb::Error> {
    let transaction = database.begin_write()?;
    let found = {
        let mut meta = transaction.open_table(META)?;
        if meta.get("format")?.is_none() {
            meta.insert("format", FORMAT)?;
            meta.insert("name", uuid::Uuid::new_v4().to_string().as_str())?;
        }
        let text = |key| -> Result<String, redb::Error> {
            Ok(meta.get(key)?.map(|value| value.value().to_owned()).unwrap_or_default())
        };
        let format = text("format")?;
        let name = text("name")?;
        let ships = rows(&transaction.open_table(SHIPS)?)?;
        let sessions = rows(&transaction.open_table(SESSIONS)?)?;
        if format == FORMAT {
            joined(name, ships, sessions)
        } else {
            Err(Error::conflict(format!(
                "the state of the service has the format {format:?} of another version"
            )))
        }
    };
    transaction.commit()?;
    Ok(found)
}

fn joined(
    name: String,
    ships: Result<Vec<ShipRow>, serde_json::Error>,
    sessions: Result<Vec<SessionRow>, serde_json::Error>,
) -> Result<Remembered> {
    let damaged = |e| Error::integrity("failed to read what the service remembers").with_source(e);
    Ok(Remembered { name, ships: ships.map_err(damaged)?, sessions: sessions.map_err(damaged)? })
}

fn rows<K: redb::Key + 'static, T: serde::de::DeserializeOwned>(
    table: &impl ReadableTable<K, &'static [u8]>,
) -> Result<Result<Vec<T>, serde_json::Error>, redb::Error> {
    let mut rows = Vec::new();
    for entry in table.range::<K::SelfType<'_>>(..)? {
        match serde_json::from_slice(entry?.1.value()) {
            Ok(row) => rows.push(row),
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(Ok(rows))
}

/// Writes what comes until nobody can submit any more.
#[allow(clippy::needless_pass_by_value)] // It is the thread's: the file is closed when it ends.
fn write(database: Database, mut jobs: mpsc::UnboundedReceiver<Work>) {
    while let Some(first) = jobs.blocking_recv() {
        let mut batch = vec![first];
        while batch.len() < BATCH {
            let Ok(next) = jobs.try_recv() else { break };
            batch.push(next);
        }
        let written =
            commit(&database, batch.iter().flat_map(|work| &work.changes)).map_err(|e| e.to_string());
        if let Err(error) = &written {
            tracing::error!(error, "failed to write the state");
        }
        for work in batch {
            let _ = work.done.send(written.clone());
        }
    }
}

fn commit<'a>(database: &Database, changes: impl Iterator<Item = &'a Change>) -> Result<(), redb::Error> {
    let json = "rows are maps with text as keys";
    let transaction = database.begin_write()?;
    {
        let mut ships = transaction.open_table(SHIPS)?;
        let mut sessions = transaction.open_table(SESSIONS)?;
        for change in changes {
            match change {
                Change::Ship(row) => {
                    ships.insert(row.id.as_str(), serde_json::to_vec(row).expect(json).as_slice())?;
                }
                Change::NoShip(id) => drop(ships.remove(id.as_str())?),
                Change::Session(row) => {
                    let key = (row.ship.as_str(), row.session.as_str());
                    sessions.insert(key, serde_json::to_vec(row).expect(json).as_slice())?;
                }
                Change::NoSession { ship, session } => {
                    drop(sessions.remove((ship.as_str(), session.as_str()))?);
                }
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::clock::{Clock, Moment};

    fn ship(id: &str) -> ShipRow {
        ShipRow::new(id.to_owned(), "v1".to_owned(), 60, 2)
    }

    #[tokio::test]
    async fn what_was_written_is_remembered_and_one_process_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let (ledger, first) = Ledger::open(dir.path()).unwrap();
        assert!(first.ships.is_empty() && !first.name.is_empty());
        assert_eq!(Ledger::open(dir.path()).unwrap_err().kind(), crate::ErrorKind::Conflict);
        let until = Clock::new().save(Moment::now());
        let session = SessionRow::new("s".to_owned(), "a".to_owned(), 60, until);
        ledger
            .submit(vec![Change::Ship(ship("a")), Change::Ship(ship("b")), Change::Session(session.clone())])
            .wait()
            .await
            .unwrap();
        ledger.submit(vec![Change::NoShip("b".to_owned())]).later();
        ledger.close();
        assert!(ledger.submit(vec![Change::NoShip("a".to_owned())]).wait().await.is_err());
        let (ledger, second) = Ledger::open(dir.path()).unwrap();
        assert_eq!(second.name, first.name);
        assert_eq!(second.ships.iter().map(|ship| ship.id.as_str()).collect::<Vec<_>>(), ["a"]);
        assert_eq!(second.sessions, [session]);
        ledger.close();
    }

    #[test]
    fn a_damaged_state_is_an_error_and_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        fs::write(&path, vec![7; 10_000]).unwrap();
        let error = Ledger::open(dir.path()).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::IntegrityViolation, "{error:?}");
        assert_eq!(fs::read(&path).unwrap(), vec![7; 10_000]);
    }
}
