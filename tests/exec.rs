//! Commands: exit codes, streams, environment, users, directories, time limits, and what they find inside.
#![forbid(unsafe_code)]

mod confinement;
mod ending;
mod slots;

use std::time::Duration;

use vesselrt::{ErrorKind, ExecOptions};

use crate::testkit::commands::must;
use crate::testkit::random::Random;
use crate::testkit::{
    BASE, Cap, Store, capture, fails, fails_with, need, run_in, sh, tests, tests_on_each_driver,
};

tests_on_each_driver!(
    a_command_s_exit_code_is_its_own,
    standard_input_reaches_its_end,
    a_working_directory_is_made_when_missing,
    a_user_is_a_name_or_a_number,
);

tests!(
    an_empty_command_is_refused,
    nothing_is_read_unless_given,
    ten_megabytes_come_through_each_stream,
    the_streams_are_apart,
    a_command_that_reads_nothing_does_not_block_its_writer,
    a_reader_that_is_slow_loses_nothing,
    a_stream_that_fails_is_an_error,
    the_environment_is_the_image_s_and_the_caller_s,
    nothing_of_the_host_s_environment_is_inside,
    arguments_are_bytes,
    an_unknown_user_is_refused,
    a_command_that_is_not_there_is_not_found,
    a_command_that_is_no_program_is_not_executable,
    a_script_runs_by_its_interpreter,
    eight_commands_run_at_once,
    a_hundred_commands_run_one_after_the_other,
    a_descriptor_can_be_handed_over,
);

async fn a_command_s_exit_code_is_its_own(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    for code in [0, 1, 2, 42, 124, 125, 126, 127, 128, 255] {
        let ran = run_in(&vessel, ExecOptions::new(["sh", "-c", &format!("exit {code}")])).await.unwrap();
        assert_eq!((ran.result.exit_code, ran.result.signal, ran.result.timed_out), (code, None, false));
        assert_eq!(ran.result.success(), code == 0);
    }
    // The shell is process 2 and later there: a signal ends it as anywhere.
    for (name, number) in [("TERM", 15), ("KILL", 9), ("SEGV", 11), ("HUP", 1)] {
        let ran = run_in(&vessel, ExecOptions::new(["sh", "-c", &format!("kill -{name} $$; sleep 9")]))
            .await
            .unwrap();
        assert_eq!((ran.result.exit_code, ran.result.signal), (128 + number, Some(number)), "{name}");
    }
    vessel.close().await.unwrap();
}

async fn an_empty_command_is_refused(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let none: [&str; 0] = [];
    fails_with(vessel.exec(ExecOptions::new(none)).await, &ErrorKind::InvalidArgument, "command is required");
    fails_with(vessel.exec(ExecOptions::new([""])).await, &ErrorKind::InvalidArgument, "command is required");
    fails(vessel.exec(ExecOptions::new(["echo", "a\0b"])).await, &ErrorKind::InvalidArgument);
    fails(vessel.exec(ExecOptions::new(["true"]).env("A=B", "")).await, &ErrorKind::InvalidArgument);
    fails(vessel.exec(ExecOptions::new(["true"]).work_dir("a\0")).await, &ErrorKind::InvalidArgument);
    vessel.close().await.unwrap();
}

async fn standard_input_reaches_its_end(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let data = Random::new().bytes(3 << 20);
    let out = capture();
    let cat = ExecOptions::new(["cat"]).stdin(std::io::Cursor::new(data.clone())).stdout(out.clone());
    assert_eq!(vessel.exec(cat).await.unwrap().exit_code, 0);
    assert!(out.bytes() == data);
    let wc = ExecOptions::new(["wc", "-c"]).stdin(b"".as_slice());
    assert_eq!(must(&vessel, wc).await.trim(), "0");
    vessel.close().await.unwrap();
}

async fn nothing_is_read_unless_given(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    assert_eq!(must(&vessel, ExecOptions::new(["cat"])).await, "");
    assert_eq!(sh(&vessel, "readlink /proc/self/fd/0").await, "/dev/null\n");
    vessel.close().await.unwrap();
}

