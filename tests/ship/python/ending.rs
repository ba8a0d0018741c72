//! Code that does not end, or ends what runs it, or tries to.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use serde_json::json;
use vesselrt::serve::ship::MOST_OUTPUT;

use super::Fleet;
use crate::testkit::{PATIENCE, until};

pub(super) async fn what_takes_too_long_is_interrupted_and_the_state_stays(fleet: &Fleet) {
    fleet.py("kept = 5").await;
    for code in [
        "import time\nprint('begun')\ntime.sleep(60)",
        "print('begun')\nwhile True: pass",
        "import os\nprint('begun')\ncode = os.system('sleep 60')",
        "import subprocess\nprint('begun')\nsubprocess.run(['sleep', '60'])",
    ] {
        let began = Instant::now();
        let ran = fleet.ann("ipython/exec", json!({"code": code, "timeout": 1})).await;
        assert_eq!(ran["error"], "Code execution timed out after 1 seconds", "{code}");
        assert_eq!((&ran["success"], &ran["output"]["text"]), (&json!(false), &json!("begun")), "{code}");
        assert!(began.elapsed() < Duration::from_secs(5), "{code}: {:?}", began.elapsed());
        // The next call has nothing of it.
        assert_eq!(fleet.py("kept").await, "5", "{code}");
    }
    // Those that wait have their own time.
    let slow = json!({"code": "import time; time.sleep(1.5); print('slow')", "timeout": 5});
    let (slow, fast) = tokio::join!(
        fleet.ann("ipython/exec", slow),
        fleet.ann("ipython/exec", json!({"code": "print('fast')", "timeout": 1}))
    );
    assert_eq!((&slow["output"]["text"], &fast["output"]["text"]), (&json!("slow"), &json!("fast")));
}

pub(super) async fn what_ignores_the_interrupt_is_killed_and_the_next_call_works(fleet: &Fleet) {
    fleet.py("kept = 5").await;
    let code = "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nprint('deaf')\nwhile True: time.sleep(1)";
    let began = Instant::now();
    let ran = fleet.ann("ipython/exec", json!({"code": code, "timeout": 1})).await;
    assert_eq!(ran["error"], "Code execution timed out after 1 seconds");
    assert_eq!(ran["output"]["text"], "deaf");
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    assert_eq!(fleet.py("'kept' in globals()").await, "False", "it is a new one");
    // One that only hides from it for a while is not killed.
    fleet.py("kept = 6").await;
    let code = "import time\nfor _ in range(2):\n    try: time.sleep(30)\n    except KeyboardInterrupt: pass";
    let ran = fleet.ann("ipython/exec", json!({"code": code, "timeout": 1})).await;
    assert_eq!(ran["error"], "Code execution timed out after 1 seconds");
    assert_eq!(fleet.py("kept").await, "6");
}

pub(super) async fn a_kernel_that_dies_is_told_and_the_next_call_works(fleet: &Fleet) {
    for (code, how) in [
        ("import os; os._exit(7)", "exit code 7"),
        ("import os; os.kill(os.getpid(), 9)", "signal 9"),
        ("import ctypes; ctypes.string_at(0)", "signal 11"),
    ] {
        let error = fleet.fails(&format!("print('last words', flush=True)\n{code}")).await;
        assert_eq!(
            error,
            format!("The kernel died ({how}): its state is lost, and the next call starts a new one")
        );
        assert_eq!(fleet.py("1 + 1").await, "2");
    }
    // Between two calls.
    fleet.py("import os, threading, time\nthreading.Thread(target=lambda: (time.sleep(0.2), os._exit(1))).start()").await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(fleet.py("2 + 2").await, "4");
}

