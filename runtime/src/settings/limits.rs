//! How much of the machine the commands of a vessel may use.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

/// How much of the machine the commands of a vessel may use; without any, as much as its owner.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Limits {}
