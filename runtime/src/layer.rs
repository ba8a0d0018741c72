//! temp
use crate::shim::protocol::*;
use std::{ffi::OsStr, fs::File, io, os::fd::BorrowedFd};
pub enum TreeFormat {
    Overlay,
    FuseOverlay,
}
pub struct BlobSource {
    pub file: File,
    pub size: u64,
    pub digest_hex: String,
    pub compression: crate::worker::Compression,
    pub diff_id_hex: String,
}
pub struct UnpackReport {
    pub entries: u64,
    pub bytes: u64,
}
impl UnpackReport {
    pub fn warnings(&self) -> Vec<String> {
        vec![]
    }
}
pub struct E;
pub fn pack_snapshot(_: BorrowedFd, _: File, _: TreeFormat) -> Result<Packed, E> {
    todo!()
}
pub fn pack_plain(_: BorrowedFd, _: File) -> Result<Packed, E> {
    todo!()
}
pub fn extract_plain(_: File, _: BorrowedFd, _: u32) -> Result<UnpackReport, E> {
    todo!()
}
pub fn unpack_image_layer(
    _: BlobSource,
    _: BorrowedFd,
    _: &[BorrowedFd],
    _: u32,
    _: &dyn Fn(u64),
) -> Result<UnpackReport, E> {
    todo!()
}
pub fn unpack_snapshot(_: File, _: BorrowedFd, _: &str, _: u64, _: u32) -> Result<UnpackReport, E> {
    todo!()
}
pub fn pack_fault(_: &str, _: &E) -> Fault {
    todo!()
}
pub fn unpack_fault(_: &str, _: &E) -> Fault {
    todo!()
}
pub fn remove_tree(p: BorrowedFd, n: &OsStr) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    std::fs::remove_dir_all(format!("/proc/self/fd/{}/{}", p.as_raw_fd(), n.to_str().unwrap()))
}
