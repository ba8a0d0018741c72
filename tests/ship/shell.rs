//! Commands of a session.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use serde_json::json;

use super::{ANN, ANNS, BOB, Fleet};
use crate::testkit::{Cap, Store, need, tests, until};

tests!(
    a_command_answers_its_code_and_its_output_without_white_space_around,
    a_command_has_the_environment_of_its_user_and_what_is_added,
    a_command_runs_where_it_is_told_to_and_nowhere_else,
    without_a_shell_words_are_words,
    a_command_that_takes_too_long_is_killed_with_all_that_it_started,
    endless_output_is_cut,
    a_background_process_runs_on_and_is_listed,
    one_background_process_is_killed_and_others_stay,
    a_session_that_ends_takes_its_commands_along,
    a_ship_that_was_killed_works_again,
    what_a_command_leaves_in_the_background_stays_until_the_session_ends,
    what_is_missing_or_wrong_is_said,
);

async fn a_command_answers_its_code_and_its_output_without_white_space_around(store: &Store) {
    if !need(&[Cap::SubordinateIds]) {
        return;
    }
    let fleet = Fleet::new(store).await;
    let done = fleet.ann("shell/exec", json!({"command": "echo; echo ' out '; echo err >&2; exit 3"})).await;
    let all = json!({"success": false, "return_code": 3, "stdout": "out", "stderr": "err", "pid": null, "process_id": null, "error": null});
    assert_eq!(done, all);
    let done = fleet.ann("shell/exec", json!({"command": "true", "cwd": null, "env": null, "timeout": 30, "shell": true, "background": false})).await;
    assert_eq!(
        (&done["success"], &done["return_code"], &done["error"]),
        (&json!(true), &json!(0), &json!(null))
    );
    let done = fleet.ann("shell/exec", json!({"command": "kill -9 $$"})).await;
    assert_eq!((&done["return_code"], &done["stderr"]), (&json!(137), &json!("")));
    let done = fleet.ann("shell/exec", json!({"command": "echo before; kill -9 -1"})).await;
    assert_eq!((&done["return_code"], &done["stdout"]), (&json!(137), &json!("before")));
    assert_eq!(fleet.sh(ANN, "ls /proc/self/fd; cat").await, "0\n1\n2\n3", "the last is that of ls");
    assert_eq!(fleet.sh(ANN, "printf '\\377'").await, "\u{fffd}");
    fleet.end().await;
}

async fn a_command_has_the_environment_of_its_user_and_what_is_added(store: &Store) {
    if !need(&[Cap::SubordinateIds]) {
        return;
    }
    let fleet = Fleet::new(store).await;
    let shown = fleet.sh(ANN, "echo $HOME $USER $LOGNAME $SHELL").await;
    assert_eq!(shown, format!("/home/{ANNS} {ANNS} {ANNS} /bin/sh"));
    let done = fleet.ann("shell/exec", json!({"command": "echo $A$B", "env": {"A": "a b", "B": "$c"}})).await;
    assert_eq!(done["stdout"], "a b$c");
    let done = fleet.ann("shell/exec", json!({"command": "true", "env": {"A=": "1"}})).await;
    assert_eq!(done["return_code"], -1);
    assert!(done["error"].as_str().unwrap().contains("name of a variable"), "{done}");
    fleet.end().await;
}

