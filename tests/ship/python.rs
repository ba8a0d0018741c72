//! The Python of a session, with IPython and without.
#![forbid(unsafe_code)]

mod ending;
mod image;

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use serde_json::{Value, json};

use ending::{
    a_child_that_forgets_to_exit_answers_nothing, a_kernel_that_dies_is_told_and_the_next_call_works,
    a_kernel_that_uses_up_the_memory_says_so, a_kernel_whose_ship_was_stopped_is_made_anew,
    answers_that_code_makes_up_are_not_those_of_another_call, endless_output_and_huge_results_are_cut,
    what_code_does_to_its_streams_is_undone, what_ignores_the_interrupt_is_killed_and_the_next_call_works,
    what_takes_too_long_is_interrupted_and_the_state_stays,
};
use image::on;

use super::{ANN, ANNS, BOB, Fleet};
use crate::testkit::{Cap, Store, need, tests, until};

/// Makes a test of each function on an image with IPython, and one on an image without.
macro_rules! tests_on_each_python {
    ($($name:ident),+ $(,)?) => {
        mod ipython {
            $(#[test]
            fn $name() {
                super::on(crate::testkit::Cap::Languages, super::$name);
            })+
        }
        mod plain {
            $(#[test]
            fn $name() {
                super::on(crate::testkit::Cap::NetworkDebian, super::$name);
            })+
        }
    };
}

tests_on_each_python!(
    state_stays_and_each_call_has_its_own_output,
    two_hundred_prints_in_a_row_are_all_right,
    eight_calls_at_once_are_answered_each_with_its_own_output,
    what_programs_write_belongs_to_the_call,
    an_error_has_its_traceback_and_leaves_the_state,
    what_takes_too_long_is_interrupted_and_the_state_stays,
    what_ignores_the_interrupt_is_killed_and_the_next_call_works,
    a_kernel_that_dies_is_told_and_the_next_call_works,
    endless_output_and_huge_results_are_cut,
    what_code_does_to_its_streams_is_undone,
    a_child_that_forgets_to_exit_answers_nothing,
    answers_that_code_makes_up_are_not_those_of_another_call,
    kernels_are_made_listed_and_ended,
    the_interpreter_is_the_session_s_user,
    a_kernel_whose_ship_was_stopped_is_made_anew,
    modules_of_the_workspace_are_imported_but_do_not_replace_ours,
);

mod limits {
    #[test]
    fn a_kernel_that_uses_up_the_memory_says_so() {
        if crate::testkit::need(&[crate::testkit::Cap::ControlGroups]) {
            super::on(crate::testkit::Cap::NetworkDebian, super::a_kernel_that_uses_up_the_memory_says_so);
        }
    }
}

mod figures {
    #[test]
    fn figures_are_images_of_the_call_that_made_them() {
        super::on(crate::testkit::Cap::Languages, super::figures_are_images_of_the_call_that_made_them);
    }
    #[test]
    fn what_ipython_displays_is_text_or_an_image() {
        super::on(crate::testkit::Cap::Languages, super::what_ipython_displays_is_text_or_an_image);
    }
}

tests!(an_image_without_python_says_so);

impl Fleet {
    async fn runs(&self, code: &str) -> Value {
        self.ann("ipython/exec", json!({"code": code, "kernel_id": null, "timeout": 60, "silent": false}))
            .await
    }

    /// The text of code that must succeed.
    async fn py(&self, code: &str) -> String {
        let ran = self.runs(code).await;
        assert_eq!(ran["success"], true, "{code}: {ran}");
        ran["output"]["text"].as_str().unwrap().to_owned()
    }

    /// The error of code that must fail.
    async fn fails(&self, code: &str) -> String {
        let ran = self.runs(code).await;
        assert_eq!(ran["success"], false, "{code}: {ran}");
        ran["error"].as_str().unwrap().to_owned()
    }
}

