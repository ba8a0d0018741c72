//! Against Debian's `docker-registry` (distribution 2.8), with images that skopeo pushed.
#![forbid(unsafe_code)]

use vesselrt_storage::registry::FetchEvent;

use crate::common::{Events, Registry, client, collect, have, layout, run, store};

/// A plain registry with an image of six layers at `name:latest`.
fn plain_registry(name: &str) -> Option<Registry> {
    if !have(&["docker-registry", "skopeo"]) {
        return None;
    }
    let registry = Registry::start("127.0.0.1", "", "");
    let source = layout(&registry.dir.path().join("layout"), 6, 300_000);
    let (from, to) =
        (format!("oci:{}:latest", source.display()), format!("docker://{}/{name}:latest", registry.host));
    run("skopeo", &["copy", "-q", "--dest-tls-verify=false", &from, &to]);
    Some(registry)
}

#[tokio::test]
async fn an_anonymous_pull_and_the_next_one() {
    let Some(registry) = plain_registry("team/app") else { return };
    let (store, client) = (store(), client(&[&registry.host]));
    let reference = format!("{}/team/app:latest", registry.host);
    let events = Events::default();
    let fetched = store.pull_events(&client, &reference, collect(&events)).await.unwrap();
    assert_eq!(fetched.image.layers.len(), 6);
    assert!(fetched.transferred > 6 * 300_000);
    drop(fetched);
    assert_eq!(store.blobs(), 8, "six layers, configuration, manifest");
    assert!(store.names(".ingest").is_empty());
    let verified = events.lock().unwrap().iter().filter(|e| matches!(e, FetchEvent::Verified { .. })).count();
    assert_eq!(verified, 7);

    let before = registry.log().matches("http.request.method").count();
    let again = store.pull(&client, &reference).await.unwrap();
    assert_eq!(again.transferred, 0);
    let log = registry.log();
    let requests: Vec<&str> =
        log.lines().filter(|line| line.contains("HTTP/1.1\"")).skip_while(|_| false).collect();
    let _ = before;
    let last = requests.last().unwrap();
    assert!(last.contains("HEAD /v2/team/app/manifests/latest"), "{last}");
    let heads = requests.iter().rev().take_while(|line| line.contains("vesselrt")).count();
    assert_eq!(heads, 1 + 8, "the first pull asked for manifest and seven blobs");
}