async fn ten_megabytes_come_through_each_stream(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let data = Random::new().bytes(10 << 20);
    vessel.write_file("big", &data, 0o644).await.unwrap();
    let (out, err) = (capture(), capture());
    let both = ExecOptions::new(["sh", "-c", "cat big & cat big >&2; wait"]);
    vessel.exec(both.stdout(out.clone()).stderr(err.clone())).await.unwrap();
    assert!(out.bytes() == data && err.bytes() == data);
    vessel.close().await.unwrap();
}

async fn the_streams_are_apart(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let options = ExecOptions::new(["sh", "-c", "echo out; echo err >&2; exit 3"]);
    let ran = run_in(&vessel, options).await.unwrap();
    assert_eq!((ran.result.exit_code, ran.out.as_str(), ran.err.as_str()), (3, "out\n", "err\n"));
    let result = vessel.exec(ExecOptions::new(["sh", "-c", "echo lost; echo lost >&2"])).await.unwrap();
    assert!(result.success(), "output that nobody wants is thrown away");
    vessel.close().await.unwrap();
}

async fn a_command_that_reads_nothing_does_not_block_its_writer(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let endless = ExecOptions::new(["true"]).stdin(tokio::io::repeat(b'y'));
    assert!(vessel.exec(endless).await.unwrap().success());
    let (_open, silent) = tokio::io::duplex(64);
    assert!(vessel.exec(ExecOptions::new(["true"]).stdin(silent)).await.unwrap().success());
    let few = ExecOptions::new(["head", "-c", "5"]).stdin(tokio::io::repeat(b'y'));
    assert_eq!(must(&vessel, few).await, "yyyyy");
    vessel.close().await.unwrap();
}

async fn a_reader_that_is_slow_loses_nothing(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let (mut reader, writer) = tokio::io::duplex(1 << 10);
    let reading = tokio::spawn(async move {
        let mut total = 0;
        let mut buffer = vec![0; 16 << 10];
        loop {
            tokio::time::sleep(Duration::from_millis(1)).await;
            match tokio::io::AsyncReadExt::read(&mut reader, &mut buffer).await.unwrap() {
                0 => return total,
                n => total += n,
            }
        }
    });
    let result =
        vessel.exec(ExecOptions::new(["head", "-c", "400000", "/dev/zero"]).stdout(writer)).await.unwrap();
    assert!(result.success());
    assert_eq!(reading.await.unwrap(), 400_000);
    vessel.close().await.unwrap();
}

async fn a_stream_that_fails_is_an_error(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let (reader, writer) = tokio::io::duplex(64);
    drop(reader);
    // Whoever reads may stop early: that is no failure, and the command does not hang on it.
    let ran = vessel.exec(ExecOptions::new(["head", "-c", "3000000", "/dev/zero"]).stdout(writer)).await;
    assert!(ran.is_ok(), "{ran:?}");
    vessel.close().await.unwrap();
}

async fn the_environment_is_the_image_s_and_the_caller_s(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let options =
        ExecOptions::new(["env"]).env("A", "1").env("B", "two words").env("A", "3=4").env("EMPTY", "");
    let mut lines: Vec<String> = must(&vessel, options).await.lines().map(str::to_owned).collect();
    lines.sort_unstable();
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(lines, ["A=3=4", "B=two words", "EMPTY=", "HOME=/root", path]);
    let own = ExecOptions::new(["sh", "-c", "echo $HOME $PATH"]).env("HOME", "/h").env("PATH", "/bin");
    assert_eq!(must(&vessel, own).await, "/h /bin\n");
    vessel.close().await.unwrap();
}

