//! Against Debian's `docker-registry` (distribution 2.8), with images that skopeo pushed.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use vesselrt_storage::error::StorageErrorKind as Kind;
use vesselrt_storage::registry::{
    Client, Credential, FetchEvent, HostSettings, Kept, RegistryConfig, RegistryError, Sources, login, logout,
};

use crate::common::{Events, Registry, client, collect, have, layout, plain, quick, run, store};
use crate::mock::certificate;
use crate::token::TokenServer;

/// Makes an image of six layers and pushes it to `name:latest` with skopeo.
pub(crate) fn push_image(registry: &Registry, name: &str, more: &[&str]) -> PathBuf {
    let source = layout(&registry.dir.path().join("layout"), 6, 300_000);
    let (from, to) =
        (format!("oci:{}:latest", source.display()), format!("docker://{}/{name}:latest", registry.host));
    let mut args = vec!["copy", "-q", "--dest-tls-verify=false"];
    args.extend(more);
    args.extend([from.as_str(), to.as_str()]);
    run("skopeo", &args);
    source
}

#[tokio::test]
async fn an_anonymous_pull_and_the_next_one() {
    if !have(&["docker-registry", "skopeo"]) {
        return;
    }
    let registry = Registry::start("127.0.0.1", "", "");
    push_image(&registry, "team/app", &[]);
    let (store, client) = (store(), client(&[&registry.host]));
    let reference = format!("{}/team/app:latest", registry.host);
    let events = Events::default();
    let fetched = store.pull_events(&client, &reference, collect(&events)).await.unwrap();
    assert_eq!(fetched.image.layers.len(), 6);
    assert!(fetched.transferred > 6 * 300_000);
    drop(fetched);
    assert_eq!(store.blobs(), 8, "six layers, configuration, manifest");
    assert!(store.names(".ingest").is_empty());
    let count = |wanted: fn(&FetchEvent) -> bool| events.lock().unwrap().iter().filter(|e| wanted(e)).count();
    assert_eq!(count(|e| matches!(e, FetchEvent::Verified { .. })), 7);
    assert_eq!(count(|e| matches!(e, FetchEvent::Image(_))), 1);

    let again = store.pull(&client, &reference).await.unwrap();
    assert_eq!(again.transferred, 0);
    let log = registry.log();
    let ours: Vec<&str> =
        log.lines().filter(|line| line.contains("HTTP/1.1\"") && line.contains("\"vesselrt/")).collect();
    assert_eq!(ours.len(), 8 + 1, "manifest and seven blobs, then one HEAD: {ours:#?}");
    assert!(ours[8].contains("HEAD /v2/team/app/manifests/latest"), "{}", ours[8]);

    // By digest nothing is asked at all.
    let pinned = format!("{}/team/app@{}", registry.host, again.root.digest);
    drop(again);
    let none = crate::common::client(&[]);
    assert_eq!(store.pull(&none, &pinned).await.unwrap().transferred, 0);
}

