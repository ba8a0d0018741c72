//! What a client and a shim say to each other.
//!
//! One frame is a [`postcard`] value behind a length; descriptors ride along as `SCM_RIGHTS` (see [`super::wire`]).
//! A connection carries one operation at a time: a request, its reply, and for [`Request::Exec`] the [`Reply::Exited`]
//! that ends it. A connection that closes kills the command it started.
//!
//! Both ends are the same executable in practice; [`VERSION`] guards the case of an upgrade while a shim runs.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

use crate::settings::{Limits, Settings};

/// Version of the protocol; a client refuses a shim of another one.
pub const VERSION: u32 = 7;

/// Which program stacks the layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Driver {
    /// The kernel's overlayfs with `userxattr`.
    Kernel,
    /// `fuse-overlayfs` of the host.
    Fuse,
}

/// What is mounted: the layers of a vessel, topmost first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountSpec {
    /// Sealed snapshot layers, topmost first: names of directories under `layers/`, each with its tree in `fs`.
    pub sealed: Vec<String>,
    /// Image layers, topmost first: names of directories under `images/layers/`, each with its tree in `fs`.
    pub image: Vec<String>,
    /// The writable layer: directory `gen-N` of the vessel, with `fs` (upperdir) and `work` (workdir).
    pub generation: u64,
    /// The vessel is thrown away at the end: skip every sync of the file system (overlayfs `volatile`).
    pub volatile: bool,
    /// Which program stacks them.
    pub driver: Driver,
}

/// The first frame a shim reads, on its standard input.
///
/// Descriptors with it, in order: `images/layers`, `layers`, the vessel's directory, the listening socket, the lock, one for each
/// [`Origin`] that has one, the sockets of published ports; then those of its control group as with [`Request::Limit`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ShimConfig {
    /// Must be [`VERSION`].
    pub version: u32,
    /// What to mount.
    pub mount: MountSpec,
    /// Host name inside.
    pub hostname: String,
    /// What its commands may use of the host.
    pub settings: Settings,
    /// How many entrances of groups come with it.
    pub groups: u32,
    /// It was never started before: what cannot be mounted is told now. Later, commands are refused until it can be.
    pub is_new: bool,
    /// Where the shim finds what its settings mount, in that order; the launcher writes it.
    pub origins: Vec<Origin>,
}

/// Where a shim finds something that is to be mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// It makes it.
    InMemory,
    /// It has copied it when it began; the descriptor says what it must be.
    There,
    /// The descriptor is the copy.
    Copied,
}

/// What a command gets besides the limits of its vessel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// How many entrances of groups come after the standard streams: the command joins those groups.
    pub groups: u32,
    /// After those comes the file that counts processes killed for want of memory.
    pub counter: bool,
    /// `RLIMIT_NOFILE`.
    pub nofile: Option<u64>,
    /// `RLIMIT_AS`, in bytes, where there is no control group.
    pub address_space: Option<u64>,
    /// `RLIMIT_NPROC`, where there is no control group.
    pub processes: Option<u64>,
    /// So many processors to run on, where there is no control group.
    pub processors: Option<u32>,
}

/// Who runs a command: names or numbers as in the `User` field of an image configuration, resolved inside the vessel.
pub type UserSpec = String;

/// A command to run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    /// Program and arguments; the program is searched in the `PATH` of `env`.
    pub argv: Vec<Vec<u8>>,
    /// `KEY=VALUE` entries: the whole environment, except that `HOME` and (with a terminal) `TERM` are added if missing.
    pub env: Vec<Vec<u8>>,
    /// Absolute directory inside, created (0755) if missing.
    pub cwd: Vec<u8>,
    /// Empty is root.
    pub user: UserSpec,
    /// Give the command a terminal of this many rows and columns; its other end is the descriptor of [`Reply::Started`].
    pub terminal: Option<(u16, u16)>,
    /// Throw away what the command writes.
    pub ephemeral: bool,
    /// What it gets besides the limits of the vessel.
    pub confinement: Confinement,
}

