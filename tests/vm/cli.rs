//! `vesselrt vm …`: words, columns, log lines, exit codes.
#![forbid(unsafe_code)]

use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use super::{call, command, create, json, text};
use crate::testkit::{BASE, Store, tests};

tests!(
    create_logs_what_it_made,
    list_has_the_columns_and_footers_of_the_original,
    run_prints_what_was_written_and_logs_where_it_is,
    exec_runs_in_all_that_are_up,
    exec_joins_the_errors_of_all,
    exit_codes_are_one_unless_asked_for,
    hello_wants_a_language_that_it_knows,
    stop_and_clean_take_many,
    temp_leaves_nothing,
    shell_reads_what_it_is_given,
    errors_have_the_original_s_words,
    logs_go_where_they_are_told_to,
    guest_volumes_are_what_the_environment_says_at_each_start,
    the_name_of_another_runtime_is_no_error,
    an_image_that_is_not_here_is_pulled,
);

const CREATE: [&str; 6] = ["create", "--language", "python", "--image", BASE, "--best-effort"];

async fn create_logs_what_it_made(store: &Store) {
    store.stocked().await;
    let line = text(store, &CREATE);
    let words: Vec<&str> = line.split_whitespace().collect();
    assert!(words[0].ends_with('Z') && words[0].len() == 20, "{line}");
    assert_eq!(&words[1..4], ["INFO", "vm", "created"]);
    let keys: Vec<&str> = words[4..].iter().map(|word| word.split('=').next().unwrap()).collect();
    let expected =
        ["cpu_count", "created_at", "id", "language", "memoryMiB", "network", "persisted", "rootfs"];
    assert_eq!(keys, expected);
    for part in
        ["cpu_count=1", "id=python-", "language=python", "memoryMiB=256", "network=none", "persisted=false"]
    {
        assert!(line.contains(part), "{part} is not in {line}");
    }
    let mut args = CREATE.to_vec();
    args.extend(["--log-format", "json", "--cpu", "2", "--mem", "300", "--persist"]);
    let line: Value = serde_json::from_str(&text(store, &args)).unwrap();
    assert_eq!(
        (&line["msg"], &line["level"], &line["cpu_count"]),
        (&"vm created".into(), &"info".into(), &2.into())
    );
    assert_eq!((&line["memoryMiB"], &line["persisted"]), (&300.into(), &true.into()));
    let record = json(store, &CREATE);
    assert_eq!((&record["Language"], &record["MemoryMiB"]), (&"python".into(), &256.into()));
    text(store, &["clean", "--all"]);
}

async fn list_has_the_columns_and_footers_of_the_original(store: &Store) {
    store.stocked().await;
    assert_eq!(text(store, &["list"]), "No VMs found.\n(use --all to include stopped VMs)\n");
    assert_eq!(text(store, &["list", "--all"]), "No VMs found.\n");
    assert_eq!(text(store, &["list", "--status", "Ready"]), "No VMs found.\nStatus filter: ready\n");
    let (one, two) = (create(store, &["--persist"]), create(store, &[]));
    text(store, &["stop", "--vm", &two]);
    let listed = text(store, &["list"]);
    let lines: Vec<&str> = listed.lines().collect();
    let headings: Vec<&str> = lines[0].split("  ").map(str::trim).filter(|word| !word.is_empty()).collect();
    assert_eq!(headings, ["ID", "Language", "Status", "CPU", "Mem(MiB)", "Persist", "Created", "Last Run"]);
    let cells: Vec<&str> = lines[1].split("  ").map(str::trim).filter(|word| !word.is_empty()).collect();
    assert_eq!((cells[0], &cells[1..6]), (one.as_str(), &["python", "ready", "1", "256", "yes"][..]));
    assert!(cells[6].len() == 19 && cells[6].starts_with("20") && cells[7] == "-", "{cells:?}");
    assert_eq!(&lines[2..], ["", "Total: 1 (use --all to include stopped VMs)"]);
    assert!(text(store, &["list", "--all"]).ends_with("\nTotal: 2\n"));
    let stopped = text(store, &["list", "--status", "stopped"]);
    assert!(
        stopped.contains(&two) && !stopped.contains(&one) && stopped.ends_with("Total: 1 (status=stopped)\n")
    );
    let records = json(store, &["list", "--all"]);
    assert_eq!((&records[0]["ID"], &records[1]["Status"]), (&one.into(), &"stopped".into()));
    assert_eq!(records[1]["Storage"]["PersistPath"], "");
    text(store, &["clean", "--all"]);
}