async fn a_command_runs_where_it_is_told_to_and_nowhere_else(store: &Store) {
    if !need(&[Cap::SubordinateIds]) {
        return;
    }
    let fleet = Fleet::new(store).await;
    let workspace = format!("/home/{ANNS}/workspace");
    fleet.sh(ANN, "mkdir -p \"it's/b\"; ln -s it\\'s/b in; ln -s /srv out; ln -s $PWD/in again").await;
    for (cwd, place) in
        [("it's/b", "it's/b"), ("in", "it's/b"), ("again", "it's/b"), ("", ""), (workspace.as_str(), "")]
    {
        let done = fleet.ann("shell/exec", json!({"command": "pwd -P", "cwd": cwd})).await;
        assert_eq!(
            done["stdout"].as_str().unwrap().trim_end_matches('/'),
            format!("{workspace}/{place}").trim_end_matches('/'),
            "{cwd}"
        );
    }
    let message = format!("403: Access denied: path must be within user workspace: {workspace}");
    for cwd in ["..", "/", "out", "out/sub", "/etc", "../../../etc", "/root"] {
        for shell in [true, false] {
            let done = fleet.ann("shell/exec", json!({"command": "pwd", "cwd": cwd, "shell": shell})).await;
            assert_eq!((&done["return_code"], &done["error"]), (&json!(-1), &json!(message)), "{cwd}");
        }
    }
    let done = fleet.ann("shell/exec", json!({"command": "echo no", "cwd": "none"})).await;
    assert_eq!((&done["success"], &done["stdout"]), (&json!(false), &json!("")), "{done}");
    assert!(done["stderr"].as_str().unwrap().contains("none"), "{done}");
    assert_eq!(
        fleet.ann("shell/cwd", json!({})).await,
        json!({"success": true, "cwd": workspace, "exists": true})
    );
    fleet.end().await;
}

async fn without_a_shell_words_are_words(store: &Store) {
    if !need(&[Cap::SubordinateIds]) {
        return;
    }
    let fleet = Fleet::new(store).await;
    let run =
        async |command: &str| fleet.ann("shell/exec", json!({"command": command, "shell": false})).await;
    assert_eq!(run("echo 'a  b' \"c\" $HOME ; *").await["stdout"], "a  b c $HOME ; *");
    assert_eq!(run("no-such-program x").await["return_code"], 127);
    assert_eq!(run("echo 'a").await["error"], "No closing quotation");
    assert_eq!(run("").await["return_code"], -1);
    fleet.end().await;
}

async fn a_command_that_takes_too_long_is_killed_with_all_that_it_started(store: &Store) {
    if !need(&[Cap::SubordinateIds]) {
        return;
    }
    let fleet = Fleet::new(store).await;
    let began = Instant::now();
    let command = "echo begun; (sleep 60; touch late) & setsid sleep 50 & trap '' TERM INT; sleep 40";
    let done = fleet.ann("shell/exec", json!({"command": command, "timeout": 1})).await;
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(
        (&done["success"], &done["return_code"], &done["error"]),
        (&json!(false), &json!(-1), &json!("Command timed out"))
    );
    assert_eq!(done["stdout"], "begun");
    // Who holds the pipes of a command that has ended does not hold its answer.
    let began = Instant::now();
    let done = fleet.ann("shell/exec", json!({"command": "sleep 30 & echo done"})).await;
    assert_eq!(done["stdout"], "done");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    fleet.end().await;
}

async fn endless_output_is_cut(store: &Store) {
    if !need(&[Cap::SubordinateIds]) {
        return;
    }
    let fleet = Fleet::new(store).await;
    let done = fleet
        .ann("shell/exec", json!({"command": "head -c 20000000 /dev/zero | tr '\\0' x; echo end >&2"}))
        .await;
    let out = done["stdout"].as_str().unwrap();
    assert_eq!(done["return_code"], 0);
    assert!(
        out.len() > vesselrt::serve::ship::MOST_OUTPUT
            && out.len() < vesselrt::serve::ship::MOST_OUTPUT + 100
    );
    assert!(
        out.ends_with(&format!(
            "[output cut: {} more bytes]",
            20_000_000 - vesselrt::serve::ship::MOST_OUTPUT
        ))
    );
    assert_eq!(done["stderr"], "end");
    fleet.end().await;
}

