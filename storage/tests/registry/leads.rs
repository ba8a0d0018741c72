//! Where a registry may lead us, and who gets to see credentials.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use vesselrt_storage::error::StorageErrorKind as Kind;
use vesselrt_storage::registry::{
    Client, ClientOptions, Credential, HostSettings, Lookup, NameService, RegistryConfig, RegistryError,
};

use crate::common::{client, plain, quick, store};
use crate::mock::{Answer, Body, Content, Mock, Request, certificate, ranged};

/// `user:hunter2`, as it is sent.
const BASIC: &str = "Basic dXNlcjpodW50ZXIy";

/// A client with a password for `host`, which speaks plain HTTP.
fn with_password(host: &str, settings: HostSettings) -> Client {
    let mut config = RegistryConfig::default();
    config.set_host(host, settings);
    config.set_credentials(host, Credential::password("user", "hunter2"));
    Client::new(config, quick())
}

/// Asks for basic authentication.
fn basic(request: &Request) -> Option<Answer> {
    let shown = request.header("authorization") == Some(BASIC);
    (!shown).then(|| Answer::new(401, "").header("WWW-Authenticate", "Basic realm=\"here\""))
}

/// Asks for a token of `realm`; "good" is one.
fn bearer(request: &Request, realm: &str) -> Option<Answer> {
    let shown = request.header("authorization") == Some("Bearer good");
    let challenge = format!("Bearer realm=\"{realm}\",service=\"s\",scope=\"repository:team/app:pull\"");
    (!shown).then(|| Answer::new(401, "").header("WWW-Authenticate", challenge))
}

