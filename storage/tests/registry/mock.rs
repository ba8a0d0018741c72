//! A registry that does whatever a test says: HTTP/1.1 by hand, so that broken answers can be given as well.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use vesselrt_storage::Digest;

use crate::common::{config, noise};

/// A request, with header names in lower case.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap()
    }
}

/// What is sent after the headers.
#[derive(Debug, Clone)]
pub(crate) enum Body {
    /// These bytes, with their length.
    Full(Vec<u8>),
    /// These bytes, announced as so many.
    Claimed(Vec<u8>, u64),
    /// Zeros without end, chunked.
    Endless,
    /// These bytes, announced with their length, a few at a time.
    Drip { bytes: Vec<u8>, step: usize, every: Duration },
    /// Nothing of these many bytes, and the connection stays open.
    Hang(u64),
    /// Not even headers: the connection is closed.
    Reset,
}

/// A response.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Body,
}

impl Answer {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: Body::Full(body.into()) }
    }

    pub(crate) fn with(status: u16, body: Body) -> Self {
        Self { status, headers: Vec::new(), body }
    }

    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// A redirect.
    pub(crate) fn to(status: u16, location: impl Into<String>) -> Self {
        Self::new(status, "").header("Location", location)
    }
}

/// What answers first; `None` leaves it to the image.
pub(crate) type Hook = Arc<dyn Fn(&Request) -> Option<Answer> + Send + Sync>;

/// Content of the registry.
#[derive(Debug, Clone, Default)]
pub(crate) struct Content {
    /// Type and bytes, by tag and by digest.
    pub(crate) manifests: HashMap<String, (String, Vec<u8>)>,
    pub(crate) blobs: HashMap<String, Vec<u8>>,
    /// Digests of the layers, in order.
    pub(crate) layers: Vec<Digest>,
}

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";

impl Content {
    /// An image `latest` with layers of these sizes.
    pub(crate) fn image(sizes: &[usize]) -> Self {
        let mut content = Self::default();
        let layers: Vec<Vec<u8>> =
            sizes.iter().enumerate().map(|(n, size)| noise(n as u64 + 7, *size)).collect();
        content.layers = layers.iter().map(|layer| content.blob(layer)).collect();
        let config = config(&content.layers);
        let config_digest = content.blob(config.as_bytes());
        let descriptors: Vec<serde_json::Value> = std::iter::zip(&content.layers, &layers)
            .map(|(digest, layer)| {
                serde_json::json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest,
                    "size": layer.len(), "urls": ["http://127.0.0.1:1/foreign"]})
            })
            .collect();
        let manifest = serde_json::json!({"schemaVersion": 2, "mediaType": MANIFEST, "layers": descriptors,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest,
            "size": config.len()}});
        content.manifest("latest", MANIFEST, manifest.to_string().as_bytes());
        content
    }

    pub(crate) fn blob(&mut self, bytes: &[u8]) -> Digest {
        let digest = Digest::sha256(bytes);
        self.blobs.insert(digest.to_string(), bytes.to_vec());
        digest
    }

    pub(crate) fn manifest(&mut self, tag: &str, kind: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::sha256(bytes);
        for name in [tag.to_owned(), digest.to_string()] {
            self.manifests.insert(name, (kind.to_owned(), bytes.to_vec()));
        }
        digest
    }

    fn answer(&self, request: &Request) -> Answer {
        let parts: Vec<&str> = request.path().rsplitn(3, '/').collect();
        let missing =
            || Answer::new(404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no such thing"}]}"#);
        match parts[..] {
            [which, "manifests", _] => self.manifests.get(which).map_or_else(missing, |(kind, bytes)| {
                Answer::new(200, bytes.clone())
                    .header("Content-Type", kind)
                    .header("Docker-Content-Digest", Digest::sha256(bytes).to_string())
            }),
            [which, "blobs", _] => self.blobs.get(which).map_or_else(missing, |bytes| ranged(request, bytes)),
            _ if request.path() == "/v2/" => Answer::new(200, "{}"),
            _ => missing(),
        }
    }
}

/// Bytes, or the part that `Range` asks for.
pub(crate) fn ranged(request: &Request, bytes: &[u8]) -> Answer {
    let from =
        request.header("range").and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    match from {
        Some(from) if from < bytes.len() => Answer::new(206, &bytes[from..])
            .header("Content-Range", format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len())),
        Some(_) => Answer::new(416, ""),
        None => Answer::new(200, bytes),
    }
}