/// A request. Paths are bytes, resolved under the root of the vessel.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Request {
    /// Asks who is there. Reply: [`Reply::Hello`].
    Hello,
    /// Stay (true) or leave (false) when the last connection closes. Reply: [`Reply::Done`].
    Keep(bool),
    /// Stay for so long after the last connection has closed. Reply: [`Reply::Done`].
    Linger {
        /// Milliseconds; 0 is not at all.
        millis: u64,
    },
    /// Kill every command, unmount and leave; with `destroy`, remove the writable layer too (a `--rm` vessel).
    /// Reply: [`Reply::Done`], then the connection closes when the shim is gone.
    Shutdown {
        /// Remove the content of the writable layer.
        destroy: bool,
    },
    /// Opens a file. Reply: [`Reply::File`] and one descriptor.
    Open {
        /// Path inside.
        path: Vec<u8>,
        /// `O_*` flags; only access mode, `APPEND`, `CREATE`, `EXCL`, `TRUNC`, `NOFOLLOW`, `DIRECTORY` are taken.
        flags: u32,
        /// Permission bits of a created file.
        mode: u32,
    },
    /// Replaces a file as a whole with the content of the one descriptor sent along (read to its end).
    /// Reply: [`Reply::Done`]. Either the old content stays or the new is there.
    WriteFile {
        /// Path inside.
        path: Vec<u8>,
        /// Permission bits if the file is created.
        mode: u32,
    },
    /// Sets the size of the open file sent along: FUSE refuses that to processes outside its user namespace.
    /// Reply: [`Reply::Done`].
    SetLen {
        /// Bytes.
        size: u64,
    },
    /// Reply: [`Reply::Stat`].
    Stat {
        /// Path inside.
        path: Vec<u8>,
        /// Follow a symlink at the end.
        follow: bool,
    },
    /// Lists a directory, sorted by name. Reply: [`Reply::Entries`].
    ReadDir {
        /// Path inside.
        path: Vec<u8>,
    },
    /// Reply: [`Reply::Done`].
    MakeDir {
        /// Path inside.
        path: Vec<u8>,
        /// Permission bits.
        mode: u32,
        /// Create what is missing above it too, and do not mind if it is there.
        parents: bool,
    },
    /// Removes a file or a directory. Reply: [`Reply::Done`].
    Remove {
        /// Path inside.
        path: Vec<u8>,
        /// With everything in it.
        recursive: bool,
    },
    /// Renames; copies and removes where overlayfs cannot (`EXDEV` of a directory from a lower layer). Reply: [`Reply::Done`].
    Rename {
        /// Path inside.
        from: Vec<u8>,
        /// Path inside.
        to: Vec<u8>,
    },
    /// Runs a command with the three descriptors sent along as its standard streams; none with a terminal, or when all three
    /// are to be `/dev/null`.
    /// Replies: [`Reply::Started`], later [`Reply::Exited`].
    Exec(Box<ExecRequest>),
    /// Sends a signal to the command that this connection runs; there is no reply.
    Signal(i32),
    /// Packs the tree at `path` as a plain tar to the descriptor sent along (a worker does it). Reply: [`Reply::Done`].
    CopyOut {
        /// Path inside.
        path: Vec<u8>,
    },
    /// Unpacks a plain tar from the descriptor sent along into the directory `path` (a worker does it). Reply: [`Reply::Done`].
    CopyIn {
        /// Path inside.
        path: Vec<u8>,
    },
    /// Makes the mount read-only, so that the writable layer cannot change. Reply: [`Reply::Done`], or a
    /// [`FaultKind::Busy`] fault when a command runs or a file is open for writing. Reads go on.
    Quiesce,
    /// Ends [`Request::Quiesce`]. Reply: [`Reply::Done`].
    Resume,
    /// Packs the writable layer as a snapshot archive (uncompressed tar) to the descriptor sent along. Only when
    /// quiesced. Reply: [`Reply::Packed`].
    PackUpper,
    /// Stops the commands that run, copies the writable layer as `fs` into the directory sent along, and lets them go on.
    /// Reply: [`Reply::Captured`], or a [`FaultKind::Busy`] fault when files are written from outside.
    Capture {
        /// How long they may stand still, in milliseconds; [`FaultKind::LimitExceeded`] when it takes longer.
        longest_ms: u64,
    },
    /// Unmounts, after [`Request::Quiesce`]: what was written is on disk then, and nothing uses the writable layer any more.
    /// Nobody else is served until [`Request::Remount`] or [`Request::Resume`]. Reply: [`Reply::Done`].
    Detach,
    /// Mounts other layers instead, after [`Request::Quiesce`]. Reply: [`Reply::Done`], with the root of what was mounted
    /// before, if it was: the last one to close it waits until what was written to it is on disk.
    Remount(MountSpec),
    /// Copies what is large of the writable layer into the directory sent along, where [`Request::Capture`] takes what did not
    /// change until then. Commands go on. Reply: [`Reply::Done`].
    CopyAhead,
    /// [`Request::Exec`] of a client that does not ask whether the command runs yet: only [`Reply::Exited`] comes. Without
    /// descriptors all three streams are `/dev/null`.
    Run(Box<ExecRequest>),
    /// Other limits from now on. With it may come the group of the vessel: so many entrances, and the file that
    /// counts processes killed for want of memory, if it has one; without, it stays in the group that it is in.
    /// Reply: [`Reply::Done`].
    Limit {
        /// The limits.
        limits: Box<Limits>,
        /// How many entrances of groups come with it.
        groups: u32,
    },
    /// Starts a command that belongs to nobody, with pipes of the shim's as its streams: what it writes is logged
    /// ([`crate::process`]). With it comes what its [`Confinement`] says. Reply: [`Reply::Spawned`].
    Spawn(Box<SpawnRequest>),
    /// Asks which of those run. Reply: [`Reply::Processes`].
    Processes,
    /// Sends a signal to one. Reply: [`Reply::Done`], or a [`FaultKind::NotFound`] fault when it does not run.
    SignalProcess {
        /// Its number.
        process: u64,
        /// Number of the signal.
        signal: i32,
    },
    /// Waits until one has ended and its log is complete. Reply: [`Reply::Done`], at once if it does not run.
    WaitProcess {
        /// Its number.
        process: u64,
    },
    /// Asks for the input of one: the end of a pipe, or its terminal. Reply: [`Reply::Input`] and one descriptor.
    OpenInput {
        /// Its number.
        process: u64,
    },
    /// Ends the input of one, as soon as everybody who has it open has closed it. Reply: [`Reply::Done`].
    CloseInput {
        /// Its number.
        process: u64,
    },
    /// Sends SIGTERM to all of them, and SIGKILL later. Reply: [`Reply::Done`] when none runs any more.
    EndProcesses {
        /// How much later, in milliseconds.
        grace_ms: u64,
    },
    /// Does a request about one file or directory as a user of the vessel, in a directory that it does not leave
    /// ([`crate::files::Bounds`]). Reply: that of the request, or a [`FaultKind::Outside`] fault.
    Within {
        /// User id inside.
        uid: u32,
        /// Group id inside.
        gid: u32,
        /// The directory.
        base: Vec<u8>,
        /// What is to be done.
        request: Box<Request>,
    },
    /// Gives a file or a directory to a user; a symlink at its end is not followed. Reply: [`Reply::Done`].
    SetOwner {
        /// Path inside.
        path: Vec<u8>,
        /// User id inside.
        uid: u32,
        /// Group id inside.
        gid: u32,
    },
}

