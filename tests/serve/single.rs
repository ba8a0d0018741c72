//! A user without subordinate ids, whose vessels have one id.
#![forbid(unsafe_code)]

use std::process::Command;

use crate::shell::Shell;
use crate::testkit::{Cap, bin, need};

/// A user namespace in which this user is an ordinary one with one id, and where no helper gives more.
const ALONE: [&str; 5] = ["unshare", "--mount", "--map-user=1000", "--map-group=1000", "--keep-caps"];

#[test]
fn ships_are_refused_where_sessions_cannot_be_users_of_their_own() {
    if !need(&[Cap::UserNamespaces]) {
        return;
    }
    let shell = Shell::empty();
    let script = "mount --bind /dev/null /usr/bin/newuidmap && exec \"$V\" \"$@\"";
    let run = |args: &[&str]| {
        let mut command = Command::new("timeout");
        command.args(["-k", "5", "60"]).args(ALONE).args(["sh", "-c", script, "sh"]).args(args);
        command.env_clear().env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin").env("HOME", shell.beside("home"));
        command.env("V", bin()).env("VESSELRT_ROOT", shell.beside("alone")).env("VESSELRT_IDLE", "0");
        command.output().unwrap()
    };
    let refused = run(&["serve", "--json", "--listen", "127.0.0.1:0"]);
    let told = String::from_utf8_lossy(&refused.stdout).into_owned();
    assert!(!refused.status.success(), "{refused:?}");
    for wanted in ["unsupported", "a single user id", "/etc/subuid", "vesselrt doctor"] {
        assert!(told.contains(wanted), "{wanted} in {refused:?}");
    }
    assert!(!shell.beside("alone").join("serve").exists(), "nothing was begun");
}
