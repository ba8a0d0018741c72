//! Commands of a session: `shell/exec`, `shell/processes`, `shell/kill`, `shell/cwd`.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::foreground;
use super::payload::{Answer, Refusal, take};
use super::session::Session;
use super::users::User;
use crate::{ErrorKind, ExecOptions, Process, ProcessInfo, SpawnOptions, Vessel};

/// Seconds that a command may take when nobody says.
const TIMEOUT: i64 = 30;
/// How long a process that was killed may take to be gone.
const GONE: Duration = Duration::from_secs(5);

#[derive(Debug, Deserialize)]
struct Exec {
    command: String,
    #[serde(default)]
    cwd: Option<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    timeout: Option<i64>,
    #[serde(default = "yes")]
    shell: bool,
    #[serde(default)]
    background: bool,
}

fn yes() -> bool {
    true
}

/// The body of an answer. `pid` is that of a background process in `vesselrt process`: each command has process ids of its
/// own, in which others find nothing.
#[derive(Debug, Default)]
struct Done {
    code: i32,
    stdout: String,
    stderr: String,
    process: Option<(u64, String)>,
    error: Option<String>,
}

impl Done {
    fn failed(error: impl Into<String>) -> Self {
        Self { code: -1, error: Some(error.into()), ..Self::default() }
    }

    fn body(self) -> Value {
        let (pid, process) = self.process.unzip();
        json!({
            "success": self.code == 0 && self.error.is_none(),
            "return_code": self.code,
            "stdout": self.stdout,
            "stderr": self.stderr,
            "pid": pid,
            "process_id": process,
            "error": self.error,
        })
    }
}

pub(super) async fn exec(vessel: &Vessel, session: &Session, user: &User, payload: &Value) -> Answer {
    let request: Exec = match take(payload) {
        Ok(request) => request,
        Err(answer) => return answer,
    };
    // A null is for ever; what is not there is the default.
    let forever = payload.get("timeout").is_some_and(Value::is_null);
    let seconds = request.timeout.unwrap_or(TIMEOUT);
    let timeout = (!forever).then(|| Duration::from_secs(u64::try_from(seconds).unwrap_or(0)));
    let done = match command(user, &request).await {
        Err(error) => Done::failed(error),
        Ok(options) if request.background => background(vessel, options).await,
        Ok(options) => foreground(vessel, session, options, timeout).await,
    };
    Answer::ok(done.body())
}

/// What is executed, with its directory checked.
async fn command(user: &User, request: &Exec) -> Result<ExecOptions, String> {
    let cwd = user.workspace.join(request.cwd.as_deref().unwrap_or_default());
    match user.files.stat(&cwd).await {
        Err(error) if error.leads_outside() || error.kind() == ErrorKind::PermissionDenied => {
            return Err(format!(
                "403: Access denied: path must be within user workspace: {}",
                user.workspace.display()
            ));
        }
        // Whether it is there and a directory is for the shell to say.
        _ => {}
    }
    let argv = match request.shell {
        true => script(user, &cwd, &request.command),
        false => words(&cwd, &request.command)?,
    };
    // A process in the background has a vessel that keeps it.
    let options = if request.background { user.command(argv) } else { foreground::around(user, argv) };
    Ok(options.envs(request.env.iter()))
}

/// A login shell that runs the command in the directory. The command is its last argument too, for `shell/processes`.
fn script(user: &User, cwd: &Path, command: &str) -> Vec<OsString> {
    let mut script = OsString::from("cd -- ");
    script.push(quoted(cwd));
    script.push(" || exit\n");
    script.push(command);
    let name = user.shell.rsplit('/').next().unwrap_or_default();
    vec![user.shell.into(), "-lc".into(), script, name.into(), command.into()]
}

/// A program and its arguments, without what a shell makes of them.
fn words(cwd: &Path, command: &str) -> Result<Vec<OsString>, String> {
    let words = super::words::split(command)?;
    if words.is_empty() {
        return Err("the command is empty".to_owned());
    }
    let start = ["/bin/sh", "-c", "cd -- \"$0\" && exec \"$@\""].map(OsString::from);
    Ok(start.into_iter().chain([cwd.into()]).chain(words.into_iter().map(OsString::from)).collect())
}

fn quoted(path: &Path) -> String {
    format!("'{}'", path.to_string_lossy().replace('\'', "'\\''"))
}