/// A server on loopback.
pub(crate) struct Mock {
    pub(crate) port: u16,
    pub(crate) host: String,
    seen: Arc<Mutex<Vec<Request>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Mock {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Mock {
    pub(crate) async fn start(
        content: Content,
        hook: impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static,
    ) -> Self {
        Self::start_with(content, hook, None).await
    }

    /// With TLS, if there is an acceptor.
    pub(crate) async fn start_with(
        content: Content,
        hook: impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static,
        tls: Option<TlsAcceptor>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Mutex<Vec<Request>>>::default();
        let (log, content, hook): (_, _, Hook) = (seen.clone(), Arc::new(content), Arc::new(hook));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (log, content, hook) = (log.clone(), content.clone(), hook.clone());
                match tls.clone() {
                    None => drop(tokio::spawn(serve(stream, log, content, hook))),
                    Some(tls) => drop(tokio::spawn(async move {
                        if let Ok(stream) = tls.accept(stream).await {
                            serve(stream, log, content, hook).await;
                        }
                    })),
                }
            }
        });
        Self { port: address.port(), host: address.to_string(), seen, task }
    }

    /// All requests so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }

    /// `METHOD target` of all requests so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.requests().iter().map(|request| format!("{} {}", request.method, request.target)).collect()
    }

    pub(crate) fn reference(&self) -> String {
        format!("{}/team/app:latest", self.host)
    }
}

/// A connection.
trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Io for S {}

async fn serve<S: Io>(stream: S, log: Arc<Mutex<Vec<Request>>>, content: Arc<Content>, hook: Hook) {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read(&mut stream).await {
        log.lock().unwrap().push(request.clone());
        let answer = hook(&request).unwrap_or_else(|| content.answer(&request));
        if write(stream.get_mut(), &request, answer).await.is_none() {
            return;
        }
    }
}

async fn read<S: Io>(stream: &mut BufReader<S>) -> Option<Request> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok().filter(|n| *n > 0)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, target) = (words.next()?, words.next()?);
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok().filter(|n| *n > 0)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").map_or(0, |text| text.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(Request { method, target, headers, body })
}

/// `None` if the connection cannot be used again.
async fn write<S: Io>(stream: &mut S, request: &Request, answer: Answer) -> Option<()> {
    let length = match &answer.body {
        Body::Reset => return None,
        Body::Full(bytes) | Body::Drip { bytes, .. } => Some(bytes.len() as u64),
        Body::Claimed(_, length) => Some(*length),
        Body::Endless => None,
        Body::Hang(length) => Some(*length),
    };
    let mut head = format!("HTTP/1.1 {} X\r\n", answer.status);
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += &length.map_or_else(
        || "Transfer-Encoding: chunked\r\n\r\n".to_owned(),
        |n| format!("Content-Length: {n}\r\n\r\n"),
    );
    stream.write_all(head.as_bytes()).await.ok()?;
    if request.method == "HEAD" {
        return Some(());
    }
    match answer.body {
        Body::Full(bytes) => stream.write_all(&bytes).await.ok(),
        Body::Claimed(bytes, _) => {
            stream.write_all(&bytes).await.ok()?;
            None
        }
        Body::Endless => {
            let chunk = [b"10000\r\n".as_slice(), &[0; 65536], b"\r\n"].concat();
            loop {
                stream.write_all(&chunk).await.ok()?;
            }
        }
        Body::Drip { bytes, step, every } => {
            for piece in bytes.chunks(step) {
                stream.write_all(piece).await.ok()?;
                tokio::time::sleep(every).await;
            }
            Some(())
        }
        Body::Hang(_) => {
            tokio::time::sleep(Duration::from_secs(60)).await;
            None
        }
        Body::Reset => None,
    }
}

/// A certificate for `names`, signed by itself: the acceptor, and the certificate in PEM.
pub(crate) fn certificate(names: &[&str]) -> (TlsAcceptor, String, String) {
    use tokio_rustls::rustls::pki_types::PrivateKeyDer;
    use tokio_rustls::rustls::{ServerConfig, crypto::ring};
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let server = builder.with_single_cert(vec![made.cert.der().clone()], key).unwrap();
    (TlsAcceptor::from(Arc::new(server)), made.cert.pem(), made.signing_key.serialize_pem())
}
