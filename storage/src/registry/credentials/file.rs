//! Files in the format of docker's `config.json`, which `auth.json` of podman shares.
#![forbid(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use serde_json::{Map, Value, json};

use super::{Credential, Secret};
use crate::digest::to_hex;
use crate::error::Cause;
use crate::id::random_bytes;
use crate::json;
use crate::registry::config::read_text;
use crate::registry::error::{RegistryError, Result};

/// The key that docker itself uses for its registry.
const HUB_KEY: &str = "https://index.docker.io/v1/";
const MAX_FILE: u64 = 1 << 20;
/// How long to wait for others who write the file.
const PATIENCE: Duration = Duration::from_secs(10);

/// What helpers know the registry by.
pub(crate) fn server_url(host: &str) -> String {
    if host == "docker.io" { HUB_KEY.to_owned() } else { host.to_owned() }
}

/// A decoded file.
#[derive(Debug)]
pub(crate) struct AuthFile {
    path: PathBuf,
    root: Map<String, Value>,
}

impl AuthFile {
    /// Reads a file; `None` if there is none.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>> {
        let Some(text) = read_text(path)? else { return Ok(None) };
        if text.trim().is_empty() {
            return Ok(Some(Self { path: path.to_path_buf(), root: Map::new() }));
        }
        let root = json::parse(text.as_bytes(), MAX_FILE).map_err(|e| wrong(path, e))?;
        Ok(Some(Self { path: path.to_path_buf(), root }))
    }

    /// The helper that is named for `host`.
    pub(crate) fn own_helper(&self, host: &str) -> Option<&str> {
        let helpers = self.root.get("credHelpers").and_then(Value::as_object);
        let own = keys(host, "").into_iter().find_map(|key| helpers?.get(&key)?.as_str());
        own.filter(|name| !name.is_empty())
    }

    /// The helper for all others.
    pub(crate) fn general_helper(&self) -> Option<&str> {
        self.root.get("credsStore")?.as_str().filter(|name| !name.is_empty())
    }

    /// The credentials in the file itself for `path` at `host`.
    pub(crate) fn find(&self, host: &str, path: &str) -> Result<Option<Credential>> {
        let Some(auths) = self.root.get("auths").and_then(Value::as_object) else { return Ok(None) };
        for key in keys(host, path) {
            let entry = auths.get(&key).and_then(Value::as_object);
            if let Some(found) = entry.map(|entry| self.credential(&key, entry)).transpose()?.flatten() {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// An entry without content is docker's hint at a helper.
    fn credential(&self, key: &str, entry: &Map<String, Value>) -> Result<Option<Credential>> {
        let text = |name: &str| entry.get(name).and_then(Value::as_str).filter(|value| !value.is_empty());
        if let Some(token) = text("identitytoken") {
            return Ok(Some(Credential::IdentityToken(Secret::new(token))));
        }
        if let Some(token) = text("registrytoken") {
            return Ok(Some(Credential::Bearer(Secret::new(token))));
        }
        if let (Some(username), Some(password)) = (text("username"), text("password")) {
            return Ok(Some(Credential::password(username, password)));
        }
        let Some(auth) = text("auth") else { return Ok(None) };
        let decoded = STANDARD.decode(auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let pair = decoded.as_deref().and_then(|pair| pair.trim_end_matches('\0').split_once(':'));
        let (username, password) = pair.ok_or_else(|| {
            wrong(&self.path, format!("its entry for {key:?} is not base64 of user:password"))
        })?;
        Ok(Some(Credential::password(username, password)))
    }
}

/// The keys that an entry for `path` at `host` may have, the longest first.
fn keys(host: &str, path: &str) -> Vec<String> {
    let mut keys = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        keys.push(format!("{host}/{rest}"));
        rest = rest.rsplit_once('/').map_or("", |(before, _)| before);
    }
    keys.push(host.to_owned());
    if host == "docker.io" {
        keys.extend([HUB_KEY, "index.docker.io", "registry-1.docker.io"].map(str::to_owned));
    }
    for form in ["https://HOST", "https://HOST/", "https://HOST/v1/", "https://HOST/v2/", "http://HOST"] {
        keys.push(form.replace("HOST", host));
    }
    keys
}

/// Sets (`Some`) or removes the entry of `host`: under a lock, whole or not at all, for nobody else to read.
/// Everything else in the file stays. False if there was nothing to remove.
pub(crate) fn change(path: &Path, host: &str, credential: Option<&Credential>) -> Result<bool> {
    let failed = |e: std::io::Error| wrong(path, e);
    if credential.is_none() && !path.exists() {
        return Ok(false);
    }
    // Who has the file as a link into another directory wants that one changed.
    let target = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let dir = target.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir).map_err(failed)?;
    let _lock = lock(&target)?;
    let mut file = AuthFile::read(&target)?.map_or_else(Map::new, |file| file.root);
    let auths = file.entry("auths").or_insert_with(|| json!({}));
    let auths = auths.as_object_mut().ok_or_else(|| wrong(path, "its \"auths\" is not an object"))?;
    match credential {
        Some(credential) => {
            auths.insert(host.to_owned(), entry(credential));
        }
        None => {
            let before = auths.len();
            keys(host, "").iter().for_each(|key| drop(auths.remove(key)));
            if auths.len() == before {
                return Ok(false);
            }
        }
    }
    let mut bytes = serde_json::to_vec_pretty(&Value::Object(file)).map_err(|e| wrong(path, e))?;
    bytes.push(b'\n');
    write(&target, dir, &bytes).map_err(failed)?;
    Ok(true)
}

fn entry(credential: &Credential) -> Value {
    match credential {
        Credential::Password { username, password } => {
            json!({ "auth": STANDARD.encode(format!("{username}:{}", password.reveal())) })
        }
        Credential::IdentityToken(token) => json!({ "identitytoken": token.reveal() }),
        Credential::Bearer(token) => json!({ "registrytoken": token.reveal() }),
    }
}

fn write(target: &Path, dir: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let staged = dir.join(format!(".auth-{}", to_hex(&random_bytes::<8>())));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&staged)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&staged, target)?;
        File::open(dir)?.sync_all()
    })();
    if written.is_err() {
        // Nothing more can be done about it.
        let _ = std::fs::remove_file(&staged);
    }
    written
}

/// A lock beside the file, which itself is replaced.
fn lock(target: &Path) -> Result<File> {
    let mut name = target.as_os_str().to_owned();
    name.push(".lock");
    let path = PathBuf::from(name);
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.map_err(|e| wrong(&path, e))?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(e) => return Err(wrong(&path, std::io::Error::from(e))),
        }
    }
}

fn wrong(path: &Path, source: impl Into<Cause>) -> RegistryError {
    RegistryError::Config { path: path.to_path_buf(), source: source.into() }
}
