//! Ships of images with Python, which are large: tests that run at the same time share them.
#![forbid(unsafe_code)]

use std::sync::{Arc, Weak};

use vesselrt::serve::ship::{Limits, Ship};

use super::Fleet;
use crate::testkit::image::{languages_tar, network_debian_tar};
use crate::testkit::{Cap, PATIENCE, Store, need, within};

/// A store with an image with Python, for all tests that run at the same time: to import one takes seconds.
struct Shared(Option<Store>);

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(store) = self.0.take()
            && !std::thread::panicking()
        {
            store.finish();
        }
    }
}

const IMAGE: &str = "localhost/python:1";

async fn shared(image: Cap) -> Arc<Shared> {
    static KNOWN: [tokio::sync::Mutex<Weak<Shared>>; 2] =
        [const { tokio::sync::Mutex::const_new(Weak::new()) }; 2];
    let mut known = KNOWN[usize::from(image == Cap::Languages)].lock().await;
    if let Some(shared) = known.upgrade() {
        return shared;
    }
    let store = Store::new(vesselrt::OverlayDriver::Auto);
    let tar = if image == Cap::Languages { languages_tar() } else { network_debian_tar() };
    store.manager().await.import_image(&tar.unwrap(), IMAGE, |_| {}).await.unwrap();
    let shared = Arc::new(Shared(Some(store)));
    *known = Arc::downgrade(&shared);
    shared
}

/// A test on a ship of an image with Python.
pub(super) fn on(image: Cap, test: impl AsyncFnOnce(&Fleet)) {
    if !need(&[Cap::UserNamespaces, Cap::SubordinateIds, image]) {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let shared = runtime.block_on(async {
        let shared = shared(image).await;
        let manager = shared.0.as_ref().unwrap().manager().await;
        let vessel = manager.create_vessel(IMAGE, "/").await.unwrap();
        let id = vessel.id().to_owned();
        let fleet = Fleet { manager: manager.clone(), ship: Ship::new(vessel, Limits::default()) };
        within(PATIENCE * 8, "the test", test(&fleet)).await;
        fleet.end().await;
        manager.delete_vessel(&id).await.unwrap();
        shared
    });
    runtime.shutdown_timeout(PATIENCE);
    drop(shared);
}
