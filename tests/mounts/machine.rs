//! Mounts on another kernel, whose file systems in memory cannot map ids: as root, and as a user without subordinate ids.
#![forbid(unsafe_code)]

use crate::testkit::{Cap, need};

const SCRIPT: &str = include_str!("machine.sh");

/// What must be said of both.
const CHECKS: [&str; 13] = [
    "import",
    "create",
    "reads",
    "writes",
    "outside",
    "ephemeral",
    "read-only",
    "files",
    "snapshot",
    "afterwards",
    "used",
    "removed",
    "volume",
];

#[test]
fn mounts_are_the_same_on_an_older_kernel() {
    if !need(&[Cap::Busybox, Cap::VirtualMachines]) {
        return;
    }
    let dir = tempfile::tempdir_in(crate::testkit::store::base_dir()).unwrap();
    let said = crate::testkit::machine::boot(dir.path(), SCRIPT);
    let told = said.join("\n");
    for check in ["root", "user"].iter().flat_map(|who| CHECKS.map(|what| format!("{who}/{what}"))) {
        let passed = said.iter().any(|line| *line == format!("CHECK {check} pass"));
        assert!(passed, "{check} did not hold:\n{told}");
    }
}