async fn foreground(
    vessel: &Vessel,
    session: &Session,
    options: ExecOptions,
    time: Option<Duration>,
) -> Done {
    let ended = match foreground::run(vessel, options, time).await {
        Ok(ended) => ended,
        Err(error) => return Done::failed(error.chain()),
    };
    if let Some(left) = ended.left {
        session.leave(left);
    }
    let (stdout, stderr) = (ended.stdout, ended.stderr);
    match ended.code {
        Some(code) => Done { code, stdout, stderr, ..Done::default() },
        None => Done { stdout, stderr, ..Done::failed("Command timed out") },
    }
}

async fn background(vessel: &Vessel, options: ExecOptions) -> Done {
    match vessel.spawn_detached(SpawnOptions::new(options)).await {
        Ok(process) => Done { process: Some(known_as(&process.id())), ..Done::default() },
        Err(error) => Done::failed(error.chain()),
    }
}

/// The number of a process, and the eight digits that stand for it.
fn known_as(id: &str) -> (u64, String) {
    let number = id.trim_start_matches('p').parse().unwrap_or_default();
    let digest = Sha256::digest(format!("vesselrt process {id}"));
    (number, digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect())
}

pub(super) async fn processes(vessel: &Vessel, user: &User) -> Answer {
    match vessel.processes().await {
        Ok(all) => {
            let own: Vec<Value> =
                all.iter().filter(|process| process.user == user.spec()).map(shown).collect();
            Answer::ok(json!({"processes": own}))
        }
        Err(error) => Refusal::failed("Failed to list processes", &error).into(),
    }
}

#[derive(Debug, Deserialize)]
struct Kill {
    process_id: String,
    #[serde(default = "sigkill")]
    signal: i32,
}

fn sigkill() -> i32 {
    Signal::KILL.as_raw()
}

/// Sends a signal to a process in the background, SIGKILL unless another is asked for, and answers what became of it: with
/// SIGKILL all that it started is gone then. One that has ended is answered as it ended.
pub(super) async fn signal(vessel: &Vessel, user: &User, payload: &Value) -> Answer {
    let request: Kill = match take(payload) {
        Ok(request) => request,
        Err(answer) => return answer,
    };
    match send(vessel, user, &request).await {
        Ok(Some(process)) => {
            let mut body = shown(&process);
            body["success"] = true.into();
            Answer::ok(body)
        }
        Ok(None) => Refusal::new(404, format!("Process not found: {}", request.process_id)).into(),
        Err(error) => Refusal::failed("Failed to signal the process", &error).into(),
    }
}

async fn send(vessel: &Vessel, user: &User, request: &Kill) -> crate::Result<Option<ProcessInfo>> {
    let all = vessel.processes().await?;
    // Those of others are nobody's business.
    let asked =
        |process: &&ProcessInfo| process.user == user.spec() && known_as(&process.id).1 == request.process_id;
    let Some(found) = all.iter().find(asked) else { return Ok(None) };
    let process = vessel.process(&found.id).await?;
    if found.end.is_none() {
        match process.signal(request.signal).await {
            // It has ended since.
            Err(error) if error.kind() == ErrorKind::Conflict => {}
            sent => sent?,
        }
        if request.signal == sigkill() {
            let _ = tokio::time::timeout(GONE, process.wait()).await;
        }
    }
    process.info().await.map(Some)
}

fn shown(process: &ProcessInfo) -> Value {
    let (pid, id) = known_as(&process.id);
    let status = match &process.end {
        None => "running",
        Some(end) if end.result.is_some_and(|result| result.success()) => "completed",
        Some(_) => "failed",
    };
    json!({"process_id": id, "pid": pid, "command": command_of(&process.argv), "status": status})
}

/// What [`script`] or [`words`] were made of.
fn command_of(argv: &[String]) -> String {
    match argv {
        [_, flag, _, _, command] if flag == "-lc" => command.clone(),
        [_, flag, _, _, words @ ..] if flag == "-c" => words.join(" "),
        other => other.join(" "),
    }
}

pub(super) fn cwd(user: &User) -> Answer {
    Answer::ok(json!({"success": true, "cwd": user.workspace, "exists": true}))
}

/// Ends what a session left running in the background.
pub(super) async fn end(vessel: &Vessel, user: &User) {
    for process in vessel.processes().await.unwrap_or_default() {
        if process.end.is_none()
            && process.user == user.spec()
            && let Ok(running) = vessel.process(&process.id).await
        {
            kill(&running).await;
        }
    }
}

async fn kill(process: &Process) {
    // It may have ended since.
    if process.signal(sigkill()).await.is_ok() {
        let _ = tokio::time::timeout(GONE, process.wait()).await;
    }
}
