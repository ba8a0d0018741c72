//! `registries.conf`, version 2, as podman, buildah and skopeo have it. Source: containers-registries.conf(5).
#![forbid(unsafe_code)]

use serde::Deserialize;

use super::{Route, Sources, files_of, joined, read_toml};
use crate::reference::Reference;
use crate::registry::error::{RegistryError, Result};

/// Longest list of rules; what is beyond is an error and not forgotten.
const MAX_RULES: usize = 1000;

#[derive(Deserialize)]
struct Conf {
    #[serde(default)]
    registry: Vec<Rule>,
}

/// A `[[registry]]` table. Unknown keys are other tools' business.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Rule {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror_by_digest_only: bool,
    #[serde(default)]
    mirror: Vec<Mirror>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Mirror {
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    pull_from_mirror: Option<String>,
}

/// Reads the user's file, or else the system's, and the drop-in directories of both; a later rule for the same
/// prefix replaces an earlier one.
pub(super) fn load(sources: &Sources) -> Result<Vec<Rule>> {
    let system = sources.etc.as_ref().map(|etc| etc.join("containers"));
    let user = sources.config_dir().map(|dir| dir.join("containers"));
    let named = sources.var("CONTAINERS_REGISTRIES_CONF").map(std::path::PathBuf::from);
    let main = named.or_else(|| {
        let candidates = [&user, &system].into_iter().flatten().map(|dir| dir.join("registries.conf"));
        candidates.into_iter().find(|path| path.exists())
    });
    let drop_ins = [&system, &user].into_iter().flatten();
    let drop_ins = drop_ins.flat_map(|dir| files_of(&dir.join("registries.conf.d"), "conf"));
    let mut rules: Vec<Rule> = Vec::new();
    for path in main.into_iter().chain(drop_ins) {
        let Some(conf) = read_toml::<Conf>(&path)? else { continue };
        for rule in conf.registry {
            rules.retain(|known| known.prefix() != rule.prefix());
            rules.push(rule);
        }
        if rules.len() > MAX_RULES {
            let source = format!("it has more than {MAX_RULES} registries").into();
            return Err(RegistryError::Config { path, source });
        }
    }
    Ok(rules)
}

impl Rule {
    fn prefix(&self) -> &str {
        if self.prefix.is_empty() { &self.location } else { &self.prefix }
    }

    /// The rule with the longest prefix of `name`, which is domain and path.
    pub(super) fn best<'a>(rules: &'a [Self], name: &str) -> Option<&'a Self> {
        let fitting = rules.iter().filter_map(|rule| Some((rule.matched(name)?, rule)));
        fitting.max_by_key(|(length, _)| *length).map(|(_, rule)| rule)
    }

    /// How many bytes of `name` the prefix covers. It ends where a component does; `*.` stands for any
    /// subdomain.
    fn matched(&self, name: &str) -> Option<usize> {
        let prefix = self.prefix();
        if let Some(domain) = prefix.strip_prefix("*.") {
            let host = name.split('/').next().unwrap_or(name);
            let bare = host.split(':').next().unwrap_or(host);
            let inner = bare.strip_suffix(domain).is_some_and(|left| left.ends_with('.'));
            return inner.then_some(host.len());
        }
        let rest = name.strip_prefix(prefix)?;
        let ends = rest.is_empty() || rest.starts_with('/');
        (ends && !prefix.is_empty()).then_some(prefix.len())
    }

    /// Whether this rule allows `host` to be without (verified) TLS.
    pub(super) fn is_insecure(&self, host: &str) -> bool {
        let at = |location: &str| location.split('/').next() == Some(host);
        let own = if self.location.is_empty() { self.prefix() } else { &self.location };
        let wild = self.prefix().starts_with("*.") && self.location.is_empty();
        (self.insecure && (at(own) || wild && self.matched(host).is_some()))
            || self.mirror.iter().any(|mirror| mirror.insecure && at(&mirror.location))
    }

    /// Whether `host` is named here.
    pub(super) fn mentions(&self, host: &str) -> bool {
        let at = |location: &str| location.split('/').next() == Some(host);
        at(&self.location) || at(&self.prefix) || self.mirror.iter().any(|mirror| at(&mirror.location))
    }

    /// The mirrors that serve `reference`, and the registry.
    pub(super) fn routes(&self, reference: &Reference) -> Result<Vec<Route>> {
        if self.blocked {
            return Err(RegistryError::Blocked { registry: reference.domain().to_owned() });
        }
        let name = reference.name();
        let rest = match self.matched(&name) {
            Some(length) => name[length..].trim_start_matches('/'),
            None => reference.path(),
        };
        let by_digest = reference.digest().is_some();
        let serves = |mirror: &&Mirror| match mirror.pull_from_mirror.as_deref() {
            Some("digest-only") => by_digest,
            Some("tag-only") => !by_digest,
            _ => by_digest || !self.mirror_by_digest_only,
        };
        let mirrors = self.mirror.iter().filter(serves).take(super::MAX_MIRRORS);
        let mut routes: Vec<Route> =
            mirrors.map(|mirror| joined(&mirror.location, rest, false)).collect::<Result<_>>()?;
        routes.push(if self.location.is_empty() {
            Route { host: reference.domain().into(), path: reference.path().into(), origin: true }
        } else {
            joined(&self.location, rest, true)?
        });
        Ok(routes)
    }
}