pub(super) async fn endless_output_and_huge_results_are_cut(fleet: &Fleet) {
    let ran = fleet.ann("ipython/exec", json!({"code": "while True: print('x' * 1000)", "timeout": 2})).await;
    let text = ran["output"]["text"].as_str().unwrap();
    assert!(text.len() < MOST_OUTPUT + 100, "{}", text.len());
    assert_eq!(ran["error"], "Code execution timed out after 2 seconds");
    let text = fleet.py("'y' * 30_000_000").await;
    assert!(text.len() < MOST_OUTPUT + 100 && text.contains("[output cut: "), "{}", text.len());
    // A program in the background that never stops does not hold up the answers of others.
    fleet.py("import subprocess; p = subprocess.Popen(['yes'])").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let began = Instant::now();
    let text = fleet.py("p.kill(); p.wait(); print('end')").await;
    assert!(format!("\n{text}").contains("\nend"), "{} bytes", text.len());
    assert!(began.elapsed() < Duration::from_secs(10));
    assert_eq!(fleet.py("print('quiet')").await, "quiet");
}

pub(super) async fn what_code_does_to_its_streams_is_undone(fleet: &Fleet) {
    for code in [
        "import sys; sys.stdout.close()",
        "import os; os.close(1); os.close(2)",
        "import sys, io; sys.stdout = io.StringIO()",
        "import os; os.dup2(os.open('/dev/null', os.O_RDWR), 1)",
        "import os; os.closerange(0, 3)",
    ] {
        fleet.runs(code).await;
        assert_eq!(
            fleet
                .py("print('here')\nimport os; os.write(2, b'too\\n');")
                .await
                .lines()
                .take(2)
                .collect::<Vec<_>>(),
            ["here", "too"],
            "{code}"
        );
    }
}

pub(super) async fn a_child_that_forgets_to_exit_answers_nothing(fleet: &Fleet) {
    let text = fleet.py("import os\npid = os.fork()\nif pid: os.waitpid(pid, 0); print('parent')").await;
    assert_eq!(text, "parent");
    assert_eq!(fleet.py("print('still one')").await, "still one");
    let text = fleet.py("import multiprocessing as m\nwith m.get_context('fork').Pool(2) as p: print(p.map(abs, [-1, -2]))").await;
    assert_eq!(text, "[1, 2]");
}

pub(super) async fn answers_that_code_makes_up_are_not_those_of_another_call(fleet: &Fleet) {
    // What is written to all descriptors that there are.
    let everywhere = |data: &str| {
        format!(
            "import os\ndata = {data}\nfor fd in range(3, 100):\n    try: os.write(fd, data)\n    except OSError: pass\n"
        )
    };
    let frame = r#"(lambda d: len(d).to_bytes(4, "big") + d)(b'{"id": "made up", "count": 1, "images": [], "error": null, "leaving": false}')"#;
    fleet.runs(&everywhere(frame)).await;
    assert_eq!(fleet.py("print('mine')").await, "mine");
    for garbage in ["b'\\xff' * 100", "b'\\0\\0\\0\\1x'"] {
        let began = Instant::now();
        fleet.runs(&everywhere(garbage)).await;
        assert_eq!(fleet.py("print('mine')").await, "mine", "{garbage}");
        assert!(began.elapsed() < PATIENCE, "{garbage}: {:?}", began.elapsed());
    }
}

pub(super) async fn a_kernel_whose_ship_was_stopped_is_made_anew(fleet: &Fleet) {
    fleet.py("x = 1").await;
    fleet.manager.stop_vessel(fleet.vessel().id()).await.unwrap();
    until("it is seen", async || fleet.ann("ipython/kernel/status", json!({})).await["status"] == "dead")
        .await;
    assert_eq!(fleet.py("'x' in globals()").await, "False");
}

pub(super) async fn a_kernel_that_uses_up_the_memory_says_so(fleet: &Fleet) {
    fleet.vessel().update(|limits| limits.memory = Some(200 << 20)).await.unwrap();
    let error = fleet.fails("x = bytearray(1 << 30)\nfor i in range(0, len(x), 4096): x[i] = 1").await;
    assert!(error.contains("it was killed because the memory was used up"), "{error}");
    assert_eq!(fleet.py("1 + 1").await, "2");
}
