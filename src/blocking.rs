//! Blocking.
#![forbid(unsafe_code)]
