//! A certificate for 127.0.0.1 that nobody else trusts, made by openssl.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use crate::testkit::Store;
use crate::testkit::tools::tool;

/// Makes certificate (`ca.crt`, its own issuer) and key in the directory `name` beside the store.
pub(crate) fn make(store: &Store, name: &str) -> (PathBuf, PathBuf) {
    let dir = store.beside(name);
    std::fs::create_dir_all(&dir).unwrap();
    let (certificate, key) = (dir.join("ca.crt"), dir.join("server.pem"));
    let made = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=the test"];
    let server = ["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"];
    let files = ["-keyout", key.to_str().unwrap(), "-out", certificate.to_str().unwrap()];
    tool(store, "openssl", &[&made[..], &server, &files].concat());
    (certificate, key)
}
