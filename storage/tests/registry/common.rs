//! What the tests share: stores, clients, and programs of the machine.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use vesselrt_storage::registry::{
    Client, ClientOptions, FetchEvent, FetchOptions, Fetched, HostSettings, RegistryConfig, Result, fetch,
};
use vesselrt_storage::{ContentStore, Reference};

/// A store in a directory that goes away.
pub(crate) struct Store {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) content: Arc<ContentStore>,
}

pub(crate) fn store() -> Store {
    let dir = tempfile::tempdir().unwrap();
    let content = Arc::new(ContentStore::open(dir.path()).unwrap());
    Store { dir, content }
}

impl Store {
    /// The names in a directory of the store.
    pub(crate) fn names(&self, dir: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path().join(dir)).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    pub(crate) fn blobs(&self) -> usize {
        self.names("blobs/sha256").len()
    }

    /// Fetches with default options and tags.
    pub(crate) async fn pull(&self, client: &Client, reference: &str) -> Result<Fetched> {
        self.pull_events(client, reference, |_| {}).await
    }

    pub(crate) async fn pull_events(
        &self,
        client: &Client,
        reference: &str,
        events: impl Fn(FetchEvent) + Send + Sync + 'static,
    ) -> Result<Fetched> {
        let reference = Reference::parse(reference).unwrap();
        let fetched = fetch(client, &self.content, &reference, &FetchOptions::default(), events).await?;
        self.content.tag(&reference, &fetched.root)?;
        Ok(fetched)
    }
}

/// Options that do not make tests wait.
pub(crate) fn quick() -> ClientOptions {
    ClientOptions {
        retry_base: Duration::from_millis(5),
        max_retry_after: Duration::from_secs(2),
        connect_timeout: Duration::from_secs(2),
        idle_timeout: Duration::from_millis(600),
        document_timeout: Duration::from_secs(2),
        rate_window: Duration::from_secs(1),
        min_rate: 10_000,
        ..ClientOptions::default()
    }
}

pub(crate) fn plain() -> HostSettings {
    HostSettings { plain_http: true, ..HostSettings::default() }
}

/// A client that uses plain HTTP for `hosts`.
pub(crate) fn client(hosts: &[&str]) -> Client {
    let mut config = RegistryConfig::default();
    hosts.iter().for_each(|host| config.set_host(*host, plain()));
    Client::new(config, quick())
}

/// Collects events.
pub(crate) type Events = Arc<Mutex<Vec<FetchEvent>>>;

pub(crate) fn collect(events: &Events) -> impl Fn(FetchEvent) + Send + Sync + 'static {
    let events = events.clone();
    move |event| events.lock().unwrap().push(event)
}

/// Whether the programs are there. Without them a test is skipped, visibly, unless `VESSELRT_TEST_REQUIRE` is set.
pub(crate) fn have(programs: &[&str]) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    for program in programs {
        if !std::env::split_paths(&path).any(|dir| dir.join(program).exists()) {
            assert!(std::env::var_os("VESSELRT_TEST_REQUIRE").is_none(), "{program} is not installed");
            eprintln!("SKIPPED: {program} is not installed");
            return false;
        }
    }
    true
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A program that ends with the test.
pub(crate) struct Service(pub(crate) Child);

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Debian's `docker-registry`, on loopback.
pub(crate) struct Registry {
    pub(crate) host: String,
    pub(crate) dir: tempfile::TempDir,
    _service: Service,
}

impl Registry {
    /// Starts it with more YAML for its configuration; `http` is what stands under that key.
    pub(crate) fn start(host: &str, http: &str, more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (root, port) = (dir.path().join("data"), free_port());
        let config = format!(
            "version: 0.1\nlog:\n  level: info\n  accesslog:\n    disabled: false\nstorage:\n  \
             filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\nhttp:\n  addr: 127.0.0.1:{port}\n{http}\n{more}\n",
            root.display()
        );
        let path = dir.path().join("config.yml");
        std::fs::write(&path, config).unwrap();
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&path).stdin(Stdio::null()).env("OTEL_TRACES_EXPORTER", "none");
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let service = Service(command.spawn().unwrap());
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            let log = || std::fs::read_to_string(dir.path().join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "the registry does not start: {}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { host: format!("{host}:{port}"), dir, _service: service }
    }

    /// Its log so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap()
    }
}

/// Runs a program; its standard output.
pub(crate) fn run(program: &str, args: &[&str]) -> String {
    let out =
        Command::new("timeout").arg("120").arg(program).args(args).stdin(Stdio::null()).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{program} {args:?}: {stdout} {stderr}");
    stdout.into_owned()
}

/// Makes an OCI layout with a tag `latest` of an image with `layers` layers of `size` bytes each, noise.
pub(crate) fn layout(dir: &Path, layers: usize, size: usize) -> PathBuf {
    use vesselrt_storage::Digest;
    use vesselrt_storage::image::descriptor::Descriptor;
    let blobs = dir.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let put = |media_type: &str, bytes: &[u8]| {
        let digest = Digest::sha256(bytes);
        std::fs::write(blobs.join(digest.hex()), bytes).unwrap();
        Descriptor::new(media_type, digest, bytes.len() as u64)
    };
    let layers: Vec<Descriptor> = (0..layers)
        .map(|n| put("application/vnd.oci.image.layer.v1.tar", &noise(n as u64 + 1, size)))
        .collect();
    let config = crate::common::config(&layers.iter().map(|layer| layer.digest.clone()).collect::<Vec<_>>());
    let config = put("application/vnd.oci.image.config.v1+json", config.as_bytes());
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest =
        serde_json::json!({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers});
    let mut entry = put(kind, &serde_json::to_vec(&manifest).unwrap());
    entry.annotations = Some([("org.opencontainers.image.ref.name".to_owned(), "latest".to_owned())].into());
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [entry]});
    std::fs::write(dir.join("index.json"), serde_json::to_vec(&index).unwrap()).unwrap();
    dir.to_path_buf()
}

pub(crate) fn config(diff_ids: &[vesselrt_storage::Digest]) -> String {
    let host = vesselrt_storage::image::platform::Platform::host();
    serde_json::json!({"architecture": host.architecture, "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}})
    .to_string()
}

/// Bytes that do not repeat (xorshift).
pub(crate) fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}