async fn run_prints_what_was_written_and_logs_where_it_is(store: &Store) {
    store.stocked().await;
    let id = create(store, &[]);
    let output = call(store, &["run", "--vm", &id, "--cmd", "printf out; printf err >&2"]);
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success() && err == "err\n" && out.ends_with("\nout\n"), "{out}{err}");
    let line = out.lines().next().unwrap();
    assert!(line.contains(" INFO vm run duration=") && line.contains("exit_code=0"), "{line}");
    let path = line.split("stdout=").nth(1).unwrap().split(' ').next().unwrap();
    assert_eq!(std::fs::read_to_string(path).unwrap(), "out");
    // What a command wrote that failed is printed, too.
    let output = call(store, &["run", "--vm", &id, "--cmd", "echo begun; exit 7", "-q"]);
    assert_eq!(
        (output.status.code(), output.stdout.as_slice()),
        (Some(1), b"begun\n".as_slice()),
        "{output:?}"
    );
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("ERROR vm run failed") && told.contains("exit_code=7"), "{told}");
    assert!(told.contains("command exited with code 7"), "{told}");
    let document = json(store, &["run", "--vm", &id, "--cmd", "echo out"]);
    assert_eq!((&document["Stdout"], &document["ExitCode"]), (&"out\n".into(), &0.into()));
    text(store, &["clean", "--vm", &id]);
}

async fn exec_runs_in_all_that_are_up(store: &Store) {
    store.stocked().await;
    let (one, two, off) = (create(store, &[]), create(store, &[]), create(store, &[]));
    text(store, &["stop", "--vm", &off]);
    let out = text(store, &["exec", "--all", "--cmd", "echo here"]);
    assert_eq!(out.matches("INFO vm exec ").count(), 2, "{out}");
    assert_eq!(out.lines().filter(|line| *line == "here").count(), 2, "{out}");
    assert!(out.contains(&one) && out.contains(&two) && !out.contains(&off));
    let twice = text(store, &["exec", "--all", "--vm", &one, "--cmd", "echo here"]);
    assert_eq!(twice.matches("INFO vm exec ").count(), 2, "each once");
    let refused = call(store, &["exec", "--vm", &off, "--cmd", "true"]);
    let told = String::from_utf8(refused.stderr).unwrap();
    assert!(
        refused.status.code() == Some(1) && told.contains(&format!("vm {off} is not ready or running")),
        "{told}"
    );
    let documents = json(store, &["exec", "--all", "--cmd", "echo x"]);
    assert_eq!(documents.as_array().unwrap().len(), 2);
    text(store, &["stop", "--all"]);
    let none = String::from_utf8(call(store, &["exec", "--all", "--cmd", "true"]).stderr).unwrap();
    assert!(none.contains("no matching VMs available to execute command"), "{none}");
    text(store, &["clean", "--all"]);
}

