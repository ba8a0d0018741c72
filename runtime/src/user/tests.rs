//! Tests of [`super`]: the forms of a user, and guests that break or bloat their databases.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::symlink;

use proptest::prelude::*;
use rustix::fs::{CWD, FileType, Mode};

use super::*;

const PASSWD: &str = "\
root:x:0:0:root:/root:/bin/sh
# a comment
app:x:1000:1001:App:/home/app:/bin/sh
bad:x:4294967296:0::/:
minus:x:-1:0::/:
99999999999:x:0:0::/:
1002:x:0:0::/:
far:x:70000:70000::/far:
nohome:x:7:7
relative:x:8:8::home:
";
const GROUP: &str =
    "root:x:0:\napp:x:1001:\naudio:x:29:app,other\nvideo:x:44:other,app\ndup:x:29:app\nown:x:1001:app\n";

fn tree(passwd: &str, group: &str) -> (tempfile::TempDir, Root) {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("etc")).unwrap();
    fs::write(dir.path().join("etc/passwd"), passwd).unwrap();
    fs::write(dir.path().join("etc/group"), group).unwrap();
    let root = Root::open_path(dir.path()).unwrap();
    (dir, root)
}

fn identity(uid: u32, gid: u32, groups: &[u32], home: &str, name: Option<&str>) -> Identity {
    let name = name.map(str::to_owned);
    Identity { uid, gid, groups: groups.to_vec(), home: home.into(), name }
}

#[test]
fn every_form_of_a_user() {
    let (_dir, root) = tree(PASSWD, GROUP);
    for (spec, expected) in [
        ("", identity(0, 0, &[], "/root", Some("root"))),
        ("root", identity(0, 0, &[], "/root", Some("root"))),
        ("0", identity(0, 0, &[], "/root", Some("root"))),
        ("app", identity(1000, 1001, &[29, 44], "/home/app", Some("app"))),
        ("1000", identity(1000, 1001, &[29, 44], "/home/app", Some("app"))),
        ("app:audio", identity(1000, 29, &[], "/home/app", Some("app"))),
        ("1000:5", identity(1000, 5, &[], "/home/app", Some("app"))),
        ("4000", identity(4000, 0, &[], "/", None)),
        ("4000:video", identity(4000, 44, &[], "/", None)),
        ("1002", identity(1002, 0, &[], "/", None)),
        ("nohome", identity(7, 7, &[], "/", Some("nohome"))),
        ("relative", identity(8, 8, &[], "/", Some("relative"))),
    ] {
        assert_eq!(resolve(&root, spec, 65536).unwrap(), expected, "{spec:?}");
    }
}

#[test]
fn with_one_id_root_still_resolves_without_its_other_groups() {
    let (_dir, root) = tree(PASSWD, "bin:x:1:root,daemon\nwheel:x:10:root\n");
    assert_eq!(resolve(&root, "root", 1).unwrap(), identity(0, 0, &[], "/root", Some("root")));
    assert_eq!(resolve(&root, "root", 5).unwrap().groups, [1]);
}

/// T8: CVE-2016-3697, CVE-2024-40635 and their kin.
#[test]
fn odd_specifications_are_errors_and_never_root() {
    let (_dir, root) = tree(PASSWD, GROUP);
    for spec in [
        "4294967296",
        "4294967295",
        "2147483648",
        "65536",
        "99999999999",
        "-1",
        "-0",
        "+0",
        "0x0",
        "root:",
        ":0",
        ":",
        "1000:0:0",
        " 0",
        "0 ",
        "root\n",
        "bad",
        "minus",
        "far",
        "1000:70000",
        "app:nogroup",
        "nobody",
        "\0",
        "a/b",
        "1000:-1",
        "app:99999999999",
        "\u{0660}",
    ] {
        let result = resolve(&root, spec, 65536);
        assert!(result.is_err(), "{spec:?}: {result:?}");
    }
    assert!(resolve(&root, &"x".repeat(10_000), 65536).unwrap_err().to_string().len() < 1000);
}

