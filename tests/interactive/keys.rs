//! Keys: what interrupts, stops and ends, what is typed and pasted.
#![forbid(unsafe_code)]

use super::tmux::Tmux;
use super::{DEBIAN, debian};
use crate::testkit::image::sha256;
use crate::testkit::random::Random;

#[test]
fn a_shell_has_job_control_and_each_key_does_what_it_does_outside() {
    let Some(shell) = debian() else { return };
    let tmux = Tmux::new(&shell);
    let terminal = "stty -a";
    tmux.enter(&format!("before=$({terminal})"));
    tmux.enter(&format!("$V run -it --rm {DEBIAN} bash"));
    tmux.wait_until("a prompt inside", |screen| screen.iter().any(|line| line.ends_with(":/#")));
    for complaint in ["process group", "job control", "ioctl", "warning"] {
        assert!(!tmux.screen().iter().any(|line| line.contains(complaint)), "{:#?}", tmux.screen());
    }
    tmux.enter("PS1='inside$ '");
    tmux.says("echo kind=$TERM size=$(stty size)", &format!("kind={} size=30 100", tmux.kind()));
    tmux.says("trap -p INT QUIT TSTP; set -o | grep -c 'monitor.*on'", "1");

    let interrupted = |key: &str, shown: &str, code: i32| {
        tmux.clear();
        tmux.enter("sleep 1000");
        tmux.wait_until("it sleeps", |screen| screen[1].is_empty());
        std::thread::sleep(std::time::Duration::from_millis(300));
        tmux.press(&[key]);
        tmux.wait_for(shown);
        tmux.wait_for_last("inside$");
        tmux.code(code);
    };
    interrupted("C-c", "^C", 130);
    interrupted("C-\\", "^\\Quit", 131);
    interrupted("C-z", "Stopped", 148);
    tmux.says("jobs", "[1]+  Stopped                 sleep 1000");
    tmux.says("bg", "[1]+ sleep 1000 &");
    tmux.says("jobs", "[1]+  Running                 sleep 1000 &");
    tmux.clear();
    tmux.enter("fg");
    tmux.wait_until("it is in the foreground", |screen| screen[1] == "sleep 1000");
    tmux.press(&["C-c"]);
    tmux.wait_for_last("inside$");
    tmux.says("jobs; echo jobs=$(jobs | wc -l)", "jobs=0");

    // A line that is typed can be edited, and one that was entered comes back.
    tmux.clear();
    tmux.enter("echo wrong");
    tmux.press(&["Up", "BSpace", "BSpace", "BSpace", "BSpace", "BSpace", "r", "i", "g", "h", "t", "Enter"]);
    tmux.wait_until("the edited line", |screen| screen[3] == "right");
    tmux.says("false", "");
    tmux.press(&["C-d"]);
    tmux.wait_for("exit");
    tmux.left_with(1);
    tmux.says(&format!("[ \"$before\" = \"$({terminal})\" ] && echo as''-before"), "as-before");
    drop(tmux);
    shell.assert_idle();
}

#[test]
fn what_is_pasted_and_typed_arrives_whole() {
    let Some(shell) = debian() else { return };
    let id = shell.call(["create", DEBIAN]).succeeds().line();
    let tmux = Tmux::new(&shell);
    tmux.inside(&format!("$V exec -it {id} bash"));
    // 64 KiB that are one line to nobody: a program that reads keys gets each of them.
    let mut random = Random::new();
    let text: Vec<u8> = (0..65536).map(|_| b' ' + (random.next() % 95) as u8).collect();
    tmux.clear();
    tmux.enter("stty raw -echo; echo ready; head -c 65536 | sha256sum; stty sane");
    tmux.wait_for("ready");
    tmux.paste(&text, &shell.beside("pasted"));
    tmux.wait_for(&sha256(&text));

    // The same of lines, with a terminal that edits and echoes them.
    let lines: String = (0..1024).map(|n| format!("{n:063}\n")).collect();
    tmux.clear();
    tmux.enter("head -n 1024 > /tmp/lines; clear; sha256sum /tmp/lines");
    std::thread::sleep(std::time::Duration::from_millis(300));
    tmux.paste(lines.as_bytes(), &shell.beside("pasted"));
    tmux.wait_for(&sha256(lines.as_bytes()));

    tmux.says("stty size; locale charmap 2>&1; export LC_ALL=C.UTF-8", "30 100");
    tmux.says("echo 'grün, 漢字, 🦀' | tee /tmp/typed", "grün, 漢字, 🦀");
    tmux.says("wc -m < /tmp/typed", "12");
    tmux.enter("exit 3");
    tmux.left_with(3);
    drop(tmux);
    shell.assert_idle();
}
