//! TLS: rustls with ring, the system's certificates, and those that the configuration adds.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::config::{HostSettings, read_text};
use super::error::{RegistryError, Result};

/// The certificates that a client accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trust {
    /// Those of the system and of the registry's settings.
    Verified,
    /// All.
    Anything,
}

/// A configuration for a client of a registry with these settings; `more` are files of certificates.
pub(super) fn config(
    settings: &HostSettings,
    roots: &(Option<PathBuf>, Option<PathBuf>),
    more: &[PathBuf],
    trust: Trust,
) -> Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let builder = builder.map_err(|e| wrong("the versions of TLS", e))?;
    if trust == Trust::Anything {
        let verifier = Arc::new(Unverified { provider });
        return Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth());
    }
    let mut store = system_roots(roots);
    for ca in settings.ca.iter().chain(more) {
        add_file(&mut store, ca)?;
    }
    // Who has no certificates at all may still follow one plain registry to another.
    if store.is_empty() && !settings.plain_http {
        let why = "there are none: install the package ca-certificates, or set SSL_CERT_FILE";
        return Err(wrong("the certificates of this system", why));
    }
    Ok(builder.with_root_certificates(store).with_no_client_auth())
}

/// What cannot be read or parsed is left out, as everywhere.
fn system_roots(roots: &(Option<PathBuf>, Option<PathBuf>)) -> RootCertStore {
    let found = match roots {
        (None, None) => rustls_native_certs::load_native_certs(),
        (file, dir) => rustls_native_certs::load_certs_from_paths(file.as_deref(), dir.as_deref()),
    };
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(found.certs);
    store
}

/// A file that was named must be good.
fn add_file(store: &mut RootCertStore, path: &Path) -> Result<()> {
    let bad = |source| RegistryError::Config { path: path.to_path_buf(), source };
    let text = read_text(path)?.ok_or_else(|| bad("it does not exist".into()))?;
    let mut count = 0;
    for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
        store.add(certificate.map_err(|e| bad(e.into()))?).map_err(|e| bad(e.into()))?;
        count += 1;
    }
    if count > 0 { Ok(()) } else { Err(bad("it has no certificate in PEM form".into())) }
}

fn wrong(what: &str, source: impl Into<crate::error::Cause>) -> RegistryError {
    RegistryError::Setting { what: what.to_owned(), source: source.into() }
}

/// Accepts every certificate, but only from who has its key.
#[derive(Debug)]
struct Unverified {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
