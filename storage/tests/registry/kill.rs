//! kill -9 in the middle of a fetch.
#![forbid(unsafe_code)]

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;

use vesselrt_storage::{ContentStore, Digest};

use crate::common::{Store, client, noise, store};
use crate::mock::{Answer, Body, Content, Mock};

/// How often a fetch is killed.
const KILLS: usize = 50;

/// Not a test: the process that is killed.
#[tokio::test]
#[ignore = "run by the test below"]
async fn fetching_process() {
    let Ok(reference) = std::env::var("VESSELRT_TEST_FETCH") else { return };
    let dir = std::env::var_os("VESSELRT_TEST_STORE").unwrap();
    let content = std::sync::Arc::new(ContentStore::open(dir).unwrap());
    let reference: vesselrt_storage::Reference = reference.parse().unwrap();
    let client = client(&[reference.domain()]);
    let options = Default::default();
    let fetched =
        vesselrt_storage::registry::fetch(&client, &content, &reference, &options, |_| {}).await.unwrap();
    content.tag(&reference, &fetched.root).unwrap();
}

/// Every blob of the store is what its name says.
fn verify(store: &Store) {
    for name in store.names("blobs/sha256") {
        let mut bytes = Vec::new();
        std::fs::File::open(store.dir.path().join("blobs/sha256").join(&name))
            .unwrap()
            .read_to_end(&mut bytes)
            .unwrap();
        assert_eq!(Digest::sha256(&bytes).hex(), name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_fetches_are_taken_up_again() {
    let content = Content::image(&[900_000, 1_000_000, 1_100_000]);
    let blobs = content.blobs.clone();
    let mock = Mock::start(content, move |r| {
        let bytes = blobs.get(r.path().rsplit('/').next()?).filter(|bytes| bytes.len() > 100_000)?;
        // Slow enough for a fetch to be killed in the middle.
        let answer = crate::mock::ranged(r, bytes);
        let Answer { status, headers, body: Body::Full(bytes) } = answer else { return Some(answer) };
        Some(Answer {
            status,
            headers,
            body: Body::Drip { bytes, step: 50_000, every: Duration::from_millis(8) },
        })
    })
    .await;
    let (mut current, mut interrupted) = (store(), 0);
    for random in noise(std::process::id().into(), KILLS) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill::fetching_process", "--ignored", "--quiet"])
            .env("VESSELRT_TEST_FETCH", mock.reference())
            .env("VESSELRT_TEST_STORE", current.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        tokio::time::sleep(Duration::from_millis(20 + u64::from(random))).await;
        let _ = child.kill();
        let finished = child.wait().unwrap().success();
        verify(&current);
        if finished {
            current = store();
        } else {
            interrupted += 1;
        }
    }
    assert!(interrupted >= KILLS / 2, "{interrupted} of {KILLS}");
    assert!(mock.requests().iter().any(|r| r.header("range").is_some()), "something was resumed");
    let client = client(&[&mock.host]);
    let fetched = current.pull(&client, &mock.reference()).await.unwrap();
    assert_eq!(fetched.image.layers.len(), 3);
    drop(fetched);
    verify(&current);
    current.content.prune_blobs(&[]).unwrap();
    assert!(current.names(".ingest").is_empty());
    assert_eq!(current.blobs(), 5);
}
