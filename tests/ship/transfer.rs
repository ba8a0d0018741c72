//! Uploads, downloads, terminals.
#![forbid(unsafe_code)]

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use vesselrt::serve::ship::{Limits, Ship};

use super::{ANN, ANNS, Fleet};
use crate::testkit::{BASE, Cap, PATIENCE, Store, need, tests, until, within};

tests!(
    what_is_uploaded_is_there_as_a_whole_and_comes_back,
    an_upload_over_the_limit_leaves_nothing,
    an_upload_that_breaks_off_leaves_nothing,
    what_cannot_be_downloaded_is_said,
    a_terminal_is_a_login_shell_of_the_user,
    a_terminal_ends_with_its_session,
);

async fn what_is_uploaded_is_there_as_a_whole_and_comes_back(store: &Store) {
    if !need(&[Cap::SubordinateIds]) {
        return;
    }
    let fleet = Fleet::new(store).await;
    let data: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    for path in ["new/dir/größe ü.bin", "empty"] {
        let data = if path == "empty" { &[][..] } else { &data };
        let place = fleet.ship.upload(ANN, path, data).await.unwrap();
        assert_eq!(place, format!("/home/{ANNS}/workspace/{path}"));
        let mut got = fleet.ship.download(ANN, &place).await.unwrap();
        assert_eq!((got.size, got.name.as_str()), (data.len() as u64, path.rsplit('/').next().unwrap()));
        let mut back = Vec::new();
        got.content.read_to_end(&mut back).await.unwrap();
        assert!(back == data);
    }
    fleet.ship.upload(ANN, "empty", b"replaced".as_slice()).await.unwrap();
    assert_eq!(
        fleet.sh(ANN, "cat empty; stat -c ' %U %a' empty; ls -A . new/dir").await,
        format!("replaced {ANNS} 644\n.:\nempty\nnew\n\nnew/dir:\ngröße ü.bin")
    );
    assert_eq!(fleet.ship.upload(ANN, "new", b"x".as_slice()).await.unwrap_err().status, 400);
    fleet.end().await;
}

async fn an_upload_over_the_limit_leaves_nothing(store: &Store) {
    if !need(&[Cap::SubordinateIds]) {
        return;
    }
    let manager = store.stocked().await;
    let vessel = manager.create_vessel(BASE, "/").await.unwrap();
    let ship = Ship::new(vessel, Limits { upload: 1000 });
    ship.upload(ANN, "f", [1; 1000].as_slice()).await.unwrap();
    let refused = ship.upload(ANN, "f", tokio::io::repeat(2)).await.unwrap_err();
    assert_eq!((refused.status, refused.detail.as_str()), (413, "File size exceeds the limit of 1000 bytes"));
    let list =
        async || ship.operate(ANN, "fs/list_dir", json!({"show_hidden": true})).await.body["files"].clone();
    until("nothing is left", async || list().await.as_array().unwrap().len() == 1).await;
    assert_eq!(list().await[0]["size"], 1000);
    ship.close().await;
}

/// Some bytes, then an error.
struct Broken(bool);

impl AsyncRead for Broken {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if std::mem::replace(&mut self.0, true) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        buffer.put_slice(b"part");
        Poll::Ready(Ok(()))
    }
}

async fn an_upload_that_breaks_off_leaves_nothing(store: &Store) {
    if !need(&[Cap::SubordinateIds]) {
        return;
    }
    let fleet = Fleet::new(store).await;
    let refused = fleet.ship.upload(ANN, "f", Broken(false)).await.unwrap_err();
    assert_eq!(refused.status, 400);
    // Its client is gone, and nobody waits for it any more.
    let (mut client, body) = tokio::io::duplex(64);
    client.write_all(b"part").await.unwrap();
    let given_up =
        tokio::time::timeout(std::time::Duration::from_millis(300), fleet.ship.upload(ANN, "f", body)).await;
    assert!(given_up.is_err());
    until("nothing is left", async || fleet.sh(ANN, "ls -A").await.is_empty()).await;
    fleet.end().await;
}

async fn what_cannot_be_downloaded_is_said(store: &Store) {
    if !need(&[Cap::SubordinateIds]) {
        return;
    }
    let fleet = Fleet::new(store).await;
    fleet.sh(ANN, "mkdir d; mkfifo p; ln -s /etc/motd out").await;
    for (path, status, detail) in [
        ("none", 404, "File not found: none".to_owned()),
        ("d", 400, "Path is not a file: d".to_owned()),
        ("p", 400, "Path is not a file: p".to_owned()),
        ("out", 403, format!("Access denied: path must be within workspace /home/{ANNS}/workspace")),
    ] {
        let refused = fleet.ship.download(ANN, path).await.unwrap_err();
        assert_eq!((refused.status, refused.detail), (status, detail), "{path}");
    }
    fleet.end().await;
}

/// Reads until `text` was shown.
async fn shown(reader: &mut (impl AsyncRead + Unpin), text: &str) -> String {
    let (mut all, mut buffer) = (String::new(), [0; 1024]);
    while !all.contains(text) {
        let read = within(PATIENCE, text, reader.read(&mut buffer)).await.unwrap();
        assert!(read > 0, "{all:?} ended before {text:?}");
        all.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
    all
}

async fn a_terminal_is_a_login_shell_of_the_user(store: &Store) {
    if !need(&[Cap::SubordinateIds]) {
        return;
    }
    let fleet = Fleet::new(store).await;
    let mut terminal = fleet.ship.terminal(ANN, 100, 30).await.unwrap();
    terminal.writer.write_all(b"id -un; pwd; stty size; echo $0 $TERM\n").await.unwrap();
    let text = shown(&mut terminal.reader, "xterm-256color").await;
    for wanted in [ANNS, &format!("/home/{ANNS}/workspace"), "30 100"] {
        assert!(text.contains(wanted), "{wanted} in {text:?}");
    }
    terminal.resize(77, 33).unwrap();
    terminal.writer.write_all(b"stty size\n").await.unwrap();
    shown(&mut terminal.reader, "33 77").await;
    terminal.writer.write_all(b"exit 5\n").await.unwrap();
    let mut rest = Vec::new();
    let end = within(PATIENCE, "the shell", terminal.wait()).await;
    assert_eq!(end.unwrap().unwrap().exit_code, 5);
    within(PATIENCE, "the end", terminal.reader.read_to_end(&mut rest)).await.unwrap();
    fleet.end().await;
}

async fn a_terminal_ends_with_its_session(store: &Store) {
    if !need(&[Cap::SubordinateIds]) {
        return;
    }
    let fleet = Fleet::new(store).await;
    let mut terminal = fleet.ship.terminal(ANN, 0, 0).await.unwrap();
    terminal.writer.write_all(b"echo re''ady; sleep 60\n").await.unwrap();
    shown(&mut terminal.reader, "ready").await;
    fleet.ship.end_session(ANN).await;
    assert_eq!(within(PATIENCE, "the terminal", terminal.wait()).await.unwrap(), None);
    drop(terminal);
    fleet.end().await;
}
