//! What the commands of a vessel can reach.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

/// What the commands of a vessel can reach.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Network {
    /// Each other, over a loopback interface.
    #[default]
    None,
}
