//! Frames of the protocol between a client and a shim: bytes from the other end of a socket.
#![no_main]
#![forbid(unsafe_code)]

use std::io::Write;
use std::os::unix::net::UnixStream;

use libfuzzer_sys::fuzz_target;
use vesselrt_runtime::shim::protocol::{Reply, Request, ShimConfig};
use vesselrt_runtime::shim::wire;
use vesselrt_runtime::worker::{Job, JobDone};

fuzz_target!(|data: &[u8]| {
    let Some((&which, bytes)) = data.split_first() else { return };
    // A socket's buffer takes that much without a reader.
    let Some(bytes) = bytes.get(..bytes.len().min(64 << 10)) else { return };
    let (ours, mut theirs) = UnixStream::pair().expect("a socket pair");
    // Half of the time with the right length in front, so that the body is looked at.
    let framed = which & 1 == 0;
    if framed {
        let header = [(bytes.len() as u32).to_le_bytes(), 0u32.to_le_bytes()].concat();
        theirs.write_all(&header).expect("room for a header");
    }
    theirs.write_all(bytes).expect("room for a body");
    drop(theirs);
    match which >> 1 & 7 {
        0 => all::<Request>(&ours),
        1 => all::<Reply>(&ours),
        2 => all::<ShimConfig>(&ours),
        3 => all::<Job>(&ours),
        _ => all::<JobDone>(&ours),
    }
});

/// Receives until there is nothing more or something wrong. What was understood is sent back as it came.
fn all<T: serde::de::DeserializeOwned + serde::Serialize>(socket: &UnixStream) {
    while let Ok(Some((value, fds))) = wire::recv::<T>(socket) {
        assert!(fds.is_empty());
        let (a, b) = UnixStream::pair().expect("a socket pair");
        if wire::send(&a, &value, &[]).is_ok() {
            assert!(wire::recv::<T>(&b).expect("our own frame is read").is_some());
        }
    }
}
