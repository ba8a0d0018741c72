//! Credential helpers: programs called `docker-credential-NAME`. Source: docker/docker-credential-helpers.
//!
//! They are taken from fixed directories, and only if nobody but root can change them: `$PATH` is no say in who
//! gets to see passwords. They get no environment but `HOME` and a fixed `PATH`.
#![forbid(unsafe_code)]

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::{Credential, Secret};
use crate::json;
use crate::registry::error::{RegistryError, Result};

const DIRECTORIES: [&str; 5] =
    ["/usr/bin", "/usr/local/bin", "/bin", "/usr/libexec/docker", "/usr/lib/docker"];
/// What a helper itself may call.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";
const MAX_OUTPUT: u64 = 256 * 1024;
const TIMEOUT: Duration = Duration::from_secs(30);
/// What helpers say when they have nothing.
const NOT_FOUND: [&str; 3] =
    ["credentials not found", "no credentials server", "not found in native keychain"];

/// A helper that was found and may be used.
#[derive(Debug)]
pub(crate) struct Helper {
    name: String,
    program: PathBuf,
    home: Option<PathBuf>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(rename = "ServerURL", default)]
    server_url: String,
    username: String,
    secret: String,
}

impl Helper {
    /// Finds the helper `name` in the fixed directories.
    pub(crate) fn new(name: &str, home: Option<PathBuf>) -> Result<Self> {
        Self::find(name, home, &DIRECTORIES.map(PathBuf::from))
    }

    pub(super) fn find(name: &str, home: Option<PathBuf>, directories: &[PathBuf]) -> Result<Self> {
        let word = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if name.is_empty() || name.len() > 64 || !word {
            return Err(failed(name, "the name is not made of letters, digits, '-' and '_'"));
        }
        let programs = directories.iter().map(|dir| (dir, dir.join(format!("docker-credential-{name}"))));
        let mut why = format!("it is in none of {}", DIRECTORIES.join(", "));
        for (dir, program) in programs.filter(|(_, program)| program.exists()) {
            // Links are followed to what will really run.
            let Ok(program) = program.canonicalize() else { continue };
            let real_dir = program.parent().unwrap_or(dir);
            if is_roots(dir) && is_roots(real_dir) && is_roots(&program) {
                return Ok(Self { name: name.to_owned(), program, home });
            }
            why = format!("{} could be changed by others than root", program.display());
        }
        Err(failed(name, why))
    }

    /// What the helper has for `server`.
    pub(crate) async fn get(&self, server: &str) -> Result<Option<Credential>> {
        let (success, output) = self.run("get", server.as_bytes()).await?;
        if !success {
            let text = String::from_utf8_lossy(&output).to_lowercase();
            let nothing = NOT_FOUND.iter().any(|phrase| text.contains(phrase));
            return if nothing { Ok(None) } else { Err(failed(&self.name, "it failed")) };
        }
        let answer: Answer = json::parse(&output, MAX_OUTPUT)
            .map_err(|_| failed(&self.name, "its answer is not the expected JSON"))?;
        Ok(Some(match answer.username.as_str() {
            "<token>" => Credential::IdentityToken(Secret::new(answer.secret)),
            _ => Credential::password(answer.username, answer.secret),
        }))
    }

    /// Keeps a credential.
    pub(crate) async fn store(&self, server: &str, credential: &Credential) -> Result<()> {
        let (username, secret) = match credential {
            Credential::Password { username, password } => (username.as_str(), password),
            Credential::IdentityToken(token) => ("<token>", token),
            Credential::Bearer(_) => return Err(failed(&self.name, "it cannot keep such a token")),
        };
        let answer = Answer {
            server_url: server.to_owned(),
            username: username.to_owned(),
            secret: secret.reveal().to_owned(),
        };
        let input =
            serde_json::to_vec(&answer).map_err(|_| failed(&self.name, "its input cannot be made"))?;
        match self.run("store", &input).await? {
            (true, _) => Ok(()),
            (false, _) => Err(failed(&self.name, "it could not store the credentials")),
        }
    }

    /// Forgets the credentials of `server`.
    pub(crate) async fn erase(&self, server: &str) -> Result<()> {
        // A helper that never had any fails, and that is fine.
        self.run("erase", server.as_bytes()).await.map(drop)
    }

    async fn run(&self, verb: &str, input: &[u8]) -> Result<(bool, Vec<u8>)> {
        let io = |e: std::io::Error| failed(&self.name, e.to_string());
        let mut command = Command::new(&self.program);
        command.arg(verb).env_clear().env("PATH", PATH).current_dir("/").kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        if let Some(home) = &self.home {
            command.env("HOME", home);
        }
        let talk = async {
            let mut child = command.spawn().map_err(io)?;
            let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
            if let Some(mut stdin) = stdin {
                // Who does not read its input has an answer nevertheless.
                let _ = stdin.write_all(input).await;
            }
            let mut output = Vec::new();
            if let Some(stdout) = stdout {
                stdout.take(MAX_OUTPUT + 1).read_to_end(&mut output).await.map_err(io)?;
            }
            if output.len() as u64 > MAX_OUTPUT {
                return Err(failed(&self.name, format!("its answer has more than {MAX_OUTPUT} bytes")));
            }
            let status = child.wait().await.map_err(io)?;
            Ok((status.success(), output))
        };
        let late = |_| failed(&self.name, format!("it took more than {} s", TIMEOUT.as_secs()));
        tokio::time::timeout(TIMEOUT, talk).await.map_err(late)?
    }
}

/// Whether only root can change it.
fn is_roots(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.uid() == 0 && meta.mode() & 0o022 == 0)
}

fn failed(helper: &str, why: impl Into<String>) -> RegistryError {
    RegistryError::Helper {
        helper: crate::error::quoted(helper).trim_matches('"').to_owned(),
        why: why.into(),
    }
}
