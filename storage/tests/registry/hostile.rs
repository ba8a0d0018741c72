//! What a registry may do to us: wrong bytes, wrong sizes, no end, no answer.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use vesselrt_storage::error::StorageErrorKind as Kind;
use vesselrt_storage::registry::{FetchOptions, RegistryError, fetch};
use vesselrt_storage::{Digest, Reference};

use crate::common::{client, store};
use crate::mock::{Answer, Body, Content, INDEX, MANIFEST, Mock, Request};

/// Pulls from a registry that answers with `hook`, which must fail, soon, with nothing stored but documents.
async fn fails(
    content: Content,
    hook: impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static,
) -> (Mock, RegistryError) {
    let layers = content.layers.clone();
    let mock = Mock::start(content, hook).await;
    let (store, started) = (store(), Instant::now());
    let error = store.pull(&client(&[&mock.host]), &mock.reference()).await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(20), "{error}");
    for layer in layers {
        assert!(!store.names("blobs/sha256").contains(&layer.hex().to_owned()), "{error}");
    }
    if error.kind() == Kind::IntegrityViolation {
        assert!(store.names(".ingest").is_empty(), "{error}");
    }
    (mock, error)
}

fn is_blob(request: &Request) -> bool {
    request.path().contains("/blobs/")
}

fn is_layer(request: &Request, content: &Content) -> bool {
    content.layers.iter().any(|layer| request.path().ends_with(layer.hex()))
}

#[tokio::test]
async fn wrong_bytes_of_a_layer() {
    let content = Content::image(&[50_000]);
    let good = content.blobs[&content.layers[0].to_string()].clone();
    let mut flipped = good.clone();
    flipped[25_000] ^= 1;
    let longer = [good.clone(), b"\n".to_vec()].concat();
    let cases = [
        ("flipped", Answer::new(200, flipped)),
        ("longer", Answer::new(200, longer.clone())),
        ("shorter", Answer::new(200, &good[..49_999])),
        ("empty", Answer::new(200, "")),
        ("longer than announced", Answer::with(200, Body::Claimed(longer, 50_000))),
        ("endless", Answer::with(200, Body::Endless)),
        ("no content", Answer::new(204, "")),
        (
            "a range that nobody asked for",
            Answer::new(206, good).header("Content-Range", "bytes 0-49999/50000"),
        ),
    ];
    for (name, answer) in cases {
        let (layers, longer) = (content.clone(), name == "longer than announced");
        let hook = move |r: &Request| is_layer(r, &layers).then(|| answer.clone());
        if longer {
            // What is beyond the announced length is not of this response: HTTP itself cuts it off.
            let mock = Mock::start(content.clone(), hook).await;
            store().pull(&client(&[&mock.host]), &mock.reference()).await.unwrap();
            continue;
        }
        let (_, error) = fails(content.clone(), hook).await;
        assert_eq!(error.kind(), Kind::IntegrityViolation, "{name}: {error}");
    }
}

