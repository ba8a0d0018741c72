//! `login` and `logout`.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use reqwest::Method;

use super::auth::Wanted;
use super::client::Client;
use super::config::RegistryConfig;
use super::credentials::{Credential, Helper, file};
use super::error::{RegistryError, Result};
use super::transport::{Call, Transport};
use crate::reference::Reference;

/// Where credentials are now.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kept {
    /// In a file, readable for its owner alone, not encrypted.
    File(PathBuf),
    /// With the credential helper of that name.
    Helper(String),
}

/// Checks the credentials against the registry, and keeps them if it accepts them: with the credential helper of the
/// registry's settings, or in the first of podman's files (`$REGISTRY_AUTH_FILE`,
/// `$XDG_RUNTIME_DIR/containers/auth.json`, `~/.config/containers/auth.json`).
///
/// A [`Client`] keeps the credentials that it has found: make a new one after a login.
///
/// # Errors
/// `Unauthorized` if the registry does not accept them; [`RegistryError`] otherwise.
pub async fn login(
    client: &Client,
    config: &RegistryConfig,
    host: &str,
    credential: Credential,
) -> Result<Kept> {
    check_host(host)?;
    let mut only = config.clone();
    only.set_credentials(host, credential.clone());
    let transport = Transport::new(only, client.transport.options.clone());
    let endpoint = transport.endpoint(host)?;
    let wanted = Wanted { path: "", scope: "" };
    let call = Call::new(Method::GET, "/v2/".to_owned(), wanted, format!("registry {host}"));
    transport.retrying(&endpoint, &call).await?;
    if let Some(name) = config.settings(host).credential_helper {
        Helper::new(&name, config.keyring.home.clone())?.store(&file::server_url(host), &credential).await?;
        return Ok(Kept::Helper(name));
    }
    let Some(path) = config.keyring.login_file().cloned() else {
        let source = "there is no home directory and no REGISTRY_AUTH_FILE".into();
        return Err(RegistryError::Setting { what: "a login".into(), source });
    };
    let (host, target) = (host.to_owned(), path.clone());
    blocking(move || file::change(&target, &host, Some(&credential))).await?;
    Ok(Kept::File(path))
}

/// Forgets the credentials for `host` in podman's files, and those of the credential helper of its settings. Files
/// of docker are left alone. False if there were none.
///
/// # Errors
/// `Config` for a file that cannot be changed; `Helper`.
pub async fn logout(config: &RegistryConfig, host: &str) -> Result<bool> {
    check_host(host)?;
    let mut found = false;
    if let Some(name) = config.settings(host).credential_helper {
        let helper = Helper::new(&name, config.keyring.home.clone())?;
        found = helper.get(&file::server_url(host)).await?.is_some();
        helper.erase(&file::server_url(host)).await?;
    }
    for path in config.keyring.own_files().to_vec() {
        let host = host.to_owned();
        found |= blocking(move || file::change(&path, &host, None)).await?;
    }
    Ok(found)
}

/// A host as it is in references.
fn check_host(host: &str) -> Result<()> {
    let bad =
        |source| RegistryError::Setting { what: format!("registry {}", crate::error::quoted(host)), source };
    match Reference::parse(&format!("{host}/x")) {
        Ok(reference) if reference.domain() == host => Ok(()),
        Ok(_) => Err(bad("it is not a host name with a dot or a port, or localhost".into())),
        Err(error) => Err(bad(error.into())),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| crate::error::StorageError::Cancelled { what: "a change of the credentials" })?
}
