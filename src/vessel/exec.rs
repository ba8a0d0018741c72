//! [`ExecOptions`]: which command runs, as whom, with which streams; [`ExecResult`]: how it ended.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use vesselrt_runtime::settings::Limits;
use vesselrt_runtime::shim::protocol::{Confinement, ExecRequest, ExitStatus, LimitMet};

use super::paths;
use crate::error::{Error, Result};
use crate::state::ImageDefaults;

/// The `PATH` of a command whose image and caller have none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The exit code of a command that was killed because its time was up, as timeout(1) has it.
pub const TIMEOUT_EXIT_CODE: i32 = 124;

/// Where the input of a command comes from.
pub(crate) enum Input {
    Null,
    Fd(OwnedFd),
    Stream(Box<dyn AsyncRead + Send + Unpin>),
}

/// Where the output of a command goes to.
pub(crate) enum Output {
    Null,
    Fd(OwnedFd),
    Stream(Box<dyn AsyncWrite + Send + Unpin>),
}

/// A command and how to run it. The setters return the changed value, to be chained.
///
/// Without further ado it runs as the image's user (root if it names none) in the vessel's working directory with the
/// image's environment, reads nothing, its output is thrown away, **and so is what it changes**
/// ([`persist_result`](Self::persist_result)).
pub struct ExecOptions {
    argv: Vec<OsString>,
    work_dir: Option<PathBuf>,
    env: Vec<(OsString, OsString)>,
    user: Option<String>,
    terminal: Option<(u16, u16)>,
    persist: bool,
    pub(crate) stdin: Input,
    pub(crate) stdout: Output,
    pub(crate) stderr: Output,
    pub(crate) timeout: Option<Duration>,
    pub(crate) limits: Limits,
}

impl ExecOptions {
    /// Runs `argv`: the program, searched in the `PATH` of the environment, and its arguments.
    pub fn new<S: Into<OsString>>(argv: impl IntoIterator<Item = S>) -> Self {
        Self {
            argv: argv.into_iter().map(Into::into).collect(),
            work_dir: None,
            env: Vec::new(),
            user: None,
            terminal: None,
            persist: false,
            stdin: Input::Null,
            stdout: Output::Null,
            stderr: Output::Null,
            timeout: None,
            limits: Limits::new(),
        }
    }

    /// The directory to run in, created (0755) if missing; a relative one begins at the vessel's working directory,
    /// which is the default.
    #[must_use]
    pub fn work_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.work_dir = Some(dir.into());
        self
    }

    /// Sets one variable on top of the image's environment; the last value of a key counts.
    #[must_use]
    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((key.into(), value.into()));
        self
    }

    /// [`Self::env`] for many.
    #[must_use]
    pub fn envs<K: Into<OsString>, V: Into<OsString>>(
        mut self,
        vars: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        self.env.extend(vars.into_iter().map(|(key, value)| (key.into(), value.into())));
        self
    }

    /// Who runs it: `user`, `uid`, `user:group` or `uid:gid`, as in the `User` field of an image configuration.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// Gives the command a terminal of this size. Its streams are then one: input goes to it, output comes from it
    /// to `stdout`, and `stderr` is not used.
    #[must_use]
    pub fn terminal(mut self, rows: u16, cols: u16) -> Self {
        self.terminal = Some((rows, cols));
        self
    }

    /// Feeds the command's standard input from `stream` until its end, which the command sees as end of file.
    #[must_use]
    pub fn stdin(mut self, stream: impl AsyncRead + Send + Unpin + 'static) -> Self {
        self.stdin = Input::Stream(Box::new(stream));
        self
    }

    /// Hands a descriptor to the command as its standard input.
    #[must_use]
    pub fn stdin_fd(mut self, fd: OwnedFd) -> Self {
        self.stdin = Input::Fd(fd);
        self
    }

    /// Copies the command's standard output to `stream`.
    #[must_use]
    pub fn stdout(mut self, stream: impl AsyncWrite + Send + Unpin + 'static) -> Self {
        self.stdout = Output::Stream(Box::new(stream));
        self
    }

    /// Hands a descriptor to the command as its standard output.
    #[must_use]
    pub fn stdout_fd(mut self, fd: OwnedFd) -> Self {
        self.stdout = Output::Fd(fd);
        self
    }

    /// Copies the command's standard error to `stream`.
    #[must_use]
    pub fn stderr(mut self, stream: impl AsyncWrite + Send + Unpin + 'static) -> Self {
        self.stderr = Output::Stream(Box::new(stream));
        self
    }

    /// Hands a descriptor to the command as its standard error.
    #[must_use]
    pub fn stderr_fd(mut self, fd: OwnedFd) -> Self {
        self.stderr = Output::Fd(fd);
        self
    }

    /// Whether what the command writes stays (true), or it sees everything and leaves nothing (false, the default).
    #[must_use]
    pub fn persist_result(mut self, persist: bool) -> Self {
        self.persist = persist;
        self
    }

    /// Kills the command with its whole process tree when it takes longer; see [`ExecResult::timed_out`].
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Limits of this command alone, besides those of the vessel: the tighter one counts. What is written
    /// ([`Limits::disk`]) can be limited for a vessel only; a [`Limits::timeout`] is taken as [`Self::timeout`].
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.timeout = limits.timeout_ms.map(Duration::from_millis).or(self.timeout);
        self.limits = limits;
        self
    }

    /// Whether the command has a terminal.
    pub(crate) fn has_terminal(&self) -> bool {
        self.terminal.is_some()
    }

    /// The request for the shim.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for an empty command, a NUL byte, a strange variable.
    pub(crate) fn request(&self, work_dir: &str, image: &ImageDefaults) -> Result<ExecRequest> {
        if self.argv.first().is_none_or(|program| program.is_empty()) {
            return Err(Error::invalid("command is required"));
        }
        let cwd = self.work_dir.as_deref().unwrap_or_else(|| ".".as_ref());
        Ok(ExecRequest {
            argv: self.argv.iter().map(|arg| no_nul(arg.clone(), "argument")).collect::<Result<_>>()?,
            env: environment(&image.env, &self.env)?,
            cwd: paths::bytes(paths::resolve(work_dir, cwd)?),
            user: self.user.clone().unwrap_or_else(|| image.user.clone()),
            terminal: self.terminal,
            ephemeral: !self.persist,
            confinement: Confinement::default(),
        })
    }
}

