//! Tests of the configuration files.
#![forbid(unsafe_code)]

use super::*;
use crate::error::StorageErrorKind;

fn load(config: &str, registries: &str) -> Result<RegistryConfig> {
    let tmp = tempfile::tempdir().unwrap();
    for (name, text) in [("vesselrt/config.toml", config), ("containers/registries.conf", registries)] {
        let path = tmp.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    RegistryConfig::load(&Sources { xdg_config: Some(tmp.path().into()), ..Sources::default() })
}

fn routes(config: &RegistryConfig, reference: &str) -> Vec<String> {
    let routes = config.routes(&reference.parse().unwrap()).unwrap();
    routes.iter().map(|route| format!("{}/{}", route.host, route.path)).collect()
}

#[test]
fn our_own_file() {
    let config = load(
        "[registry.\"docker.io\"]\nmirrors = [\"m.example:5000\", \"c.example/docker/hub\"]\n\
         [registry.\"r:5000\"]\nplain_http = true\n[other]\nx = 1\n",
        "",
    )
    .unwrap();
    assert_eq!(
        routes(&config, "alpine"),
        ["m.example:5000/library/alpine", "c.example/docker/hub/library/alpine", "docker.io/library/alpine"]
    );
    assert_eq!(routes(&config, "ghcr.io/a/b"), ["ghcr.io/a/b"]);
    let settings = config.settings("r:5000");
    assert!(settings.plain_http && !settings.skip_tls_verify);
    assert!(config.knows("r:5000") && !config.knows("r"));
    assert_eq!(authority("docker.io"), "registry-1.docker.io");
}

#[test]
fn mistakes_are_told() {
    for config in ["[registry.\"a\"]\nplain_htp = true", "[registry", "registry = 3"] {
        let error = load(config, "").unwrap_err();
        assert_eq!(error.kind(), StorageErrorKind::InvalidArgument, "{error}");
    }
    let odd = ["http://m", "m.example/UP", "m.example/a?b", "m", "u:p@h.example", "m.example/../x"];
    for mirror in odd {
        let config = load(&format!("[registry.\"docker.io\"]\nmirrors = [{mirror:?}]"), "").unwrap();
        assert!(config.routes(&"alpine".parse().unwrap()).is_err(), "{mirror}");
    }
}

#[test]
fn the_file_of_podman() {
    let config = load(
        "",
        r#"
        unqualified-search-registries = ["x.example"]
        [[registry]]
        prefix = "docker.io/library"
        location = "inner.example/hub"
        [[registry.mirror]]
        location = "mirror.example:5000/lib"
        insecure = true
        [[registry.mirror]]
        location = "digests.example"
        pull-from-mirror = "digest-only"
        [[registry]]
        location = "bad.example"
        blocked = true
        [[registry]]
        prefix = "*.wild.example"
        insecure = true
        [[registry]]
        location = "lax.example:5000"
        insecure = true
        "#,
    )
    .unwrap();
    assert_eq!(routes(&config, "alpine"), ["mirror.example:5000/lib/alpine", "inner.example/hub/alpine"]);
    let pinned = format!("alpine@sha256:{}", "a".repeat(64));
    assert_eq!(routes(&config, &pinned)[1], "digests.example/alpine");
    assert_eq!(routes(&config, "user/app"), ["docker.io/user/app"]);
    assert_eq!(routes(&config, "libraryx/app"), ["docker.io/libraryx/app"]);
    assert_eq!(routes(&config, "a.wild.example/app"), ["a.wild.example/app"]);
    let blocked = config.routes(&"bad.example/x".parse().unwrap()).unwrap_err();
    assert!(matches!(blocked, RegistryError::Blocked { .. }));
    for (host, insecure) in [
        ("mirror.example:5000", true),
        ("lax.example:5000", true),
        ("a.wild.example", true),
        ("wild.example", false),
        ("inner.example", false),
        ("docker.io", false),
    ] {
        assert_eq!(config.settings(host).skip_tls_verify, insecure, "{host}");
    }
}

#[test]
fn proxies_hide_their_passwords() {
    let env = [("HTTPS_PROXY", "http://u:secret@p.example:3128"), ("no_proxy", "x")];
    let env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let config = RegistryConfig::load(&Sources { env, ..Sources::default() }).unwrap();
    assert_eq!(config.proxies.hosts(), ["p.example".to_owned()].into());
    assert!(!format!("{config:?}").contains("secret"));
    assert_eq!(config.proxies.to_client().unwrap().len(), 1);
    let env = [("ALL_PROXY".to_owned(), "socks5://p:1".to_owned())].into();
    assert!(RegistryConfig::load(&Sources { env, ..Sources::default() }).is_err());
}