async fn nothing_of_the_host_s_environment_is_inside(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    // What Cargo tells this test is told to no command, nor to the process above it.
    assert!(std::env::vars().any(|(key, _)| key.starts_with("CARGO") || key == "PATH"));
    let script =
        "cat /proc/self/environ /proc/1/environ 2>/dev/null | tr '\\0' '\\n' | cut -d= -f1 | sort -u";
    let names = sh(&vessel, script).await;
    let strange: Vec<_> =
        names.lines().filter(|n| !["HOME", "PATH", "PWD", "SHLVL", ""].contains(n)).collect();
    assert!(strange.is_empty(), "{strange:?}");
    vessel.close().await.unwrap();
}

async fn arguments_are_bytes(store: &Store) {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;
    let (_manager, vessel) = store.vessel().await;
    let odd = OsString::from_vec(b"\xff\xfe \n'\"$x".to_vec());
    let out = capture();
    let options =
        ExecOptions::new([OsString::from("printf"), "%s|%s|%s".into(), "-n".into(), odd, "".into()]);
    assert!(vessel.exec(options.stdout(out.clone())).await.unwrap().success());
    assert_eq!(out.bytes(), b"-n|\xff\xfe \n'\"$x|");
    let long = "x".repeat(100_000);
    let ran =
        must(&vessel, ExecOptions::new(["sh", "-c", "echo ${#1} ${#A}", "sh", &long]).env("A", &long)).await;
    assert_eq!(ran, "100000 100000\n");
    vessel.close().await.unwrap();
}

async fn a_working_directory_is_made_when_missing(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    for (dir, inside) in
        [("/new/dir", "/new/dir"), ("below", "/work/below"), ("../up", "/up"), (".", "/work")]
    {
        let pwd = ExecOptions::new(["sh", "-c", "pwd; touch here"]).work_dir(dir).persist_result(true);
        assert_eq!(must(&vessel, pwd).await.trim(), inside);
        let made = vessel.stat(inside).await.unwrap();
        assert_eq!((made.mode, made.uid), (0o755, 0), "{dir}");
        assert!(vessel.stat(format!("{inside}/here")).await.unwrap().is_file());
    }
    let in_file = vessel.exec(ExecOptions::new(["true"]).work_dir("/etc/motd")).await.unwrap_err();
    assert!(!matches!(in_file.kind(), ErrorKind::Internal | ErrorKind::Unavailable), "{}", in_file.chain());
    vessel.close().await.unwrap();
}

async fn a_user_is_a_name_or_a_number(store: &Store) {
    if !need(&[Cap::SubordinateIds]) {
        return;
    }
    let (_manager, vessel) = store.vessel().await;
    for (user, ids) in [
        ("", "0 0 0 /root"),
        ("root", "0 0 0 /root"),
        ("0", "0 0 0 /root"),
        ("user", "1000 1000 1000 50 /home/user"),
        ("1000", "1000 1000 1000 50 /home/user"),
        ("user:staff", "1000 50 50 /home/user"),
        ("1000:1234", "1000 1234 1234 /home/user"),
        ("4321", "4321 0 0 /"),
        ("4321:4322", "4321 4322 4322 /"),
        ("nobody", "65534 65534 65534 /"),
    ] {
        let mut options = ExecOptions::new(["sh", "-c", "echo $(id -u) $(id -g) $(id -G) $HOME"]);
        if !user.is_empty() {
            options = options.user(user);
        }
        assert_eq!(must(&vessel, options).await.trim(), ids, "{user:?}");
    }
    vessel.close().await.unwrap();
}

async fn an_unknown_user_is_refused(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let users = [
        "unknown",
        "user:unknown",
        "root:",
        "1000:0:0",
        "-1",
        "4294967295",
        "4294967296",
        "0x0",
        " 0",
        "root ",
    ];
    for user in users {
        let error = vessel.exec(ExecOptions::new(["id"]).user(user)).await.expect_err(user);
        let typed = matches!(error.kind(), ErrorKind::InvalidArgument | ErrorKind::NotFound);
        assert!(typed, "{user:?}: {:?} {}", error.kind(), error.chain());
    }
    // A line of an image's passwd never makes digits a name, and bad ids are nobody's.
    sh(
        &vessel,
        "echo 99999999999:x:0:0::/:/bin/sh >> /etc/passwd; echo bad:x:-1:0::/:/bin/sh >> /etc/passwd",
    )
    .await;
    for user in ["99999999999", "bad"] {
        vessel.exec(ExecOptions::new(["id"]).user(user)).await.expect_err(user);
    }
    vessel.close().await.unwrap();
}