async fn state_stays_and_each_call_has_its_own_output(fleet: &Fleet) {
    let first = fleet.runs("x = 41").await;
    let all = json!({"success": true, "execution_count": 1, "output": {"text": "", "images": []}, "error": null, "kernel_id": ANN});
    assert_eq!(first, all);
    let second = fleet.runs("print('a', end='')\nx + 1").await;
    assert_eq!((&second["output"]["text"], &second["execution_count"]), (&json!("a42"), &json!(2)));
    assert_eq!(fleet.py("_ + 1").await, "43");
    assert_eq!(
        fleet.py("def f():\n    return x\nclass A: pass\nA.__module__, f()").await,
        "('__main__', 41)"
    );
    // Silent code leaves no trace but what it prints.
    let silent = fleet.ann("ipython/exec", json!({"code": "x", "silent": true})).await;
    assert_eq!((&silent["success"], &silent["output"]["text"]), (&json!(true), &json!("")));
    assert_eq!(fleet.runs("1").await["execution_count"], 5);
    assert_eq!(fleet.py("").await, "");
    assert_eq!(fleet.py("'é\\u2603 \\U0001f600'").await, "'é☃ 😀'");
    assert_eq!(
        fleet.asks(BOB, "ipython/exec", json!({"code": "'x' in globals()"}), 200).await["output"]["text"],
        "False"
    );
    assert_eq!(
        fleet.asks(ANN, "ipython/exec", json!({}), 422).await["detail"][0]["loc"],
        json!(["body", "code"])
    );
}

async fn two_hundred_prints_in_a_row_are_all_right(fleet: &Fleet) {
    for n in 0..200 {
        assert_eq!(fleet.py(&format!("print({n})")).await, n.to_string());
    }
    // Without a break in between, and with the number of the call.
    for n in 0..1000 {
        let ran = fleet.runs(&format!("{n}*2")).await;
        assert_eq!(
            (&ran["output"]["text"], &ran["execution_count"]),
            (&json!((n * 2).to_string()), &json!(n + 201))
        );
    }
}

async fn eight_calls_at_once_are_answered_each_with_its_own_output(fleet: &Fleet) {
    for round in 0..5 {
        let code = |n| format!("import time; print('begin {round} {n}'); time.sleep(0.02); print('end {n}')");
        let calls: Vec<String> = (0..8).map(code).collect();
        let answers = tokio::join!(
            fleet.py(&calls[0]),
            fleet.py(&calls[1]),
            fleet.py(&calls[2]),
            fleet.py(&calls[3]),
            fleet.py(&calls[4]),
            fleet.py(&calls[5]),
            fleet.py(&calls[6]),
            fleet.py(&calls[7]),
        );
        let answers: [String; 8] = answers.into();
        for (n, text) in answers.iter().enumerate() {
            assert_eq!(*text, format!("begin {round} {n}\nend {n}"));
        }
    }
}

async fn what_programs_write_belongs_to_the_call(fleet: &Fleet) {
    let code = "import os, subprocess, sys\nprint('one')\nos.system('echo two')\nsubprocess.run('echo three >&2', shell=True)\nprint('four', file=sys.stderr)\nos.write(1, b'five\\n');";
    let text = fleet.py(code).await;
    assert_eq!(
        text.lines().filter(|line| !line.starts_with("0")).collect::<Vec<_>>(),
        ["one", "two", "three", "four", "five"],
        "{text}"
    );
    let many = "import ctypes\nfor i in range(20000): print(i)\nctypes.CDLL(None).puts(b'from C');";
    let text = fleet.py(many).await;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines.len(), lines[19_999], lines[20_000]), (20_001, "19999", "from C"));
    // What is written when no code runs belongs to the next.
    fleet.py("import threading, time\nt = threading.Thread(target=lambda: (time.sleep(0.3), print('late')))\nt.start()").await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(fleet.py("t.join(); print('next')").await, "late\nnext");
    assert_eq!(fleet.py("print('own')").await, "own");
}

