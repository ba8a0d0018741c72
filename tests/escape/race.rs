//! A process inside that swaps directories and links while the file API works on them.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::time::Duration;

use vesselrt::{ErrorKind, ExecOptions, OpenOptions, OverlayDriver, Vessel};

use crate::testkit::canary::Canary;
use crate::testkit::image::tools_tar;
use crate::testkit::{self, Cap, Store, need, sh, within};

/// How many operations of the file API.
const OPERATIONS: usize = 10_000;

/// What the swapper does: `x` is a directory, a link to the canary's path, a link upwards, a file, nothing, as fast as the
/// kernel renames. perl needs no process for a rename.
const SWAPPER: &str = r"
    my $rounds = 0;
    until ($rounds % 64 == 0 && -e 'stop') {
        for my $what ('d', 'abs', 'up', 'f', 'd') { rename($what, 'x'); rename('x', $what) }
        rename('d', 'x'); rename('abs', 'y'); rename('x', 'd'); rename('y', 'x'); rename('x', 'abs');
        $rounds++;
    }
    open(my $out, '>', 'rounds'); print $out $rounds;
";

#[test]
fn a_racing_swapper_never_leads_out() {
    if need(&[Cap::Perl]) {
        testkit::run(OverlayDriver::Auto, swapped);
    }
}

/// A vessel with perl, in which the canary's path exists too, so that a link resolved inside finds something.
async fn vessel_with_traps(store: &Store, victim: &str) -> Vessel {
    let tar = store.beside("perl.tar");
    std::fs::write(&tar, tools_tar(&["perl"])).unwrap();
    let manager = store.manager().await;
    manager.import_image(&tar, "localhost/perl:1", |_| {}).await.unwrap();
    let vessel = manager.create_vessel("localhost/perl:1", "/work").await.unwrap();
    let script = format!(
        "mkdir -p {victim} d; echo of the link > {victim}/secret; echo of the directory > d/secret; echo file > f
         ln -s {victim} abs; ln -s ../../../../../../../..{victim} up"
    );
    sh(&vessel, &script).await;
    vessel
}

async fn swapped(store: &Store) {
    let canary = Canary::new(store);
    let victim = canary.victim().to_str().unwrap().to_owned();
    let vessel = vessel_with_traps(store, &victim).await;
    let attacker = ExecOptions::new(["perl", "-e", SWAPPER]).persist_result(true);
    // On the heap: the stack of a test thread is small for all of this at once.
    let attack = Box::pin(vessel.exec(attacker));
    let work = Box::pin(async {
        let seen = operations(&vessel, &canary).await;
        vessel.write_file("stop", b"", 0o644).await.unwrap();
        seen
    });
    let (ended, seen) =
        within(Duration::from_secs(140), "the race", async { tokio::join!(attack, work) }).await;
    assert!(ended.unwrap().success());
    canary.is_unharmed();
    let rounds = String::from_utf8(vessel.read_file("rounds").await.unwrap()).unwrap();
    assert!(rounds.parse::<usize>().unwrap() > 1000, "the swapper made {rounds} rounds only");
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