async fn a_command_that_is_not_there_is_not_found(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    for program in ["no-such-command", "/bin/no-such", "./missing", "no/such", "/etc/motd/x"] {
        let error = vessel.exec(ExecOptions::new([program])).await.expect_err(program);
        assert_eq!(error.kind(), ErrorKind::NotFound, "{program}: {}", error.chain());
        assert!(error.chain().contains(program), "{}", error.chain());
    }
    let hidden = ExecOptions::new(["true"]).env("PATH", "/nowhere");
    fails(vessel.exec(hidden).await, &ErrorKind::NotFound);
    assert!(run_in(&vessel, ExecOptions::new(["true"])).await.unwrap().result.success());
    vessel.close().await.unwrap();
}

async fn a_command_that_is_no_program_is_not_executable(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    sh(&vessel, "echo true > plain; printf '\\1\\2\\3' > garbage; chmod 755 garbage; mkdir dir").await;
    for program in ["/work/plain", "/work/garbage", "/work/dir", "./plain"] {
        let error = vessel.exec(ExecOptions::new([program])).await.expect_err(program);
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{program}: {}", error.chain());
    }
    vessel.close().await.unwrap();
}

async fn a_script_runs_by_its_interpreter(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    vessel.write_file("script", "#!/bin/sh -e\necho \"$0 $1\"\n", 0o755).await.unwrap();
    assert_eq!(must(&vessel, ExecOptions::new(["./script", "x"])).await, "./script x\n");
    vessel.write_file("broken", "#!/no/such/interpreter\n", 0o755).await.unwrap();
    let error = vessel.exec(ExecOptions::new(["./broken"])).await.unwrap_err();
    let typed = matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied);
    assert!(typed, "{:?} {}", error.kind(), error.chain());
    vessel.close().await.unwrap();
}

async fn eight_commands_run_at_once(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    // Each waits for all others: one after the other they would never end.
    let tasks: Vec<_> = (0..8)
        .map(|i| {
            let vessel = vessel.clone();
            tokio::spawn(async move {
                let script =
                    format!("touch at{i}; until [ $(ls at* | wc -l) = 8 ]; do usleep 10000; done; echo {i}");
                sh(&vessel, &script).await
            })
        })
        .collect();
    for (i, task) in tasks.into_iter().enumerate() {
        assert_eq!(task.await.unwrap(), format!("{i}\n"));
    }
    vessel.close().await.unwrap();
}

async fn a_hundred_commands_run_one_after_the_other(store: &Store) {
    let manager = store.stocked().await;
    let vessel = manager.create_vessel(BASE, "/work").await.unwrap();
    for round in 0..100 {
        let options = ExecOptions::new(["sh", "-c", "echo x >> count"]).persist_result(round % 2 == 0);
        assert!(vessel.exec(options).await.unwrap().success());
    }
    assert_eq!(vessel.read_file("count").await.unwrap().len(), 100);
    let status = manager.vessel_status(vessel.id()).await.unwrap();
    assert_eq!((status.running, status.commands), (true, 0));
    vessel.close().await.unwrap();
}

async fn a_descriptor_can_be_handed_over(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let (reader, writer) = std::io::pipe().unwrap();
    let options = ExecOptions::new(["sh", "-c", "echo direct; echo too >&2"]);
    let options = options.stdout_fd(writer.try_clone().unwrap().into()).stderr_fd(writer.into());
    assert!(vessel.exec(options).await.unwrap().success());
    assert_eq!(std::io::read_to_string(reader).unwrap(), "direct\ntoo\n");
    vessel.close().await.unwrap();
}
