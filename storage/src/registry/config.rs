//! [`RegistryConfig`]: mirrors, TLS, proxies and credentials of registries, read from given places only.
//!
//! ```toml
//! # vesselrt/config.toml
//! [registry."docker.io"]
//! mirrors = ["mirror.example:5000", "cache.example/docker"]   # tried in order, then the registry itself
//! [registry."registry.local:5000"]
//! plain_http = true                     # no TLS at all
//! skip_tls_verify = true                # TLS, and any certificate will do
//! ca = "/etc/ssl/our-ca.pem"            # accepted besides the system's
//! credential_helper = "pass"            # docker-credential-pass
//! token_hosts = ["login.example"]       # may receive this registry's credentials, wherever they are
//! ```
//! `registries.conf` of podman and others is read as well (containers-registries.conf(5), version 2); a registry
//! with a section in `config.toml` is as it says there. So are the certificates in their `certs.d/HOST/*.crt`.
#![forbid(unsafe_code)]

mod containers;
mod proxy;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use self::containers::Rule;
pub(super) use self::proxy::Proxies;
use super::credentials::{Credential, Keyring};
use super::error::{RegistryError, Result};
use crate::reference::Reference;

/// The largest configuration file, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// The most mirrors that are tried.
const MAX_MIRRORS: usize = 16;
/// Docker's registry does not answer at the name that images have.
const HUB: &str = "docker.io";
const HUB_HOST: &str = "registry-1.docker.io";

/// Where configuration comes from. Nothing else of the environment is looked at.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The home directory, for `~/.config` and `~/.docker`.
    pub home: Option<PathBuf>,
    /// `$XDG_CONFIG_HOME`; by default `.config` in `home`.
    pub xdg_config: Option<PathBuf>,
    /// The system's directory of configuration: `/etc`.
    pub etc: Option<PathBuf>,
    /// Environment variables.
    pub env: BTreeMap<String, String>,
}

impl Sources {
    /// The user's directory of configuration.
    pub(super) fn config_dir(&self) -> Option<PathBuf> {
        self.xdg_config.clone().or_else(|| self.home.as_ref().map(|home| home.join(".config")))
    }

    /// A variable that is set to something.
    pub(super) fn var(&self, name: &str) -> Option<&str> {
        self.env.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

/// The sources of a command line program: the environment of this process, and `/etc`.
#[must_use]
pub fn default_sources() -> Sources {
    let env: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
        .collect();
    let dir = |name: &str| env.get(name).map(PathBuf::from).filter(|path| path.is_absolute());
    Sources { home: dir("HOME"), xdg_config: dir("XDG_CONFIG_HOME"), etc: Some("/etc".into()), env }
}

/// The settings of one registry.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HostSettings {
    /// `host[:port][/prefix]` of mirrors, tried before the registry itself.
    pub mirrors: Vec<String>,
    /// The registry speaks plain HTTP.
    pub plain_http: bool,
    /// Certificates of the registry are not verified.
    pub skip_tls_verify: bool,
    /// A file of certificates, PEM, that are trusted besides the system's.
    pub ca: Option<PathBuf>,
    /// The credential helper, without `docker-credential-`.
    pub credential_helper: Option<String>,
    /// Hosts (`host[:port]`) of token servers that may get the credentials of this registry, and may have any
    /// address.
    pub token_hosts: Vec<String>,
}

#[derive(Deserialize)]
struct ConfigFile {
    #[serde(default)]
    registry: BTreeMap<String, HostSettings>,
}

/// How to reach registries, and as whom.
#[derive(Debug, Clone, Default)]
pub struct RegistryConfig {
    hosts: BTreeMap<String, HostSettings>,
    rules: Vec<Rule>,
    pub(super) proxies: Proxies,
    pub(super) keyring: Keyring,
    /// Directories of certificates by registry.
    certs: Vec<PathBuf>,
    /// `$SSL_CERT_FILE` and `$SSL_CERT_DIR`, instead of the system's certificates.
    pub(super) roots: (Option<PathBuf>, Option<PathBuf>),
}

/// One place to get an image from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    /// `host[:port]` as configured: what settings and credentials are found by.
    pub(super) host: String,
    /// The repository there.
    pub(super) path: String,
    /// Whether this is the registry itself, and not a mirror.
    pub(super) origin: bool,
}

impl RegistryConfig {
    /// Reads the configuration. Files that are not there count as empty.
    ///
    /// # Errors
    /// `Config` for a file that cannot be read or understood; `Setting` for a proxy that cannot be used.
    pub fn load(sources: &Sources) -> Result<Self> {
        let own = sources.config_dir().map(|dir| dir.join("vesselrt/config.toml"));
        let own = own.map(|path| read_toml::<ConfigFile>(&path)).transpose()?.flatten();
        let hosts = own.map(|file| file.registry).unwrap_or_default();
        let root = |name| sources.var(name).map(PathBuf::from);
        Ok(Self {
            hosts,
            rules: containers::load(sources)?,
            proxies: Proxies::from_env(sources)?,
            keyring: Keyring::new(sources),
            certs: cert_dirs(sources),
            roots: (root("SSL_CERT_FILE"), root("SSL_CERT_DIR")),
        })
    }

    /// Sets (replaces) the settings of `host`, as it is written in references: `docker.io`, `host:5000`.
    pub fn set_host(&mut self, host: impl Into<String>, settings: HostSettings) {
        self.hosts.insert(host.into(), settings);
    }

