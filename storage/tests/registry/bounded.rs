//! A process that talks to hostile registries only: what it costs, and what it leaves behind.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use vesselrt_storage::registry::{Credential, RegistryConfig, fetch};
use vesselrt_storage::{ContentStore, Digest, Reference};

use crate::common::{plain, quick};
use crate::mock::{Answer, Body, Content, INDEX, Mock, Request};

/// Mebibytes of memory that the process may have used at its worst, the test program itself included.
const MEMORY: u64 = 64;

/// Not a test: pulls every reference of `VESSELRT_TEST_HOSTILE`, each of which has to fail, with credentials for each.
#[tokio::test]
#[ignore = "run by the test below"]
async fn pulling_process() {
    let Ok(references) = std::env::var("VESSELRT_TEST_HOSTILE") else { return };
    let dir = std::env::var_os("VESSELRT_TEST_STORE").unwrap();
    let content = std::sync::Arc::new(ContentStore::open(dir).unwrap());
    let mut config = RegistryConfig::default();
    let references: Vec<Reference> = references.split(' ').map(|text| text.parse().unwrap()).collect();
    for reference in &references {
        config.set_host(reference.domain(), plain());
        config.set_credentials(reference.domain(), Credential::password("user", "hunter2"));
    }
    let client = vesselrt_storage::registry::Client::new(config, quick());
    for reference in &references {
        let error = fetch(&client, &content, reference, &Default::default(), |_| {}).await.unwrap_err();
        // A typed error of one readable line, without the password.
        let text = error.to_string();
        assert!(text.len() < 2000 && !text.contains('\n') && !text.contains("hunter2"), "{text}");
        println!("{reference}: {:?}: {text}", error.kind());
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    println!("{}", status.lines().find(|line| line.starts_with("VmHWM:")).unwrap());
}

type Hook = Box<dyn Fn(&Request) -> Option<Answer> + Send + Sync>;

fn on(part: &'static str, answer: impl Fn() -> Answer + Send + Sync + 'static) -> Hook {
    Box::new(move |r| r.path().contains(part).then(&answer))
}

fn challenge(request: &Request) -> Answer {
    let realm = format!("Bearer realm=\"http://{}/token\",service=\"s\"", request.header("host").unwrap());
    Answer::new(401, "").header("WWW-Authenticate", realm)
}

/// A thousand entries, each of them the same index of a thousand more.
fn bomb() -> Content {
    let mut content = Content::image(&[100]);
    let (mut kind, mut bytes) = content.manifests["latest"].clone();
    for _ in 0..4 {
        let entry =
            serde_json::json!({"mediaType": kind, "digest": Digest::sha256(&bytes), "size": bytes.len()});
        let index =
            serde_json::json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": vec![entry; 1000]});
        (kind, bytes) = (INDEX.to_owned(), index.to_string().into_bytes());
        content.manifest("latest", INDEX, &bytes);
    }
    content
}

/// What a registry may do that costs whoever listens to it.
fn costly() -> Vec<(Content, Hook)> {
    let image = || Content::image(&[50_000]);
    let endless = |status: u16| move || Answer::with(status, Body::Endless);
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let deep = || "[".repeat(4 << 20);
    vec![
        (image(), on("/manifests/", move || endless(200)().header("Content-Type", kind))),
        (image(), on("/blobs/", endless(200))),
        (image(), on("/manifests/", endless(404))),
        (image(), on("/blobs/", endless(500))),
        (image(), on("/", endless(401))),
        (image(), on("/manifests/", move || Answer::new(200, deep()).header("Content-Type", kind))),
        (image(), on("/manifests/", || Answer::new(200, "").header("X-Flood", "x".repeat(8 << 20)))),
        (
            image(),
            on("/manifests/", || {
                (0..50_000).fold(Answer::new(200, ""), |a, n| a.header(&format!("X-{n}"), "x"))
            }),
        ),
        (image(), on("/manifests/", || Answer::to(307, format!("http://127.0.0.1/{}", "x".repeat(4 << 20))))),
        (image(), Box::new(move |r| Some(if r.path() == "/token" { endless(200)() } else { challenge(r) }))),
        (bomb(), Box::new(|_| None)),
    ]
}

/// Names below `dir`, but for what is in the store.
fn beside(dir: &Path) -> BTreeSet<PathBuf> {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_registries_cost_little_and_leave_nothing() {
    let mut mocks = Vec::new();
    for (content, hook) in costly() {
        mocks.push(Mock::start(content, hook).await);
    }
    let references: Vec<String> = mocks.iter().map(Mock::reference).collect();
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("store")).unwrap();
    std::fs::write(dir.path().join("canary"), "untouched").unwrap();
    let (before, started) = (beside(dir.path()), Instant::now());
    let child = Command::new("timeout")
        .arg("120")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "bounded::pulling_process", "--ignored", "--nocapture"])
        .env("VESSELRT_TEST_HOSTILE", references.join(" "))
        .env("VESSELRT_TEST_STORE", dir.path().join("store"))
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    let peak = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < MEMORY << 10, "{peak} KiB\n{text}");
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
    assert_eq!(beside(dir.path()), before);
    assert_eq!(std::fs::read(dir.path().join("canary")).unwrap(), b"untouched");
    let ingest = dir.path().join("store/.ingest");
    // What an honest registry would be asked for again, and no more of it than announced.
    let left: u64 = beside(&ingest).iter().map(|path| path.metadata().unwrap().len()).sum();
    assert!(left <= 50_000, "{left}\n{text}");
    for blob in beside(&dir.path().join("store/blobs/sha256")) {
        let bytes = std::fs::read(&blob).unwrap();
        assert_eq!(Digest::sha256(&bytes).hex(), blob.file_name().unwrap().to_str().unwrap());
        assert!(bytes.len() <= 4 << 20);
    }
    let store = ContentStore::open(dir.path().join("store")).unwrap();
    store.prune_blobs(&[]).unwrap();
    assert!(beside(&ingest).is_empty());
}
