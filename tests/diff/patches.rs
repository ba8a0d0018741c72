//! `snapshot diff` as it is typed: what it prints, and that its patches apply.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::{Command, Stdio};

use crate::shell::Shell;
use crate::testkit::caps::which;

/// A vessel with a snapshot, and much that was done since; its id and that of the snapshot.
fn changed(shell: &Shell) -> (String, String) {
    let id = shell.vessel();
    let before = "mkdir -p d 'with space'; seq 30 > lines; printf 'no end' > end; echo gone > gone; seq 9 > d/old;
        ln -s lines link; printf 'a\\0b' > binary; echo x > mode; echo y > same; echo file > turns; seq 7 > 'with space/f g'";
    shell.sh(&id, before);
    let snapshot = shell.call(["snapshot", "create", &id]).succeeds().line();
    let after =
        "sed -i -e s/^7$/seven/ -e 20d lines; echo >> end; rm gone; mv d/old d/new; rm link; ln -s end link
        printf 'a\\0c' > binary; chmod 755 mode; rm turns; ln -s mode turns; echo eight >> 'with space/f g'; touch same
        : > empty; echo new > d/added; chmod 700 d; mkdir bare";
    shell.sh(&id, after);
    (id, snapshot)
}

const LISTED: &str = "\
M  -rw-r--r--  3 B   /work/binary
M  drwx------  -     /work/d (mode 0755 -> 0700)
A  -rw-r--r--  4 B   /work/d/added
R  -rw-r--r--  18 B  /work/d/old -> /work/d/new
A  drwxr-xr-x  -     /work/bare
";

#[test]
fn changes_are_listed_one_a_line() {
    let shell = Shell::new();
    let (id, snapshot) = changed(&shell);
    let text = shell.call(["snapshot", "diff", &id]).succeeds().text();
    let mut expected: Vec<&str> = LISTED.lines().collect();
    expected.extend([
        "M  -rw-r--r--  2 B   /work/same (time)",
        "A  -rw-r--r--  0 B   /work/empty",
        "M  -rw-r--r--  7 B   /work/end",
        "D  -rw-r--r--  5 B   /work/gone",
        "M  -rw-r--r--  82 B  /work/lines",
        "M  lrwxrwxrwx  -     /work/link",
        "M  -rwxr-xr-x  2 B   /work/mode (mode 0644 -> 0755)",
        "M  lrwxrwxrwx  -     /work/turns (file -> symlink, mode 0644 -> 0777)",
        "M  -rw-r--r--  20 B  /work/with space/f g",
    ]);
    let mut lines: Vec<&str> = text.lines().collect();
    assert!(lines.is_sorted_by_key(|line| line.rsplit_once("/work/").unwrap().1.split(" (").next().unwrap()));
    lines.sort_unstable();
    expected.sort_unstable();
    assert_eq!(lines, expected);
    let same = shell.call(["snapshot", "diff", &id, &snapshot, "@now"]).succeeds().text();
    assert_eq!(same, text);
    let names =
        shell.call(["snapshot", "diff", &id, "--name-only", "--", "d", "/work/gone"]).succeeds().text();
    assert_eq!(names, "/work/d\n/work/d/added\n/work/d/new\n/work/gone\n");
    let raw = shell.call(["snapshot", "diff", &id, "--name-only", "-z", "--", "d/new"]).succeeds();
    assert_eq!(raw.text(), "/work/d/new\0");
    let image = shell.call(["snapshot", "diff", &id, "base", &snapshot, "--name-only"]).succeeds().text();
    assert!(image.starts_with("/work\n/work/binary\n") && !image.contains("added"), "{image}");
    shell.assert_idle();
}

