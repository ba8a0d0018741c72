//! The built command line as a person calls it: a store, an image, calls that end in time.
#![forbid(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

pub(crate) use crate::testkit::BASE;
use crate::testkit::image::base_tar;
use crate::testkit::{self, Store};

/// No call takes longer than this: whatever still runs then hangs.
const PATIENCE: Duration = Duration::from_secs(120);
/// A store of its own that the command line works on; nothing of it may be left when it goes.
pub(crate) struct Shell {
    store: Option<Store>,
    root: PathBuf,
}

impl Drop for Shell {
    fn drop(&mut self) {
        let store = self.store.take().expect("a shell goes once");
        if !std::thread::panicking() {
            store.finish();
        }
    }
}

impl Shell {
    /// A store with the busybox image imported as [`BASE`].
    pub(crate) fn new() -> Self {
        let shell = Self::empty();
        shell.import(&shell.base_tar(), BASE);
        shell
    }

    /// A store in which nothing is.
    pub(crate) fn empty() -> Self {
        let store = Store::new(vesselrt::OverlayDriver::Auto);
        let root = store.root();
        Self { store: Some(store), root }
    }

    /// The store that checks after itself.
    pub(crate) fn store(&self) -> &Store {
        self.store.as_ref().expect("it goes when the shell does")
    }

    /// The tar of the busybox image.
    pub(crate) fn base_tar(&self) -> PathBuf {
        let path = self.beside("base.tar");
        if !path.exists() {
            std::fs::write(&path, base_tar()).unwrap();
        }
        path
    }

    /// `image import PATH --ref REFERENCE`, which must succeed.
    pub(crate) fn import(&self, path: &Path, reference: &str) {
        self.call(["image", "import"]).arg(path).args(["--ref", reference]).succeeds();
    }

    /// The directory that `--root` names.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A path beside the store, removed with it.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.store().beside(name)
    }

    /// A file beside the store.
    pub(crate) fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.beside(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// `vesselrt --root ROOT ARGS…`.
    pub(crate) fn call<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Call {
        Call::new(testkit::bin()).arg("--root").arg(self.root()).args(args)
    }

    /// `vesselrt --root ROOT exec ID -- ARGV…`.
    pub(crate) fn exec<S: AsRef<OsStr>>(&self, id: &str, argv: impl IntoIterator<Item = S>) -> Call {
        self.call(["exec", id, "--"]).args(argv)
    }

    /// `exec ID -- sh -c SCRIPT`, which must succeed; what it printed.
    pub(crate) fn sh(&self, id: &str, script: &str) -> String {
        self.exec(id, ["sh", "-c", script]).succeeds().text()
    }

    /// A vessel of [`BASE`] with the working directory `/work`; its id.
    pub(crate) fn vessel(&self) -> String {
        self.call(["create", BASE, "--workdir", "/work"]).succeeds().line()
    }

    /// Processes other than this one that have something of the store open, by pid.
    pub(crate) fn processes(&self) -> Vec<u32> {
        processes_in(self.root())
    }

    /// Fails when the last call left something running; processes that are ending get a moment.
    pub(crate) fn assert_idle(&self) {
        let left = settle(|| Some(self.processes()).filter(|left| !left.is_empty()));
        assert!(left.is_none(), "still running in {:?}: {:?}", self.root(), left.map(|pids| describe(&pids)));
    }
}

/// Asks again, for five seconds at most, until `probe` has nothing to say; what it says in the end.
pub(crate) fn settle<T>(probe: impl Fn() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match probe() {
            None => return None,
            found if Instant::now() > deadline => return found,
            _ => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// Processes that have a descriptor, a working directory or an argument below `root`, except this one.
pub(crate) fn processes_in(root: &Path) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if pid != std::process::id() && touches(&entry.path(), root) {
            found.push(pid);
        }
    }
    found
}

fn touches(process: &Path, root: &Path) -> bool {
    let below = |link: PathBuf| std::fs::read_link(link).is_ok_and(|target| target.starts_with(root));
    let named = || {
        let line = std::fs::read(process.join("cmdline")).unwrap_or_default();
        let root = root.as_os_str().as_encoded_bytes();
        line.windows(root.len()).any(|part| part == root)
    };
    let opened = || {
        let fds = std::fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        fds.into_iter().any(|fd| below(fd.path()))
    };
    named() || below(process.join("cwd")) || below(process.join("root")) || opened()
}

fn describe(pids: &[u32]) -> Vec<String> {
    let line = |pid: &u32| std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    pids.iter()
        .map(|pid| format!("{pid} {}", String::from_utf8_lossy(&line(pid)).replace('\0', " ")))
        .collect()
}

/// A call of a program that is being put together.
pub(crate) struct Call {
    command: Command,
    args: Vec<OsString>,
    input: Option<Vec<u8>>,
}

