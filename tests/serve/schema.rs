//! What the service says of itself in OpenAPI, and what it does, as schemathesis sees it: requests made from the description,
//! good and bad ones, one by one and in sequences.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::bay::{Bay, TOKEN, pause};
use crate::testkit::caps::sdk_python;
use crate::testkit::{Cap, need};

const CONFIG: &str = include_str!("schemathesis.toml");
/// How long it tries, in seconds.
const TRIES: &str = "25";
/// How long a ship may be wanted by what made it.
const WANTED: Duration = Duration::from_secs(10);

/// In the same environment as the SDK.
fn schemathesis() -> Option<PathBuf> {
    let program = sdk_python()?.with_file_name("schemathesis");
    let found = Some(program).filter(|program| program.is_file());
    assert!(
        found.is_some() || std::env::var_os("VESSELRT_TEST_REQUIRE").is_none(),
        "no schemathesis beside the SDK"
    );
    found
}

/// Removes ships that nobody wants any more, so that there is always room for another: that there is none would be a 500.
fn make_room(bay: &Bay, done: &AtomicBool) {
    let mut seen: HashMap<String, Instant> = HashMap::new();
    while !done.load(Ordering::Relaxed) {
        for ship in bay.get("/ships").is(200).json().as_array().unwrap() {
            let id = ship["id"].as_str().unwrap();
            if seen.entry(id.to_owned()).or_insert_with(Instant::now).elapsed() > WANTED {
                // It may be being made, or be gone.
                bay.delete(&format!("/ship/{id}/permanent"));
            }
        }
        pause(500);
    }
}

#[test]
fn no_request_that_the_description_leads_to_is_answered_otherwise_than_described() {
    if !need(&[Cap::ShipyardSdk, Cap::SubordinateIds]) {
        return;
    }
    let Some(schemathesis) = schemathesis() else { return };
    let bay = Bay::start(&["--max-ships", "1000", "--when-full", "reject", "--max-upload", "64k"]);
    let config = bay.shell.file("schemathesis.toml", CONFIG.as_bytes());
    let done = AtomicBool::new(false);
    let output = std::thread::scope(|scope| {
        scope.spawn(|| make_room(&bay, &done));
        let mut command = Command::new(schemathesis);
        command.arg("--config-file").arg(&config).arg("run").arg(format!("{}/openapi.json", bay.url()));
        command.args(["--max-time", TRIES, "--seed", "1", "--request-timeout", "60", "--no-color"]);
        command.arg("-H").arg(format!("Authorization: Bearer {TOKEN}"));
        // It writes what it has learned where it is.
        command.current_dir(config.parent().unwrap()).env("HOME", config.parent().unwrap());
        let output = command.output();
        done.store(true, Ordering::Relaxed);
        output.unwrap()
    });
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    let tried = told.lines().find_map(|line| line.split(" generated, ").next().filter(|part| *part != line));
    let tried: u32 = tried.unwrap_or_else(|| panic!("{told}")).trim().parse().unwrap();
    assert!(tried > 200 && told.contains("Tested: 28") && told.contains("Scenarios:"), "{told}");
    bay.end();
}
