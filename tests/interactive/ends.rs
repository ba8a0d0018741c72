//! Whatever ends it, the terminal is as it was.
#![forbid(unsafe_code)]

use rustix::process::{Pid, Signal, kill_process};

use super::tmux::Tmux;
use super::{DEBIAN, debian};
use crate::crash::shim_of;
use crate::shell::Shell;

/// Sends a signal to a process.
fn send(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
}

/// The terminal of the host's shell is as it was before, which that knows.
#[track_caller]
fn is_as_before(tmux: &Tmux) {
    tmux.says("[ \"$before\" = \"$(stty -g)\" ] && echo as''-before", "as-before");
}

#[test]
fn the_terminal_is_as_before_whatever_the_end_is() {
    let Some(shell) = debian() else { return };
    let tmux = Tmux::new(&shell);
    tmux.enter("before=$(stty -g)");
    for verb in ["run", "exec"] {
        let id = format!("of-{verb}");
        let call = match verb {
            "run" => format!("$V run -it --id {id} {DEBIAN} bash"),
            _ => {
                shell.call(["create", DEBIAN, "--id", &id]).succeeds();
                format!("$V exec -it {id} bash")
            }
        };
        let again = || {
            if verb == "run" {
                shell.call(["rm", &id]).run();
            }
            tmux.clear();
            tmux.inside(&call);
        };
        again();
        tmux.enter("exit 3");
        tmux.left_with(3);
        is_as_before(&tmux);

        // An interactive shell ends by SIGHUP, and ignores SIGTERM.
        again();
        send(tmux.child(), Signal::HUP);
        tmux.left_with(129);
        is_as_before(&tmux);
        again();
        send(tmux.child(), Signal::TERM);
        tmux.left_with(137);
        is_as_before(&tmux);

        again();
        tmux.enter("stty raw -echo; exec sleep 1000");
        send(shim_of(shell.store(), &id).expect("its shim runs"), Signal::KILL);
        tmux.left_with(125);
        is_as_before(&tmux);
    }
    drop(tmux);
    shell.assert_idle();
}

#[test]
fn whoever_stops_and_continues_the_call_finds_the_command_as_it_was() {
    let Some(shell) = debian() else { return };
    let tmux = Tmux::new(&shell);
    tmux.enter("before=$(stty -g)");
    tmux.inside(&format!("$V run -it --rm {DEBIAN} bash"));
    send(tmux.child(), Signal::STOP);
    tmux.wait_for("Stopped");
    tmux.resize(90, 20);
    is_as_before(&tmux);
    tmux.enter("fg");
    tmux.press(&["Enter"]);
    tmux.wait_for_last("inside$");
    tmux.says("stty size", "20 90");
    tmux.enter("sleep 1000");
    std::thread::sleep(std::time::Duration::from_millis(300));
    tmux.press(&["C-c"]);
    tmux.wait_for_last("inside$");
    tmux.enter("exit 4");
    tmux.left_with(4);
    is_as_before(&tmux);
    drop(tmux);
    shell.assert_idle();
}

#[test]
fn two_keys_leave_a_shell_in_the_background_and_it_is_found_again() {
    let Some(shell) = debian() else { return };
    let id = shell.call(["create", DEBIAN]).succeeds().line();
    let process = shell.call(["exec", "-d", "-it", &id, "bash"]).succeeds().line();
    let tmux = Tmux::new(&shell);
    tmux.enter("before=$(stty -g)");
    let attach = format!("$V attach {id} {process}");
    tmux.enter(&attach);
    // Whatever was there is drawn anew.
    tmux.wait_until("a prompt inside", |screen| screen.iter().any(|line| line.ends_with(":/#")));
    tmux.enter("PS1='inside$ '; mark=42");
    tmux.says("stty size", "30 100");
    tmux.press(&["C-p", "C-q"]);
    tmux.left_with(0);
    is_as_before(&tmux);
    tmux.resize(80, 25);
    tmux.enter(&attach);
    tmux.press(&["Enter"]);
    tmux.wait_for_last("inside$");
    tmux.says("echo mark=$mark $(stty size)", "mark=42 25 80");
    tmux.enter("exit 5");
    tmux.left_with(5);
    is_as_before(&tmux);
    drop(tmux);
    shell.assert_idle();
}

#[test]
fn a_terminal_is_refused_where_there_is_none_and_nothing_is_made() {
    let shell = Shell::new();
    let done = shell.call(["run", "-it", crate::shell::BASE, "sh"]).input("exit\n").exits(125);
    assert!(done.complaint().contains("the input device is not a TTY"), "{done:?}");
    assert_eq!(shell.call(["ls", "-q"]).succeeds().text(), "");
    let id = shell.vessel();
    let done = shell.call(["exec", "-it", &id, "sh"]).input("exit\n").exits(125);
    assert!(done.complaint().contains("the input device is not a TTY"), "{done:?}");
    shell.assert_idle();
}
