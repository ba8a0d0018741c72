//! Mounts and volumes on the command line.
#![forbid(unsafe_code)]

use std::fs;

use serde_json::{Value, json};

use crate::shell::{BASE, Shell};

#[test]
fn mounts_are_typed_shown_and_used() {
    let shell = Shell::new();
    let host = shell.beside("host");
    fs::create_dir(&host).unwrap();
    fs::write(host.join("f"), "mounted\n").unwrap();
    let source = host.to_str().unwrap();
    let id = shell
        .call([
            "create",
            BASE,
            "--mount",
            &format!("type=bind,src={source},dst=/ro,ro"),
            "-v",
            "cache:/cache",
        ])
        .args(["--volume", &format!("{source}/:/rw"), "--mount", "type=tmpfs,dst=/mem,size=1m,mode=700"])
        .succeeds()
        .line();
    assert_eq!(
        shell.sh(&id, "cat /ro/f; echo rw > /rw/g; echo c > /cache/c; stat -c %a /mem"),
        "mounted\n700\n"
    );
    assert_eq!(shell.sh(&id, "cat /ro/g /cache/c"), "rw\nc\n");
    assert_eq!(shell.call(["fs", "cat", &id, "/rw/g"]).succeeds().text(), "rw\n");
    let shown = shell.call(["inspect", &id]).succeeds().text();
    for line in [
        &format!("type=bind,src={source},dst=/ro,ro"),
        "type=volume,src=cache,dst=/cache",
        "type=tmpfs,dst=/mem,size=1048576,mode=700",
    ] {
        assert!(shown.contains(line), "{line} is not in {shown}");
    }
    let shown: Value = shell.call(["inspect", &id, "--json"]).succeeds().json();
    let read_only = |mount: &Value| (mount["destination"].clone(), mount["read_only"].clone());
    let mounts: Vec<_> = shown["mounts"].as_array().unwrap().iter().map(read_only).collect();
    assert_eq!(mounts[0], (json!("/ro"), json!(true)));
    assert_eq!(mounts.len(), 4);
}

#[test]
fn run_has_mounts_and_a_volume_stays() {
    let shell = Shell::new();
    let host = shell.beside("host");
    fs::create_dir(&host).unwrap();
    for n in ["1", "2"] {
        let script = format!("echo {n} >> /v/n; echo {n} > /h/{n}; cat /v/n");
        let done = shell
            .call([
                "run",
                "--rm",
                "-v",
                "v:/v",
                "-v",
                &format!("{}:/h", host.display()),
                BASE,
                "--",
                "sh",
                "-c",
                &script,
            ])
            .succeeds();
        assert_eq!(done.text(), if n == "1" { "1\n" } else { "1\n2\n" });
        assert!(host.join(n).exists());
    }
    assert_eq!(shell.call(["volume", "ls", "-q"]).succeeds().text(), "v\n");
    shell.call(["volume", "rm", "v"]).succeeds();
}

#[test]
fn relative_paths_of_the_host_begin_where_the_command_is_typed() {
    let shell = Shell::new();
    let host = shell.beside("here");
    fs::create_dir_all(host.join("sub")).unwrap();
    fs::write(host.join("sub/f"), "here\n").unwrap();
    let script = ["--", "cat", "/a/f", "/b/sub/f"];
    let done = shell
        .call(["run", "--rm", "-v", "./sub:/a:ro", "--mount", "type=bind,src=.,dst=/b", BASE])
        .args(script)
        .dir(&host)
        .succeeds();
    assert_eq!(done.text(), "here\nhere\n");
}

#[test]
fn what_cannot_be_mounted_is_told_with_its_name() {
    let shell = Shell::new();
    let missing = shell.beside("missing");
    let missing = missing.to_str().unwrap();
    for (flags, said) in [
        (["-v", &format!("{missing}:/data")], missing),
        (["-v", "name:/proc/sys"], "/proc/sys"),
        (["-v", "/data"], "SOURCE:/DESTINATION"),
        (["--mount", "type=bind,src=/tmp,dst=/"], "the root"),
        (["--mount", "type=bind,src=/tmp"], "dst is missing"),
        (["--mount", "type=cluster,src=a,dst=/b"], "cluster"),
    ] {
        let done = shell.call(["create", BASE]).args(flags).run();
        assert_eq!(done.code, 125, "{done:?}");
        assert!(done.complaint().contains(said), "{said}: {done:?}");
    }
    assert_eq!(shell.call(["ls", "-q"]).succeeds().text(), "");
}

#[test]
fn volumes_have_verbs_of_their_own() {
    let shell = Shell::new();
    assert_eq!(shell.call(["volume", "create", "cache"]).succeeds().line(), "cache");
    let random = shell.call(["volume", "create"]).succeeds().line();
    assert_eq!(shell.call(["volume", "create", "cache"]).run().code, 125);
    let id = shell.call(["create", BASE, "-v", "cache:/cache"]).succeeds().line();
    shell.sh(&id, "dd if=/dev/zero of=/cache/f bs=1k count=64 2>/dev/null");
    let listed: Value = shell.call(["volume", "ls", "--json"]).succeeds().json();
    let cache = listed.as_array().unwrap().iter().find(|volume| volume["name"] == "cache").unwrap();
    assert_eq!(cache["vessels"], json!([id]));
    let shown: Value = shell.call(["volume", "inspect", "cache", "--json"]).succeeds().json();
    assert!(shown["size"].as_u64().unwrap() >= 64 << 10, "{shown}");
    assert!(shell.call(["volume", "ls"]).succeeds().text().starts_with("NAME"));
    assert!(shell.call(["volume", "inspect", "cache"]).succeeds().text().contains(&id));
    assert!(shell.call(["du"]).succeeds().text().contains("volumes: "));
    let used = shell.call(["volume", "rm", "cache", &random]).run();
    assert_eq!((used.code, used.text()), (125, format!("{random}\n")));
    assert!(used.complaint().contains(&id), "{used:?}");
    shell.call(["rm", &id]).succeeds();
    assert_eq!(shell.call(["volume", "rm", "cache"]).succeeds().line(), "cache");
    assert_eq!(shell.call(["volume", "ls", "-q"]).succeeds().text(), "");
}

#[test]
fn the_letter_of_volumes_is_that_of_verbose_before_the_verb() {
    let shell = Shell::new();
    let told = shell.call(["-v", "run", "--rm", "-v", "v:/v", BASE, "--", "true"]).succeeds();
    assert!(told.complaint().contains("vessel "), "{told:?}");
    let told = shell.call(["run", "--verbose", "--rm", BASE, "--", "true"]).succeeds();
    assert!(told.complaint().contains("vessel "), "{told:?}");
    let quiet = shell.call(["run", "--rm", BASE, "--", "true"]).succeeds();
    assert_eq!(quiet.complaint(), "");
    shell.call(["volume", "rm", "v"]).succeeds();
}