#[tokio::test]
async fn what_the_registry_does_not_have() {
    if !have(&["docker-registry"]) {
        return;
    }
    let registry = Registry::start("127.0.0.1", "", "");
    let error =
        store().pull(&client(&[&registry.host]), &format!("{}/no/such", registry.host)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
    let head = client(&[&registry.host]).head(&format!("{}/no/such", registry.host).parse().unwrap()).await;
    assert!(head.unwrap().is_none());
}

/// A registry with TLS and a password, and the settings with its certificate.
fn private() -> (Registry, HostSettings, tempfile::TempDir) {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let (_, certificate, key) = certificate(&["localhost"]);
    std::fs::write(dir.join("cert.pem"), certificate).unwrap();
    std::fs::write(dir.join("key.pem"), key).unwrap();
    let users = run("htpasswd", &["-Bbn", "user", "hunter2"]);
    std::fs::write(dir.join("htpasswd"), users).unwrap();
    let at = dir.display();
    let http = format!("  tls:\n    certificate: {at}/cert.pem\n    key: {at}/key.pem");
    let auth = format!("auth:\n  htpasswd:\n    realm: here\n    path: {at}/htpasswd");
    let settings = HostSettings { ca: Some(dir.join("cert.pem")), ..HostSettings::default() };
    (Registry::start("localhost", &http, &auth), settings, temporary)
}

#[tokio::test]
async fn tls_basic_authentication_login_and_logout() {
    if !have(&["docker-registry", "skopeo", "htpasswd"]) {
        return;
    }
    let (registry, settings, _files) = private();
    push_image(&registry, "private/app", &["--dest-creds", "user:hunter2"]);
    let (host, reference) = (registry.host.as_str(), format!("{}/private/app", registry.host));
    let home = tempfile::tempdir().unwrap();
    let sources = Sources { home: Some(home.path().into()), ..Sources::default() };
    let load = || {
        let mut config = RegistryConfig::load(&sources).unwrap();
        config.set_host(host, settings.clone());
        (Client::new(config.clone(), quick()), config)
    };
    let (client, config) = load();
    let error = store().pull(&client, &reference).await.unwrap_err();
    assert_eq!(error.kind(), Kind::PermissionDenied, "{error}");
    assert_eq!(error.remedy().unwrap(), format!("vesselrt login {host}"));

    let error = login(&client, &config, host, Credential::password("user", "wrong")).await.unwrap_err();
    assert!(matches!(error, RegistryError::Unauthorized { .. }), "{error}");
    assert!(!home.path().join(".config").exists());
    let kept = login(&client, &config, host, Credential::password("user", "hunter2")).await.unwrap();
    assert_eq!(kept, Kept::File(home.path().join(".config/containers/auth.json")));

    let (client, config) = load();
    store().pull(&client, &reference).await.unwrap();
    // What podman and skopeo make of the file.
    let file = home.path().join(".config/containers/auth.json");
    let image = format!("docker://{reference}");
    run("skopeo", &["inspect", "--tls-verify=false", "--authfile", file.to_str().unwrap(), &image]);

    assert!(logout(&config, host).await.unwrap());
    assert!(!logout(&config, host).await.unwrap());
    let (client, _) = load();
    assert!(store().pull(&client, &reference).await.is_err());
}

#[tokio::test]
async fn tls_needs_the_right_certificate() {
    if !have(&["docker-registry", "htpasswd"]) {
        return;
    }
    let (registry, settings, _files) = private();
    let try_with = async |settings: HostSettings| {
        let mut config = RegistryConfig::default();
        config.set_host(&registry.host, settings);
        config.set_credentials(&registry.host, Credential::password("user", "hunter2"));
        let reference = format!("{}/no/such", registry.host).parse().unwrap();
        Client::new(config, quick()).head(&reference).await
    };
    let (_, other, _) = certificate(&["localhost"]);
    let file = registry.dir.path().join("other.pem");
    std::fs::write(&file, other).unwrap();
    let other = HostSettings { ca: Some(file), ..HostSettings::default() };
    assert_eq!(try_with(other).await.unwrap_err().kind(), Kind::Unavailable);
    assert_eq!(try_with(plain()).await.unwrap_err().kind(), Kind::InvalidArgument, "HTTP to a TLS port");
    assert!(try_with(settings.clone()).await.unwrap().is_none());
    let lax = HostSettings { skip_tls_verify: true, ..HostSettings::default() };
    assert!(try_with(lax).await.unwrap().is_none());
    // Where podman has its certificates.
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("containers/certs.d").join(&registry.host);
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::copy(settings.ca.as_ref().unwrap(), dir.join("ca.crt")).unwrap();
    let mut config =
        RegistryConfig::load(&Sources { xdg_config: Some(home.path().into()), ..Sources::default() })
            .unwrap();
    config.set_credentials(&registry.host, Credential::password("user", "hunter2"));
    let reference = format!("{}/no/such", registry.host).parse().unwrap();
    assert!(Client::new(config, quick()).head(&reference).await.unwrap().is_none());
    let missing = HostSettings { ca: Some("/no/such/file".into()), ..HostSettings::default() };
    assert_eq!(try_with(missing).await.unwrap_err().kind(), Kind::InvalidArgument);
}

#[tokio::test]
async fn insecure_as_podman_means_it() {
    if !have(&["docker-registry"]) {
        return;
    }
    let registry = Registry::start("127.0.0.1", "", "");
    let home = tempfile::tempdir().unwrap();
    let conf = home.path().join("containers/registries.conf");
    std::fs::create_dir_all(conf.parent().unwrap()).unwrap();
    std::fs::write(&conf, format!("[[registry]]\nlocation = \"{}\"\ninsecure = true\n", registry.host))
        .unwrap();
    let sources = Sources { xdg_config: Some(home.path().into()), ..Sources::default() };
    let client = Client::new(RegistryConfig::load(&sources).unwrap(), quick());
    // TLS fails, and plain HTTP is tried.
    assert!(client.head(&format!("{}/no/such", registry.host).parse().unwrap()).await.unwrap().is_none());
}

#[tokio::test]
async fn tokens_of_a_token_server() {
    if !have(&["docker-registry", "skopeo", "openssl"]) {
        return;
    }
    let tokens = TokenServer::start().await;
    let registry = Registry::start("127.0.0.1", "", &tokens.registry_settings());
    let credentials = || Some(Credential::password("user", "hunter2"));
    let client = |named: bool, credential: Option<Credential>| {
        let mut config = RegistryConfig::default();
        let token_hosts = if named { vec![tokens.host()] } else { Vec::new() };
        config.set_host(&registry.host, HostSettings { token_hosts, ..plain() });
        credential.into_iter().for_each(|credential| config.set_credentials(&registry.host, credential));
        Client::new(config, quick())
    };
    let from = registry.dir.path().to_owned();
    let to = registry.host.clone();
    let pushed =
        crate::push::push_layout(&client(true, credentials()), &layout(&from, 3, 10_000), &to, "team/app")
            .await;
    assert_eq!(pushed.unwrap(), 4, "three layers and a configuration");
    assert!(tokens.seen().iter().any(|target| target.contains("pull%2Cpush")), "{:?}", tokens.seen());

    let reference = format!("{}/team/app", registry.host);
    store().pull(&client(true, credentials()), &reference).await.unwrap();
    for (named, credential) in
        [(true, None), (false, credentials()), (true, Some(Credential::password("user", "no")))]
    {
        let error = store().pull(&client(named, credential), &reference).await.unwrap_err();
        assert_eq!(error.kind(), Kind::PermissionDenied, "{error}");
    }
    let before = tokens.seen().len();
    let one = client(true, credentials());
    store().pull(&one, &reference).await.unwrap();
    store().pull(&one, &reference).await.unwrap();
    assert_eq!(tokens.seen().len(), before + 1, "a token is used until it expires");
}

#[tokio::test]
async fn layers_are_announced_as_they_come() {
    if !have(&["docker-registry", "skopeo"]) {
        return;
    }
    let registry = Registry::start("127.0.0.1", "", "");
    push_image(&registry, "team/app", &[]);
    let store = store();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (log, content) = (seen.clone(), store.content.clone());
    let check = move |event: FetchEvent| {
        if let FetchEvent::Verified { digest, size } = event {
            // What is announced is there at that moment.
            log.lock().unwrap().push(content.has_blob(&digest, size).unwrap());
        }
    };
    store
        .pull_events(&client(&[&registry.host]), &format!("{}/team/app", registry.host), check)
        .await
        .unwrap();
    assert_eq!(*seen.lock().unwrap(), [true; 7]);
}