#[test]
fn the_kind_of_error_says_what_to_do() {
    let (_dir, root) = tree(PASSWD, GROUP);
    let error = |spec| resolve(&root, spec, 1).unwrap_err();
    assert!(matches!(error("1"), UserError::OutOfRange { id_count: 1, .. }));
    assert!(matches!(error("app"), UserError::OutOfRange { .. }));
    assert!(matches!(error("gone"), UserError::NotFound { kind: Kind::User, .. }));
    assert!(matches!(error("0:gone"), UserError::NotFound { kind: Kind::Group, .. }));
    assert!(matches!(error("0:"), UserError::Malformed { .. }));
    assert_eq!(error("gone").to_string(), "failed to find the user \"gone\" in /etc/passwd");
}

#[test]
fn a_symlinked_database_is_the_guests_own() {
    let (dir, root) = tree("", "");
    fs::remove_file(dir.path().join("etc/passwd")).unwrap();
    symlink("/etc/real", dir.path().join("etc/passwd")).unwrap();
    fs::write(dir.path().join("etc/real"), "me:x:5:6::/me:\n").unwrap();
    assert_eq!(resolve(&root, "me", 65536).unwrap(), identity(5, 6, &[], "/me", Some("me")));
    // The host surely has a root.
    fs::remove_file(dir.path().join("etc/real")).unwrap();
    assert!(matches!(resolve(&root, "root", 65536), Err(UserError::NotFound { .. })));
}

/// T9: CVE-2026-47262 and its kin.
#[test]
fn hostile_databases_are_refused_at_once_and_the_default_user_still_is_root() {
    let bloated: [fn(&std::path::Path); 5] = [
        |path| fs::File::create(path).unwrap().set_len(2 << 30).unwrap(),
        |path| fs::write(path, "\n".repeat(200_000)).unwrap(),
        |path| fs::write(path, "x".repeat(70_000)).unwrap(),
        |path| fs::create_dir(path).unwrap(),
        |path| rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::RWXU, 0).unwrap(),
    ];
    for (index, make) in bloated.into_iter().enumerate() {
        for (file, spec) in [("etc/passwd", "app"), ("etc/group", "app"), ("etc/group", "0:app")] {
            let (dir, root) = tree(PASSWD, GROUP);
            fs::remove_file(dir.path().join(file)).unwrap();
            make(&dir.path().join(file));
            let result = resolve(&root, spec, 65536);
            assert!(matches!(result, Err(UserError::Unusable { .. })), "{index} {file} {spec}: {result:?}");
            assert_eq!(resolve(&root, "", 65536).unwrap().uid, 0);
        }
    }
}

#[test]
fn without_databases_numbers_work_and_names_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::open_path(dir.path()).unwrap();
    assert_eq!(resolve(&root, "", 10).unwrap(), identity(0, 0, &[], "/", None));
    assert_eq!(resolve(&root, "5:6", 10).unwrap(), identity(5, 6, &[], "/", None));
    assert!(matches!(resolve(&root, "root", 10), Err(UserError::NotFound { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_databases_and_any_user_stay_in_range(
        passwd in "([a-c0:9,x-]{0,8}:){0,7}\n[a-c]:x:[0-9]{1,12}:[0-9]{1,12}::/:\n",
        group in "([a-c0:9,\n-]{0,12}){0,5}",
        spec in "[a-c0-9:-]{0,8}",
    ) {
        let (_dir, root) = tree(&passwd, &group);
        if let Ok(identity) = resolve(&root, &spec, 1000) {
            prop_assert!(identity.uid < 1000 && identity.gid < 1000 && identity.groups.iter().all(|&id| id < 1000));
            prop_assert!(identity.home.starts_with(b"/"));
            // Digits mean themselves.
            let user = spec.split(':').next().unwrap_or_default();
            if let Ok(uid) = user.parse::<u32>() {
                prop_assert_eq!(identity.uid, uid);
            }
        }
    }
}
