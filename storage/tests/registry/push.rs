//! Writing to registries.
#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use vesselrt_storage::error::StorageErrorKind as Kind;
use vesselrt_storage::image::descriptor::Descriptor;
use vesselrt_storage::registry::{
    BlobSource, Client, ClientOptions, Mount, RegistryConfig, RegistryError, Result,
};
use vesselrt_storage::{Digest, Reference};

use crate::common::{Registry, client, have, layout, noise, plain, quick, run, store};
use crate::mock::{Answer, Body, Content, MANIFEST, Mock, Request};

/// Pushes the image of a layout as `NAME:latest`; how many blobs were sent.
pub(crate) async fn push_layout(client: &Client, dir: &Path, host: &str, name: &str) -> Result<usize> {
    let reference = Reference::parse(&format!("{host}/{name}:latest")).unwrap();
    let read = |digest: &Digest| std::fs::read(dir.join("blobs/sha256").join(digest.hex())).unwrap();
    let index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(dir.join("index.json")).unwrap()).unwrap();
    let root: Descriptor = serde_json::from_value(index["manifests"][0].clone()).unwrap();
    let bytes = read(&root.digest);
    let manifest: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    let mut blobs: Vec<Descriptor> = serde_json::from_value(manifest["layers"].clone()).unwrap();
    blobs.push(serde_json::from_value(manifest["config"].clone()).unwrap());
    let mut sent = 0;
    for blob in &blobs {
        let file = std::fs::File::open(dir.join("blobs/sha256").join(blob.digest.hex())).unwrap();
        let source = BlobSource::File(Arc::new(file));
        sent += usize::from(client.upload_blob(&reference, blob, &source, |_| {}).await?);
    }
    let digest = client.put_manifest(&reference, MANIFEST, bytes.into()).await?;
    assert_eq!(digest, root.digest);
    Ok(sent)
}

#[tokio::test]
async fn what_we_push_others_read() {
    if !have(&["docker-registry", "skopeo"]) {
        return;
    }
    let registry = Registry::start("127.0.0.1", "", "");
    let source = layout(&registry.dir.path().join("layout"), 4, 500_000);
    let options = ClientOptions { chunk_above: 200_000, chunk_size: 150_000, ..quick() };
    let mut config = RegistryConfig::default();
    config.set_host(&registry.host, plain());
    for (name, client) in
        [("whole/app", client(&[&registry.host])), ("chunked/app", Client::new(config, options))]
    {
        assert_eq!(push_layout(&client, &source, &registry.host, name).await.unwrap(), 5, "{name}");
        assert_eq!(
            push_layout(&client, &source, &registry.host, name).await.unwrap(),
            0,
            "nothing is sent twice"
        );
        let image = format!("docker://{}/{name}:latest", registry.host);
        run("skopeo", &["inspect", "--tls-verify=false", &image]);
        let back = format!("oci:{}:latest", registry.dir.path().join(name.replace("/", "-")).display());
        run("skopeo", &["copy", "-q", "--src-tls-verify=false", &image, &back]);
        let reference = Reference::parse(&format!("{}/{name}", registry.host)).unwrap();
        assert_eq!(client.list_tags(&reference).await.unwrap(), ["latest"]);
        let pulled = store().pull(&client, &reference.to_string()).await.unwrap();
        assert_eq!(pulled.image.layers.len(), 4);
    }
    let patches = registry.log().matches("\"PATCH /v2/chunked/app").count();
    assert_eq!(patches, 4 * 4, "500,000 bytes are four pieces");
    assert!(!registry.log().contains("PATCH /v2/whole/app"));
}

#[tokio::test]
async fn blobs_are_mounted_from_other_repositories() {
    if !have(&["docker-registry"]) {
        return;
    }
    let registry = Registry::start("127.0.0.1", "", "");
    let client = client(&[&registry.host]);
    let repository = |name: &str| Reference::parse(&format!("{}/{name}", registry.host)).unwrap();
    let bytes = Bytes::from(noise(3, 100_000));
    let blob = Descriptor::new("application/octet-stream", Digest::sha256(&bytes), 100_000);
    let source = BlobSource::Bytes(bytes);
    let (a, b, c) = (repository("a/one"), repository("b/two"), repository("c/three"));
    assert!(client.upload_blob(&a, &blob, &source, |_| {}).await.unwrap());
    assert!(matches!(client.mount_blob(&b, &blob, &a).await.unwrap(), Mount::Mounted));
    assert!(client.exists_blob(&b, &blob).await.unwrap());
    // From where it is not, an upload is offered instead, and works.
    match client.mount_blob(&c, &blob, &repository("d/none")).await.unwrap() {
        Mount::Session(session) => client.upload_blob_in(&c, &blob, &source, session, |_| {}).await.unwrap(),
        other => panic!("{other:?}"),
    }
    assert!(client.exists_blob(&c, &blob).await.unwrap());
    let elsewhere = Reference::parse("other.example/x").unwrap();
    assert_eq!(client.mount_blob(&b, &blob, &elsewhere).await.unwrap_err().kind(), Kind::InvalidArgument);
}

