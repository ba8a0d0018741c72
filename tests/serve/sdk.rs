//! The SDK of Shipyard (shipyard-python-sdk 0.2.4 from PyPI), as it is.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::Command;

use super::bay::{Bay, TOKEN};
use crate::shell::{BASE, Shell};
use crate::testkit::caps::sdk_python;
use crate::testkit::{Cap, need};

/// A root file system with Python, which `fixtures/languages.sh` makes.
fn languages() -> Option<PathBuf> {
    let named = std::env::var_os("VESSELRT_TEST_LANGUAGES");
    let tar = named.map_or_else(|| PathBuf::from("/tmp/vesselrt-test-languages.tar"), PathBuf::from);
    Some(tar).filter(|tar| tar.is_file())
}

const ALL: &str = include_str!("sdk.py");

#[test]
fn every_call_of_the_sdk_is_answered() {
    if !need(&[Cap::ShipyardSdk, Cap::SubordinateIds]) {
        return;
    }
    let Some(languages) = languages() else {
        assert!(std::env::var_os("VESSELRT_TEST_REQUIRE").is_none(), "no root file system with Python");
        return;
    };
    let shell = Shell::empty();
    shell.import(&languages, BASE);
    let bay = Bay::on(shell, &["--max-ships", "2", "--when-full", "reject", "--pool", "1"]);
    let script = bay.shell.file("sdk.py", ALL.as_bytes());
    let mut command = Command::new(sdk_python().unwrap());
    command.arg(&script).env("SHIPYARD_ENDPOINT", bay.url() + "/").env("SHIPYARD_TOKEN", TOKEN);
    let output = command.current_dir(script.parent().unwrap()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "all done");
    bay.end();
}