async fn exec_joins_the_errors_of_all(store: &Store) {
    store.stocked().await;
    let (one, two) = (create(store, &[]), create(store, &[]));
    text(store, &["run", "--vm", &one, "--cmd", "touch /one"]);
    let output = call(store, &["exec", "--all", "--cmd", "[ -e /one ] && exit 3; sleep 1; exit 4"]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    for part in [format!("{one}: command exited with code 3"), format!("{two}: command exited with code 4")] {
        assert!(told.contains(&part), "{part} is not in {told}");
    }
    let output =
        call(store, &["exec", "--all", "--exit-code", "--cmd", "[ -e /one ] && exit 3; sleep 1; exit 4"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    text(store, &["clean", "--all"]);
}

async fn exit_codes_are_one_unless_asked_for(store: &Store) {
    store.stocked().await;
    let id = create(store, &[]);
    for (cmd, code) in [("exit 7", 7), ("kill -9 $$", 137), ("true", 0)] {
        let run = |more: &[&str]| {
            let mut args = vec!["run", "--vm", &id, "--cmd", cmd];
            args.extend(more);
            call(store, &args).status.code()
        };
        assert_eq!((run(&[]), run(&["--exit-code"])), (Some(i32::from(code != 0)), Some(code)), "{cmd}");
    }
    let late = ["run", "--vm", &id, "--cmd", "sleep 60", "--timeout", "1"];
    let output = call(store, &late);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && told.contains("exit_code=-1"), "{told}");
    let mut late = late.to_vec();
    late.push("--exit-code");
    assert_eq!(call(store, &late).status.code(), Some(124));
    text(store, &["clean", "--vm", &id]);
}

async fn hello_wants_a_language_that_it_knows(store: &Store) {
    store.stocked().await;
    let odd = text(store, &["create", "--language", "Cobol", "--image", BASE, "--best-effort", "-q"]);
    assert!(odd.starts_with("cobol-"), "{odd}");
    let output = call(store, &["exec", "--hello", "--vm", odd.trim_end()]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && told.contains("unsupported language"), "{told}");
    text(store, &["clean", "--all"]);
}

async fn stop_and_clean_take_many(store: &Store) {
    store.stocked().await;
    let (one, two) = (create(store, &[]), create(store, &[]));
    let out = text(store, &["stop", "--vm", &one, "--vm", &two, "--vm", &one]);
    assert_eq!(out.matches("INFO vm stopped language=python vm=").count(), 2, "{out}");
    let output = call(store, &["clean", "--vm", "nobody", "--vm", &one]);
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(1));
    assert!(out.contains(&format!("INFO vm cleaned keep_persist=false language=python vm={one}")), "{out}");
    assert!(err.contains("ERROR vm clean failed") && err.contains("vm not found: nobody"), "{err}");
    assert_eq!(json(store, &["clean", "--all"]), serde_json::json!([two]));
    for (verb, message) in [("stop", "no matching VMs to stop"), ("clean", "no matching VMs to clean")] {
        let none = String::from_utf8(call(store, &[verb, "--all"]).stderr).unwrap();
        assert!(none.contains(message), "{none}");
        let none = String::from_utf8(call(store, &[verb]).stderr).unwrap();
        assert!(none.contains("specify at least one --vm or use --all"), "{none}");
    }
}

async fn temp_leaves_nothing(store: &Store) {
    store.stocked().await;
    let mut args = vec!["temp", "--image", BASE, "--best-effort", "--cmd", "echo here; exit 5"];
    let output = call(store, &args);
    let out = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{out}");
    for part in ["INFO temporary vm created", "\nhere\n", "INFO temporary vm cleaned up"] {
        assert!(out.contains(part), "{part} is not in {out}");
    }
    args.push("--exit-code");
    assert_eq!(call(store, &args).status.code(), Some(5));
    let document = json(store, &["temp", "--image", BASE, "--best-effort", "--persist", "--cmd", "echo x"]);
    assert_eq!(document["Stdout"], "x\n");
    // A signal does not keep it either.
    let line = ["temp", "--image", BASE, "--best-effort", "--cmd", "sleep 60", "--timeout", "60"];
    let child = command(store, &line).stdout(std::process::Stdio::null()).spawn().unwrap();
    crate::testkit::wait_until("it runs", || text(store, &["list"]).contains("running"));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(1));
    assert_eq!(text(store, &["list", "--all"]), "No VMs found.\n");
    assert!(store.manager().await.list_vessels().await.unwrap().is_empty());
}

