//! Tests of challenges and of who sees credentials.
#![forbid(unsafe_code)]

use super::*;
use crate::registry::client::ClientOptions;
use crate::registry::config::{HostSettings, RegistryConfig};

fn parsed(values: &[&str]) -> Option<Challenge> {
    challenge(&values.iter().map(|value| (WWW_AUTHENTICATE, value.parse().unwrap())).collect())
}

#[test]
fn challenges() {
    let bearer = r#"Bearer realm="https://a/t",service="s",scope="repository:x:pull,push""#;
    let expected = Challenge::Bearer {
        realm: "https://a/t".into(),
        service: Some("s".into()),
        scope: Some("repository:x:pull,push".into()),
    };
    assert_eq!(parsed(&[bearer]).as_ref(), Some(&expected));
    assert_eq!(parsed(&["Basic realm=\"x\"", bearer]).as_ref(), Some(&expected));
    assert_eq!(parsed(&[&format!("Basic realm=\"x\", {bearer}")]).as_ref(), Some(&expected));
    assert_eq!(parsed(&["basic realm=\"x\""]), Some(Challenge::Basic));
    for other in ["", "Bearer", "Bearer service=\"x\"", "Negotiate", "Bearer realm=", "\"", ",,,"] {
        assert_eq!(parsed(&[other]), None, "{other}");
    }
}

fn endpoint(host: &str, settings: HostSettings) -> Endpoint {
    let mut config = RegistryConfig::default();
    let settings = HostSettings { plain_http: settings.plain_http, ..settings };
    config.set_host(host, settings);
    Endpoint::new(host, &config, &ClientOptions::default()).unwrap()
}

/// A registry with TLS whose clients do not need the certificates of this machine.
fn https(host: &str) -> Endpoint {
    let mut endpoint = endpoint(host, HostSettings { skip_tls_verify: true, ..HostSettings::default() });
    endpoint.settings.skip_tls_verify = false;
    endpoint
}

#[test]
fn who_sees_credentials() {
    for (host, realm, sees) in [
        ("r.example", "https://r.example/token", true),
        ("r.example", "https://r.example:5001/token", true),
        ("r.example:5000", "https://r.example/token", true),
        ("r.example", "https://auth.r.example/token", true),
        ("r.example", "https://xr.example/token", false),
        ("r.example", "https://example/token", false),
        ("r.example", "https://other.example/token", false),
        ("r.example", "https://r.example.evil.example/token", false),
        ("docker.io", "https://auth.docker.io/token", true),
        ("docker.io", "https://auth.docker.io:444/token", false),
        ("docker.io", "https://docker.io.evil/token", false),
        ("evil.example", "https://auth.docker.io/token", false),
        ("registry.gitlab.com", "https://gitlab.com/jwt/auth", true),
    ] {
        let url = check_realm(&https(host), realm).unwrap();
        assert_eq!(may_see(&https(host), &url), sees, "{host} {realm}");
    }
    let plain = endpoint("r.example", HostSettings { plain_http: true, ..HostSettings::default() });
    for (realm, sees) in
        [("http://r.example/t", true), ("http://r.example:81/t", false), ("http://a.r.example/t", false)]
    {
        assert_eq!(may_see(&plain, &check_realm(&plain, realm).unwrap()), sees, "{realm}");
    }
    let mut named = https("r.example");
    named.settings.token_hosts = vec!["login.example".into(), "l.example:8443".into()];
    for (realm, sees) in [
        ("https://login.example/t", true),
        ("https://login.example:99/t", false),
        ("https://l.example:8443/t", true),
        ("https://l.example/t", false),
    ] {
        assert_eq!(may_see(&named, &check_realm(&named, realm).unwrap()), sees, "{realm}");
    }
}

#[test]
fn realms_that_are_not_gone_to() {
    let endpoint = https("r.example");
    for realm in [
        "http://r.example/t",
        "file:///etc/passwd",
        "gopher://x/",
        "/token",
        "",
        "https://u:p@r.example/",
        "https://",
    ] {
        let error = check_realm(&endpoint, realm).unwrap_err();
        assert!(matches!(error, RegistryError::Refused { .. }), "{realm}: {error}");
    }
}

#[test]
fn scopes_are_joined() {
    assert_eq!(scopes("a b", Some("b c")), ["a", "b", "c"]);
    assert_eq!(scopes("", Some("aws")), ["aws"]);
    assert!(scopes("", None).is_empty());
}

proptest::proptest! {
    #[test]
    fn no_header_is_too_odd(value in "[ -~\t]{0,300}", scheme in "(Bearer|Basic|bearer) ?", realm in "[ -~]{0,60}") {
        parsed(&[&value]);
        parsed(&[&format!("{scheme} realm=\"{realm}\",{value}")]);
        let _ = check_realm(&https("r.example"), &realm);
    }
}
