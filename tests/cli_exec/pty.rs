//! `exec -t`: a terminal inside, joined with the one outside.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::shell::{Call, Shell};

/// A terminal with a program in it.
pub(crate) struct Terminal {
    pub(crate) master: File,
    /// Keeps the terminal alive, so that its state can be looked at after the program's end.
    slave: File,
    pub(crate) child: Child,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    /// `exec -t ID -- ARGV…` in a new terminal of 33 rows and 91 columns, which is the program's controlling one.
    fn new(shell: &Shell, id: &str, argv: &[&str]) -> Self {
        Self::of(&shell.call(["exec", "-t", id, "--"]).args(argv))
    }

    /// A call in such a terminal.
    pub(crate) fn of(call: &Call) -> Self {
        let master: OwnedFd = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let path = name.to_str().unwrap();
        // The parent must not get it as its controlling terminal: setsid(1) gives it to the program.
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
        let slave = File::from(rustix::fs::open(path, flags, rustix::fs::Mode::empty()).unwrap());
        size(&master, 33, 91);
        let words = call.words();
        let end = || slave.try_clone().unwrap();
        let mut command = Command::new("setsid");
        command.arg("--ctty").args(words).stdin(end()).stdout(end()).stderr(end());
        let child = command.env_remove("VESSELRT_ROOT").env("VESSELRT_IDLE", "0").spawn().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (mut from, into) = (File::from(master.try_clone().unwrap()), Arc::clone(&seen));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = from.read(&mut buffer) {
                into.lock().unwrap().extend_from_slice(&buffer[..n]);
            }
        });
        Self { master: File::from(master), slave, child, seen }
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap()).into_owned()
    }

    pub(crate) fn wait_for(&self, text: &str) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.text().contains(text) {
            assert!(Instant::now() < deadline, "no {text:?} in {:?}", self.text());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.master.write_all(bytes).unwrap();
    }

    pub(crate) fn end(&mut self) -> Option<i32> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "hangs; so far {:?}", self.text());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn is_cooked(&self) -> bool {
        tcgetattr(&self.slave)
            .unwrap()
            .local_modes
            .contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn size(terminal: &OwnedFd, rows: u16, columns: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).unwrap();
}

#[test]
fn a_terminal_is_there_with_the_size_of_ours() {
    let shell = Shell::new();
    let id = shell.vessel();
    let script = "for fd in 0 1 2; do test -t $fd || exit 9; done; echo size $(stty size); tty; exit 5";
    let mut terminal = Terminal::new(&shell, &id, &["sh", "-c", script]);
    assert_eq!(terminal.end(), Some(5), "{}", terminal.text());
    terminal.wait_for("size 33 91");
    terminal.wait_for("/dev/pts/");
    assert!(terminal.is_cooked());
    shell.assert_idle();
}

#[test]
fn what_is_typed_goes_inside_keys_and_all() {
    let shell = Shell::new();
    let id = shell.vessel();
    let mut terminal = Terminal::new(&shell, &id, &["sh"]);
    terminal.send(b"echo typed-$((40+2))\n");
    terminal.wait_for("typed-42");
    assert!(!terminal.is_cooked());
    terminal.send(b"trap 'echo inter''rupted; exit 6' INT; while :; do sleep 0.05; done\n");
    std::thread::sleep(Duration::from_millis(200));
    terminal.send(b"\x03");
    terminal.wait_for("interrupted");
    assert_eq!(terminal.end(), Some(6), "{}", terminal.text());
    assert!(terminal.is_cooked());
    shell.assert_idle();
}

#[test]
fn end_of_file_ends_a_shell() {
    let shell = Shell::new();
    let id = shell.vessel();
    let mut terminal = Terminal::new(&shell, &id, &["sh"]);
    terminal.send(b"echo be''gin; (exit 3)\n");
    // The prompt is there; whether the shell reads its terminal yet, nobody can see. An end of file that it was not
    // waiting for is lost.
    terminal.wait_for("begin\r\n/work # ");
    for _ in 0..50 {
        terminal.send(b"\x04");
        std::thread::sleep(Duration::from_millis(100));
        if terminal.child.try_wait().unwrap().is_some() {
            break;
        }
    }
    assert_eq!(terminal.end(), Some(3), "{}", terminal.text());
}

#[test]
fn a_new_size_reaches_the_inside() {
    let shell = Shell::new();
    let id = shell.vessel();
    let script = "echo ready; while [ \"$(stty size)\" != '50 132' ]; do sleep 0.05; done; echo resized";
    let mut terminal = Terminal::new(&shell, &id, &["sh", "-c", script]);
    terminal.wait_for("ready");
    size(&terminal.master.try_clone().unwrap().into(), 50, 132);
    terminal.wait_for("resized");
    assert_eq!(terminal.end(), Some(0));
}

#[test]
fn the_terminal_is_as_it_was_after_a_signal() {
    let shell = Shell::new();
    let id = shell.vessel();
    for signal in [Signal::TERM, Signal::HUP] {
        let mut terminal =
            Terminal::new(&shell, &id, &["sh", "-c", "echo ready; while :; do sleep 0.05; done"]);
        terminal.wait_for("ready");
        // setsid(1) did not fork, because a child of ours leads no group: this is vesselrt itself.
        kill_process(Pid::from_child(&terminal.child), signal).unwrap();
        terminal.end();
        assert!(terminal.is_cooked(), "{signal:?}");
    }
    shell.assert_idle();
}

#[test]
fn a_terminal_needs_one_outside() {
    let shell = Shell::new();
    let id = shell.vessel();
    let done = shell.call(["exec", "-t", &id, "--", "true"]).exits(125);
    assert!(done.complaint().contains("terminal"), "{done:?}");
}
