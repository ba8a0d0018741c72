//! Archives that other tools made, and a store that other tools read.
#![forbid(unsafe_code)]

use std::process::{Command, Stdio};

use super::build::*;
use super::*;

/// Whether all of `tools` are here; their absence is a failure where they are required.
#[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
fn have(tools: &[&str]) -> bool {
    let runs = |tool: &&str| {
        Command::new(tool)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
    };
    let all = tools.iter().all(runs);
    assert!(all || std::env::var_os("VESSELRT_TEST_REQUIRE").is_none(), "{tools:?} are required");
    if !all {
        eprintln!("SKIP: {tools:?} are not installed");
    }
    all
}

#[track_caller]
fn run(tool: &str, args: &[&str]) {
    let output = Command::new(tool).args(args).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{tool} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn skopeo_s_archives_are_imported_and_the_store_is_a_layout_to_it() {
    if !have(&["skopeo"]) {
        return;
    }
    let bench = Bench::new();
    let layout = bench.path("layout");
    simple_layout().write(&layout);
    let source = format!("oci:{}:example.com/app:v1", layout.display());
    let [docker, oci] = ["docker.tar", "oci.tar"].map(|name| bench.path(name));
    let copy = |from: &str, to: &str| run("skopeo", &["--insecure-policy", "copy", "-q", from, to]);
    copy(&source, &format!("docker-archive:{}:example.com/app:v2", docker.display()));
    copy(&source, &format!("oci-archive:{}:example.com/app:v3", oci.display()));

    for (path, kind, tag) in
        [(&docker, ArchiveKind::DockerArchive, "v2"), (&oci, ArchiveKind::OciArchive, "v3")]
    {
        assert_eq!(detect(path, &ImportLimits::default()).unwrap().0, kind);
        let record = bench.import_path(path, &ImportOptions::default()).unwrap();
        assert_eq!(record.reference.unwrap(), format!("example.com/app:{tag}"));
        let ids: Vec<Digest> = record.layers.iter().map(|layer| layer.diff_id.clone()).collect();
        assert_eq!(ids, [Digest::sha256(&layer("a")), Digest::sha256(&layer("b"))]);
    }
    let store = bench.store.path().display();
    for tag in ["v2", "v3"] {
        let out = format!("dir:{}", bench.path(tag).display());
        copy(&format!("oci:{store}:example.com/app:{tag}"), &out);
    }
}

#[test]
fn umoci_works_on_the_store() {
    if !have(&["umoci"]) {
        return;
    }
    let bench = Bench::new();
    let rootfs = tar(&[("bin/sh", b"#!"), ("etc/os-release", b"ID=test\n")]);
    bench.import(&rootfs).unwrap();
    let store = bench.store.path().display();
    run("umoci", &["stat", "--image", &format!("{store}:docker.io/library/app:latest"), "--json"]);
    run(
        "umoci",
        &["tag", "--image", &format!("{store}:docker.io/library/app:latest"), "example.com/other:v1"],
    );
    let other = Reference::parse("example.com/other:v1").unwrap();
    assert_eq!(bench.store.resolve(&other).unwrap().unwrap().layers[0].diff_id, Digest::sha256(&rootfs));
    run("umoci", &["gc", "--layout", &store.to_string()]);
    bench.verify(&bench.store.resolve(&other).unwrap().unwrap());
    let layout = bench.path("umoci");
    run("umoci", &["init", "--layout", layout.to_str().unwrap()]);
    run("umoci", &["new", "--image", &format!("{}:fresh", layout.display())]);
    let record = bench.import_path(&layout, &from("fresh")).unwrap();
    assert!(record.layers.is_empty());
}
