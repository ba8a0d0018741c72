//! The database: one file that any number of processes use, each for the length of one transaction.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use redb::{Database, ReadableTable, TableDefinition};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::record::VmRecord;
use crate::database::{self, failed};
use crate::error::{Error, Result};
use crate::store::dirs;
use crate::store::lock::{self, Mode};

/// The name of the file.
pub(super) const FILE: &str = "agent.redb";
const LOCK: &str = "agent.lock";
/// The file, until it is whole.
const STAGED: &str = ".agent.redb";
const VMS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("vms");
const KEPT: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("kept");

/// A volume that was kept when its machine was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
#[non_exhaustive]
pub struct KeptVolume {
    /// The id of the machine that it was of.
    #[serde(rename = "ID")]
    pub id: String,
    /// Its language.
    pub language: String,
    /// Where it is on this host.
    pub path: PathBuf,
    /// When the machine was removed.
    #[serde(with = "time::serde::rfc3339")]
    pub kept_at: OffsetDateTime,
    /// It is being removed, or that was interrupted: no machine gets it any more.
    #[serde(default)]
    pub removing: bool,
}

/// The database in a state directory.
#[derive(Debug, Clone)]
pub(super) struct VmStore {
    dir: PathBuf,
}

impl VmStore {
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.dir.join(FILE)
    }

    /// To change it. The file can be open once only; waits for whoever else has it, which nobody does for long.
    fn open<T>(&self, work: impl FnOnce(&Database) -> Result<T>) -> Result<T> {
        let dir = dirs::open_path(&self.dir)?;
        let _lock = lock::wait(dir.as_fd(), LOCK, Mode::Exclusive)?;
        if !dirs::exists(dir.as_fd(), FILE)? {
            self.make(dir.as_fd())?;
        }
        work(&database::open(&self.path())?)
    }

    /// To read it, beside others who do; `None` where there is none yet.
    fn view<T>(&self, work: impl FnOnce(&Database) -> Result<T>) -> Result<Option<T>> {
        let dir = dirs::open_path(&self.dir)?;
        let _lock = lock::wait(dir.as_fd(), LOCK, Mode::Shared)?;
        if !dirs::exists(dir.as_fd(), FILE)? {
            return Ok(None);
        }
        work(&database::read(&self.path())?).map(Some)
    }

    /// Whole, or not at all: one whose making was interrupted could not be opened.
    fn make(&self, dir: BorrowedFd<'_>) -> Result<()> {
        let staged = self.dir.join(STAGED);
        dirs::unlink(dir, STAGED)?;
        drop(Database::create(&staged).map_err(|e| failed("make", &staged, e))?);
        dirs::rename_if_there(dir, STAGED, dir, FILE)?;
        dirs::sync(dir)
    }

    fn failed<E: Into<redb::Error>>(&self, doing: &'static str) -> impl Fn(E) -> Error {
        let path = self.path();
        move |e| failed(doing, &path, e)
    }

    /// One transaction: all of what `work` does, or nothing.
    fn change<T>(&self, work: impl FnOnce(&redb::WriteTransaction) -> Result<T>) -> Result<T> {
        self.open(|database| {
            let transaction = database.begin_write().map_err(self.failed("write"))?;
            let value = work(&transaction)?;
            transaction.commit().map_err(self.failed("write"))?;
            Ok(value)
        })
    }

    fn all<T: DeserializeOwned>(&self, table: TableDefinition<'_, &str, &[u8]>) -> Result<Vec<T>> {
        let found = self.view(|database| {
            let transaction = database.begin_read().map_err(self.failed("read"))?;
            let table = match transaction.open_table(table) {
                Ok(table) => table,
                // Nothing was written yet.
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
                Err(e) => return Err(failed("read", &self.path(), e)),
            };
            let mut found = Vec::new();
            for entry in table.iter().map_err(self.failed("read"))? {
                let (_, value) = entry.map_err(self.failed("read"))?;
                found.push(self.parse(value.value())?);
            }
            Ok(found)
        })?;
        Ok(found.unwrap_or_default())
    }

    fn parse<T: DeserializeOwned>(&self, json: &[u8]) -> Result<T> {
        let wrong = |e| {
            Error::integrity(format!("an entry of {} cannot be read", self.path().display())).with_source(e)
        };
        serde_json::from_slice(json).map_err(wrong)
    }

    /// All machines, oldest first.
    pub(super) fn list(&self) -> Result<Vec<VmRecord>> {
        let mut records: Vec<VmRecord> = self.all(VMS)?;
        records.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        Ok(records)
    }

    /// A machine by its id.
    pub(super) fn get(&self, id: &str) -> Result<Option<VmRecord>> {
        Ok(self.list()?.into_iter().find(|record| record.id == id))
    }

    /// A new machine, which takes over a volume that was kept, unless somebody else has that already.
    pub(super) fn add(&self, record: &VmRecord, adopted: Option<&KeptVolume>) -> Result<()> {
        self.change(|transaction| {
            if let Some(volume) = adopted {
                let mut table = transaction.open_table(KEPT).map_err(self.failed("write"))?;
                let taken = table.remove(volume.id.as_str()).map_err(self.failed("write"))?;
                let taken = taken.map(|value| self.parse::<KeptVolume>(value.value())).transpose()?;
                if taken.is_none_or(|volume| volume.removing) {
                    // Without a commit it stays.
                    return Err(super::service::not_kept(&volume.id));
                }
            }
            let mut table = transaction.open_table(VMS).map_err(self.failed("write"))?;
            let json = json(record)?;
            let before = table.insert(record.id.as_str(), json.as_slice()).map_err(self.failed("write"))?;
            match before {
                Some(_) => Err(Error::internal(format!("there is a machine {} already", record.id))),
                None => Ok(()),
            }
        })
    }

    /// Changes a machine and says what it is then; `None` where it is not there any more.
    pub(super) fn update(&self, id: &str, change: impl FnOnce(&mut VmRecord)) -> Result<Option<VmRecord>> {
        self.change(|transaction| {
            let mut table = transaction.open_table(VMS).map_err(self.failed("write"))?;
            let found = table.get(id).map_err(self.failed("read"))?;
            let found = found.map(|value| self.parse::<VmRecord>(value.value())).transpose()?;
            let Some(mut record) = found else { return Ok(None) };
            change(&mut record);
            table.insert(id, json(&record)?.as_slice()).map_err(self.failed("write"))?;
            Ok(Some(record))
        })
    }

    /// Removes a machine; its volume is remembered, if there is one to be.
    pub(super) fn remove(&self, id: &str, kept: Option<&KeptVolume>) -> Result<()> {
        self.change(|transaction| {
            let mut table = transaction.open_table(VMS).map_err(self.failed("write"))?;
            table.remove(id).map_err(self.failed("write"))?;
            if let Some(kept) = kept {
                let mut table = transaction.open_table(KEPT).map_err(self.failed("write"))?;
                table.insert(kept.id.as_str(), json(kept)?.as_slice()).map_err(self.failed("write"))?;
            }
            Ok(())
        })
    }

    /// The volumes that were kept, oldest first.
    pub(super) fn kept(&self) -> Result<Vec<KeptVolume>> {
        let mut volumes: Vec<KeptVolume> = self.all(KEPT)?;
        volumes.sort_by_key(|volume| volume.kept_at);
        Ok(volumes)
    }

    /// Marks a volume that was kept as one that is being removed.
    pub(super) fn condemn(&self, id: &str) -> Result<Option<KeptVolume>> {
        self.change(|transaction| {
            let mut table = transaction.open_table(KEPT).map_err(self.failed("write"))?;
            let found = table.get(id).map_err(self.failed("read"))?;
            let found = found.map(|value| self.parse::<KeptVolume>(value.value())).transpose()?;
            let Some(mut volume) = found else { return Ok(None) };
            volume.removing = true;
            table.insert(id, json(&volume)?.as_slice()).map_err(self.failed("write"))?;
            Ok(Some(volume))
        })
    }

    /// Forgets a volume that was kept.
    pub(super) fn forget(&self, id: &str) -> Result<()> {
        self.change(|transaction| {
            let mut table = transaction.open_table(KEPT).map_err(self.failed("write"))?;
            table.remove(id).map_err(self.failed("write"))?;
            Ok(())
        })
    }
}

fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| Error::internal("failed to write JSON").with_source(e))
}