impl fmt::Debug for ExecOptions {
    /// Neither the streams, which are opaque, nor the values of variables, which may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecOptions")
            .field("argv", &self.argv)
            .field("work_dir", &self.work_dir)
            .field("env", &self.env.iter().map(|(key, _)| key).collect::<Vec<_>>())
            .field("user", &self.user)
            .field("terminal", &self.terminal)
            .field("persist_result", &self.persist)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExecResult {
    /// The command's own exit code; 128 + n when signal n ended it; 124 when its time was up.
    pub exit_code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// It took longer than [`ExecOptions::timeout`] and was killed.
    pub timed_out: bool,
    /// While it ran, it or another process of its group was killed because the [memory](Limits::memory) was used up; and it
    /// did not end with 0.
    pub oom_killed: bool,
    /// It was killed because the writable layer takes more than it may ([`Limits::disk`]).
    pub disk_full: bool,
}

impl ExecResult {
    /// The command ended by itself with exit code 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.exit_code == 0 && !self.timed_out
    }

    pub(crate) fn timeout() -> Self {
        Self {
            exit_code: TIMEOUT_EXIT_CODE,
            signal: Some(rustix::process::Signal::KILL.as_raw()),
            timed_out: true,
            oom_killed: false,
            disk_full: false,
        }
    }
}

impl From<ExitStatus> for ExecResult {
    fn from(status: ExitStatus) -> Self {
        let (exit_code, signal, limit) = match status {
            ExitStatus::Code(code) => (code, None, None),
            ExitStatus::Signal(n) => (n.saturating_add(128), Some(n), None),
            ExitStatus::OverLimit { limit, code, signal } => (code, signal, Some(limit)),
        };
        Self {
            exit_code,
            signal,
            timed_out: false,
            oom_killed: limit == Some(LimitMet::Memory),
            disk_full: limit == Some(LimitMet::Disk),
        }
    }
}

fn no_nul(text: OsString, what: &str) -> Result<Vec<u8>> {
    let bytes = text.into_vec();
    if bytes.contains(&0) {
        return Err(Error::invalid(format!("{what} has a NUL byte: {:?}", String::from_utf8_lossy(&bytes))));
    }
    Ok(bytes)
}

