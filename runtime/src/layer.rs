//! Layers on disk: tar streams in, tar streams out.
#![forbid(unsafe_code)]
