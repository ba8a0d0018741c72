//! [`Endpoint`]: one registry (or mirror) and the HTTP clients for it and for where it leads.
#![forbid(unsafe_code)]

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use reqwest::Url;

use super::address::{NameService, Neighbourhood, Resolver, Side};
use super::auth::Tokens;
use super::client::ClientOptions;
use super::config::{HostSettings, RegistryConfig, authority};
use super::error::{RegistryError, Result, shown};
use super::tls::{self, Trust};

/// A registry as it is talked to.
#[derive(Debug)]
pub(super) struct Endpoint {
    /// As configured: `docker.io`.
    pub(super) host: String,
    pub(super) settings: HostSettings,
    pub(super) tokens: Tokens,
    around: Arc<Neighbourhood>,
    own: reqwest::Client,
    elsewhere: OnceLock<reqwest::Client>,
    /// Whether to speak plain HTTP now.
    plain: AtomicBool,
}

impl Endpoint {
    pub(super) fn new(host: &str, config: &RegistryConfig, options: &ClientOptions) -> Result<Self> {
        let settings = config.settings(host);
        let around = Arc::new(Neighbourhood::new(host));
        let trust = if settings.skip_tls_verify { Trust::Anything } else { Trust::Verified };
        // Nothing is read from disk for a registry that has no TLS.
        let trust = if settings.plain_http { Trust::Anything } else { trust };
        let own = http_client(config, options, (host, &settings), trust, &around, Side::Registry)?;
        let plain = AtomicBool::new(settings.plain_http && !settings.skip_tls_verify);
        let endpoint = Self {
            host: host.to_owned(),
            settings,
            tokens: Tokens::default(),
            around,
            own,
            elsewhere: OnceLock::new(),
            plain,
        };
        if let Some(address) = literal(&endpoint.url("/v2/")?) {
            // The user said so: the first answer is always right.
            let _ = endpoint.around.settle(host, vec![address]);
        }
        Ok(endpoint)
    }

    /// The URL of an absolute path with query.
    pub(super) fn url(&self, path: &str) -> Result<Url> {
        let scheme = if self.is_plain() { "http" } else { "https" };
        let text = format!("{scheme}://{}{path}", authority(&self.host));
        Url::parse(&text).map_err(|e| RegistryError::Setting {
            what: format!("registry {:?}", self.host),
            source: e.into(),
        })
    }

    pub(super) fn is_plain(&self) -> bool {
        self.plain.load(Ordering::Relaxed)
    }

    /// Goes over to plain HTTP if the settings allow both that and unverified TLS, which is what "insecure"
    /// means to podman.
    pub(super) fn fall_back(&self) -> bool {
        let both = self.settings.plain_http && self.settings.skip_tls_verify;
        both && !self.plain.swap(true, Ordering::Relaxed)
    }

    /// Whether `url` is at this registry itself: scheme, host and port.
    pub(super) fn is_home(&self, url: &Url) -> bool {
        self.url("/").is_ok_and(|home| home.origin() == url.origin())
    }

    /// The client for a URL of this registry.
    pub(super) fn own(&self) -> &reqwest::Client {
        &self.own
    }

    /// The client for a URL elsewhere that this registry led to.
    pub(super) fn elsewhere(
        &self,
        config: &RegistryConfig,
        options: &ClientOptions,
        url: &Url,
    ) -> Result<&reqwest::Client> {
        if let Some(address) = literal(url) {
            let judged = self.around.judge(url.host_str().unwrap_or_default(), vec![address]);
            judged.map_err(|e| RegistryError::led_astray(url, &e))?;
        }
        if let Some(client) = self.elsewhere.get() {
            return Ok(client);
        }
        let client = http_client(
            config,
            options,
            (&self.host, &self.settings),
            Trust::Verified,
            &self.around,
            Side::Elsewhere,
        )?;
        Ok(self.elsewhere.get_or_init(|| client))
    }

    /// This registry led to `url`, and that is not followed.
    pub(super) fn refused(&self, url: &Url, why: impl Into<String>) -> RegistryError {
        RegistryError::Refused { registry: self.host.clone(), place: shown(url), why: why.into() }
    }
}

/// The address that the host of a URL is, if it is one. No resolver sees those.
fn literal(url: &Url) -> Option<IpAddr> {
    url.host_str()?.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

fn http_client(
    config: &RegistryConfig,
    options: &ClientOptions,
    (host, settings): (&str, &HostSettings),
    trust: Trust,
    around: &Arc<Neighbourhood>,
    side: Side,
) -> Result<reqwest::Client> {
    let names: Arc<dyn NameService> = options.names.clone();
    let proxies = Arc::new(config.proxies.hosts());
    let more = if trust == Trust::Verified { config.certificates(host) } else { Vec::new() };
    let resolver = Resolver { names, around: around.clone(), side, proxies };
    let mut builder = reqwest::Client::builder()
        .tls_backend_preconfigured(tls::config(settings, &config.roots, &more, trust)?)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .user_agent(options.user_agent.as_str())
        .connect_timeout(options.connect_timeout)
        .pool_max_idle_per_host(options.concurrency)
        .dns_resolver(resolver)
        .no_proxy();
    for proxy in config.proxies.to_client()? {
        builder = builder.proxy(proxy);
    }
    builder.build().map_err(|e| RegistryError::Setting {
        what: "the options of the client".into(),
        source: e.without_url().into(),
    })
}
