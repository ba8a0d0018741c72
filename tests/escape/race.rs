//! A process inside that swaps directories and links while the file API works on them.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::time::Duration;

use vesselrt::{ErrorKind, ExecOptions, OpenOptions, OverlayDriver, Vessel};

use crate::testkit::canary::Canary;
use crate::testkit::{self, Store, sh, within};

/// How many operations of the file API.
const OPERATIONS: usize = 10_000;

#[test]
fn a_racing_swapper_never_leads_out() {
    testkit::run(OverlayDriver::Auto, swapped);
}

/// `x` is a directory, a link to the canary's path, a link upwards, a file, nothing: as fast as a shell can.
fn swapper(victim: &str) -> String {
    format!(
        "mkdir d; echo of the directory > d/secret; ln -s {victim} abs; ln -s ../../../../../../../..{victim} up; echo file > f; touch ready
        while [ ! -e stop ]; do
            mv -T d x; mv -T x d; mv -T abs x; mv -T x abs; mv -T up x; mv -T x up; mv -T f x; mv -T x f
            mv -T d x; mv -T abs y; mv -T x d; mv -T y x; mv -T x abs; echo >> rounds
        done 2>/dev/null"
    )
}

async fn swapped(store: &Store) {
    let canary = Canary::new(store);
    let victim = canary.victim().to_str().unwrap().to_owned();
    let (_manager, vessel) = store.vessel().await;
    // The same path inside, so that a link resolved in the vessel finds something.
    sh(&vessel, &format!("mkdir -p {victim}; echo of the link > {victim}/secret")).await;
    let attacker = ExecOptions::new(["sh", "-c", &swapper(&victim)]).persist_result(true);
    // On the heap: the stack of a test thread is small for all of this at once.
    let attack = Box::pin(vessel.exec(attacker));
    let work = Box::pin(async {
        while vessel.stat("ready").await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let seen = operations(&vessel, &canary).await;
        vessel.write_file("stop", b"", 0o644).await.unwrap();
        seen
    });
    let (ended, seen) =
        within(Duration::from_secs(140), "the race", async { tokio::join!(attack, work) }).await;
    assert!(ended.is_ok());
    canary.is_unharmed();
    let rounds = vessel.read_file("rounds").await.unwrap().len();
    assert!(rounds > 20, "the swapper made {rounds} rounds only");
    for wanted in ["of the directory", "of the link"] {
        assert!(seen.keys().any(|what| what.contains(wanted)), "never {wanted:?}: {seen:?}");
    }
    vessel.close().await.unwrap();
}

/// What came of all operations, counted.
async fn operations(vessel: &Vessel, canary: &Canary) -> BTreeMap<String, usize> {
    let mut seen = BTreeMap::new();
    for n in 0..OPERATIONS {
        let outcome = Box::pin(operation(vessel, n)).await;
        let text = match outcome {
            Ok(data) => {
                assert!(!canary.is_told_by(&data), "the secret of the host was read");
                String::from_utf8_lossy(&data).into_owned()
            }
            Err(error) => {
                let kind = error.kind();
                let fine = [
                    ErrorKind::NotFound,
                    ErrorKind::InvalidArgument,
                    ErrorKind::AlreadyExists,
                    ErrorKind::Conflict,
                    ErrorKind::Unavailable,
                ];
                assert!(fine.contains(&kind), "{}", error.chain());
                format!("{kind:?}")
            }
        };
        *seen.entry(text).or_default() += 1;
    }
    seen
}

async fn operation(vessel: &Vessel, n: usize) -> Result<Vec<u8>, vesselrt::Error> {
    match n % 10 {
        0..=3 => vessel.read_file("x/secret").await,
        4 => vessel.write_file("x/new", b"changed", 0o644).await.map(|()| Vec::new()),
        5 => vessel.delete_file("x/new").await.map(|()| Vec::new()),
        6 => vessel.make_dir("x/made", 0o755).await.map(|()| Vec::new()),
        7 => vessel.rename_file("x/made", "x/moved").await.map(|()| Vec::new()),
        8 => {
            let names = vessel.read_dir("x").await?;
            assert!(!names.iter().any(|entry| entry.name == "hello"), "the host's directory was listed");
            vessel.delete_file("x/moved").await.map(|()| Vec::new())
        }
        _ => {
            let options = OpenOptions::new().read(true).write(true).create(true);
            vessel.open_file("x/opened", &options).await?.close().await.map(|()| Vec::new())
        }
    }
}
