//! Registries: images come from them and go to them.
//!
//! [`Client`] speaks the API of OCI registries; [`fetch`] brings an image into a
//! [`crate::content::ContentStore`]. A registry is believed nothing: every byte is verified against a digest, every
//! answer has a limit in size and time, and where it leads to (redirects, token servers) is checked before anything
//! is connected to. Sources: OCI distribution-spec 1.1, image-spec 1.1.
//!
//! The crate `oci-distribution` (by its present name `oci-client`) gives types of the protocol. Its client follows
//! redirects and token realms anywhere and has no limits, so requests are made here, over the same HTTP library.
#![forbid(unsafe_code)]

mod address;
mod auth;
mod body;
mod client;
mod config;
mod credentials;
mod endpoint;
mod error;
mod fetch;
mod login;
mod manifest;
mod push;
mod retry;
mod tls;
mod transport;

pub use self::address::{Lookup, NameService, SystemNames};
pub use self::body::BlobStream;
pub use self::client::{Client, ClientOptions};
pub use self::config::{HostSettings, RegistryConfig, Sources, default_sources};
pub use self::credentials::{Credential, Secret};
pub use self::error::{RegistryError, Result};
pub use self::fetch::{FetchEvent, FetchOptions, Fetched, fetch, fetch_blob};
pub use self::login::{Kept, login, logout};
pub use self::push::{BlobSource, Mount, UploadSession};
