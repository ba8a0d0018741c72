//! What all tests share: a store that checks after itself, a base image made from busybox, waits that end.
#![forbid(unsafe_code)]

pub(crate) mod canary;
pub(crate) mod caps;
pub(crate) mod commands;
pub(crate) mod faulty;
pub(crate) mod image;
pub(crate) mod leftovers;
pub(crate) mod listing;
pub(crate) mod machine;
pub(crate) mod podman;
pub(crate) mod random;
pub(crate) mod registry;
pub(crate) mod store;
pub(crate) mod tools;
pub(crate) mod tree;
pub(crate) mod web;

use std::future::Future;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use vesselrt::{Error, ErrorKind, OverlayDriver};

pub(crate) use caps::{Cap, need};
pub(crate) use commands::{capture, run_in, sh, sh_ephemeral};
pub(crate) use image::BASE;
pub(crate) use store::Store;

/// No test takes as long as this, whatever else the machine does: what does has hung. Those that meet a fault at every step
/// take a minute by themselves, and three beside compilers and each other.
const GUARD: Duration = Duration::from_secs(450);
/// Nothing that is waited for takes as long as this.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The `vesselrt` under test, which is also the shim of the library's tests.
pub(crate) fn bin() -> PathBuf {
    std::env::var_os("VESSELRT_TEST_BIN").map_or_else(|| env!("CARGO_BIN_EXE_vesselrt").into(), PathBuf::from)
}

/// Runs `test` on a new store, then checks that it left nothing behind.
pub(crate) fn run(driver: OverlayDriver, test: impl AsyncFnOnce(&Store)) {
    let caps: &[Cap] = match driver {
        OverlayDriver::Fuse => &[Cap::UserNamespaces, Cap::Busybox, Cap::Fuse],
        OverlayDriver::Kernel => &[Cap::UserNamespaces, Cap::Busybox, Cap::Overlay],
        OverlayDriver::Auto => &[Cap::UserNamespaces, Cap::Busybox],
    };
    if !need(caps) {
        return;
    }
    let store = Store::new(driver);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { within(GUARD, "the test", test(&store)).await });
    runtime.shutdown_timeout(PATIENCE);
    store.finish();
}

/// Makes a `#[test]` of each function, on the driver that the machine offers.
macro_rules! tests {
    ($($name:ident),+ $(,)?) => {
        mod auto {
            $(#[test]
            fn $name() {
                crate::testkit::run(vesselrt::OverlayDriver::Auto, super::$name);
            })+
        }
    };
}

/// Makes two `#[test]`s of each function: on the kernel's overlayfs, and on fuse-overlayfs.
macro_rules! tests_on_each_driver {
    ($($name:ident),+ $(,)?) => {
        mod kernel {
            $(#[test]
            fn $name() {
                crate::testkit::run(vesselrt::OverlayDriver::Kernel, super::$name);
            })+
        }
        mod fuse {
            $(#[test]
            fn $name() {
                crate::testkit::run(vesselrt::OverlayDriver::Fuse, super::$name);
            })+
        }
    };
}

pub(crate) use {tests, tests_on_each_driver};

/// What `future` gives, which must not take longer than `limit`.
pub(crate) async fn within<T>(limit: Duration, what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(limit, future).await {
        Ok(value) => value,
        Err(_elapsed) => panic!("{what} hangs: not done after {limit:?}"),
    }
}

/// Waits until `condition` is true.
pub(crate) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < PATIENCE, "not after {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// [`until`] for what is not asynchronous.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "not after {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The error of `result`, which must be of this kind.
#[track_caller]
pub(crate) fn fails<T: std::fmt::Debug>(result: Result<T, Error>, kind: &ErrorKind) -> Error {
    let error = result.expect_err("an error was expected");
    assert_eq!(error.kind(), *kind, "{}", error.chain());
    error
}

/// [`fails`], with a message that contains `text`.
#[track_caller]
pub(crate) fn fails_with<T: std::fmt::Debug>(
    result: Result<T, Error>,
    kind: &ErrorKind,
    text: &str,
) -> Error {
    let error = fails(result, kind);
    assert!(error.chain().contains(text), "{:?} is not in {:?}", text, error.chain());
    error
}

/// The process is an ordinary user's.
pub(crate) fn unprivileged() -> bool {
    !rustix::process::geteuid().is_root()
}
