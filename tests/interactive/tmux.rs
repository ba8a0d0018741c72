//! A terminal of tmux with a shell of the host in it: what is typed, and what a person would see.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::shell::Shell;
use crate::testkit;

/// Whatever is waited for on the screen is there after this time, or never.
const PATIENCE: Duration = Duration::from_secs(60);
/// Width and height of a new terminal.
pub(super) const SIZE: (u16, u16) = (100, 30);
/// The prompt of the host's shell.
const PROMPT: &str = "host$";

/// A tmux server of its own with one terminal. Its shell has the variable `V`: the command line on the store.
pub(super) struct Tmux {
    socket: PathBuf,
}

impl Tmux {
    pub(super) fn new(shell: &Shell) -> Self {
        let tmux = Self { socket: shell.beside("tmux") };
        let (columns, rows) = SIZE;
        let vesselrt = format!("V={} --root {}", testkit::bin().display(), shell.root().display());
        let size = ["-x", &columns.to_string(), "-y", &rows.to_string()];
        let mut start = tmux.command(&["-f", "/dev/null", "new-session", "-d"]);
        start.args(size).args(["-c", "/", "-e", &vesselrt, "-e", "VESSELRT_IDLE=0", "-e", "PS1=host$ "]);
        start.args(["-e", "BASH_SILENCE_DEPRECATION_WARNING=1", "exec bash --norc --noprofile"]);
        let started = start.env_remove("VESSELRT_ROOT").status().unwrap();
        assert!(started.success(), "tmux starts");
        tmux.wait_for(PROMPT);
        tmux
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("tmux");
        // A server would keep the directory and the terminal of whoever starts it.
        command.current_dir("/").env("LC_ALL", "C.UTF-8").env("SHELL", "/bin/sh").env_remove("TMUX");
        command.arg("-u").arg("-S").arg(&self.socket).args(args).stdin(Stdio::null());
        command
    }

    #[track_caller]
    fn tmux(&self, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        assert!(output.status.success(), "tmux {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Presses keys by their names in tmux: `C-c`, `Enter`, `q`.
    pub(super) fn press(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    /// Types a line, and Enter.
    pub(super) fn enter(&self, line: &str) {
        self.tmux(&["send-keys", "-l", "--", line]);
        self.press(&["Enter"]);
    }

    /// Pastes text as a terminal does: all of it at once.
    pub(super) fn paste(&self, text: &[u8], file: &std::path::Path) {
        std::fs::write(file, text).unwrap();
        self.tmux(&["load-buffer", file.to_str().unwrap()]);
        self.tmux(&["paste-buffer", "-r"]);
    }

    pub(super) fn resize(&self, columns: u16, rows: u16) {
        self.tmux(&["resize-window", "-x", &columns.to_string(), "-y", &rows.to_string()]);
    }

    /// The lines on the screen.
    pub(super) fn screen(&self) -> Vec<String> {
        self.tmux(&["capture-pane", "-p"]).lines().map(|line| line.trim_end().to_owned()).collect()
    }

    /// Waits for a screen that is as it should be.
    #[track_caller]
    pub(super) fn wait_until(&self, what: &str, ready: impl Fn(&[String]) -> bool) {
        let start = Instant::now();
        loop {
            let screen = self.screen();
            if ready(&screen) {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "never seen: {what}; the screen:\n{}", screen.join("\n"));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for a text in any line.
    #[track_caller]
    pub(super) fn wait_for(&self, text: &str) {
        self.wait_until(text, |screen| screen.iter().any(|line| line.contains(text)));
    }

    /// Waits until the last line that is not empty is this one.
    #[track_caller]
    pub(super) fn wait_for_last(&self, text: &str) {
        self.wait_until(text, |screen| {
            screen.iter().rev().find(|line| !line.is_empty()).is_some_and(|l| l == text)
        });
    }

    /// An empty screen with a prompt.
    pub(super) fn clear(&self) {
        self.enter("clear");
        self.wait_until("an empty screen", |screen| {
            screen[0].ends_with(['$', '#']) && screen[1..].iter().all(String::is_empty)
        });
    }

    /// Enters a line in a shell and waits until a line of what follows is `answer`.
    #[track_caller]
    pub(super) fn says(&self, line: &str, answer: &str) {
        self.clear();
        self.enter(line);
        self.wait_until(&format!("{answer:?} after {line:?}"), |screen| {
            screen[1..].iter().any(|line| line == answer)
        });
    }

    /// Enters a call of the command line that starts a shell inside, and gives that a short prompt.
    #[track_caller]
    pub(super) fn inside(&self, call: &str) {
        self.enter(call);
        self.wait_until("a prompt inside", |screen| screen.iter().any(|line| line.ends_with(":/#")));
        self.enter("PS1='in''side$ '");
        self.wait_for_last("inside$");
    }

    /// Waits for the prompt of the host's shell, which says how the last command ended.
    #[track_caller]
    pub(super) fn left_with(&self, code: i32) {
        // What was ended from outside has left the cursor in its line.
        self.wait_until("the prompt of the host", |screen| {
            screen.iter().rev().find(|line| !line.is_empty()).is_some_and(|line| line.ends_with(PROMPT))
        });
        self.code(code);
    }

    /// How the last command of a shell ended.
    #[track_caller]
    pub(super) fn code(&self, code: i32) {
        self.enter("code=$?; clear; echo; echo code=$code");
        self.wait_until(&format!("the exit code {code}"), |screen| screen[1] == format!("code={code}"));
    }

    /// What tmux says that its terminals are.
    pub(super) fn kind(&self) -> String {
        self.tmux(&["show-options", "-gv", "default-terminal"]).trim().to_owned()
    }

    /// The process that the shell of the host runs in the foreground.
    pub(super) fn child(&self) -> u32 {
        let pane = self.tmux(&["display-message", "-p", "#{pane_pid}"]);
        let children = format!("/proc/{0}/task/{0}/children", pane.trim());
        let children = std::fs::read_to_string(children).unwrap();
        children.split_whitespace().next().expect("it runs something").parse().unwrap()
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let _ = self.command(&["kill-server"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}
