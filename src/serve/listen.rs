//! [`Listener`]: connections, and how long and how many.
//!
//! A client that is slow to say what it wants does not keep a connection for ever: a head, and the pause before it, takes
//! only so long; bodies are watched by those who read them.
#![forbid(unsafe_code)]

mod heads;
mod tls;

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::net::sockopt::set_tcp_user_timeout;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::config::{Listen, ServeConfig};
use super::http::{Hosts, TwoLengths};
use crate::error::{Error, Result};
use heads::Watched;

/// How long a handshake of TLS may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Headers of a request.
const HEADERS: usize = 64;
/// Bytes of a head, and of what is read ahead.
const BUFFER: usize = 64 << 10;
/// How long requests may go on when the service is to leave.
const GRACE: Duration = Duration::from_secs(5);
/// How long they may go on when nothing runs in ships any more.
const LAST_GRACE: Duration = Duration::from_secs(5);
/// How many times as long as a head may take a client may take nothing of what is sent to it (TCP_USER_TIMEOUT, tcp(7)): then
/// the connection is ended, and what waits to be sent is given up.
const UNREAD: u32 = 2;
/// After an error of accept(2), which may be a lack of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

enum Socket {
    Tcp(TcpListener, Option<TlsAcceptor>),
    Unix(UnixListener, PathBuf),
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Where requests come from.
pub(super) struct Listener {
    socket: Socket,
    most: usize,
    head: Duration,
    url: String,
    hosts: Hosts,
}

impl Listener {
    /// # Errors
    /// Those of bind(2); [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for a certificate that is none.
    pub(super) async fn bind(config: &ServeConfig) -> Result<Self> {
        let (most, head) = (config.max_connections, config.head_time);
        match &config.listen {
            Listen::Tcp(address) => {
                let failed = |e| Error::io(format!("failed to listen on {address}"), e);
                let tls = config.tls.as_ref().map(tls::acceptor).transpose()?;
                let listener = TcpListener::bind(address).await.map_err(failed)?;
                let bound = listener.local_addr().map_err(failed)?;
                let scheme = if tls.is_some() { "https" } else { "http" };
                let hosts = Hosts::Address(bound.ip());
                Ok(Self {
                    socket: Socket::Tcp(listener, tls),
                    most,
                    head,
                    url: format!("{scheme}://{bound}"),
                    hosts,
                })
            }
            Listen::Unix(path) => {
                let listener = bind_unix(path).await?;
                let url = format!("unix:{}", path.display());
                Ok(Self { socket: Socket::Unix(listener, path.clone()), most, head, url, hosts: Hosts::Any })
            }
        }
    }

    pub(super) fn url(&self) -> String {
        self.url.clone()
    }

    pub(super) fn hosts(&self) -> Hosts {
        self.hosts.clone()
    }

    /// Answers until `shutdown` is ready, then finishes what was begun; `hang_up` ends what takes too long for that.
    pub(super) async fn serve(
        self,
        router: Router,
        shutdown: impl Future<Output = ()>,
        hang_up: impl FnOnce(),
    ) -> Result<()> {
        let slots = Arc::new(Semaphore::new(self.most));
        let leaving = CancellationToken::new();
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let next = async {
                // What cannot be had a connection waits in the queue of the kernel.
                let slot = Arc::clone(&slots).acquire_owned().await;
                (slot, self.socket.accept(self.head).await)
            };
            let (slot, accepted) = tokio::select! {
                next = next => next,
                () = &mut shutdown => break,
            };
            match accepted {
                Ok((stream, tls)) => {
                    let (router, leaving) = (router.clone(), leaving.clone());
                    let head = self.head;
                    tokio::spawn(async move {
                        let _slot = slot;
                        let stream = match tls {
                            None => stream,
                            Some(tls) => match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
                                Ok(Ok(stream)) => Box::new(stream) as Box<dyn Stream>,
                                _ => return,
                            },
                        };
                        converse(stream, router, head, leaving).await;
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "failed to accept a connection");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        drop(self.socket);
        tracing::info!("shutting down");
        leaving.cancel();
        // All of them: every connection has ended.
        let all = u32::try_from(self.most).unwrap_or(u32::MAX);
        if tokio::time::timeout(GRACE, slots.acquire_many(all)).await.is_err() {
            hang_up();
            let _ = tokio::time::timeout(LAST_GRACE, slots.acquire_many(all)).await;
        }
        Ok(())
    }
}

async fn converse(stream: Box<dyn Stream>, router: Router, head: Duration, leaving: CancellationToken) {
    let stream = Watched::new(stream);
    let (ambiguous, number) = (stream.ambiguous(), AtomicU64::new(0));
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        if ambiguous.is(number.fetch_add(1, Ordering::Relaxed)) {
            request.extensions_mut().insert(TwoLengths);
        }
        router.call(request)
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head)
        .max_headers(HEADERS)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = leaving.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended");
    }
}

impl Socket {
    async fn accept(&self, head: Duration) -> std::io::Result<(Box<dyn Stream>, Option<TlsAcceptor>)> {
        match self {
            Self::Tcp(listener, tls) => {
                let (stream, _) = listener.accept().await?;
                // An answer is written at once: nothing is to be waited for.
                let _ = stream.set_nodelay(true);
                let most = u32::try_from(head.saturating_mul(UNREAD).as_millis()).unwrap_or(u32::MAX);
                let _ = set_tcp_user_timeout(&stream, most);
                Ok((Box::new(stream), tls.clone()))
            }
            Self::Unix(listener, _) => Ok((Box::new(listener.accept().await?.0), None)),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A socket that a crash left is replaced; one that somebody listens on is not, nor is anything else.
async fn bind_unix(path: &Path) -> Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt;
    let failed = |e| Error::io(format!("failed to listen on {}", path.display()), e);
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    if is_socket && tokio::net::UnixStream::connect(path).await.is_err() {
        std::fs::remove_file(path).map_err(failed)?;
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}