async fn shell_reads_what_it_is_given(store: &Store) {
    use std::io::Write;
    store.stocked().await;
    let id = create(store, &[]);
    let mut shell = command(store, &["shell", "--vm", &id, "-q"]);
    shell.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = shell.spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"echo $((6*7))\nexit 0\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stdout == b"42\n", "{output:?}");
    let asked = call(store, &["shell", "--vm", &id, "--cmd", "cat /etc/motd"]);
    let out = String::from_utf8(asked.stdout).unwrap();
    assert!(
        out.contains("INFO vm shell ")
            && out.contains("the base image")
            && out.contains("vm shell completed"),
        "{out}"
    );
    let failed = call(store, &["shell", "--vm", &id, "--cmd", "false"]);
    let told = String::from_utf8(failed.stderr).unwrap();
    assert!(failed.status.code() == Some(1) && told.contains("shell command exited with code 1"), "{told}");
    text(store, &["stop", "--vm", &id]);
    let off = String::from_utf8(call(store, &["shell", "--vm", &id]).stderr).unwrap();
    assert!(off.contains("is not ready or running"), "{off}");
    text(store, &["clean", "--vm", &id]);
}

async fn errors_have_the_original_s_words(store: &Store) {
    store.stocked().await;
    let long = ["create", "--language", "python"];
    let with = |more: &[&'static str]| [&long[..], more].concat();
    for (args, message) in [
        (vec!["create"], "--language is required"),
        (vec!["create", "--language", "cobol"], "unsupported language"),
        (with(&["--cpu", "0"]), "cpu must be greater than zero"),
        (with(&["--cpu", "-1"]), "cpu must be greater than zero"),
        (with(&["--mem", "0"]), "mem must be greater than zero"),
        (with(&["--mem", "99999999999"]), "mem is more than there can be"),
        (with(&["--network", "bogus"]), "unsupported network: bogus"),
        (vec!["run", "--cmd", "x"], "--vm is required"),
        (vec!["run", "--vm", "x"], "--cmd is required"),
        (vec!["run", "--vm", "x", "--cmd", "y", "--timeout", "0"], "--timeout must be greater than zero"),
        (vec!["run", "--vm", "x", "--cmd", "y"], "vm not found: x"),
        (vec!["exec", "--all"], "--cmd is required"),
        (vec!["exec", "--cmd", "x"], "specify at least one --vm or use --all"),
        (vec!["exec", "--cmd", "x", "--all", "--timeout", "0"], "--timeout must be greater than zero"),
        (vec!["exec", "--cmd", "x", "--vm", "y"], "vm not found: y"),
        (vec!["shell"], "--vm is required"),
        (vec!["shell", "--vm", "x"], "vm not found: x"),
        (vec!["temp"], "--cmd is required"),
    ] {
        let output = call(store, &args);
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && told.contains(message), "{args:?}: {told}");
        let mut args = args;
        args.insert(0, "--json");
        let document: Value = serde_json::from_slice(&call(store, &args).stdout).unwrap();
        assert!(document["error"]["message"].as_str().unwrap().contains(message), "{document}");
    }
    // What is not understood is an error as any other.
    for args in [&["create", "--fly"][..], &["fly"], &["list", "--status"], &[]] {
        let output = call(store, args);
        assert!(output.status.code() == Some(1) && !output.stderr.is_empty(), "{args:?}: {output:?}");
    }
    assert_eq!(store.cli(&["list-vm", "vm"]).output().unwrap().status.code(), Some(125));
    let help = call(store, &["--help"]);
    assert!(help.status.success() && !help.stdout.is_empty(), "{help:?}");
    let id = create(store, &[]);
    let staged = call(store, &["run", "--vm", &id, "--cmd", "true", "--file", "/etc/hostname"]);
    let told = String::from_utf8(staged.stderr).unwrap();
    assert!(told.contains("file staging requires guest volume sharing"), "{told}");
    text(store, &["clean", "--vm", &id]);
}