impl Call {
    /// `program`, found in PATH unless it is a path; standard input is empty.
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).env_remove("VESSELRT_ROOT").env_remove("VESSELRT_DRIVER");
        // What a test leaves is looked at when it ends.
        command.env("VESSELRT_IDLE", "0");
        Self { command, args: Vec::new(), input: None }
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    pub(crate) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    pub(crate) fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    pub(crate) fn without_env(mut self, key: &str) -> Self {
        self.command.env_remove(key);
        self
    }

    pub(crate) fn dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// What the program reads from a pipe, which then ends.
    pub(crate) fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Some(bytes.into());
        self
    }

    pub(crate) fn stdin(mut self, stdin: impl Into<Stdio>) -> Self {
        self.command.stdin(stdin);
        self
    }

    /// The words of this call, to be the arguments of another (`nice`, `timeout`, `unshare`).
    pub(crate) fn words(&self) -> Vec<OsString> {
        std::iter::once(self.command.get_program().to_owned()).chain(self.args.iter().cloned()).collect()
    }

    /// The same call, made by `sh -c SCRIPT`, where it is `"$@"`.
    pub(crate) fn through(self, script: &str) -> Self {
        let mut outer = Self::new("sh").args(["-c", script, "sh"]).args(self.words());
        for (key, value) in self.command.get_envs() {
            match value {
                Some(value) => outer.command.env(key, value),
                None => outer.command.env_remove(key),
            };
        }
        outer.input = self.input;
        outer
    }

    /// With the flag that asks for JSON, before all other arguments.
    pub(crate) fn in_json(mut self) -> Self {
        self.args.insert(0, "--json".into());
        self
    }

    /// Starts it.
    pub(crate) fn start(mut self) -> Running {
        self.command.args(&self.args);
        if self.input.is_some() {
            self.command.stdin(Stdio::piped());
        }
        let shown = format!("{:?}", self.command);
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.command.spawn().unwrap_or_else(|e| panic!("spawn {shown}: {e}"));
        if let (Some(mut stdin), Some(bytes)) = (child.stdin.take(), self.input) {
            // The program may leave without having read everything: that is its affair.
            std::thread::spawn(move || stdin.write_all(&bytes).is_ok());
        }
        let stdout = collect(child.stdout.take().unwrap());
        let stderr = collect(child.stderr.take().unwrap());
        Running { child, stdout: Some(stdout), stderr: Some(stderr), shown }
    }

    /// Runs it to its end.
    pub(crate) fn run(self) -> Done {
        self.start().wait()
    }

    /// Runs it; it must exit with 0.
    pub(crate) fn succeeds(self) -> Done {
        self.exits(0)
    }

    /// Runs it; it must exit with `code`.
    pub(crate) fn exits(self, code: i32) -> Done {
        let done = self.run();
        assert_eq!(done.code, code, "{done:?}");
        done
    }

    /// Runs it in JSON; it must exit with 125 and an error object of this kind, which is returned.
    pub(crate) fn refused(self, kind: &str) -> Value {
        let done = self.in_json().run();
        assert_eq!(done.code, 125, "{done:?}");
        let error = done.json()["error"].clone();
        assert_eq!(error["kind"], kind, "{done:?}");
        assert!(error["message"].as_str().is_some_and(|m| !m.is_empty()), "{done:?}");
        assert!(error.get("remedy").is_some(), "{done:?}");
        error
    }
}

fn collect(mut from: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // An error ends it like an end of file: what is missing fails the test.
        let _ = from.read_to_end(&mut bytes);
        bytes
    })
}

/// A program that runs.
pub(crate) struct Running {
    child: Child,
    stdout: Option<JoinHandle<Vec<u8>>>,
    stderr: Option<JoinHandle<Vec<u8>>>,
    shown: String,
}

impl Running {
    /// Sends a signal to it alone.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Its end; one that does not come in time fails the test.
    pub(crate) fn wait(mut self) -> Done {
        let status = self.status();
        let stdout = self.rest(|running| &mut running.stdout);
        let stderr = self.rest(|running| &mut running.stderr);
        let code = status.code().unwrap_or_else(|| 1000 + status.signal().unwrap_or_default());
        Done { code, stdout, stderr, shown: std::mem::take(&mut self.shown) }
    }

    fn status(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        let mut pause = Duration::from_micros(500);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "hangs: {}", self.shown);
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    /// What a pipe had to say; someone who keeps it open after the program's end fails the test.
    fn rest(&mut self, pick: fn(&mut Self) -> &mut Option<JoinHandle<Vec<u8>>>) -> Vec<u8> {
        let reader = pick(self).take().expect("a program is waited for once");
        let open = settle(|| (!reader.is_finished()).then_some(()));
        assert!(open.is_none(), "something keeps the output open after: {}", self.shown);
        reader.join().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// A program that ended.
pub(crate) struct Done {
    /// The exit code; 1000 and the signal's number when a signal ended it.
    pub(crate) code: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    shown: String,
}

impl Done {
    /// Standard output as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.stdout.clone()).unwrap_or_else(|_| panic!("not UTF-8: {self:?}"))
    }

    /// Standard error as text.
    pub(crate) fn complaint(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// The one line of standard output.
    pub(crate) fn line(&self) -> String {
        let text = self.text();
        let line = text.strip_suffix('\n').unwrap_or_else(|| panic!("no line: {self:?}"));
        assert!(!line.contains('\n') && !line.is_empty(), "not one line: {self:?}");
        line.to_owned()
    }

    /// Standard output as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|e| panic!("not JSON ({e}): {self:?}"))
    }
}

impl std::fmt::Debug for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let cut = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(2000)]).into_owned();
        write!(f, "{}\nexit code {}\n", self.shown, self.code)?;
        write!(f, "stdout: {}\nstderr: {}", cut(&self.stdout), cut(&self.stderr))
    }
}
