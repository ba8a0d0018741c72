//! [`VmRecord`]: what is known of a machine, with the field names of the original's database.
#![forbid(unsafe_code)]

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::error::{Error, Result};

/// What a machine is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum VmStatus {
    /// It is being made, or its making was interrupted.
    Provisioning,
    /// It waits for commands.
    Ready,
    /// A command runs in it.
    Running,
    /// It has no root file system; the next run makes a new one.
    Stopped,
}

impl VmStatus {
    /// The name, as lists have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Provisioning => "provisioning",
            Self::Ready => "ready",
            Self::Running => "running",
            Self::Stopped => "stopped",
        }
    }

    /// Whether commands may be sent to it as it is.
    #[must_use]
    pub fn is_up(self) -> bool {
        matches!(self, Self::Ready | Self::Running)
    }
}

impl fmt::Display for VmStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a machine can reach.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkPolicy {
    /// Nothing.
    #[default]
    None,
    /// What this host reaches.
    AllowAll,
}

impl NetworkPolicy {
    /// The name, as it is typed.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::AllowAll => "allow_all",
        }
    }
}

impl FromStr for NetworkPolicy {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "none" => Ok(Self::None),
            "allow_all" => Ok(Self::AllowAll),
            _ => {
                Err(Error::invalid(format!("unsupported network: {text}"))
                    .with_remedy("use none or allow_all"))
            }
        }
    }
}

/// What is known of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
#[non_exhaustive]
pub struct VmRecord {
    /// The id, `LANGUAGE-NANOSECONDS`, which is that of its vessel too.
    #[serde(rename = "ID")]
    pub id: String,
    /// The language.
    pub language: String,
    /// Reference of its image.
    #[serde(rename = "RootFSImage")]
    pub rootfs_image: String,
    /// Processors that it may use.
    #[serde(rename = "CPUCount")]
    pub cpu_count: u32,
    /// Memory that it may use, in MiB.
    #[serde(rename = "MemoryMiB")]
    pub memory_mib: u64,
    /// What it can reach.
    pub network_mode: NetworkPolicy,
    /// It has `/persist`.
    pub persist: bool,
    /// What it is doing.
    pub status: VmStatus,
    /// Where its files are on this host.
    pub storage: StorageLayout,
    /// When it was created.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When a command began or ended in it last, or it was stopped.
    #[serde(with = "time::serde::rfc3339::option")]
    pub last_run_at: Option<OffsetDateTime>,
    /// Limits that cannot be enforced here are taken as well as they can be.
    #[serde(default)]
    pub best_effort: bool,
    /// Its image has bash, which is the shell of scripts then.
    #[serde(default)]
    pub has_bash: bool,
}

/// Where the files of a machine are on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
#[non_exhaustive]
pub struct StorageLayout {
    /// What is removed with it.
    pub root: PathBuf,
    /// `/in`.
    pub input_path: PathBuf,
    /// `/out`.
    pub output_path: PathBuf,
    /// `/persist`; empty where it has none.
    pub persist_path: PathBuf,
    /// The database.
    #[serde(rename = "StateDBPath")]
    pub state_db_path: PathBuf,
    /// `/in` and `/out` of the present root file system are not those of this host.
    pub disable_guest_volumes: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_the_original_s_field_names() {
        let storage = StorageLayout {
            root: "/s/vms/x".into(),
            input_path: "/s/vms/x/in".into(),
            output_path: "/s/vms/x/out".into(),
            persist_path: PathBuf::new(),
            state_db_path: "/s/agent.redb".into(),
            disable_guest_volumes: true,
        };
        let record = VmRecord {
            id: "x".into(),
            language: "python".into(),
            rootfs_image: "i".into(),
            cpu_count: 1,
            memory_mib: 256,
            network_mode: NetworkPolicy::AllowAll,
            persist: false,
            status: VmStatus::Ready,
            storage,
            created_at: OffsetDateTime::UNIX_EPOCH,
            last_run_at: None,
            best_effort: false,
            has_bash: true,
        };
        let value = serde_json::to_value(&record).unwrap();
        for name in "ID Language RootFSImage CPUCount MemoryMiB NetworkMode Persist Status Storage CreatedAt LastRunAt".split(' ') {
            assert!(value.get(name).is_some(), "{name} is missing in {value}");
        }
        for name in "Root InputPath OutputPath PersistPath StateDBPath DisableGuestVolumes".split(' ') {
            assert!(value["Storage"].get(name).is_some(), "{name} is missing in {value}");
        }
        assert_eq!((&value["NetworkMode"], &value["Status"]), (&"allow_all".into(), &"ready".into()));
        assert_eq!(serde_json::from_value::<VmRecord>(value).unwrap(), record);
        assert_eq!("bogus".parse::<NetworkPolicy>().unwrap_err().to_string(), "unsupported network: bogus");
    }
}