/// A command that belongs to nobody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpawnRequest {
    /// The command.
    pub command: ExecRequest,
    /// Give it an input that stays open; without, it is `/dev/null`. With a terminal it has one anyway.
    pub input: bool,
    /// Kill it after so many milliseconds.
    pub timeout_ms: Option<u64>,
    /// Bytes that its log may have on disk.
    pub log_limit: u64,
}

/// A reply.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Reply {
    /// Who is there.
    Hello {
        /// [`VERSION`] of the shim.
        version: u32,
        /// Process id of the shim as the client sees it is not known to it; this is its own view.
        pid: u32,
        /// Connections besides the one that asks.
        others: u32,
        /// Commands that run.
        running: u32,
        /// Whether [`Request::Keep`] is on.
        kept: bool,
        /// What [`Request::Linger`] has set, in milliseconds.
        linger_ms: u64,
        /// What is mounted.
        driver: Driver,
    },
    /// Done, nothing to say.
    Done,
    /// The file, as the one descriptor sent along.
    File,
    /// Metadata.
    Stat(Box<FileStat>),
    /// Entries of a directory with their metadata (of the entry itself, symlinks not followed).
    Entries(Vec<(Vec<u8>, FileStat)>),
    /// The command runs; with a terminal its other end is sent along.
    Started,
    /// The command ended.
    Exited(ExitStatus),
    /// The snapshot archive is written.
    Packed(Packed),
    /// The writable layer is copied.
    Captured {
        /// The file system shares the data of all files.
        reflinked: bool,
        /// How long the commands stood still, in microseconds.
        pause_us: u64,
    },
    /// It failed.
    Failed(Fault),
    /// The process of this number runs.
    Spawned(u64),
    /// The numbers of those that run.
    Processes(Vec<u64>),
    /// The input of a process, as the one descriptor sent along.
    Input {
        /// It is a terminal.
        terminal: bool,
    },
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitStatus {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// After it, or the vessel, had met a limit.
    OverLimit {
        /// Which one.
        limit: LimitMet,
        /// The exit code as a shell tells it: 128 + n after signal n.
        code: i32,
        /// The signal.
        signal: Option<i32>,
    },
}