fn token() -> Answer {
    Answer::new(200, r#"{"token":"good","expires_in":300}"#)
}

#[tokio::test]
async fn blobs_may_be_elsewhere_and_credentials_stay_here() {
    let content = Content::image(&[40_000, 50_000]);
    let blobs = content.blobs.clone();
    let elsewhere = Mock::start(Content::default(), move |r| {
        let name = r.path().rsplit('/').next().unwrap().to_owned();
        Some(ranged(r, &blobs[&name]))
    })
    .await;
    let place = elsewhere.host.clone();
    let mock = Mock::start(content, move |r| {
        basic(r).or_else(|| {
            let to = format!("http://{place}/cdn/{}?X-Signature=s", r.path().rsplit('/').next().unwrap());
            let answer = Answer::to(307, to).header("Set-Cookie", "session=1; Path=/; Domain=127.0.0.1");
            r.path().contains("/blobs/").then_some(answer)
        })
    })
    .await;
    let client = with_password(&mock.host, plain());
    store().pull(&client, &mock.reference()).await.unwrap();
    let seen = elsewhere.requests();
    assert_eq!(seen.len(), 3);
    for request in seen {
        let names = ["authorization", "cookie", "referer", "proxy-authorization"];
        assert!(names.iter().all(|name| request.header(name).is_none()), "{request:?}");
    }
    assert!(mock.requests().iter().filter(|r| r.header("authorization").is_none()).count() == 1);
}

#[tokio::test]
async fn five_redirects_and_no_more() {
    for (hops, works) in [(5, true), (6, false), (1000, false)] {
        let mock = Mock::start(Content::image(&[100]), move |r| {
            let (path, query) = r.target.split_once("?hop=").unwrap_or((&r.target, "0"));
            let hop: usize = query.parse().unwrap();
            let blob = r.path().contains("/blobs/") && hop < hops;
            blob.then(|| Answer::to(302, format!("{path}?hop={}", hop + 1)))
        })
        .await;
        let pulled = store().pull(&client(&[&mock.host]), &mock.reference()).await;
        assert_eq!(pulled.is_ok(), works, "{hops}");
        if let Err(error) = pulled {
            assert!(matches!(error, RegistryError::Refused { .. }), "{error}");
            assert!(mock.requests().len() <= 7);
        }
    }
}

#[tokio::test]
async fn places_that_redirects_do_not_lead_to() {
    let inner = Mock::start(Content::default(), |_| Some(Answer::new(200, "secret"))).await;
    for place in [
        "http://169.254.169.254/latest/meta-data/".to_owned(),
        "http://10.0.0.1/".into(),
        "http://192.168.1.1/".into(),
        "http://[fd00:ec2::254]/".into(),
        "http://[::ffff:10.0.0.1]/".into(),
        "http://0x0a000001/".into(),
        "http://0.0.0.0/".into(),
        "http://[fe80::1]/".into(),
        format!("http://u:p@{}/", inner.host),
        "file:///etc/passwd".into(),
        "ftp://127.0.0.1/".into(),
    ] {
        for on in ["/manifests/", "/blobs/"] {
            let to = place.clone();
            let mock = Mock::start(Content::image(&[100]), move |r| {
                r.path().contains(on).then(|| Answer::to(307, to.clone()))
            })
            .await;
            let error = store().pull(&client(&[&mock.host]), &mock.reference()).await.unwrap_err();
            assert!(matches!(error, RegistryError::Refused { .. }), "{place}: {error}");
            assert_eq!(error.kind(), Kind::PermissionDenied);
        }
    }
    assert!(inner.requests().is_empty());
}

#[tokio::test]
async fn places_that_realms_do_not_lead_to() {
    for realm in [
        "http://169.254.169.254/latest/api/token",
        "http://10.1.2.3/token",
        "http://[fd00::1]/token",
        "https://172.16.0.1/token",
        "http://localhost.:1/token",
        "file:///etc/shadow",
        "gopher://127.0.0.1/",
        "//x/token",
        "",
    ] {
        let mock = Mock::start(Content::image(&[100]), move |r| bearer(r, realm)).await;
        let client = with_password(&mock.host, plain());
        let error = store().pull(&client, &mock.reference()).await.unwrap_err();
        let unreachable = realm.contains("localhost");
        let refused = matches!(error, RegistryError::Refused { .. } | RegistryError::Unauthorized { .. });
        assert!(refused || unreachable, "{realm}: {error}");
        assert!(mock.requests().iter().all(|r| r.header("authorization").is_none()));
    }
}

#[tokio::test]
async fn token_servers_see_credentials_if_they_are_the_registry_s() {
    let mock = Mock::start(Content::image(&[100]), |r| match r.path() {
        "/token" => Some(token()),
        _ => bearer(r, &format!("http://{}/token", r.header("host").unwrap())),
    })
    .await;
    store().pull(&with_password(&mock.host, plain()), &mock.reference()).await.unwrap();
    let requests = mock.requests();
    let asked: Vec<&Request> = requests.iter().filter(|r| r.path() == "/token").collect();
    assert_eq!(asked.len(), 1, "one token serves all requests");
    assert_eq!(asked[0].header("authorization"), Some(BASIC));
    assert!(asked[0].target.contains("scope=repository%3Ateam%2Fapp%3Apull"), "{}", asked[0].target);
    assert!(asked[0].target.contains("service=s"));

    for named in [false, true] {
        let server = Mock::start(Content::default(), |_| Some(token())).await;
        let realm = format!("http://{}/token", server.host);
        let mock = Mock::start(Content::image(&[100]), move |r| bearer(r, &realm)).await;
        let token_hosts = if named { vec![server.host.clone()] } else { Vec::new() };
        let client = with_password(&mock.host, HostSettings { token_hosts, ..plain() });
        store().pull(&client, &mock.reference()).await.unwrap();
        let seen = server.requests()[0].header("authorization").map(str::to_owned);
        assert_eq!(seen.as_deref(), named.then_some(BASIC));
    }
}

#[tokio::test]
async fn identity_tokens_are_exchanged() {
    let mock = Mock::start(Content::image(&[100]), |r| match r.path() {
        "/token" => Some(Answer::new(200, r#"{"access_token":"good"}"#)),
        _ => bearer(r, &format!("http://{}/token", r.header("host").unwrap())),
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let auth = serde_json::json!({"auths": {&mock.host: {"identitytoken": "refresh me"}}});
    std::fs::write(dir.path().join("auth.json"), auth.to_string()).unwrap();
    let env = [("REGISTRY_AUTH_FILE".to_owned(), dir.path().join("auth.json").to_str().unwrap().to_owned())];
    let sources = vesselrt_storage::registry::Sources { env: env.into(), ..Default::default() };
    let mut config = RegistryConfig::load(&sources).unwrap();
    config.set_host(&mock.host, plain());
    store().pull(&Client::new(config, quick()), &mock.reference()).await.unwrap();
    let asked = mock.requests().into_iter().find(|r| r.path() == "/token").unwrap();
    let body = String::from_utf8(asked.body).unwrap();
    assert_eq!(asked.method, "POST");
    assert!(body.contains("grant_type=refresh_token") && body.contains("refresh_token=refresh+me"), "{body}");
}

#[tokio::test]
async fn odd_token_servers() {
    for (name, expected, answer) in [
        ("endless", Kind::LimitExceeded, Answer::with(200, Body::Endless)),
        ("no JSON", Kind::IntegrityViolation, Answer::new(200, "<html>")),
        ("no token", Kind::IntegrityViolation, Answer::new(200, "{}")),
        ("an empty token", Kind::IntegrityViolation, Answer::new(200, r#"{"token":""}"#)),
        ("a header in a token", Kind::IntegrityViolation, Answer::new(200, "{\"token\":\"a\\r\\nX: y\"}")),
        ("refusal", Kind::PermissionDenied, Answer::new(401, "")),
        ("a token that does not help", Kind::PermissionDenied, Answer::new(200, r#"{"token":"bad"}"#)),
        ("a redirect", Kind::Unavailable, Answer::to(302, "http://169.254.169.254/")),
        ("silence", Kind::Unavailable, Answer::with(200, Body::Hang(10))),
    ] {
        let mock = Mock::start(Content::image(&[100]), move |r| match r.path() {
            "/token" => Some(answer.clone()),
            _ => bearer(r, &format!("http://{}/token", r.header("host").unwrap())),
        })
        .await;
        let error = store().pull(&with_password(&mock.host, plain()), &mock.reference()).await.unwrap_err();
        assert_eq!(error.kind(), expected, "{name}: {error}");
        assert!(mock.requests().len() <= 12, "{name}: {:?}", mock.lines());
    }
}

#[tokio::test]
async fn endless_challenges_end() {
    for challenge in ["Basic realm=\"x\"", "Bearer realm=\"http://HOST/token\"", "Negotiate", ""] {
        let count = Mutex::new(0);
        let mock = Mock::start(Content::image(&[100]), move |r| {
            if r.path() == "/token" {
                // Another one each time.
                *count.lock().unwrap() += 1;
                return Some(Answer::new(200, format!(r#"{{"token":"t{}"}}"#, count.lock().unwrap())));
            }
            let challenge = challenge.replace("HOST", r.header("host").unwrap());
            Some(
                Answer::new(401, r#"{"errors":[{"code":"UNAUTHORIZED","message":"not today"}]}"#)
                    .header("WWW-Authenticate", challenge),
            )
        })
        .await;
        let error = store().pull(&with_password(&mock.host, plain()), &mock.reference()).await.unwrap_err();
        assert!(matches!(error, RegistryError::Unauthorized { .. }), "{challenge}: {error}");
        assert!(error.to_string().contains(&format!("vesselrt login {}", mock.host)), "{error}");
        assert!(mock.requests().iter().filter(|r| r.path() != "/token").count() <= 3, "{:?}", mock.lines());
    }
}

#[tokio::test]
async fn from_https_to_http_is_not_followed() {
    let inner = Mock::start(Content::default(), |_| Some(Answer::new(200, "x"))).await;
    let (acceptor, pem, _) = certificate(&["127.0.0.1"]);
    let to = format!("http://{}/", inner.host);
    let hook = {
        let to = to.clone();
        move |r: &Request| r.path().contains("/blobs/").then(|| Answer::to(307, to.clone()))
    };
    let mock = Mock::start_with(Content::image(&[100]), hook, Some(acceptor.clone())).await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("ca.pem"), pem).unwrap();
    let settings = HostSettings { ca: Some(dir.path().join("ca.pem")), ..HostSettings::default() };
    let error =
        store().pull(&with_password(&mock.host, settings.clone()), &mock.reference()).await.unwrap_err();
    assert!(matches!(&error, RegistryError::Refused { why, .. } if why.contains("https")), "{error}");
    assert!(inner.requests().is_empty());

    // A token server by http is none, and the password does not go there.
    let mock =
        Mock::start_with(Content::image(&[100]), move |r| bearer(r, &to), Some(acceptor.clone())).await;
    let error =
        store().pull(&with_password(&mock.host, settings.clone()), &mock.reference()).await.unwrap_err();
    assert!(matches!(&error, RegistryError::Refused { why, .. } if why.contains("https")), "{error}");
    assert!(inner.requests().is_empty());

    // Who does not know the certificate does not talk to it, and does not try for long.
    let mock = Mock::start_with(Content::image(&[100]), |_| None, Some(acceptor)).await;
    let (_, other, _) = certificate(&["127.0.0.1"]);
    std::fs::write(dir.path().join("other.pem"), other).unwrap();
    let strange = HostSettings { ca: Some(dir.path().join("other.pem")), ..HostSettings::default() };
    let error = store().pull(&with_password(&mock.host, strange), &mock.reference()).await;
    assert_eq!(error.unwrap_err().kind(), Kind::Unavailable);
    assert!(mock.requests().is_empty());
    let lax = HostSettings { skip_tls_verify: true, ..HostSettings::default() };
    store().pull(&with_password(&mock.host, lax), &mock.reference()).await.unwrap();
    store().pull(&with_password(&mock.host, settings), &mock.reference()).await.unwrap();
}

/// A name service that says what a test wants; each name has a list of answers, the last of which stays.
#[derive(Debug, Default)]
struct Names(Mutex<HashMap<String, Vec<IpAddr>>>);

impl NameService for Names {
    fn lookup(&self, host: &str) -> Lookup {
        let mut names = self.0.lock().unwrap();
        let found = names.get_mut(host).map(|left| if left.len() > 1 { left.remove(0) } else { left[0] });
        Box::pin(async move { found.map(|ip| vec![ip]).ok_or_else(|| std::io::Error::other("no such name")) })
    }
}

fn named(hosts: &[&str], names: &[(&str, &[&str])]) -> Client {
    let names = names
        .iter()
        .map(|(host, ips)| ((*host).to_owned(), ips.iter().map(|ip| ip.parse().unwrap()).collect()));
    let mut config = RegistryConfig::default();
    for host in hosts {
        config.set_host(*host, plain());
        config.set_credentials(*host, Credential::password("user", "hunter2"));
    }
    let names = Arc::new(Names(Mutex::new(names.collect())));
    Client::new(config, ClientOptions { names, ..quick() })
}

#[tokio::test]
async fn names_are_judged_by_the_addresses_that_are_connected_to() {
    let inner = Mock::start(Content::default(), |_| Some(token())).await;
    let port = inner.port;
    for (name, addresses) in [
        ("inner.test", &["10.0.0.1"][..]),
        ("meta.test", &["169.254.169.254"]),
        ("flip.test", &["10.0.0.1", "127.0.0.1"]),
    ] {
        let realm = format!("http://{name}:{port}/token");
        let mock = Mock::start(Content::image(&[100]), move |r| bearer(r, &realm)).await;
        let host = format!("reg.test:{}", mock.port);
        let client = named(&[&host], &[("reg.test", &["127.0.0.1"]), (name, addresses)]);
        let error = store().pull(&client, &format!("{host}/team/app")).await.unwrap_err();
        assert!(matches!(error, RegistryError::Refused { .. }), "{name}: {error}");
    }
    assert!(inner.requests().is_empty());
    // Another name at the same address is another host: it gets no password.
    let realm = format!("http://other.test:{port}/token");
    let mock = Mock::start(Content::image(&[100]), move |r| bearer(r, &realm)).await;
    let host = format!("reg.test:{}", mock.port);
    let client = named(&[&host], &[("reg.test", &["127.0.0.1"]), ("other.test", &["127.0.0.1"])]);
    store().pull(&client, &format!("{host}/team/app")).await.unwrap();
    assert_eq!(inner.requests()[0].header("authorization"), None);
}

#[tokio::test]
async fn a_registry_whose_name_moves_inside_is_not_followed() {
    let mock = Mock::start(Content::image(&[100]), |_| Some(Answer::with(200, Body::Reset))).await;
    let host = format!("reg.test:{}", mock.port);
    let client = named(&[&host], &[("reg.test", &["127.0.0.1", "10.0.0.1"])]);
    let error = store().pull(&client, &format!("{host}/team/app")).await.unwrap_err();
    assert!(matches!(error, RegistryError::Refused { .. }), "{error}");
    assert_eq!(mock.requests().len(), 1);
}

#[tokio::test]
async fn mirrors_come_first_and_are_not_believed() {
    let content = Content::image(&[30_000]);
    let layer = content.layers[0].to_string();
    let bad = {
        let layer = layer.clone();
        Mock::start(content.clone(), move |r| {
            r.path().ends_with(&layer).then(|| Answer::new(200, vec![0; 30_000]))
        })
        .await
    };
    let empty = Mock::start(Content::default(), |_| None).await;
    let good = Mock::start(content.clone(), basic).await;
    let closed = format!("127.0.0.1:{}", crate::common::free_port());
    let mut config = RegistryConfig::default();
    for host in [&bad.host, &empty.host, &closed] {
        config.set_host(host.as_str(), plain());
    }
    let mirrors = vec![closed, format!("{}/cache/x", empty.host), bad.host.clone()];
    config.set_host(&good.host, HostSettings { mirrors, ..plain() });
    config.set_credentials(&good.host, Credential::password("user", "hunter2"));
    let options = ClientOptions { retries: 1, ..quick() };
    let client = Client::new(config, options);
    let store = store();
    store.pull(&client, &good.reference()).await.unwrap();
    assert_eq!(empty.lines()[0], "GET /v2/cache/x/team/app/manifests/latest");
    assert_eq!(bad.lines()[0], "GET /v2/team/app/manifests/latest");
    for request in bad.requests().iter().chain(&empty.requests()) {
        assert_eq!(request.header("authorization"), None);
    }
    assert!(good.lines().iter().all(|line| line.ends_with(&layer)), "{:?}", good.lines());
    assert!(store.names(".ingest").is_empty());
}

#[tokio::test]
async fn proxies_are_used_unless_excepted() {
    let content = Content::image(&[1000]);
    let target = content.clone();
    let proxy = Mock::start(Content::default(), move |r| {
        let name = r.path().rsplit('/').next().unwrap();
        let (kind, body) = match target.manifests.get(name) {
            Some((kind, bytes)) => (kind.as_str(), bytes),
            None => ("application/octet-stream", &target.blobs[name]),
        };
        Some(Answer::new(200, body.clone()).header("Content-Type", kind))
    })
    .await;
    let env = |except: &str| {
        let pairs = [("http_proxy", format!("http://{}", proxy.host)), ("NO_PROXY", except.to_owned())];
        let env = pairs.map(|(name, value)| (name.to_owned(), value)).into();
        vesselrt_storage::registry::Sources { env, ..Default::default() }
    };
    let load = |except: &str, host: &str| {
        let mut config = RegistryConfig::load(&env(except)).unwrap();
        config.set_host(host, plain());
        Client::new(config, ClientOptions { retries: 0, ..quick() })
    };
    let remote = "far.test:5000";
    store().pull(&load("", remote), "far.test:5000/team/app").await.unwrap();
    assert_eq!(proxy.lines()[0], "GET http://far.test:5000/v2/team/app/manifests/latest");
    let before = proxy.requests().len();
    assert!(store().pull(&load("*.x,far.test", remote), "far.test:5000/team/app").await.is_err());
    let local = Mock::start(content, |_| None).await;
    store().pull(&load("", &local.host), &local.reference()).await.unwrap();
    assert_eq!(proxy.requests().len(), before, "neither excepted hosts nor this machine go through a proxy");
}

/// Answers whatever begins with TLS as registries without it do.
fn without_tls() -> String {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]).unwrap();
        stream.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request").unwrap();
    });
    host
}

#[tokio::test]
async fn a_registry_without_tls_is_told_with_the_setting_that_helps() {
    let host = without_tls();
    let client = Client::new(RegistryConfig::default(), ClientOptions { retries: 0, ..quick() });
    let error = store().pull(&client, &format!("{host}/team/app:1")).await.unwrap_err();
    let remedy = error.remedy().unwrap_or_else(|| panic!("no remedy: {error:?}"));
    let setting = format!("[registry.\"{host}\"] plain_http = true");
    assert!(remedy.contains(&setting), "{remedy}");
    // Where nothing answers, it would not help.
    let closed = format!("127.0.0.1:{}/team/app:1", crate::common::free_port());
    assert_eq!(store().pull(&client, &closed).await.unwrap_err().remedy(), None);
}
