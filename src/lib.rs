//! vesselrt: workspaces for AI agents on plain Linux.
#![forbid(unsafe_code)]
