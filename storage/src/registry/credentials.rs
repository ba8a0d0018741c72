//! Who we are to a registry: files in docker's format, and credential helpers.
//!
//! Order: what the program set, `$REGISTRY_AUTH_FILE`, `$XDG_RUNTIME_DIR/containers/auth.json`,
//! `containers/auth.json` in the user's configuration, `config.json` of `$DOCKER_CONFIG` or `~/.docker`. The
//! first that has something for the registry (or for the repository: the longest key wins) is used. Source:
//! containers-auth.json(5).
#![forbid(unsafe_code)]

pub(super) mod file;
mod helper;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use oci_distribution::secrets::RegistryAuth;

use self::file::AuthFile;
pub(super) use self::helper::Helper;
use super::config::Sources;
use super::error::Result;

/// Something that is not printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

/// Credentials of one registry.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Credential {
    /// User name and password (or access token).
    Password {
        /// The user.
        username: String,
        /// The password.
        password: Secret,
    },
    /// A refresh token, which the token server exchanges (OAuth 2.0).
    IdentityToken(Secret),
    /// A token that the registry itself takes.
    Bearer(Secret),
}

impl Credential {
    /// User name and password.
    pub fn password(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self::Password { username: username.into(), password: Secret::new(password) }
    }
}

impl Credential {
    /// The credentials of the crate `oci-distribution`; `None` for its `Anonymous`.
    #[must_use]
    pub fn from_distribution(auth: RegistryAuth) -> Option<Self> {
        match auth {
            RegistryAuth::Anonymous => None,
            RegistryAuth::Basic(username, password) => Some(Self::password(username, password)),
            RegistryAuth::Bearer(token) => Some(Self::Bearer(Secret(token))),
        }
    }
}

/// All places that credentials may be in.
#[derive(Debug, Clone, Default)]
pub(super) struct Keyring {
    /// By host.
    pub(super) explicit: BTreeMap<String, Credential>,
    /// In order of preference.
    files: Vec<PathBuf>,
    /// How many of `files` are of podman and may be written to.
    writable: usize,
    pub(super) home: Option<PathBuf>,
}

impl Keyring {
    pub(super) fn new(sources: &Sources) -> Self {
        let mut files: Vec<PathBuf> =
            sources.var("REGISTRY_AUTH_FILE").map(PathBuf::from).into_iter().collect();
        let runtime = sources.var("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
        let containers = [runtime, sources.config_dir()].into_iter().flatten();
        files.extend(containers.map(|dir| dir.join("containers/auth.json")));
        let writable = files.len();
        let docker = sources.var("DOCKER_CONFIG").map(PathBuf::from);
        let docker = docker.or_else(|| sources.home.as_ref().map(|home| home.join(".docker")));
        files.extend(docker.map(|dir| dir.join("config.json")));
        Self { explicit: BTreeMap::new(), files, writable, home: sources.home.clone() }
    }

    /// The credentials for `path` at `host`, if there are any. `helper` is the one that the registry's settings
    /// name.
    pub(super) async fn find(
        &self,
        host: &str,
        path: &str,
        helper: Option<&str>,
    ) -> Result<Option<Credential>> {
        if let Some(credential) = self.explicit.get(host) {
            return Ok(Some(credential.clone()));
        }
        if let Some(name) = helper {
            return Helper::new(name, self.home.clone())?.get(&file::server_url(host)).await;
        }
        for path_of_file in &self.files {
            let Some(file) = AuthFile::read(path_of_file)? else { continue };
            if let Some(name) = file.own_helper(host) {
                let found = Helper::new(name, self.home.clone())?.get(&file::server_url(host)).await?;
                if found.is_some() {
                    return Ok(found);
                }
            } else if let Some(name) = file.general_helper() {
                // It is for all registries, and often left over from a desktop program: that it cannot be used
                // must not keep anybody from public images.
                let helper = Helper::new(name, self.home.clone());
                let found = match helper {
                    Ok(helper) => helper.get(&file::server_url(host)).await.unwrap_or_default(),
                    Err(_) => None,
                };
                if found.is_some() {
                    return Ok(found);
                }
            }
            if let Some(found) = file.find(host, path)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The file that a login is written to.
    pub(super) fn login_file(&self) -> Option<&PathBuf> {
        self.files[..self.writable].first()
    }

    /// The files that a logout removes an entry from.
    pub(super) fn own_files(&self) -> &[PathBuf] {
        &self.files[..self.writable]
    }
}

#[cfg(test)]
mod tests;