#[test]
fn differences_have_an_exit_code_if_it_is_asked_for() {
    let shell = Shell::new();
    let (id, snapshot) = changed(&shell);
    shell.call(["snapshot", "diff", &id]).exits(0);
    shell.call(["snapshot", "diff", &id, "--exit-code"]).exits(1);
    shell.call(["snapshot", "diff", &id, "--exit-code", "--", "/etc"]).exits(0);
    let none = shell.call(["snapshot", "diff", &id, &snapshot, &snapshot, "--exit-code"]).exits(0);
    assert!(none.stdout.is_empty(), "{none:?}");
    shell.call(["snapshot", "diff", &id, "nothing"]).refused("not_found");
    shell.call(["snapshot", "diff", "nobody"]).refused("not_found");
}

#[test]
fn the_document_has_both_sides_and_the_figures() {
    let shell = Shell::new();
    let (id, snapshot) = changed(&shell);
    let json = shell.call(["snapshot", "diff", &id]).in_json().succeeds().json();
    assert_eq!((&json["vessel"], &json["from"], &json["to"]), (&id.into(), &snapshot.into(), &"@now".into()));
    let totals = serde_json::json!({ "added": 3, "modified": 9, "deleted": 1, "renamed": 1 });
    assert_eq!(json["totals"], totals);
    assert_eq!(json["renamesLimited"], false);
    let find = |json: &serde_json::Value, path: &str| {
        let changes = json["changes"].as_array().unwrap().clone();
        changes.into_iter().find(|change| change["path"] == path).unwrap()
    };
    let mode = find(&json, "/work/mode");
    assert_eq!((&mode["status"], &mode["differences"]), (&"M".into(), &serde_json::json!(["mode"])));
    assert_eq!((&mode["old"]["mode"], &mode["new"]["mode"]), (&"0644".into(), &"0755".into()));
    for field in ["type", "size", "mode", "uid", "gid", "mtime"] {
        assert!(!mode["old"][field].is_null() && !mode["new"][field].is_null(), "{field} in {mode}");
    }
    let renamed = find(&json, "/work/d/new");
    assert_eq!((&renamed["status"], &renamed["oldPath"]), (&"R".into(), &"/work/d/old".into()));
    let gone = find(&json, "/work/gone");
    assert_eq!((&gone["new"], &gone["old"]["type"]), (&serde_json::Value::Null, &"file".into()));
    let id = json["vessel"].as_str().unwrap();
    let stat = shell.call(["snapshot", "diff", id, "--stat"]).in_json().succeeds().json();
    let lines = find(&stat, "/work/lines");
    assert_eq!((&lines["insertions"], &lines["deletions"]), (&1.into(), &2.into()));
    assert!(find(&stat, "/work/binary")["insertions"].is_null());
    assert_eq!((&stat["totals"]["insertions"], &stat["totals"]["deletions"]), (&6.into(), &6.into()));
    let patch = shell.call(["snapshot", "diff", id, "--patch"]).in_json().succeeds().json();
    assert!(find(&patch, "/work/gone")["patch"].as_str().unwrap().ends_with("@@ -1 +0,0 @@\n-gone\n"));
    let names =
        shell.call(["snapshot", "diff", id, "--name-only", "--", "d/new"]).in_json().succeeds().json();
    assert_eq!(names, serde_json::json!(["/work/d/new"]));
}

#[test]
fn lines_are_counted_file_by_file() {
    let shell = Shell::new();
    let (id, _) = changed(&shell);
    let stat = shell.call(["snapshot", "diff", &id, "--stat"]).succeeds().text();
    let expected = "\x20/work/binary               | Bin 3 -> 3 bytes
 /work/d/added              |   1 +
 /work/d/old -> /work/d/new |   0
 /work/empty                |   0
 /work/end                  |   2 +-
 /work/gone                 |   1 -
 /work/lines                |   3 +--
 /work/link                 |   2 +-
 /work/mode                 |   0
 /work/turns                |   2 +-
 /work/with space/f g       |   1 +
 11 files changed, 6 insertions(+), 6 deletions(-)
";
    assert_eq!(stat, expected);
}

