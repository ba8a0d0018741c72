//! Programs that draw on the whole screen, and follow its size.
#![forbid(unsafe_code)]

use super::tmux::{SIZE, Tmux};
use super::{DEBIAN, debian};

#[test]
fn vim_edits_a_file_and_draws_anew_at_another_size() {
    let Some(shell) = debian() else { return };
    let id = shell.call(["create", DEBIAN]).succeeds().line();
    let tmux = Tmux::new(&shell);
    tmux.inside(&format!("$V exec -it {id} bash"));
    tmux.enter("vi /root/edited");
    let rows = usize::from(SIZE.1);
    let filled = |rows: usize| {
        move |screen: &[String]| screen.len() == rows && screen[1..rows - 1].iter().all(|line| line == "~")
    };
    tmux.wait_until("vim", filled(rows));
    tmux.press(&["i"]);
    tmux.enter("first line");
    tmux.press(&["s", "e", "c", "o", "n", "d", "Escape"]);
    tmux.wait_until("what was typed", |screen| screen[0] == "first line" && screen[1] == "second");
    for (columns, rows) in [(140, 45), (60, 12), SIZE] {
        tmux.resize(columns, rows);
        let rows = usize::from(rows);
        tmux.wait_until("vim at the new size", |screen| {
            screen.len() == rows
                && screen[0] == "first line"
                && screen[2..rows - 1].iter().all(|line| line == "~")
        });
    }
    tmux.press(&["k", "A"]);
    tmux.enter(", longer");
    tmux.press(&["Escape"]);
    tmux.enter(":wq");
    tmux.wait_for_last("inside$");
    tmux.says("stty size", "30 100");
    tmux.enter("exit");
    tmux.left_with(0);
    drop(tmux);
    assert_eq!(
        shell.call(["fs", "cat", &id, "/root/edited"]).succeeds().text(),
        "first line, longer\n\nsecond\n"
    );
    shell.assert_idle();
}

#[test]
fn top_and_less_draw_scroll_and_leave_the_screen_as_it_was() {
    let Some(shell) = debian() else { return };
    let tmux = Tmux::new(&shell);
    tmux.inside(&format!("$V run -it --rm {DEBIAN} bash"));
    tmux.clear();
    tmux.enter("top -d 0.3");
    let shows_top = |screen: &[String]| {
        screen[0].starts_with("top - ")
            && screen.iter().any(|line| line.contains("PID USER"))
            && screen.iter().any(|line| line.ends_with(" top"))
    };
    tmux.wait_until("top", shows_top);
    let first = tmux.screen()[0].clone();
    tmux.wait_until("top goes on", |screen| screen[0] != first && shows_top(screen));
    tmux.resize(120, 40);
    tmux.wait_until("top at the new size", |screen| screen.len() == 40 && shows_top(screen));
    tmux.press(&["q"]);
    tmux.wait_for_last("inside$");

    tmux.says("stty size", "40 120");
    tmux.enter("seq 1 1000 | less");
    let shows =
        |first: usize| move |screen: &[String]| (0..39).all(|row| screen[row] == (first + row).to_string());
    tmux.wait_until("the first page", shows(1));
    tmux.press(&["Space"]);
    tmux.wait_until("the second page", shows(40));
    tmux.press(&["b"]);
    tmux.wait_until("the first page again", shows(1));
    tmux.press(&["G"]);
    tmux.wait_until("the end", |screen| screen[38] == "1000");
    tmux.press(&["q"]);
    tmux.wait_for_last("inside$");
    tmux.enter("exit");
    tmux.left_with(0);
    drop(tmux);
    shell.assert_idle();
}
