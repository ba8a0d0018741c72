//! The vessel of a machine: made when it is needed, with the limits, the network and the directories of the machine.
#![forbid(unsafe_code)]

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use vesselrt_runtime::settings::{Limits, Mount, Network, NetworkMode, Settings};

use super::record::{NetworkPolicy, StorageLayout, VmRecord};
use super::store;
use crate::error::{Error, ErrorKind, Result};
use crate::manager::Manager;
use crate::manager::create::CreateOptions;
use crate::vessel::Vessel;

/// The shell of scripts, where there is one.
pub(super) const BASH: &str = "/bin/bash";
/// The shell of scripts where there is no other.
pub(super) const SH: &str = "/bin/sh";
/// Label of the vessel of a machine, with its language.
const LABEL: &str = "agent.language";
/// Mode of the directories of a machine.
const DIR: u32 = 0o755;
/// Mode of those that its users share, whoever they are. Where they are nobody but us can go.
const SHARED: u32 = 0o777;
/// Mode of what they are in: root of a machine writes there as we do, set-user-ID programs too.
const PRIVATE: u32 = 0o700;

/// Where the files of a machine will be.
pub(super) fn layout(state: &Path, id: &str, persist: bool, volumes: bool) -> StorageLayout {
    let root = state.join("vms").join(id);
    StorageLayout {
        input_path: root.join("in"),
        output_path: root.join("out"),
        persist_path: if persist { state.join("persist").join(id) } else { PathBuf::new() },
        state_db_path: state.join(store::FILE),
        disable_guest_volumes: !volumes,
        root,
    }
}

/// Makes them, if they are not there, with the modes that they need.
pub(super) fn make_directories(storage: &StorageLayout) -> Result<()> {
    let shared = if storage.disable_guest_volumes { DIR } else { SHARED };
    for parent in [&storage.root, &storage.persist_path].into_iter().filter_map(|dir| dir.parent()) {
        if !parent.as_os_str().is_empty() {
            make(parent, PRIVATE)?;
        }
    }
    make(&storage.root, DIR)?;
    make(&storage.input_path, shared)?;
    make(&storage.output_path, shared)?;
    if !storage.persist_path.as_os_str().is_empty() {
        make(&storage.persist_path, SHARED)?;
    }
    Ok(())
}

fn make(dir: &Path, mode: u32) -> Result<()> {
    let failed = |e| Error::io(format!("failed to make the directory {}", dir.display()), e);
    std::fs::create_dir_all(dir).map_err(failed)?;
    // Whatever the umask is.
    std::fs::set_permissions(dir, Permissions::from_mode(mode)).map_err(failed)
}

/// Makes the vessel of a machine, or opens it where somebody else was faster, and looks what it has.
pub(super) async fn launch(manager: &Manager, record: &mut VmRecord) -> Result<Vessel> {
    let options = CreateOptions::new(&record.rootfs_image)
        .id(&record.id)
        .label(LABEL, &record.language)
        .settings(settings(record)?);
    let vessel = match manager.create_vessel_with(options).await {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => manager.open_vessel(&record.id).await,
        made => made,
    }?;
    record.has_bash = has_bash(&vessel).await?;
    Ok(vessel)
}

/// Whether there is a bash, as far as the links of the image lead to one.
pub(super) async fn has_bash(vessel: &Vessel) -> Result<bool> {
    match vessel.stat(BASH).await {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

fn settings(record: &VmRecord) -> Result<Settings> {
    let millis = record.cpu_count.checked_mul(1000);
    let memory = record.memory_mib.checked_mul(1 << 20);
    let (Some(millis), Some(memory)) = (millis, memory) else {
        return Err(Error::invalid("cpu or mem is more than there can be"));
    };
    let mode = match record.network_mode {
        NetworkPolicy::None => NetworkMode::None,
        NetworkPolicy::AllowAll => NetworkMode::Isolated,
    };
    Ok(Settings {
        limits: Limits::new().milli_cpus(millis).memory(memory).best_effort(record.best_effort),
        network: Network::new(mode),
        mounts: mounts(&record.storage)?,
    })
}

/// Its directories of this host, as far as they are shared with it.
fn mounts(storage: &StorageLayout) -> Result<Vec<Mount>> {
    let shared = [(&storage.input_path, "/in"), (&storage.output_path, "/out")];
    let shared = shared.into_iter().filter(|_| !storage.disable_guest_volumes);
    let persist = [(&storage.persist_path, "/persist")];
    let persist = persist.into_iter().filter(|(path, _)| !path.as_os_str().is_empty());
    let bind =
        |(path, at): (&PathBuf, &str)| Mount::bind(path, at).map_err(|e| Error::invalid(e.to_string()));
    shared.chain(persist).map(bind).collect()
}
