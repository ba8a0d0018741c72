//! The one client of registries that a manager has.
#![forbid(unsafe_code)]

use std::sync::PoisonError;

use vesselrt_storage::registry::{self, Client, ClientOptions, Credential, Kept, RegistryConfig};

use super::ManagerInner;
use crate::config::Registries;
use crate::error::{Error, Result};

impl ManagerInner {
    /// The client, made when it is first needed.
    pub(super) fn client(&self) -> Result<Client> {
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = &*client {
            return Ok(client.clone());
        }
        let config = self.registries()?;
        Ok(client.insert(Client::new(config, ClientOptions::default())).clone())
    }

    /// A client that gives up early.
    pub(super) fn impatient_client(&self) -> Result<Client> {
        let options = ClientOptions { retries: 2, ..ClientOptions::default() };
        Ok(Client::new(self.registries()?, options))
    }

    pub(super) async fn login(&self, host: &str, user: &str, password: &str) -> Result<Kept> {
        let (client, config) = (self.client()?, self.registries()?);
        let kept = registry::login(&client, &config, host, Credential::password(user, password)).await;
        self.forget_client();
        kept.map_err(|e| Error::registry(format!("failed to log in to {host}"), e))
    }

    pub(super) async fn logout(&self, host: &str) -> Result<bool> {
        let gone = registry::logout(&self.registries()?, host).await;
        self.forget_client();
        gone.map_err(|e| Error::registry(format!("failed to log out of {host}"), e))
    }

    /// The next one looks for credentials again.
    fn forget_client(&self) {
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn registries(&self) -> Result<RegistryConfig> {
        match &self.config.registries {
            Registries::Given(config) => Ok((**config).clone()),
            Registries::Load(sources) => RegistryConfig::load(sources)
                .map_err(|e| Error::registry("failed to read the configuration of registries", e)),
        }
    }
}