/// A limit that ends commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LimitMet {
    /// A process of it was killed for want of memory.
    Memory,
    /// The writable layer takes more than it may.
    Disk,
}

/// Facts about a written snapshot archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packed {
    /// Lower-case hexadecimal SHA-256 of the uncompressed tar.
    pub sha256: String,
    /// Bytes of the uncompressed tar.
    pub size: u64,
    /// Entries in it.
    pub entries: u64,
    /// What could not be kept (sockets), for the user to know.
    pub skipped: Vec<String>,
}

/// Metadata of a file as stat(2) has it, ids as the vessel sees them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStat {
    /// `st_mode`: type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// Seconds since 1970 and nanoseconds.
    pub mtime: (i64, u32),
    /// Inode number.
    pub ino: u64,
    /// Hard links.
    pub nlink: u64,
    /// Target, of a symlink whose stat did not follow it.
    pub target: Option<Vec<u8>>,
}

/// What kind of failure a [`Fault`] is; the facade maps it to its own error kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FaultKind {
    /// No such file, command, user, …
    NotFound,
    /// It exists.
    AlreadyExists,
    /// The request makes no sense.
    InvalidArgument,
    /// Something else uses it now.
    Busy,
    /// Not allowed.
    PermissionDenied,
    /// The host cannot do it.
    Unsupported,
    /// A limit was met.
    LimitExceeded,
    /// What was read is not what it must be.
    Integrity,
    /// The program of a command is not there (exit code 127 of a shell).
    CommandNotFound,
    /// The program of a command cannot be executed (exit code 126 of a shell).
    CommandNotExecutable,
    /// Anything else: an I/O error, a bug.
    Internal,
    /// A path leads out of the directory of [`Request::Within`].
    Outside,
}

/// A failure as it crosses the socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// What kind it is.
    pub kind: FaultKind,
    /// What failed, with its arguments and its causes, outermost first: told once.
    pub message: String,
    /// The errno, where a system call failed.
    pub errno: Option<i32>,
    /// What the user can do about it.
    pub remedy: Option<String>,
}