#[tokio::test]
async fn sources_that_are_not_what_they_say() {
    if !have(&["docker-registry"]) {
        return;
    }
    let registry = Registry::start("127.0.0.1", "", "");
    let client = client(&[&registry.host]);
    let to = Reference::parse(&format!("{}/a/b", registry.host)).unwrap();
    let bytes = Bytes::from_static(b"content");
    for (digest, size) in
        [(Digest::sha256(b"other"), 7), (Digest::sha256(&bytes), 6), (Digest::sha256(&bytes), 8)]
    {
        let blob = Descriptor::new("application/octet-stream", digest, size);
        let error =
            client.upload_blob(&to, &blob, &BlobSource::Bytes(bytes.clone()), |_| {}).await.unwrap_err();
        assert!(matches!(error.kind(), Kind::IntegrityViolation | Kind::InvalidArgument), "{error}");
        assert!(!client.exists_blob(&to, &blob).await.unwrap());
    }
    let pinned = Reference::parse(&format!("{to}@{}", Digest::sha256(b"else"))).unwrap();
    let error = client.put_manifest(&pinned, MANIFEST, Bytes::from_static(b"{}")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::IntegrityViolation);
    // A manifest whose blobs were not sent.
    let (_, bytes) = Content::image(&[10]).manifests["latest"].clone();
    let error = client.put_manifest(&to, MANIFEST, bytes.into()).await.unwrap_err();
    assert!(error.to_string().contains("unknown"), "the registry's own words: {error}");
}

/// The uploads of a mock: what arrived.
type Arrived = Arc<Mutex<Vec<u8>>>;

fn upload_answer(request: &Request, arrived: &Arrived, host_of_uploads: &str) -> Option<Answer> {
    let location = format!("{host_of_uploads}/upload/1?state=x");
    let range = |arrived: &Vec<u8>| format!("0-{}", arrived.len().max(1) - 1);
    match (request.method.as_str(), request.path()) {
        ("HEAD", _) => Some(Answer::new(404, "")),
        ("POST", _) => Some(Answer::new(202, "").header("Location", location)),
        ("GET", "/upload/1") => {
            let range = range(&arrived.lock().unwrap());
            Some(Answer::new(204, "").header("Range", range).header("Location", location))
        }
        ("PATCH", "/upload/1") => {
            arrived.lock().unwrap().extend(&request.body);
            Some(Answer::new(202, "").header("Location", location))
        }
        ("PUT", "/upload/1") => {
            arrived.lock().unwrap().extend(&request.body);
            Some(Answer::new(201, ""))
        }
        _ => None,
    }
}

fn in_pieces(host: &str) -> Client {
    let mut config = RegistryConfig::default();
    config.set_host(host, plain());
    config.set_credentials(host, vesselrt_storage::registry::Credential::password("user", "hunter2"));
    Client::new(config, ClientOptions { chunk_above: 1000, chunk_size: 1000, ..quick() })
}

#[tokio::test]
async fn a_piece_that_is_lost_is_sent_again() {
    let bytes = Bytes::from(noise(5, 4500));
    let blob = Descriptor::new("application/octet-stream", Digest::sha256(&bytes), 4500);
    let (arrived, count) = (Arrived::default(), Mutex::new(0));
    let inner = arrived.clone();
    let mock = Mock::start(Content::default(), move |r| {
        if r.method == "PATCH" {
            let mut count = count.lock().unwrap();
            *count += 1;
            if *count == 2 {
                // Half of it arrives, and the connection breaks.
                inner.lock().unwrap().extend(&r.body[..500]);
                return Some(Answer::with(202, Body::Reset));
            }
            if *count == 3 {
                return Some(Answer::new(503, ""));
            }
        }
        upload_answer(r, &inner, "")
    })
    .await;
    let to = Reference::parse(&format!("{}/a/b", mock.host)).unwrap();
    let told = Mutex::new(Vec::new());
    let source = BlobSource::Bytes(bytes.clone());
    in_pieces(&mock.host).upload_blob(&to, &blob, &source, |n| told.lock().unwrap().push(n)).await.unwrap();
    assert_eq!(*arrived.lock().unwrap(), bytes);
    assert_eq!(*told.lock().unwrap(), [1000, 2500, 3500, 4500]);
    let ranges: Vec<String> =
        mock.requests().iter().filter_map(|r| r.header("content-range").map(str::to_owned)).collect();
    assert_eq!(ranges, ["0-999", "1000-1999", "1500-2499", "1500-2499", "2500-3499", "3500-4499"]);
    assert!(mock.lines().last().unwrap().contains("state=x&digest=sha256%3A"), "{:?}", mock.lines());
}

