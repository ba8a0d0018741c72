//! TLS by rustls.
#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::error::{Error, Result};
use crate::serve::config::TlsFiles;

/// # Errors
/// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for files that have no certificate or no key, or those of another.
pub(super) fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor> {
    let unreadable = |path: &Path, e: rustls::pki_types::pem::Error| {
        Error::invalid(format!("failed to read {}", path.display())).with_source(e)
    };
    let certs: Vec<_> = CertificateDer::pem_file_iter(&files.cert)
        .and_then(Iterator::collect)
        .map_err(|e| unreadable(&files.cert, e))?;
    if certs.is_empty() {
        return Err(Error::invalid(format!("there is no certificate in {}", files.cert.display())));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|e| unreadable(&files.key, e))?;
    let unusable = |e: rustls::Error| Error::invalid("failed to use the certificate").with_source(e);
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(certs, key)
        .map_err(unusable)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