async fn logs_go_where_they_are_told_to(store: &Store) {
    store.stocked().await;
    let file = store.beside("logs/agent.log");
    let mut args = CREATE.to_vec();
    let shown = file.to_str().unwrap();
    args.extend(["--log-file", shown]);
    let shown = text(store, &args);
    let output = command(store, &["clean", "--vm", "nobody"]).env("AGENT_LOG_FILE", &file).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let logged = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<&str> = logged.lines().collect();
    assert!(lines[0].contains("INFO vm created") && lines[1].contains("ERROR vm clean failed"), "{logged}");
    assert!(lines[2].ends_with("ERROR command failed error=\"vm not found: nobody\""), "{logged}");
    assert_eq!(shown + &String::from_utf8(output.stderr).unwrap(), logged, "it is the same on the streams");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
    let quiet = command(store, &["stop", "--all"]).env("AGENT_LOG_LEVEL", "warn").output().unwrap();
    assert!(quiet.status.success() && quiet.stdout.is_empty(), "{quiet:?}");
    let loud = command(store, &["stop", "--all"]).env("AGENT_LOG_LEVEL", "nonsense").output().unwrap();
    assert!(String::from_utf8(loud.stdout).unwrap().contains("INFO vm stopped"));
    text(store, &["clean", "--all"]);
}

async fn guest_volumes_are_what_the_environment_says_at_each_start(store: &Store) {
    store.stocked().await;
    let file = store.beside("job.sh");
    std::fs::write(&file, "echo $((6*7)) > /out/answer").unwrap();
    let volumes = |value: &str, args: &[&str]| {
        let output = command(store, args).env("AGENT_ENABLE_GUEST_VOLUMES", value).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap(), output.stdout)
    };
    for yes in ["1", "t", "TRUE"] {
        let mut args = CREATE.to_vec();
        args.push("-q");
        let id = String::from_utf8(volumes(yes, &args).2).unwrap().trim_end().to_owned();
        let run = ["run", "--vm", &id, "--cmd", "sh /in/job.sh", "--file", file.to_str().unwrap()];
        assert_eq!(volumes(yes, &run).0, Some(0));
        let answer = super::state(store).join("vms").join(&id).join("out/answer");
        assert_eq!(std::fs::read_to_string(answer).unwrap(), "42\n");
        // It is asked again whenever a root file system is made.
        text(store, &["stop", "--vm", &id]);
        assert_eq!(volumes("0", &["run", "--vm", &id, "--cmd", "[ ! -e /in ]"]).0, Some(0));
        let (code, told, _) = volumes("yes", &run);
        assert!(code == Some(1) && told.contains("file staging requires guest volume sharing"), "{told}");
        text(store, &["clean", "--vm", &id]);
    }
}

async fn the_name_of_another_runtime_is_no_error(store: &Store) {
    store.stocked().await;
    let by_variable = command(store, &["list", "-v"]).env("AGENT_VM_RUNTIME", "krunvm").output().unwrap();
    for output in [by_variable, call(store, &["--vm-runtime", "libkrun", "list", "-v"])] {
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && told.contains("machines run on vesselrt, not on "), "{told}");
        assert!(output.stdout.starts_with(b"No VMs found."));
    }
    let same = call(store, &["list", "-v", "--vm-runtime=vesselrt", "--log-level=debug"]);
    assert!(same.status.success() && same.stderr.is_empty(), "{same:?}");
}

async fn an_image_that_is_not_here_is_pulled(store: &Store) {
    if !crate::testkit::need(&[crate::testkit::Cap::Registry]) {
        return;
    }
    let registry = crate::testkit::registry::Registry::open(store);
    let manager = store.stocked().await;
    let image = registry.reference("tools:1");
    assert!(store.cli(&["push", BASE, &image]).output().unwrap().status.success());
    for reference in manager.list_images().await.unwrap().into_iter().filter_map(|image| image.reference) {
        manager.remove_image(&reference).await.unwrap();
    }
    let id = text(store, &["create", "--language", "python", "--image", &image, "--best-effort", "-q"]);
    let out = text(store, &["run", "--vm", id.trim_end(), "--cmd", "cat /etc/motd"]);
    assert!(out.contains("the base image"), "{out}");
    text(store, &["clean", "--all"]);
    // Projects likewise.
    manager.remove_image(&image).await.unwrap();
    let project = ["project", "create", "web", "--image", &image, "--network", "none"];
    let made = store.cli(&project).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let shown = store.cli(&["project", "exec", "web", "--", "cat", "/etc/motd"]).output().unwrap();
    assert_eq!(shown.stdout, b"the base image\n");
    assert!(store.cli(&["project", "rm", "web"]).output().unwrap().status.success());
}
