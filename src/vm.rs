//! Machines by language: a vessel each, with its own limits and network, run by short commands from any process.
//!
//! [`VmService`] keeps them in one state directory:
//!
//! ```text
//! DIR/agent.redb            what is known of them: one file, transactions
//!     agent.lock            held for the length of one transaction
//!     vms/ID/in, out        /in and /out, where volumes are shared
//!     vms/ID/runs/N/        stdout.log and stderr.log of the last runs; the time of `runs` is that of the last one
//!     persist/ID            /persist
//! ```
//!
//! The root file system of a machine is a vessel of the store, by the same id. `stop` deletes it; the next run makes it anew.
#![forbid(unsafe_code)]

mod language;
mod launch;
mod logs;
mod options;
mod quick;
mod record;
mod run;
mod service;
mod stage;
mod state_dir;
mod store;

pub use language::{default_image, hello};
pub use options::{VmCreateOptions, VmServiceConfig};
pub use record::{NetworkPolicy, StorageLayout, VmRecord, VmStatus};
pub use run::{RunOptions, RunResult};
pub use service::VmService;
pub use state_dir::{default_state_dir, guest_volumes_enabled};
pub use store::KeptVolume;