async fn a_background_process_runs_on_and_is_listed(store: &Store) {
    if !need(&[Cap::SubordinateIds]) {
        return;
    }
    let fleet = Fleet::new(store).await;
    assert_eq!(fleet.ann("shell/processes", json!({})).await, json!({"processes": []}));
    let start = async |command: &str| {
        let done = fleet.ann("shell/exec", json!({"command": command, "background": true})).await;
        assert_eq!(
            (&done["success"], &done["return_code"], &done["stdout"]),
            (&json!(true), &json!(0), &json!(""))
        );
        assert!(done["pid"].is_u64(), "{done}");
        let id = done["process_id"].as_str().unwrap().to_owned();
        assert!(id.len() == 8 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
        id
    };
    let ids = [start("touch begun; sleep 60").await, start("echo good > good").await, start("exit 4").await];
    let status = async || {
        let listed = fleet.ann("shell/processes", json!(null)).await;
        let listed = listed["processes"].as_array().unwrap().clone();
        let of = |id: &String| listed.iter().find(|process| process["process_id"] == **id).cloned().unwrap();
        ids.iter()
            .map(of)
            .map(|process| (process["status"].clone(), process["command"].clone()))
            .collect::<Vec<_>>()
    };
    until("two have ended", async || {
        status().await.iter().filter(|(status, _)| status == "running").count() == 1
    })
    .await;
    let wanted =
        [("running", "touch begun; sleep 60"), ("completed", "echo good > good"), ("failed", "exit 4")];
    assert_eq!(status().await, wanted.map(|(status, command)| (json!(status), json!(command))));
    until("it wrote", async || fleet.sh(ANN, "cat good; ls").await.contains("begun")).await;
    // Those of others are nobody's business.
    assert_eq!(fleet.asks(BOB, "shell/processes", json!({}), 200).await, json!({"processes": []}));
    fleet.ship.end_session(ANN).await;
    until("it was killed", async || status().await[0].0 == "failed").await;
    fleet.end().await;
}

async fn one_background_process_is_killed_and_others_stay(store: &Store) {
    if !need(&[Cap::SubordinateIds]) {
        return;
    }
    let fleet = Fleet::new(store).await;
    let start = async |command: &str| {
        let done = fleet.ann("shell/exec", json!({"command": command, "background": true})).await;
        done["process_id"].as_str().unwrap().to_owned()
    };
    // What it started, and what would not listen, goes along.
    let ticking =
        "trap '' TERM; (while true; do date +%s%N > tick; usleep 20000; done) & sleep 600 & wait; sleep 600";
    let (one, other) = (start(ticking).await, start("sleep 600").await);
    until("it ticks", async || !fleet.sh(ANN, "cat tick 2>/dev/null; true").await.is_empty()).await;
    let told = fleet.refuses("shell/kill", json!({"process_id": "00000000"}), 404).await;
    assert_eq!(told, "Process not found: 00000000");
    let stranger = fleet.asks(BOB, "shell/kill", json!({"process_id": one}), 404).await;
    assert_eq!(stranger["detail"], format!("Process not found: {one}"));
    fleet.refuses("shell/kill", json!({"process_id": other, "signal": 99}), 400).await;
    fleet.asks(ANN, "shell/kill", json!({}), 422).await;
    let killed = fleet.ann("shell/kill", json!({"process_id": one})).await;
    assert_eq!((&killed["success"], &killed["status"]), (&json!(true), &json!("failed")), "{killed}");
    assert_eq!((&killed["process_id"], &killed["command"]), (&json!(one), &json!(ticking)));
    let last = fleet.sh(ANN, "cat tick").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(fleet.sh(ANN, "cat tick").await, last, "nothing of it runs");
    assert_eq!(fleet.ann("shell/kill", json!({"process_id": one})).await["status"], "failed");
    let listed = fleet.ann("shell/processes", json!({})).await;
    let status = |id: &String| {
        let found =
            listed["processes"].as_array().unwrap().iter().find(|process| process["process_id"] == **id);
        found.unwrap()["status"].clone()
    };
    assert_eq!((status(&one), status(&other)), (json!("failed"), json!("running")));
    // Another signal is sent, and what becomes of it is seen in the list.
    fleet.ann("shell/kill", json!({"process_id": other, "signal": 15})).await;
    until("it has ended", async || {
        let listed = fleet.ann("shell/processes", json!({})).await;
        listed["processes"].as_array().unwrap().iter().all(|process| process["status"] == "failed")
    })
    .await;
    fleet.end().await;
}

async fn a_session_that_ends_takes_its_commands_along(store: &Store) {
    if !need(&[Cap::SubordinateIds]) {
        return;
    }
    let fleet = Fleet::new(store).await;
    fleet.sh(ANN, "true").await;
    let (done, ()) =
        tokio::join!(fleet.asks(ANN, "shell/exec", json!({"command": "touch on; sleep 60"}), 400), async {
            let marker = format!("/home/{ANNS}/workspace/on");
            until("it runs", async || fleet.vessel().stat(&marker).await.is_ok()).await;
            fleet.ship.end_session(ANN).await;
        });
    assert_eq!(done["detail"], "The session was ended");
    assert_eq!(fleet.sh(ANN, "ls").await, "on");
    fleet.end().await;
}

async fn what_is_missing_or_wrong_is_said(store: &Store) {
    if !need(&[Cap::SubordinateIds]) {
        return;
    }
    let fleet = Fleet::new(store).await;
    let missing = fleet.asks(ANN, "shell/exec", json!({}), 422).await;
    assert_eq!(missing["detail"][0]["loc"], json!(["body", "command"]));
    assert_eq!(missing["detail"][0]["type"], "missing");
    for wrong in [
        json!({"command": 1}),
        json!({"command": "a", "timeout": "x"}),
        json!({"command": "a", "env": [1]}),
        json!([]),
    ] {
        fleet.asks(ANN, "shell/exec", wrong, 422).await;
    }
    for unknown in ["shell/none", "shell", "", "fs/../shell/exec", "ipython/none", "/", "fs/"] {
        assert_eq!(fleet.refuses(unknown, json!({}), 404).await, "Not Found", "{unknown}");
    }
    let done = fleet.ann("shell/exec", json!({"command": "a\0b"})).await;
    assert!(done["error"].as_str().unwrap().contains("NUL"), "{done}");
    fleet.end().await;
}

async fn a_ship_that_was_killed_works_again(store: &Store) {
    if !need(&[Cap::SubordinateIds]) {
        return;
    }
    let fleet = Fleet::new(store).await;
    fleet.sh(ANN, "echo kept > file").await;
    let (killed, ()) =
        tokio::join!(fleet.ann("shell/exec", json!({"command": "touch on; sleep 60"})), async {
            let marker = format!("/home/{ANNS}/workspace/on");
            until("it runs", async || fleet.vessel().stat(&marker).await.is_ok()).await;
            fleet.manager.stop_vessel(fleet.vessel().id()).await.unwrap();
        });
    assert_eq!(killed["success"], false, "{killed}");
    assert_eq!(fleet.sh(ANN, "cat file").await, "kept");
    fleet.end().await;
}

async fn what_a_command_leaves_in_the_background_stays_until_the_session_ends(store: &Store) {
    if !need(&[Cap::SubordinateIds]) {
        return;
    }
    let fleet = Fleet::new(store).await;
    let server = "i=0; while true; do echo again; i=$((i+1)); echo $i > tick; usleep 50000; done";
    let began = Instant::now();
    assert_eq!(
        fleet.sh(ANN, &format!("nohup sh -c '{server}' > /dev/null 2>&1 & echo started")).await,
        "started"
    );
    // One that keeps the streams, and one that nobody is the parent of.
    let done =
        fleet.ann("shell/exec", json!({"command": format!("(setsid sh -c '{server}' &); exit 3")})).await;
    assert_eq!(done["return_code"], 3);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let tick = async || fleet.sh(ANN, "cat tick").await;
    let first = tick().await;
    until("it goes on", async || ![first.as_str(), ""].contains(&tick().await.as_str())).await;
    fleet.ship.end_session(ANN).await;
    // Whoever was about to write has written by then.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let last = tick().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(tick().await, last);
    fleet.end().await;
}
