//! Proxies, as curl and Go read them from the environment.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::fmt;

use reqwest::{NoProxy, Proxy, Url};

use super::Sources;
use crate::registry::error::{RegistryError, Result};

/// Never through a proxy: this machine.
const SELF: &str = "localhost,127.0.0.0/8,::1";

/// `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`, in either case.
#[derive(Clone, Default)]
pub(crate) struct Proxies {
    http: Option<Url>,
    https: Option<Url>,
    except: String,
}

impl fmt::Debug for Proxies {
    /// Without the credentials that a proxy's URL may have.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxies").field("hosts", &self.hosts()).field("except", &self.except).finish()
    }
}

impl Proxies {
    pub(super) fn from_env(sources: &Sources) -> Result<Self> {
        let var = |name: &str| sources.var(&name.to_ascii_lowercase()).or_else(|| sources.var(name));
        let proxy = |name: &str| {
            let found = var(name).or_else(|| var("ALL_PROXY"));
            found.map(|text| parse(name, text)).transpose()
        };
        Ok(Self {
            http: proxy("HTTP_PROXY")?,
            https: proxy("HTTPS_PROXY")?,
            except: var("NO_PROXY").unwrap_or_default().to_owned(),
        })
    }

    /// The names of the proxies themselves.
    pub(crate) fn hosts(&self) -> HashSet<String> {
        let urls = [&self.http, &self.https].into_iter().flatten();
        urls.filter_map(|url| url.host_str().map(str::to_owned)).collect()
    }

    /// The proxies for a client.
    pub(crate) fn to_client(&self) -> Result<Vec<Proxy>> {
        let except = || NoProxy::from_string(&format!("{SELF},{}", self.except));
        let made = [self.http.clone().map(Proxy::http), self.https.clone().map(Proxy::https)];
        let made = made.into_iter().flatten().map(|proxy| proxy.map(|proxy| proxy.no_proxy(except())));
        made.collect::<Result<_, _>>().map_err(|e| RegistryError::Setting {
            what: "the proxies of the environment".into(),
            source: e.without_url().into(),
        })
    }
}

/// A proxy may be given without a scheme.
fn parse(name: &str, text: &str) -> Result<Url> {
    let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let wrong =
        |why: String| RegistryError::Setting { what: format!("the variable {name}"), source: why.into() };
    let url = Url::parse(&full).map_err(|e| wrong(e.to_string()))?;
    match url.scheme() {
        "http" | "https" => Ok(url),
        other => Err(wrong(format!("a proxy of the kind {other:?} is not supported, only http and https"))),
    }
}