#[tokio::test]
async fn uploads_elsewhere_do_not_see_credentials() {
    let (arrived, bytes) = (Arrived::default(), Bytes::from(noise(6, 500)));
    let inner = arrived.clone();
    let elsewhere = Mock::start(Content::default(), move |r| upload_answer(r, &inner, "")).await;
    let place = format!("http://{}", elsewhere.host);
    let mock = Mock::start(Content::default(), move |r| {
        if r.header("authorization").is_none() {
            return Some(Answer::new(401, "").header("WWW-Authenticate", "Basic realm=\"x\""));
        }
        upload_answer(r, &Arrived::default(), &place)
    })
    .await;
    let blob = Descriptor::new("application/octet-stream", Digest::sha256(&bytes), 500);
    let to = Reference::parse(&format!("{}/a/b", mock.host)).unwrap();
    let source = BlobSource::Bytes(bytes.clone());
    in_pieces(&mock.host).upload_blob(&to, &blob, &source, |_| {}).await.unwrap();
    assert_eq!(*arrived.lock().unwrap(), bytes);
    assert!(elsewhere.requests().iter().all(|r| r.header("authorization").is_none()));

    for place in ["http://169.254.169.254", "http://10.0.0.1", "file://"] {
        let mock =
            Mock::start(Content::default(), move |r| upload_answer(r, &Arrived::default(), place)).await;
        let to = Reference::parse(&format!("{}/a/b", mock.host)).unwrap();
        let error = in_pieces(&mock.host).upload_blob(&to, &blob, &source, |_| {}).await.unwrap_err();
        assert!(matches!(error, RegistryError::Refused { .. }), "{place}: {error}");
    }
}

#[tokio::test]
async fn what_is_written_is_not_redirected() {
    for method in ["POST", "PUT"] {
        let mock = Mock::start(Content::default(), move |r| {
            (r.method == method)
                .then(|| Answer::to(307, "/elsewhere"))
                .or_else(|| upload_answer(r, &Arrived::default(), ""))
        })
        .await;
        let bytes = Bytes::from_static(b"x");
        let blob = Descriptor::new("application/octet-stream", Digest::sha256(&bytes), 1);
        let to = Reference::parse(&format!("{}/a/b", mock.host)).unwrap();
        let error = in_pieces(&mock.host)
            .upload_blob(&to, &blob, &BlobSource::Bytes(bytes), |_| {})
            .await
            .unwrap_err();
        assert!(matches!(error, RegistryError::Protocol { .. }), "{method}: {error}");
    }
}

#[tokio::test]
async fn lists_of_tags_end() {
    let page = |r: &Request, link: &str| {
        let last = r.target.contains("last=b");
        let answer = Answer::new(200, if last { r#"{"tags":["c"]}"# } else { r#"{"tags":["a","b"]}"# });
        if last && !link.contains("loop") {
            answer
        } else {
            answer.header("Link", format!("<{link}>; rel=\"next\""))
        }
    };
    let tags = async |link: &'static str| {
        let mock = Mock::start(Content::default(), move |r| Some(page(r, link))).await;
        let listed = client(&[&mock.host]).list_tags(&Reference::parse(&mock.reference()).unwrap()).await;
        (listed, mock.requests().len())
    };
    let (listed, requests) = tags("/v2/team/app/tags/list?n=2&last=b").await;
    assert_eq!((listed.unwrap().join(""), requests), ("abc".to_owned(), 2));
    let (listed, requests) = tags("/v2/team/app/tags/list?last=b&loop").await;
    assert_eq!((listed.unwrap_err().kind(), requests), (Kind::LimitExceeded, 100));
    // Elsewhere is not gone to.
    let (listed, requests) = tags("http://169.254.169.254/?last=b").await;
    assert!(matches!(listed, Err(RegistryError::Refused { .. })) && requests == 1);
    let mock = Mock::start(Content::default(), |_| Some(Answer::with(200, Body::Endless))).await;
    let endless = client(&[&mock.host]).list_tags(&Reference::parse(&mock.reference()).unwrap()).await;
    assert_eq!(endless.unwrap_err().kind(), Kind::LimitExceeded);
}

#[test]
fn everything_can_be_spawned() {
    fn spawnable<T: Send>(_: T) {}
    let (client, store) = (client(&[]), store());
    let reference = Reference::parse("r.example/x").unwrap();
    let blob = Descriptor::new("x", Digest::sha256(b"x"), 1);
    let source = BlobSource::Bytes(Bytes::from_static(b"x"));
    let options = Default::default();
    spawnable(client.upload_blob(&reference, &blob, &source, |_| {}));
    spawnable(client.put_manifest(&reference, "x", Bytes::new()));
    spawnable(client.mount_blob(&reference, &blob, &reference));
    spawnable(client.blob(&reference, &blob, 0));
    spawnable(vesselrt_storage::registry::fetch(&client, &store.content, &reference, &options, |_| {}));
    spawnable(vesselrt_storage::registry::fetch_blob(&client, &store.content, &reference, &blob, |_| {}));
    let config = RegistryConfig::default();
    let credential = vesselrt_storage::registry::Credential::password("u", "p");
    spawnable(vesselrt_storage::registry::login(&client, &config, "r.example", credential));
}
