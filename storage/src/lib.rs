//! Durable bytes of vesselrt.
#![forbid(unsafe_code)]