#[test]
fn what_would_command_a_terminal_is_escaped() {
    let shell = Shell::new();
    let id = shell.vessel();
    shell.call(["snapshot", "create", &id]).succeeds();
    shell.sh(&id, "printf 'x\\n' > \"$(printf 'e\\033[31m\\nf')\"");
    for flags in [&[][..], &["--stat"], &["--name-only"], &["--patch"]] {
        let done = shell.call(["snapshot", "diff", &id]).args(flags).succeeds();
        assert!(!done.stdout.contains(&0x1b), "{flags:?} {done:?}");
    }
    let patch = shell.call(["snapshot", "diff", &id, "-p"]).succeeds().text();
    assert!(patch.contains("+++ \"b/work/e\\033[31m\\nf\"\n"), "{patch}");
}

/// Copies `/work` out to `dir/work`.
fn copy_out(shell: &Shell, id: &str, dir: &Path) {
    std::fs::create_dir(dir).unwrap();
    shell.call(["cp", &format!("{id}:/work")]).arg(dir).succeeds();
}

/// Type, permissions, path and content of all but directories.
fn contents(dir: &Path) -> String {
    let script =
        "find work ! -type d -printf '%y %p %l\\n' | sort; find work -type f ! -perm -100 -print | sort
                  find work -type f -print0 | sort -z | xargs -0 sha256sum";
    let output = Command::new("sh").args(["-c", script]).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn patches_apply() {
    let shell = Shell::new();
    let (id, snapshot) = changed(&shell);
    // What a patch cannot say is passed over by those who apply it.
    shell.sh(&id, "printf 'a\\0b' > binary");
    let patch = shell.call(["snapshot", "diff", &id, "--patch"]).succeeds().stdout;
    let patch = shell.file("change.patch", &patch);
    let (new, old) =
        (shell.beside("new"), shell.call(["snapshot", "diff", &id, "@now", &snapshot, "-p"]).succeeds());
    let back = shell.file("back.patch", &old.stdout);
    copy_out(&shell, &id, &new);
    shell.call(["snapshot", "restore", &id, &snapshot]).succeeds();
    for (program, args) in [("git", &["apply", "--whitespace=nowarn"][..]), ("patch", &["-p1", "-s", "-i"])] {
        if which(program).is_none() {
            assert!(std::env::var_os("VESSELRT_TEST_REQUIRE").is_none(), "{program} is missing");
            eprintln!("SKIP: {program} is missing");
            continue;
        }
        let dir = shell.beside(program);
        copy_out(&shell, &id, &dir);
        let before = contents(&dir);
        let apply = |patch: &Path| {
            let mut command = Command::new(program);
            command.args(args).arg(patch).current_dir(&dir).stdin(Stdio::null());
            // No repository above is meant.
            let output = command.env("GIT_CEILING_DIRECTORIES", dir.parent().unwrap()).output().unwrap();
            assert!(output.status.success(), "{program}: {output:?}");
        };
        apply(&patch);
        assert_eq!(contents(&dir), contents(&new), "{program}");
        apply(&back);
        assert_eq!(contents(&dir), before, "{program}, back");
    }
}

#[test]
fn a_patch_of_large_and_binary_files_says_so() {
    let shell = Shell::new();
    let id = shell.vessel();
    shell.sh(&id, "seq 300000 > large; printf 'a\\0' > binary");
    let snapshot = shell.call(["snapshot", "create", &id]).succeeds().line();
    shell.sh(&id, "echo more >> large; printf 'b\\0' > binary; chmod 755 large; mkfifo pipe; chown 5:6 /srv");
    let patch = shell.call(["snapshot", "diff", &id, &snapshot, "--patch"]).succeeds().text();
    let expected = "\
# changed: /srv (owner 0:0 -> 5:6)
Binary files a/work/binary and b/work/binary differ
Files a/work/large and b/work/large differ: too large to compare
diff --git a/work/large b/work/large
old mode 100644
new mode 100755
# added: /work/pipe (fifo 0644)
";
    assert_eq!(patch, expected);
}
