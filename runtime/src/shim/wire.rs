//! Frames on a unix stream socket: an 8-byte header (length of the body, little endian; number of descriptors), the
//! descriptors as `SCM_RIGHTS` of the header, the body in [`postcard`].
#![forbid(unsafe_code)]

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longest body of a frame: a listing of a million names fits.
const MAX_BODY: usize = 512 << 20;
/// Most descriptors of one frame: a shim's own, and one for each published port and each mount.
pub const MAX_FDS: usize = 8 + crate::settings::network::MAX_PUBLISHED + crate::settings::MAX_MOUNTS;
const HEADER: usize = 8;

/// Sends `value` and `fds` as one frame.
///
/// # Errors
/// Those of sendmsg(2); `EPIPE` when the other end is gone.
pub fn send<T: Serialize>(socket: &UnixStream, value: &T, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let body = postcard::to_stdvec(value).map_err(io::Error::other)?;
    if body.len() > MAX_BODY || fds.len() > MAX_FDS {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "frame over its limit"));
    }
    let mut frame = Vec::with_capacity(HEADER + body.len());
    frame.extend_from_slice(&u32::try_from(body.len()).map_err(io::Error::other)?.to_le_bytes());
    frame.extend_from_slice(&u32::try_from(fds.len()).map_err(io::Error::other)?.to_le_bytes());
    frame.extend_from_slice(&body);
    let sent = send_first(socket, &frame, fds)?;
    let mut rest: &UnixStream = socket;
    rest.write_all(&frame[sent..])
}

/// The first bytes carry the descriptors.
fn send_first(socket: &UnixStream, frame: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::other("no room for the descriptors"));
    }
    loop {
        match rustix::net::sendmsg(socket, &[IoSlice::new(frame)], &mut control, SendFlags::NOSIGNAL) {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// Receives one frame; `None` when the other end closed before one began.
///
/// # Errors
/// Those of recvmsg(2); `InvalidData` for a frame that is none; `UnexpectedEof` for half of one.
pub fn recv<T: DeserializeOwned>(socket: &UnixStream) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut header = [0u8; HEADER];
    let mut fds = Vec::new();
    let got = recv_first(socket, &mut header, &mut fds)?;
    if got == 0 {
        return Ok(None);
    }
    let mut rest: &UnixStream = socket;
    rest.read_exact(&mut header[got..])?;
    let [a, b, c, d, e, f, g, h] = header;
    let (len, count) = (u32::from_le_bytes([a, b, c, d]) as usize, u32::from_le_bytes([e, f, g, h]) as usize);
    if len > MAX_BODY || count != fds.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a frame of this protocol"));
    }
    let mut body = vec![0; len];
    rest.read_exact(&mut body)?;
    let value = postcard::from_bytes(&body).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    Ok(Some((value, fds)))
}

fn recv_first(socket: &UnixStream, header: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = loop {
        match rustix::net::recvmsg(
            socket.as_fd(),
            &mut [IoSliceMut::new(header)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        ) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?,
        }
    };
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    Ok(got.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn a_frame_arrives_with_its_descriptors() {
        let (a, b) = UnixStream::pair().unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        send(&a, &("hello".to_owned(), 7u64), &[write.as_fd()]).unwrap();
        drop(write);
        let ((text, number), mut fds) = recv::<(String, u64)>(&b).unwrap().unwrap();
        assert_eq!((text.as_str(), number, fds.len()), ("hello", 7, 1));
        File::from(fds.remove(0)).write_all(b"through").unwrap();
        assert_eq!(io::read_to_string(File::from(read)).unwrap(), "through");
    }

    #[test]
    fn a_large_frame_arrives_whole_and_a_closed_end_is_none() {
        let (a, b) = UnixStream::pair().unwrap();
        let big = vec![5u8; 3 << 20];
        let sent = big.clone();
        let sender = std::thread::spawn(move || send(&a, &sent, &[]).unwrap());
        assert_eq!(recv::<Vec<u8>>(&b).unwrap().unwrap().0, big);
        sender.join().unwrap();
        assert!(recv::<Vec<u8>>(&b).unwrap().is_none());
    }

    #[test]
    fn garbage_is_refused() {
        let (a, b) = UnixStream::pair().unwrap();
        (&a).write_all(&[0xff; 64]).unwrap();
        assert_eq!(recv::<String>(&b).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
