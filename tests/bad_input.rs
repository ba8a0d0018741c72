//! What nobody should ask for: commands that cannot be, and everything at once that goes wrong with those that can.
#![forbid(unsafe_code)]

mod baseline;
mod count;
mod gauntlet;

use vesselrt::{ErrorKind, ExecOptions};

use crate::testkit::commands::must;
use crate::testkit::{Store, fails, run_in, sh, tests};

tests!(
    arguments_and_environments_that_are_too_large_are_errors,
    arguments_and_environments_that_fit_arrive_whole,
    a_directory_to_run_in_is_always_inside,
    a_script_without_its_interpreter_says_which_is_missing,
);

/// Of one argument (MAX_ARG_STRLEN in execve(2)).
const LONGEST: usize = 128 << 10;

/// The kernel takes strings of 128 KiB, and a quarter of the stack of all of them (execve(2)).
async fn arguments_and_environments_that_are_too_large_are_errors(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let long = "x".repeat(2 << 20);
    let many = vec!["x".repeat(64 << 10); 200];
    let variables = |count: usize| (0..count).map(|n| (format!("V{n}"), "x".repeat(64 << 10)));
    for options in [
        ExecOptions::new(["true", &long]),
        ExecOptions::new(["true".to_owned()].into_iter().chain(many)),
        ExecOptions::new(["true"]).env("LONG", &long),
        ExecOptions::new(["true"]).envs(variables(200)),
        ExecOptions::new(["true"]).work_dir(&long),
        ExecOptions::new(["true"]).user(&long),
    ] {
        let error = vessel.exec(options).await.expect_err("too much");
        let typed = matches!(
            error.kind(),
            ErrorKind::InvalidArgument | ErrorKind::LimitExceeded | ErrorKind::NotFound
        );
        assert!(typed, "{:?}: {}", error.kind(), &error.chain()[..error.chain().len().min(300)]);
        assert!(error.chain().len() < 8192, "an error of {} bytes", error.chain().len());
    }
    let unnamed = fails(vessel.exec(ExecOptions::new([&long])).await, &ErrorKind::PermissionDenied);
    assert!(unnamed.chain().len() < 8192, "an error of {} bytes", unnamed.chain().len());
    assert_eq!(sh(&vessel, "echo on").await, "on\n");
    vessel.close().await.unwrap();
}

async fn arguments_and_environments_that_fit_arrive_whole(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let longest = "y".repeat(LONGEST - 1);
    let argv = ["sh", "-c", "echo ${#1} $#", "sh", &longest].map(str::to_owned);
    let options = ExecOptions::new(argv.into_iter().chain(vec![longest.clone(); 9]));
    assert_eq!(must(&vessel, options).await, format!("{} 10\n", LONGEST - 1));
    let longest = "y".repeat(LONGEST - 3);
    let options = ExecOptions::new(["sh", "-c", "echo ${#V}"]).env("V", &longest);
    assert_eq!(must(&vessel, options).await, format!("{}\n", LONGEST - 3));
    vessel.close().await.unwrap();
}

async fn a_directory_to_run_in_is_always_inside(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    sh(&vessel, "ln -s ../../../../../.. up; ln -s loop loop; ln -s /proc/self/root proc; mkfifo fifo").await;
    let up = [
        ("/../../..", "/"),
        ("../../../../etc", "/etc"),
        ("up", "/"),
        ("up/../..", "/"),
        ("up/home", "/home"),
    ];
    for (dir, inside) in up.into_iter().chain([("proc", "/")]) {
        let pwd = ExecOptions::new(["sh", "-c", "pwd -P; ls /etc/motd"]).work_dir(dir);
        assert_eq!(must(&vessel, pwd).await, format!("{inside}\n/etc/motd\n"), "{dir}");
    }
    for dir in ["/etc/motd", "loop", "fifo", "/etc/motd/below", "\0"] {
        let error = vessel.exec(ExecOptions::new(["true"]).work_dir(dir)).await.expect_err(dir);
        assert!(
            !matches!(error.kind(), ErrorKind::Internal | ErrorKind::Unavailable),
            "{dir}: {}",
            error.chain()
        );
    }
    vessel.close().await.unwrap();
}

async fn a_script_without_its_interpreter_says_which_is_missing(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    vessel.write_file("script", "#!/no/such/interpreter\n", 0o755).await.unwrap();
    let error = fails(vessel.exec(ExecOptions::new(["./script"])).await, &ErrorKind::NotFound);
    assert!(error.chain().contains("script"), "{}", error.chain());
    let ran = run_in(&vessel, ExecOptions::new(["sh", "-c", "./script"])).await.unwrap();
    assert!(matches!(ran.result.exit_code, 126 | 127), "{ran:?}");
    vessel.close().await.unwrap();
}