async fn an_error_has_its_traceback_and_leaves_the_state(fleet: &Fleet) {
    fleet.py("kept = 1\ndef divide(a):\n    return a / 0").await;
    let ran = fleet.runs("print('before')\ndivide(1)").await;
    assert_eq!((&ran["success"], &ran["output"]["text"]), (&json!(false), &json!("before")));
    let error = ran["error"].as_str().unwrap();
    for part in ["Traceback (most recent call last)", "ZeroDivisionError", "division by zero", "divide"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(!error.contains("run_cell"), "{error}");
    for (code, part) in [
        ("def f(:", "SyntaxError"),
        ("no_such_name", "no_such_name"),
        ("import no_such_module", "No module named"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("import sys; sys.exit(3)", "SystemExit"),
        ("input('name? ')", "does not support input requests"),
        ("def f(): return f()\nf()", "RecursionError"),
        ("bytearray(1 << 60)", "MemoryError"),
        ("raise type('Odd', (Exception,), {'__str__': lambda self: 1 / 0})()", "Odd"),
        ("class R:\n    def __repr__(self): raise ValueError('bad repr')\nR()", "bad repr"),
        ("raise ValueError('\\ud800')", "ValueError"),
        ("raise ValueError('x' * 5_000_000)", "[...]"),
    ] {
        let error = fleet.fails(code).await;
        assert!(error.contains(part) && error.len() < 3 << 20, "{code}: {}", &error[..error.len().min(2000)]);
    }
    assert_eq!(fleet.py("kept").await, "1");
    assert_eq!(fleet.py("import sys; print(sys.stdin.read() == '')").await, "True");
}

async fn kernels_are_made_listed_and_ended(fleet: &Fleet) {
    assert_eq!(fleet.ann("ipython/kernels", json!({})).await, json!({"kernels": []}));
    let missing = format!("Kernel for session {ANN} not found");
    assert_eq!(fleet.refuses("ipython/kernel/status", json!({}), 404).await, missing);
    assert_eq!(fleet.refuses("ipython/kernel", json!({}), 404).await, missing);
    let workspace = format!("/home/{ANNS}/workspace");
    let made = fleet.ann("ipython/create_kernel", json!({})).await;
    let message = format!("Kernel for session {ANN} created successfully");
    assert_eq!(made, json!({"success": true, "kernel_id": ANN, "workspace": workspace, "message": message}));
    assert_eq!(fleet.py("x = 1; import os; print(os.getcwd())").await, workspace);
    fleet.ann("ipython/create_kernel", json!({})).await;
    assert_eq!(fleet.py("x").await, "1");
    let status = fleet.ann("ipython/kernel/status", json!({})).await;
    assert_eq!(
        status,
        json!({"session_id": ANN, "kernel_id": ANN, "status": "alive", "workspace": workspace, "has_kernel": true})
    );
    let listed = fleet.ann("ipython/kernels", json!({})).await;
    assert_eq!(listed, json!({"kernels": [{"kernel_id": ANN, "status": "alive", "connections": 1}]}));
    assert_eq!(fleet.asks(BOB, "ipython/kernels", json!({}), 200).await, json!({"kernels": []}));
    let ended = fleet.ann("ipython/kernel", json!({})).await;
    assert_eq!(
        ended,
        json!({"success": true, "message": format!("Kernel for session {ANN} shutdown successfully")})
    );
    assert_eq!(fleet.py("'x' in globals()").await, "False");
    // A session that ends takes its kernel along, and what waits for it.
    let (waiting, ()) = tokio::join!(
        fleet.asks(ANN, "ipython/exec", json!({"code": "open('on', 'w'); import time; time.sleep(60)"}), 400),
        async {
            until("it runs", async || fleet.vessel().stat(format!("{workspace}/on")).await.is_ok()).await;
            fleet.ship.end_session(ANN).await;
        }
    );
    assert_eq!(waiting["detail"], "The session was ended");
}

async fn the_interpreter_is_the_session_s_user(fleet: &Fleet) {
    let text = fleet.py("import os, pwd\nprint(os.getuid(), os.getgroups(), pwd.getpwuid(os.getuid()).pw_name, os.environ['HOME'], os.path.expanduser('~'))").await;
    assert_eq!(text, format!("10000 [] {ANNS} /home/{ANNS} /home/{ANNS}"));
    assert!(fleet.fails("open('/etc/x', 'w')").await.contains("Permission denied"));
    fleet.py("open('made', 'w').write('by python');").await;
    assert_eq!(fleet.ann("fs/read_file", json!({"path": "made"})).await["content"], "by python");
    assert_eq!(
        fleet.sh(ANN, "cat made; echo ' and shell' >> made; stat -c %U made").await,
        format!("by python{ANNS}")
    );
}

async fn modules_of_the_workspace_are_imported_but_do_not_replace_ours(fleet: &Fleet) {
    for name in ["json", "signal", "base64", "IPython", "sitecustomize"] {
        fleet
            .ann(
                "fs/create_file",
                json!({"path": format!("{name}.py"), "content": "raise SystemExit('hijacked')"}),
            )
            .await;
    }
    fleet.ann("fs/create_file", json!({"path": "own.py", "content": "value = 7"})).await;
    assert_eq!(fleet.py("import own; own.value").await, "7");
}

async fn figures_are_images_of_the_call_that_made_them(fleet: &Fleet) {
    let png = |value: &Value| {
        let data =
            base64::engine::general_purpose::STANDARD.decode(value["image/png"].as_str().unwrap()).unwrap();
        assert!(data.starts_with(b"\x89PNG\r\n\x1a\n") && data.len() > 1000, "{}", data.len());
    };
    let ran =
        fleet.runs("import matplotlib.pyplot as plt\nplt.plot([1, 2, 3])\nplt.show()\nprint('shown')").await;
    assert_eq!((&ran["success"], &ran["output"]["text"]), (&json!(true), &json!("shown")), "{ran}");
    let images = ran["output"]["images"].as_array().unwrap();
    assert_eq!(images.len(), 1);
    png(&images[0]);
    // Also those that nobody shows, and two of them.
    let ran = fleet.runs("fig, ax = plt.subplots(); ax.bar([1], [2]);\nplt.figure(); plt.title('t');").await;
    assert_eq!(ran["output"]["images"].as_array().unwrap().len(), 2, "{}", ran["error"]);
    assert_eq!(fleet.runs("1").await["output"]["images"], json!([]));
    let ran = fleet.runs("%matplotlib inline\nplt.plot([3, 1]);").await;
    assert_eq!(ran["output"]["images"].as_array().map(Vec::len), Some(1), "{ran}");
    // A program that the code starts has no backend of ours.
    let ran = fleet.runs("import subprocess, sys\nprint(subprocess.run([sys.executable, '-c', 'import matplotlib.pyplot as p; p.plot([1]); print(p.get_backend())'], capture_output=True, text=True).stdout)").await;
    assert_eq!(ran["output"]["text"], "agg", "{ran}");
}

async fn what_ipython_displays_is_text_or_an_image(fleet: &Fleet) {
    let ran = fleet.runs("from IPython.display import Image, display\ndisplay('one')\ndisplay(Image(data=b'\\x89PNG\\r\\n\\x1a\\n' + bytes(9), format='png'))\n'two'").await;
    assert_eq!(ran["output"]["text"], "'one'\n'two'", "{ran}");
    assert_eq!(ran["output"]["images"].as_array().unwrap().len(), 1, "{ran}");
    assert_eq!(fleet.py("%pwd").await, format!("'/home/{ANNS}/workspace'"));
    assert_eq!(fleet.py("!echo from a shell").await, "from a shell");
    assert_eq!(fleet.py("import asyncio\nawait asyncio.sleep(0.01)\nprint('awaited')").await, "awaited");
    assert!(fleet.fails("1/0").await.contains("\u{1b}["), "a traceback has its colours");
    // A shell command is interrupted like the rest.
    let ran = fleet.ann("ipython/exec", json!({"code": "!sleep 60", "timeout": 1})).await;
    assert_eq!(ran["error"], "Code execution timed out after 1 seconds");
    assert_eq!(fleet.py("exit").await, "");
    assert_eq!(fleet.py("1 + 1").await, "2");
}

async fn an_image_without_python_says_so(store: &Store) {
    if !need(&[Cap::SubordinateIds]) {
        return;
    }
    let fleet = Fleet::new(store).await;
    assert_eq!(fleet.fails("1").await, "Failed to start Python: the image has no python3");
    let status = fleet.ann("ipython/kernel/status", json!({})).await;
    assert_eq!(status["status"], "dead");
    fleet.end().await;
}

/// Ten thousand calls, and how long one takes: `cargo test --release -- --ignored ten_thousand --nocapture`.
#[test]
#[ignore = "takes a minute; prints what it measured"]
fn ten_thousand_calls_in_a_row_are_all_right() {
    on(Cap::Languages, async |fleet: &Fleet| {
        fleet.py("1+1").await;
        let mut times = Vec::new();
        for n in 0..10_000 {
            let began = Instant::now();
            let text = fleet.py(&format!("{n}+1")).await;
            times.push(began.elapsed());
            assert_eq!(text, (n + 1).to_string());
        }
        times.sort_unstable();
        println!("ipython/exec: p50 {:?}, p99 {:?}", times[5000], times[9900]);
        let mut times = Vec::new();
        for _ in 0..500 {
            let began = Instant::now();
            fleet.sh(ANN, "true").await;
            times.push(began.elapsed());
        }
        times.sort_unstable();
        println!("shell/exec: p50 {:?}, p99 {:?}", times[250], times[495]);
    });
}

/// Sessions side by side do not get each other's output.
#[test]
fn sessions_side_by_side_have_their_own_kernels() {
    on(Cap::NetworkDebian, async |fleet: &Fleet| {
        let ship = Arc::new(&fleet.ship);
        let run = async |session: &str| {
            for n in 0..50 {
                let answer = ship
                    .operate(session, "ipython/exec", json!({"code": format!("print('{session}', {n})")}))
                    .await;
                assert_eq!(answer.body["output"]["text"], format!("{session} {n}"), "{}", answer.body);
            }
        };
        tokio::join!(run("one"), run("two"), run("three"));
    });
}