    /// Sets the credentials of `host`, which go before all others.
    pub fn set_credentials(&mut self, host: impl Into<String>, credential: Credential) {
        self.keyring.explicit.insert(host.into(), credential);
    }

    /// The settings of `host`.
    pub(super) fn settings(&self, host: &str) -> HostSettings {
        if let Some(settings) = self.hosts.get(host) {
            return settings.clone();
        }
        let insecure = self.rules.iter().any(|rule| rule.is_insecure(host));
        HostSettings { plain_http: insecure, skip_tls_verify: insecure, ..HostSettings::default() }
    }

    /// The certificate files that podman and docker use for `host`: `certs.d/HOST/*.crt`.
    pub(super) fn certificates(&self, host: &str) -> Vec<PathBuf> {
        self.certs.iter().flat_map(|dir| files_of(&dir.join(host), "crt")).collect()
    }

    /// Whether the user named `host` somewhere in the configuration.
    pub(super) fn knows(&self, host: &str) -> bool {
        self.hosts.contains_key(host) || self.rules.iter().any(|rule| rule.mentions(host))
    }

    /// Where to look for `reference`, best first; the registry itself comes last.
    pub(super) fn routes(&self, reference: &Reference) -> Result<Vec<Route>> {
        let (host, path) = (reference.domain().to_owned(), reference.path().to_owned());
        if let Some(settings) = self.hosts.get(&host) {
            let mirrors = settings.mirrors.iter().take(MAX_MIRRORS);
            let mut routes =
                mirrors.map(|mirror| joined(mirror, &path, false)).collect::<Result<Vec<Route>>>()?;
            routes.push(Route { host, path, origin: true });
            return Ok(routes);
        }
        match Rule::best(&self.rules, &reference.name()) {
            Some(rule) => rule.routes(reference),
            None => Ok(vec![Route { host, path, origin: true }]),
        }
    }

    /// Where `reference` is written to: the registry itself, wherever `registries.conf` says that is.
    pub(super) fn origin(&self, reference: &Reference) -> Result<Route> {
        let routes = self.routes(reference)?;
        let own = Route { host: reference.domain().into(), path: reference.path().into(), origin: true };
        Ok(routes.into_iter().find(|route| route.origin).unwrap_or(own))
    }
}

/// The host and port to connect to for a registry of that name.
pub(super) fn authority(host: &str) -> &str {
    if host == HUB || host == "index.docker.io" { HUB_HOST } else { host }
}

/// `path` below `place`, which is `host[:port][/prefix]`.
fn joined(place: &str, path: &str, origin: bool) -> Result<Route> {
    let place = place.trim_end_matches('/');
    let (host, prefix) = place.split_once('/').unwrap_or((place, ""));
    let path = match (prefix, path) {
        ("", path) => path.to_owned(),
        (prefix, "") => prefix.to_owned(),
        (prefix, path) => format!("{prefix}/{path}"),
    };
    // A place of the configuration goes the way of what a user types, so nothing odd gets into a URL.
    let dotted =
        if host.contains(['.', ':']) || host == "localhost" { "" } else { "the host needs a dot or port" };
    let checked = Reference::parse(&format!("{host}/{path}"));
    match checked {
        Ok(reference) if dotted.is_empty() => Ok(Route { host: reference.domain().into(), path, origin }),
        Ok(_) => Err(setting(place, dotted)),
        Err(error) => {
            Err(RegistryError::Setting { what: format!("location {place:?}"), source: error.into() })
        }
    }
}

fn setting(place: &str, why: &str) -> RegistryError {
    RegistryError::Setting { what: format!("location {place:?}"), source: why.into() }
}

/// Decodes a TOML file; `None` if there is none.
fn read_toml<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Option<T>> {
    let wrong = |source: Box<dyn std::error::Error + Send + Sync>| RegistryError::Config {
        path: path.to_path_buf(),
        source,
    };
    let Some(text) = read_text(path)? else { return Ok(None) };
    toml::from_str(&text).map(Some).map_err(|e| wrong(e.into()))
}

/// A configuration file as text; `None` if there is none.
pub(super) fn read_text(path: &Path) -> Result<Option<String>> {
    let wrong = |source| RegistryError::Config { path: path.to_path_buf(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) if e.kind() == std::io::ErrorKind::NotADirectory => return Ok(None),
        Err(e) => return Err(wrong(e.into())),
    };
    let mut text = String::new();
    file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(|e| wrong(e.into()))?;
    if text.len() as u64 > MAX_FILE {
        return Err(wrong(format!("it has more than {MAX_FILE} bytes").into()));
    }
    Ok(Some(text))
}

/// The files of a directory with an extension, by name.
fn files_of(dir: &Path, extension: &str) -> BTreeSet<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .collect()
}

/// Source: containers-certs.d(5), and docker's "Verify repository client with certificates".
fn cert_dirs(sources: &Sources) -> Vec<PathBuf> {
    let user = sources.config_dir().map(|dir| dir.join("containers/certs.d"));
    let system = ["containers/certs.d", "docker/certs.d"].into_iter();
    let system = sources.etc.iter().flat_map(|etc| system.clone().map(|name| etc.join(name)));
    user.into_iter().chain(system).collect()
}

#[cfg(test)]
mod tests;
