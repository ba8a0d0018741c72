//! Control groups v2, in a machine that is booted for it: as root, as a user with a delegated group, and as one without.
#![forbid(unsafe_code)]

use crate::testkit::{Cap, need};

const SCRIPT: &str = include_str!("machine.sh");

/// What must be said of root and of a user with a delegated group.
const HELD: [&str; 11] =
    ["import", "without", "memory", "pids", "cpu", "update", "tighter", "inside", "stats", "killed", "clean"];
/// What must be said of a user without.
const REFUSED: [&str; 5] = ["import", "without", "refused", "best-effort", "clean"];

#[test]
fn limits_hold_by_control_groups_v2() {
    if !need(&[Cap::Busybox, Cap::VirtualMachines]) {
        return;
    }
    let dir = tempfile::tempdir_in(crate::testkit::store::base_dir()).unwrap();
    let said = crate::testkit::machine::boot(dir.path(), SCRIPT);
    let told = said.join("\n");
    let held = ["root", "delegated"].iter().flat_map(|who| HELD.map(|what| format!("{who}/{what}")));
    for check in held.chain(REFUSED.map(|what| format!("plain/{what}"))) {
        let passed = said.iter().any(|line| *line == format!("CHECK {check} pass"));
        assert!(passed, "{check} did not hold:\n{told}");
    }
    assert!(!told.contains("FAIL"), "{told}");
}