/// The image's variables, those of the caller instead of or after them, and a `PATH` if there is none.
fn environment(image: &[String], own: &[(OsString, OsString)]) -> Result<Vec<Vec<u8>>> {
    let mut merged = Variables::default();
    // An entry of an image that cannot be a variable is none.
    let entries =
        image.iter().filter(|entry| !entry.contains('\0')).filter_map(|entry| entry.split_once('='));
    for (key, value) in entries.filter(|(key, _)| !key.is_empty()) {
        merged.set(key.into(), value.into());
    }
    for (key, value) in own {
        let key = no_nul(key.clone(), "variable")?;
        if key.is_empty() || key.contains(&b'=') {
            return Err(Error::invalid(format!(
                "name of a variable is not valid: {:?}",
                String::from_utf8_lossy(&key)
            )));
        }
        merged.set(key, no_nul(value.clone(), "variable")?);
    }
    if !merged.places.contains_key(b"PATH".as_slice()) {
        merged.set(b"PATH".to_vec(), DEFAULT_PATH.into());
    }
    Ok(merged.entries.into_iter().map(|(key, value)| [key.as_slice(), b"=", &value].concat()).collect())
}

/// An environment in the order in which its variables came. An image may have very many.
#[derive(Default)]
struct Variables {
    entries: Vec<(Vec<u8>, Vec<u8>)>,
    places: HashMap<Vec<u8>, usize>,
}

impl Variables {
    /// A key that is there keeps its place.
    fn set(&mut self, key: Vec<u8>, value: Vec<u8>) {
        match self.places.get(&key) {
            Some(&place) => self.entries[place].1 = value,
            None => {
                self.places.insert(key.clone(), self.entries.len());
                self.entries.push((key, value));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn image() -> ImageDefaults {
        ImageDefaults {
            env: vec![
                "PATH=/bin".into(),
                "LANG=C".into(),
                "odd".into(),
                "=x".into(),
                "N=\0".into(),
                "EMPTY=".into(),
            ],
            user: "app:staff".into(),
        }
    }

    fn env_of(options: &ExecOptions, image: &ImageDefaults) -> Vec<String> {
        let request = options.request("/w", image).unwrap();
        request.env.into_iter().map(|entry| String::from_utf8(entry).unwrap()).collect()
    }

    #[test]
    fn the_image_s_environment_comes_first_and_the_caller_s_wins() {
        let options = ExecOptions::new(["true"]).env("LANG", "de").envs([("A", "1"), ("A", "2=3")]);
        assert_eq!(env_of(&options, &image()), ["PATH=/bin", "LANG=de", "EMPTY=", "A=2=3"]);
        let bare = ImageDefaults::default();
        assert_eq!(env_of(&ExecOptions::new(["true"]), &bare), [format!("PATH={DEFAULT_PATH}")]);
    }

    #[test]
    fn user_and_directory_are_the_image_s_unless_given() {
        let request = ExecOptions::new(["true"]).request("/w", &image()).unwrap();
        assert_eq!((request.user.as_str(), request.cwd.as_slice()), ("app:staff", b"/w".as_slice()));
        assert!(request.ephemeral, "the default leaves nothing");
        let options = ExecOptions::new(["true"]).user("0").work_dir("../x").persist_result(true);
        let request = options.request("/w", &image()).unwrap();
        assert_eq!((request.user.as_str(), request.cwd.as_slice()), ("0", b"/x".as_slice()));
        assert!(!request.ephemeral);
    }

    #[test]
    fn what_cannot_be_executed_is_refused() {
        let none: [&str; 0] = [];
        for (options, message) in [
            (ExecOptions::new(none), "command is required"),
            (ExecOptions::new([""]), "command is required"),
            (ExecOptions::new(["a", "b\0"]), "argument has a NUL byte: \"b\\0\""),
            (ExecOptions::new(["a"]).env("A=B", ""), "name of a variable is not valid: \"A=B\""),
            (ExecOptions::new(["a"]).env("", ""), "name of a variable is not valid: \"\""),
            (ExecOptions::new(["a"]).env("A", "\0"), "variable has a NUL byte: \"\\0\""),
            (ExecOptions::new(["a"]).work_dir("\0"), "path has a NUL byte: \"\\0\""),
        ] {
            let error = options.request("/w", &image()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert_eq!(error.to_string(), message);
        }
    }

    #[test]
    fn exit_codes_follow_the_shell() {
        assert_eq!(ExecResult::from(ExitStatus::Code(7)).exit_code, 7);
        let killed = ExecResult::from(ExitStatus::Signal(9));
        assert_eq!((killed.exit_code, killed.signal, killed.timed_out), (137, Some(9), false));
        let late = ExecResult::timeout();
        assert_eq!((late.exit_code, late.timed_out, late.success()), (124, true, false));
    }

    #[test]
    fn secrets_are_not_printed() {
        let shown = format!("{:?}", ExecOptions::new(["a"]).env("TOKEN", "hunter2"));
        assert!(shown.contains("TOKEN") && !shown.contains("hunter2"));
    }
}
