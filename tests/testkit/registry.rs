//! A real registry (distribution, Debian's `docker-registry`) on loopback, which tells what it was asked.
#![forbid(unsafe_code)]

pub(crate) mod certificate;
pub(crate) mod tokens;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use self::tokens::TokenServer;
use super::{Store, wait_until};

/// User and password of [`Registry::with_password`].
pub(crate) const USER: &str = "tester";
pub(crate) const PASSWORD: &str = "open sesame";
/// The same, as htpasswd(1) writes it (bcrypt).
const HTPASSWD: &str = "tester:$2b$04$PIbm/rBKap8.CNMc8HZ33e0hqRYGXkIwBsphDco9bz8MsJtR68tIy\n";

/// How a registry wants to be talked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// By everybody, without TLS.
    Open,
    /// By everybody, with a certificate that only the test knows.
    Tls,
    /// By [`USER`] alone, who shows a password.
    Password,
    /// The same, with TLS.
    TlsPassword,
    /// By whoever has a token, which [`USER`] gets from a token server.
    Token,
}

/// A registry that ends with the test.
pub(crate) struct Registry {
    child: Child,
    port: u16,
    log: PathBuf,
    access: Access,
    tokens: Option<TokenServer>,
}

impl Registry {
    /// One that everybody may read and write, without TLS.
    pub(crate) fn open(store: &Store) -> Self {
        Self::new(store, Access::Open)
    }

    /// One that only [`USER`] may use.
    pub(crate) fn with_password(store: &Store) -> Self {
        Self::new(store, Access::Password)
    }

    /// One that wants `access`, and vesselrt told what it has to know.
    pub(crate) fn new(store: &Store, access: Access) -> Self {
        let tokens = (access == Access::Token).then(|| TokenServer::start(store));
        let auth = match (access, &tokens) {
            (Access::Password | Access::TlsPassword, _) => {
                let path = store.beside("htpasswd");
                fs::write(&path, HTPASSWD).unwrap();
                format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", path.display())
            }
            (_, Some(tokens)) => tokens.registry_settings(),
            _ => String::new(),
        };
        let tls = if matches!(access, Access::Tls | Access::TlsPassword) {
            let (certificate, key) = certificate::make(store, "tls");
            format!("  tls:\n    certificate: {}\n    key: {}\n", certificate.display(), key.display())
        } else {
            String::new()
        };
        let name = format!("{access:?}").to_lowercase();
        let mut registry = Self::start(store, &name, &format!("{tls}{auth}"), access);
        registry.tokens = tokens;
        registry.configure(store);
        registry
    }

    fn start(store: &Store, name: &str, settings: &str, access: Access) -> Self {
        // Another process may take the port meanwhile: then this one fails, and the next is tried.
        for attempt in 0..5 {
            let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
            let file = |suffix: &str| store.beside(&format!("registry-{name}-{attempt}{suffix}"));
            let config = format!(
                "version: 0.1\nlog:\n  level: info\nstorage:\n  delete:\n    enabled: true\n  filesystem:\n    \
                 rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n{settings}",
                file("").display()
            );
            fs::write(file(".yml"), config).unwrap();
            let log = fs::File::options().append(true).create(true).open(file(".log")).unwrap();
            // It ends with the test, however that ends.
            let mut command = Command::new("setpriv");
            command
                .args(["--pdeathsig", "KILL", "docker-registry", "serve"])
                .arg(file(".yml"))
                .stdin(Stdio::null());
            command.stdout(log.try_clone().unwrap()).stderr(log).process_group(0);
            let child = command.spawn().unwrap();
            let mut registry = Self { child, port, log: file(".log"), access, tokens: None };
            if registry.comes_up() {
                return registry;
            }
        }
        panic!("no registry comes up");
    }

    fn comes_up(&mut self) -> bool {
        let mut gone = false;
        wait_until("the registry answers", || {
            gone = self.child.try_wait().unwrap().is_some();
            gone || self.answers()
        });
        !gone
    }

    fn answers(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) else { return false };
        let asked = stream.write_all(b"GET /v2/ HTTP/1.0\r\nHost: localhost\r\n\r\n");
        let mut answer = String::new();
        asked.is_ok() && stream.read_to_string(&mut answer).is_ok() && answer.starts_with("HTTP/1.0 ")
    }

    /// Tells vesselrt what it cannot know: that there is no TLS, or whom to trust.
    fn configure(&self, store: &Store) {
        let dir = store.beside(".config/vesselrt");
        fs::create_dir_all(&dir).unwrap();
        let mut text = format!("[registry.\"{}\"]\n", self.host());
        text += &match self.certificates(store) {
            Some(dir) => format!("ca = \"{}\"\n", dir.join("ca.crt").display()),
            None => "plain_http = true\n".to_owned(),
        };
        if let Some(tokens) = &self.tokens {
            text += &format!("token_hosts = [\"{}\"]\n", tokens.host());
        }
        let mut file = fs::File::options().append(true).create(true).open(dir.join("config.toml")).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    /// The directory with its certificate, as `ca.crt`, if it has one.
    fn certificates(&self, store: &Store) -> Option<PathBuf> {
        let tls = matches!(self.access, Access::Tls | Access::TlsPassword);
        tls.then(|| store.beside("tls"))
    }

    /// Whether one must log in.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.access, Access::Password | Access::TlsPassword | Access::Token)
    }

    /// How many tokens its token server gave to [`USER`].
    pub(crate) fn tokens_issued(&self) -> usize {
        self.tokens.as_ref().map_or(0, TokenServer::issued)
    }

    /// What tells podman and skopeo how to talk to it; `prefix` goes before the names of the flags (`dest-`).
    pub(crate) fn flags(&self, store: &Store, prefix: &str) -> Vec<String> {
        let mut flags = match self.certificates(store) {
            Some(dir) => vec![format!("--{prefix}cert-dir={}", dir.display())],
            None => vec![format!("--{prefix}tls-verify=false")],
        };
        if self.is_closed() {
            flags.push(format!("--{prefix}creds={USER}:{PASSWORD}"));
        }
        flags
    }

    /// Host and port.
    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A reference to `name` there.
    pub(crate) fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.host())
    }

    /// Forgets what it was asked so far.
    pub(crate) fn forget(&self) {
        fs::File::options().write(true).truncate(true).open(&self.log).unwrap();
    }

    /// What it was asked since, e.g. `HEAD /v2/a/manifests/1`.
    pub(crate) fn asked(&self) -> Vec<String> {
        // It logs after it has answered.
        std::thread::sleep(std::time::Duration::from_millis(200));
        let text = String::from_utf8_lossy(&fs::read(&self.log).unwrap()).into_owned();
        // The access log: 127.0.0.1 - - [time] "GET /v2/ HTTP/1.1" 200 2 "" "agent"
        let line = |line: &str| {
            let request = line.split_once("] \"")?.1.split_once(" HTTP/1.1\" ")?.0;
            Some(request.to_owned())
        };
        text.lines().filter_map(line).collect()
    }

    /// Bytes and requests that were sent there since.
    pub(crate) fn uploads(&self) -> Vec<String> {
        let writes = |line: &String| ["PUT ", "POST ", "PATCH "].iter().any(|verb| line.starts_with(verb));
        self.asked().into_iter().filter(writes).collect()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
