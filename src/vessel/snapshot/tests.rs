//! Tests of the archive's way to the storage.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::AsyncReadExt;
use tokio::sync::oneshot;

use super::*;
use crate::vessel::pump;

/// What a storage sees of a packer that writes `bytes` and then says `verdict`.
async fn seen(bytes: &[u8], verdict: Option<u64>) -> (std::io::Result<Vec<u8>>, bool) {
    let (pipe, theirs) = pump::output_pipe().unwrap();
    let (tell, said) = oneshot::channel();
    let cut = Arc::new(AtomicBool::new(false));
    let mut body = Whole { pipe, read: 0, verdict: Some(said), cut: Arc::clone(&cut) };
    File::from(theirs).write_all(bytes).unwrap();
    tell.send(verdict).unwrap();
    let mut all = Vec::new();
    let read = body.read_to_end(&mut all).await;
    let again = body.read(&mut [0; 8]).await;
    assert_eq!(again.is_ok(), read.is_ok(), "the verdict stays");
    (read.map(|_| all), cut.load(Ordering::Relaxed))
}

#[tokio::test]
async fn an_archive_ends_well_only_if_it_is_whole() {
    let (read, cut) = seen(b"archive", Some(7)).await;
    assert_eq!((read.unwrap().as_slice(), cut), (b"archive".as_slice(), false));
    for verdict in [None, Some(8), Some(0)] {
        let (read, cut) = seen(b"archive", verdict).await;
        assert!(read.is_err() && cut, "{verdict:?}");
    }
}

#[tokio::test]
async fn a_packer_that_vanishes_leaves_no_whole_archive() {
    let (pipe, theirs) = pump::output_pipe().unwrap();
    let (tell, said) = oneshot::channel();
    drop((theirs, tell));
    let mut body = Whole { pipe, read: 0, verdict: Some(said), cut: Arc::default() };
    assert!(body.read(&mut [0; 8]).await.is_err());
}