#[tokio::test]
async fn wrong_documents() {
    let content = Content::image(&[1000]);
    let (kind, good) = content.manifests["latest"].clone();
    let text = String::from_utf8(good.clone()).unwrap();
    let schema_1 = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    let with = |kind: &str, bytes: &[u8]| Answer::new(200, bytes).header("Content-Type", kind);
    let huge = format!("{text}{}", " ".repeat(5 << 20));
    let both = text.replacen('{', r#"{"manifests":[],"#, 1);
    let twice = text.replacen('{', r#"{"schemaVersion":2,"#, 1);
    let negative = text.replace("\"size\":1000", "\"size\":-1");
    assert_ne!(negative, text);
    let cases = [
        (
            "another digest announced",
            Kind::IntegrityViolation,
            with(&kind, &good).header("Docker-Content-Digest", Digest::sha256(b"x").to_string()),
        ),
        (
            "a malformed digest announced",
            Kind::IntegrityViolation,
            with(&kind, &good).header("Docker-Content-Digest", "sha256:../../x"),
        ),
        ("not JSON", Kind::IntegrityViolation, with(&kind, b"<html>")),
        ("nothing", Kind::IntegrityViolation, with(&kind, b"")),
        ("huge", Kind::LimitExceeded, with(&kind, huge.as_bytes())),
        ("endless", Kind::LimitExceeded, Answer::with(200, Body::Endless).header("Content-Type", &kind)),
        (
            "a lie about its length",
            Kind::LimitExceeded,
            Answer::with(200, Body::Claimed(good.clone(), 1 << 40)).header("Content-Type", &kind),
        ),
        ("index and manifest", Kind::IntegrityViolation, with(&kind, both.as_bytes())),
        ("a manifest as an index", Kind::IntegrityViolation, with(INDEX, &good)),
        ("one key twice", Kind::IntegrityViolation, with(&kind, twice.as_bytes())),
        ("a negative size", Kind::IntegrityViolation, with(&kind, negative.as_bytes())),
        ("schema 1", Kind::Unsupported, with(schema_1, br#"{"schemaVersion":1,"fsLayers":[]}"#)),
        ("schema 1 in disguise", Kind::Unsupported, with(&kind, br#"{"schemaVersion":1,"fsLayers":[]}"#)),
        ("something else", Kind::Unsupported, with("application/x-odd", &good)),
        ("missing", Kind::NotFound, Answer::new(404, "")),
        ("hanging", Kind::Unavailable, Answer::with(200, Body::Hang(100)).header("Content-Type", &kind)),
        (
            "dripping",
            Kind::Unavailable,
            Answer::with(200, Body::Drip { bytes: good.clone(), step: 1, every: Duration::from_millis(100) })
                .header("Content-Type", &kind),
        ),
        ("an error page", Kind::Unavailable, Answer::new(500, "<html>")),
        ("an odd status", Kind::InvalidArgument, Answer::new(418, "")),
    ];
    for (name, expected, answer) in cases {
        let (mock, error) =
            fails(content.clone(), move |r| r.path().contains("/manifests/").then(|| answer.clone())).await;
        assert_eq!(error.kind(), expected, "{name}: {error}");
        assert!(!mock.lines().iter().any(|line| line.contains("/blobs/")), "{name}");
    }
}

#[tokio::test]
async fn a_digest_in_the_reference_decides() {
    let content = Content::image(&[1000]);
    let other = Digest::sha256(b"other");
    let (kind, good) = content.manifests["latest"].clone();
    let answer = Answer::new(200, good)
        .header("Content-Type", &kind)
        .header("Docker-Content-Digest", other.to_string());
    let mock = Mock::start(content, move |r| r.path().contains("/manifests/").then(|| answer.clone())).await;
    let pinned = format!("{}/team/app:latest@{other}", mock.host);
    let error = store().pull(&client(&[&mock.host]), &pinned).await.unwrap_err();
    assert_eq!(error.kind(), Kind::IntegrityViolation, "{error}");
    assert!(mock.lines()[0].ends_with(&other.to_string()));
}

/// An index `latest` with these entries.
fn indexed(mut content: Content, entries: &[serde_json::Value]) -> Content {
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
    content.manifest("latest", INDEX, index.to_string().as_bytes());
    content
}

fn entry(kind: &str, bytes: &[u8]) -> serde_json::Value {
    serde_json::json!({"mediaType": kind, "digest": Digest::sha256(bytes), "size": bytes.len()})
}

#[tokio::test]
async fn bombs_of_indexes() {
    let deep = (0..10).fold(Content::image(&[100]), |content, _| {
        let (kind, bytes) = content.manifests["latest"].clone();
        indexed(content, &[entry(&kind, &bytes)])
    });
    let (mock, error) = fails(deep, |_| None).await;
    assert_eq!(error.kind(), Kind::IntegrityViolation, "{error}");
    assert!(mock.requests().len() <= 4, "{:?}", mock.lines());

    let image = Content::image(&[100]);
    let one = entry(MANIFEST, &image.manifests["latest"].1);
    let (mock, error) = fails(indexed(image.clone(), &vec![one.clone(); 1001]), |_| None).await;
    assert_eq!(error.kind(), Kind::LimitExceeded, "{error}");
    assert_eq!(mock.requests().len(), 1);

    let mut other = one.clone();
    other["platform"] = serde_json::json!({"os": "plan9", "architecture": "mips"});
    let (_, error) = fails(indexed(image.clone(), &[other.clone()]), |_| None).await;
    assert_eq!(error.kind(), Kind::NotFound, "{error}");

    // And one that is as it should be, two levels deep.
    let nested = indexed(image.clone(), &[other, one]);
    let (kind, bytes) = nested.manifests["latest"].clone();
    let mock = Mock::start(indexed(nested, &[entry(&kind, &bytes)]), |_| None).await;
    let store = store();
    let fetched = store.pull(&client(&[&mock.host]), &mock.reference()).await.unwrap();
    assert_eq!(fetched.image.manifest_digest, Digest::sha256(&image.manifests["latest"].1));
    assert_eq!(fetched.root.media_type, INDEX);
    let before = mock.requests().len();
    store.pull(&client(&[&mock.host]), &mock.reference()).await.unwrap();
    assert_eq!(mock.lines()[before..], ["HEAD /v2/team/app/manifests/latest"]);
}

#[tokio::test]
async fn the_image_of_another_platform() {
    let image = Content::image(&[100]);
    let mut content = Content::image(&[200]);
    content.blobs.extend(image.blobs.clone());
    content.manifests.extend(
        image.manifests.iter().filter(|(name, _)| name.contains(':')).map(|(n, m)| (n.clone(), m.clone())),
    );
    let (ours, other) = (content.manifests["latest"].1.clone(), image.manifests["latest"].1.clone());
    let mut foreign = entry(MANIFEST, &other);
    foreign["platform"] = serde_json::json!({"os": "linux", "architecture": "s390x"});
    let mut native = entry(MANIFEST, &ours);
    native["platform"] = serde_json::to_value(vesselrt_storage::image::platform::Platform::host()).unwrap();
    let mock = Mock::start(indexed(content, &[foreign, native]), |_| None).await;
    let (store, client) = (store(), client(&[&mock.host]));
    let reference = Reference::parse(&mock.reference()).unwrap();
    for platform in ["linux/s390x", "linux/s390x"] {
        let options = FetchOptions { platform: platform.parse().unwrap(), ..FetchOptions::default() };
        let before = mock.requests().len();
        let fetched = fetch(&client, &store.content, &reference, &options, |_| {}).await.unwrap();
        assert_eq!(
            (&fetched.root.digest, &fetched.image.manifest_digest),
            (&Digest::sha256(&other), &Digest::sha256(&other))
        );
        store.content.tag(&reference, &fetched.root).unwrap();
        assert_eq!(
            store.content.resolve(&reference).unwrap().unwrap().manifest_digest,
            Digest::sha256(&other)
        );
        assert!(before == 0 || mock.requests().len() == before + 1, "{:?}", mock.lines());
    }
    let fetched = store.pull(&client, &mock.reference()).await.unwrap();
    assert_eq!(fetched.image.manifest_digest, Digest::sha256(&ours));
    assert_eq!(fetched.root.media_type, INDEX);
}

#[tokio::test]
async fn many_and_equal_layers() {
    let mut content = Content::image(&[3000]);
    let (kind, bytes) = content.manifests["latest"].clone();
    let mut manifest: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    for count in [500, 501] {
        let config = crate::common::config(&vec![content.layers[0].clone(); count]);
        let digest = content.blob(config.as_bytes());
        manifest["config"]["digest"] = serde_json::json!(digest);
        manifest["config"]["size"] = config.len().into();
        manifest["layers"] = vec![manifest["layers"][0].clone(); count].into();
        content.manifest(&format!("n{count}"), &kind, manifest.to_string().as_bytes());
    }
    let mock = Mock::start(content, |_| None).await;
    let (store, client) = (store(), client(&[&mock.host]));
    let fetched = store.pull(&client, &format!("{}/a:n500", mock.host)).await.unwrap();
    assert_eq!(fetched.image.layers.len(), 500);
    assert_eq!(mock.requests().len(), 3, "one layer is downloaded once");
    let error = store.pull(&client, &format!("{}/a:n501", mock.host)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::LimitExceeded, "{error}");
}

#[tokio::test]
async fn foreign_urls_are_not_followed() {
    let content = Content::image(&[1000]);
    let layers = content.clone();
    let (_, error) = fails(content, move |r| is_layer(r, &layers).then(|| Answer::new(404, ""))).await;
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
}

#[tokio::test]
async fn slow_and_silent_layers() {
    let content = Content::image(&[100_000]);
    let bytes = content.blobs[&content.layers[0].to_string()].clone();
    let slow = Body::Drip { bytes, step: 100, every: Duration::from_millis(50) };
    for (name, body) in [("slow", slow), ("silent", Body::Hang(100_000)), ("reset", Body::Reset)] {
        let layers = content.clone();
        let (mock, error) =
            fails(content.clone(), move |r| is_layer(r, &layers).then(|| Answer::with(200, body.clone())))
                .await;
        assert_eq!(error.kind(), Kind::Unavailable, "{name}: {error}");
        assert!(mock.requests().len() < 12, "{name}: {:?}", mock.lines());
    }
}

/// Answers `first` times with something else than the content.
fn at_first(
    times: usize,
    answer: impl Fn(&Request) -> Option<Answer> + Send + Sync,
) -> impl Fn(&Request) -> Option<Answer> + Send + Sync {
    let left = AtomicUsize::new(times);
    move |request| {
        let answer = answer(request)?;
        left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).ok().map(|_| answer)
    }
}

#[tokio::test]
async fn truncated_layers_are_resumed() {
    let content = Content::image(&[200_000]);
    let bytes = content.blobs[&content.layers[0].to_string()].clone();
    let layers = content.clone();
    let hook = at_first(1, move |r| {
        let cut = Body::Claimed(bytes[..70_000].to_vec(), 200_000);
        is_layer(r, &layers).then(|| Answer::with(200, cut).header("ETag", "\"one\""))
    });
    let mock = Mock::start(content, hook).await;
    let store = store();
    store.pull(&client(&[&mock.host]), &mock.reference()).await.unwrap();
    let requests = mock.requests();
    let last = requests.last().unwrap();
    assert_eq!(last.header("range"), Some("bytes=70000-"));
    assert_eq!(last.header("if-range"), Some("\"one\""));
}

#[tokio::test]
async fn a_bad_answer_to_a_range_starts_over() {
    let content = Content::image(&[200_000]);
    let bytes = content.blobs[&content.layers[0].to_string()].clone();
    let rest = bytes[70_000..].to_vec();
    let range = |range: &str| Answer::new(206, rest.clone()).header("Content-Range", range);
    let answers = [
        ("the whole", Answer::new(200, bytes.clone())),
        ("another range", range("bytes 0-129999/200000")),
        ("a shorter range", range("bytes 70000-70001/200000")),
        ("another total", range("bytes 70000-199999/300000")),
        ("no range", Answer::new(206, rest.clone())),
        ("not satisfiable", Answer::new(416, "")),
        (
            "other bytes",
            Answer::new(206, vec![0; 130_000]).header("Content-Range", "bytes 70000-199999/200000"),
        ),
    ];
    for (name, answer) in answers {
        let (layers, bytes) = (content.clone(), bytes.clone());
        let hook = move |r: &Request| {
            let cut = Body::Claimed(bytes[..70_000].to_vec(), 200_000);
            match r.header("range") {
                _ if !is_layer(r, &layers) => None,
                Some("bytes=70000-") => Some(answer.clone()),
                _ => None.or(Some(Answer::with(200, cut))),
            }
        };
        // The first whole request is cut off, later ones are not.
        let first = AtomicUsize::new(0);
        let layers = content.clone();
        let hook = move |r: &Request| {
            let whole = is_layer(r, &layers) && r.header("range").is_none();
            if whole && first.fetch_add(1, Ordering::SeqCst) > 0 { None } else { hook(r) }
        };
        let mock = Mock::start(content.clone(), hook).await;
        let store = store();
        let pulled = store.pull(&client(&[&mock.host]), &mock.reference()).await;
        pulled.unwrap_or_else(|e| panic!("{name}: {e} {:?}", mock.lines()));
        assert!(store.names(".ingest").is_empty(), "{name}");
    }
}

#[tokio::test]
async fn a_registry_that_always_starts_over_is_given_up() {
    // Two MiB each time, never more, and no ranges: a lot comes, and nothing is won.
    let content = Content::image(&[3_000_000]);
    let bytes = content.blobs[&content.layers[0].to_string()].clone();
    let layers = content.clone();
    let cut = Body::Claimed(bytes[..2_100_000].to_vec(), 3_000_000);
    let (mock, error) =
        fails(content, move |r| is_layer(r, &layers).then(|| Answer::with(200, cut.clone()))).await;
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    assert!(mock.requests().len() < 10, "{:?}", mock.lines());
}

#[tokio::test]
async fn what_passes_is_tried_again() {
    for (name, answer) in [
        ("500", Answer::new(500, "")),
        ("502", Answer::new(502, "")),
        ("503", Answer::new(503, "").header("Retry-After", "0")),
        ("429", Answer::new(429, "").header("Retry-After", "1")),
        ("reset", Answer::with(200, Body::Reset)),
    ] {
        for on in ["/manifests/", "/blobs/"] {
            let answer = answer.clone();
            let mock = Mock::start(
                Content::image(&[1000]),
                at_first(2, move |r| r.path().contains(on).then(|| answer.clone())),
            )
            .await;
            let started = Instant::now();
            store()
                .pull(&client(&[&mock.host]), &mock.reference())
                .await
                .unwrap_or_else(|e| panic!("{name} {on}: {e}"));
            assert!(name != "429" || started.elapsed() >= Duration::from_secs(1), "Retry-After counts");
        }
    }
}

#[tokio::test]
async fn what_does_not_pass_ends() {
    for (name, retry_after, most) in
        [("429", "0", 5), ("429", "3600", 1), ("503", "3600", 1), ("500", "0", 5)]
    {
        let status = name.parse().unwrap();
        let hook = move |_: &Request| Some(Answer::new(status, "").header("Retry-After", retry_after));
        let (mock, error) = fails(Content::default(), hook).await;
        assert_eq!(mock.requests().len(), most, "{name} {retry_after}");
        if status == 429 {
            assert_eq!(error.kind(), Kind::LimitExceeded);
            assert!(
                error.to_string().contains("vesselrt login") && error.to_string().contains("mirror"),
                "{error}"
            );
        }
    }
}

#[tokio::test]
async fn a_cancelled_fetch_is_taken_up_again() {
    let content = Content::image(&[2_000_000]);
    let bytes = content.blobs[&content.layers[0].to_string()].clone();
    let layers = content.clone();
    let hook = at_first(1, move |r| {
        let drip = Body::Drip { bytes: bytes.clone(), step: 100_000, every: Duration::from_millis(20) };
        is_layer(r, &layers).then(|| Answer::with(200, drip))
    });
    let mock = Mock::start(content, hook).await;
    let (store, client) = (store(), client(&[&mock.host]));
    let reference = mock.reference();
    let cut = tokio::time::timeout(Duration::from_millis(200), store.pull(&client, &reference)).await;
    assert!(cut.is_err());
    store.pull(&client, &reference).await.unwrap();
    assert!(mock.requests().last().unwrap().header("range").is_some(), "{:?}", mock.lines());
}

#[tokio::test]
async fn two_who_want_one_image_download_it_once() {
    let content = Content::image(&[500_000, 600_000, 700_000]);
    let mock =
        Mock::start(content, |r| is_blob(r).then(|| std::thread::sleep(Duration::from_millis(30))).and(None))
            .await;
    let store = store();
    // Two clients, two handles of the store: as two processes would have them.
    let other = Arc::new(vesselrt_storage::ContentStore::open(store.dir.path()).unwrap());
    let (one, two) = (client(&[&mock.host]), client(&[&mock.host]));
    let (reference, text) = (Reference::parse(&mock.reference()).unwrap(), mock.reference());
    let options = vesselrt_storage::registry::FetchOptions::default();
    let (a, b) = tokio::join!(
        store.pull(&one, &text),
        vesselrt_storage::registry::fetch(&two, &other, &reference, &options, |_| {})
    );
    assert_eq!(a.unwrap().image.manifest_digest, b.unwrap().image.manifest_digest);
    let mut blobs: Vec<String> = mock.lines().into_iter().filter(|line| line.contains("/blobs/")).collect();
    let all = blobs.len();
    blobs.sort();
    blobs.dedup();
    assert_eq!((blobs.len(), all), (4, 4));
}

#[tokio::test]
async fn sizes_and_kinds_of_configurations() {
    let content = Content::image(&[10]);
    let (kind, bytes) = content.manifests["latest"].clone();
    let manifest: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    let change = |key: &str, value: serde_json::Value| {
        let (mut content, mut manifest) = (content.clone(), manifest.clone());
        manifest["config"][key] = value;
        content.manifest("latest", &kind, manifest.to_string().as_bytes());
        content
    };
    let (_, error) = fails(change("size", (100u64 << 20).into()), |_| None).await;
    assert_eq!(error.kind(), Kind::LimitExceeded, "{error}");
    let mut large = manifest.clone();
    large["layers"][0]["size"] = (1u64 << 50).into();
    let mut other = content.clone();
    other.manifest("latest", &kind, large.to_string().as_bytes());
    let (_, error) = fails(other, |_| None).await;
    assert_eq!(error.kind(), Kind::LimitExceeded, "{error}");
    let (_, error) =
        fails(change("mediaType", "application/vnd.oci.image.layer.v1.tar".into()), |_| None).await;
    assert_eq!(error.kind(), Kind::IntegrityViolation, "{error}");
    let (_, error) = fails(change("digest", content.layers[0].to_string().into()), |_| None).await;
    assert_eq!(error.kind(), Kind::IntegrityViolation, "{error}");
    let sha512 = format!("sha512:{}", "a".repeat(128));
    let (_, error) = fails(change("digest", sha512.into()), |_| None).await;
    assert_eq!(error.kind(), Kind::Unsupported, "{error}");
}
