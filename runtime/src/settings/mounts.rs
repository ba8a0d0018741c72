//! What is mounted in a vessel besides its layers.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

/// Something that is mounted in a vessel besides its layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Mount {}
