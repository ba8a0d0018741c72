//! Files of a session, by every message.
#![forbid(unsafe_code)]

use serde_json::{Value, json};

use super::{ANN, ANNS, Fleet};
use crate::testkit::{Cap, Store, need, sh, tests};

tests!(
    a_file_is_created_with_its_mode_and_belongs_to_the_user,
    a_file_is_read_by_lines,
    a_file_is_written_and_appended_to,
    a_file_is_edited_once_or_everywhere,
    a_file_or_a_directory_is_deleted,
    a_directory_is_listed_directories_first,
    encodings_are_those_of_python,
    what_is_not_there_or_not_that_is_said,
    what_the_user_may_not_change_stays,
);

fn home(path: &str) -> Value {
    json!(format!("/home/{ANNS}/workspace/{path}"))
}

async fn a_file_is_created_with_its_mode_and_belongs_to_the_user(store: &Store) {
    if !need(&[Cap::SubordinateIds]) {
        return;
    }
    let fleet = Fleet::new(store).await;
    let made = fleet.ann("fs/create_file", json!({"path": "a/b/c.txt", "content": "text"})).await;
    assert_eq!(
        made,
        json!({"success": true, "message": "File created: a/b/c.txt", "path": home("a/b/c.txt")})
    );
    assert_eq!(
        fleet.sh(ANN, "stat -c '%a %U %G' a/b/c.txt a; cat a/b/c.txt").await,
        format!("644 {ANNS} {ANNS}\n755 {ANNS} {ANNS}\ntext")
    );
    fleet.ann("fs/create_file", json!({"path": "a/b/c.txt", "mode": 0o700, "content": null})).await;
    assert_eq!(
        fleet.sh(ANN, "stat -c '%a %s' a/b/c.txt; echo more >> a/b/c.txt; cat a/b/c.txt; ls -A a/b").await,
        "700 0\nmore\nc.txt"
    );
    let made = fleet.ann("fs/create_file", json!({"path": format!("/home/{ANNS}/workspace/x/../y")})).await;
    assert_eq!(made["path"], home("y"));
    fleet.end().await;
}

async fn a_file_is_read_by_lines(store: &Store) {
    if !need(&[Cap::SubordinateIds]) {
        return;
    }
    let fleet = Fleet::new(store).await;
    fleet.sh(ANN, "printf 'one\\ntwo\\r\\nthree' > f").await;
    let all = fleet
        .ann("fs/read_file", json!({"path": "f", "encoding": "utf-8", "offset": null, "limit": null}))
        .await;
    assert_eq!(all, json!({"content": "one\ntwo\r\nthree", "path": home("f"), "size": 14}));
    for (offset, limit, text) in [(2, 1, "two\r\n"), (3, 9, "three"), (4, 1, ""), (0, 1, "one\n")] {
        let read = fleet.ann("fs/read_file", json!({"path": "./f", "offset": offset, "limit": limit})).await;
        assert_eq!((&read["content"], &read["size"]), (&json!(text), &json!(14)), "{offset} {limit}");
    }
    fleet.end().await;
}

async fn a_file_is_written_and_appended_to(store: &Store) {
    if !need(&[Cap::SubordinateIds]) {
        return;
    }
    let fleet = Fleet::new(store).await;
    let write = async |content: &str, mode: &str| {
        fleet.ann("fs/write_file", json!({"path": "d/f", "content": content, "mode": mode})).await
    };
    let wrote = write("é", "w").await;
    assert_eq!(
        wrote,
        json!({"success": true, "message": "File written: d/f", "path": home("d/f"), "size": 2})
    );
    assert_eq!(write("+more", "a").await["size"], 7);
    assert_eq!(fleet.sh(ANN, "cat d/f; chmod 640 d/f; ln -s d/f link").await, "é+more");
    fleet
        .ann("fs/write_file", json!({"path": "link", "content": "new", "mode": null, "encoding": null}))
        .await;
    assert_eq!(
        fleet.sh(ANN, "cat d/f; stat -c ' %a %U' d/f; stat -c %F link").await,
        format!("new 640 {ANNS}\nsymbolic link")
    );
    fleet.end().await;
}

async fn a_file_is_edited_once_or_everywhere(store: &Store) {
    if !need(&[Cap::SubordinateIds]) {
        return;
    }
    let fleet = Fleet::new(store).await;
    fleet.ann("fs/create_file", json!({"path": "f", "content": "a b a\r\nc"})).await;
    let edit = |old: &str, new: &str| json!({"path": "f", "old_string": old, "new_string": new});
    let edited = fleet.ann("fs/edit_file", edit("c", "see")).await;
    assert_eq!(
        edited,
        json!({"success": true, "message": "File edited: f", "path": home("f"), "replacements": 1, "size": 10})
    );
    for (payload, message) in [
        (edit("none", "x"), "'old_string' not found in file"),
        (edit("a", "a"), "'old_string' and 'new_string' must differ"),
        (
            edit("a", "x"),
            "'old_string' appears 2 times in file; set replace_all=true to replace all occurrences",
        ),
    ] {
        assert_eq!(fleet.refuses("fs/edit_file", payload, 400).await, message);
    }
    let all = json!({"path": "f", "old_string": "a", "new_string": "", "replace_all": true});
    assert_eq!(fleet.ann("fs/edit_file", all).await["replacements"], 2);
    assert_eq!(
        fleet.sh(ANN, "od -c f | head -n 1").await.split_whitespace().skip(1).collect::<Vec<_>>().concat(),
        "b\\r\\nsee"
    );
    assert_eq!(
        fleet.refuses("fs/edit_file", json!({"path": "no", "old_string": "a", "new_string": "b"}), 404).await,
        "File not found: no"
    );
    fleet.end().await;
}

async fn a_file_or_a_directory_is_deleted(store: &Store) {
    if !need(&[Cap::SubordinateIds]) {
        return;
    }
    let fleet = Fleet::new(store).await;
    fleet.sh(ANN, "mkdir -p d/e; touch d/e/f g; ln -s /etc/passwd link; ln -s d dir").await;
    for (path, message) in [
        ("g", "File deleted: g"),
        ("link", "File deleted: link"),
        ("dir", "File deleted: dir"),
        ("./d", "Directory deleted: ./d"),
    ] {
        assert_eq!(
            fleet.ann("fs/delete_file", json!({"path": path})).await,
            json!({"success": true, "message": message})
        );
    }
    assert_eq!(fleet.sh(ANN, "ls -A; test -e /etc/passwd").await, "");
    assert_eq!(fleet.refuses("fs/delete_file", json!({"path": "g"}), 404).await, "Path not found: g");
    // The workspace itself stays.
    for path in [".", "", "d/.."] {
        fleet.refuses("fs/delete_file", json!({"path": path}), 400).await;
    }
    fleet.end().await;
}

async fn a_directory_is_listed_directories_first(store: &Store) {
    if !need(&[Cap::SubordinateIds]) {
        return;
    }
    let fleet = Fleet::new(store).await;
    fleet.sh(ANN, "mkdir z B; echo 12 > a; touch C .hidden; ln -s B to-dir; ln -s none broken; ln -s /etc out; mkfifo pipe").await;
    let listed = fleet.ann("fs/list_dir", json!({})).await;
    assert_eq!(listed["current_path"], home("").as_str().unwrap().trim_end_matches('/'));
    let files = listed["files"].as_array().unwrap();
    let shown: Vec<_> = files
        .iter()
        .map(|file| {
            (
                file["name"].as_str().unwrap(),
                file["is_dir"] == true,
                file["is_file"] == true,
                file["size"].as_u64(),
            )
        })
        .collect();
    let dir = |name| (name, true, false, None);
    let other = |name| (name, false, false, None);
    assert_eq!(
        shown,
        [
            dir("B"),
            dir("to-dir"),
            dir("z"),
            ("a", false, true, Some(3)),
            ("C", false, true, Some(0)),
            other("out"),
            other("pipe")
        ]
    );
    assert_eq!(files[3]["path"], home("a"));
    let modified = files[3]["modified_time"].as_f64().unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((now - modified).abs() < 600.0, "{modified}");
    let hidden = fleet.ann("fs/list_dir", json!({"path": "to-dir/..", "show_hidden": true})).await;
    assert!(hidden["files"].as_array().unwrap().iter().any(|file| file["name"] == ".hidden"), "{hidden}");
    assert_eq!(fleet.ann("fs/list_dir", json!({"path": "to-dir"})).await["files"], json!([]));
    fleet.end().await;
}

async fn encodings_are_those_of_python(store: &Store) {
    if !need(&[Cap::SubordinateIds]) {
        return;
    }
    let fleet = Fleet::new(store).await;
    fleet.ann("fs/write_file", json!({"path": "l", "content": "é", "encoding": "latin-1"})).await;
    assert_eq!(
        fleet.ann("fs/read_file", json!({"path": "l", "encoding": "ISO-8859-1"})).await["content"],
        "é"
    );
    fleet
        .ann(
            "fs/edit_file",
            json!({"path": "l", "old_string": "é", "new_string": "ÿ!", "encoding": "latin1"}),
        )
        .await;
    assert_eq!(fleet.sh(ANN, "od -An -tx1 l").await, "ff 21");
    let detail = fleet.refuses("fs/read_file", json!({"path": "l"}), 400).await;
    assert_eq!(detail, "Failed to read file: 'utf-8' codec can't decode what is at position 0");
    let detail =
        fleet.refuses("fs/write_file", json!({"path": "l", "content": "€", "encoding": "ascii"}), 400).await;
    assert!(detail.starts_with("Failed to write file: 'ascii' codec can't encode"), "{detail}");
    let detail = fleet.refuses("fs/read_file", json!({"path": "l", "encoding": "nonsense"}), 400).await;
    assert_eq!(detail, "Failed to read file: unknown encoding: nonsense");
    assert_eq!(fleet.sh(ANN, "od -An -tx1 l").await, "ff 21", "what was refused changed nothing");
    fleet.end().await;
}

async fn what_is_not_there_or_not_that_is_said(store: &Store) {
    if !need(&[Cap::SubordinateIds]) {
        return;
    }
    let fleet = Fleet::new(store).await;
    fleet.sh(ANN, "mkdir d; touch f; mkfifo p").await;
    for (operation, payload, status, message) in [
        ("fs/read_file", json!({"path": "no"}), 404, "File not found: no"),
        ("fs/read_file", json!({"path": "no/no"}), 404, "File not found: no/no"),
        ("fs/read_file", json!({"path": "d"}), 400, "Path is not a file: d"),
        ("fs/read_file", json!({"path": "p"}), 400, "Path is not a file: p"),
        ("fs/list_dir", json!({"path": "no"}), 404, "Directory not found: no"),
        ("fs/list_dir", json!({"path": "f"}), 400, "Path is not a directory: f"),
        ("fs/delete_file", json!({"path": "no"}), 404, "Path not found: no"),
        (
            "fs/edit_file",
            json!({"path": "d", "old_string": "a", "new_string": "b"}),
            400,
            "Path is not a file: d",
        ),
    ] {
        assert_eq!(fleet.refuses(operation, payload.clone(), status).await, message, "{operation} {payload}");
    }
    for (operation, payload) in [
        ("fs/create_file", json!({"path": "d", "content": "x"})),
        ("fs/create_file", json!({"path": "f/below", "content": "x"})),
        ("fs/write_file", json!({"path": "d", "content": "x"})),
        ("fs/write_file", json!({"path": "p", "content": "x", "mode": "a"})),
        ("fs/write_file", json!({"path": "a\0b", "content": "x"})),
        ("fs/read_file", json!({"path": "x".repeat(5000)})),
    ] {
        let detail = fleet.refuses(operation, payload.clone(), 400).await;
        assert!(detail.starts_with("Failed to "), "{operation} {payload}: {detail}");
    }
    let missing = fleet.asks(ANN, "fs/write_file", json!({"path": "x"}), 422).await;
    assert_eq!(missing["detail"][0]["loc"], json!(["body", "content"]));
    fleet.asks(ANN, "fs/create_file", json!({"path": "x", "mode": -1}), 422).await;
    assert_eq!(fleet.sh(ANN, "ls -A").await, "d\nf\np");
    fleet.end().await;
}

async fn what_the_user_may_not_change_stays(store: &Store) {
    if !need(&[Cap::SubordinateIds]) {
        return;
    }
    let fleet = Fleet::new(store).await;
    fleet.sh(ANN, "true").await;
    sh(fleet.vessel(), &format!("cd /home/{ANNS}/workspace; mkdir root; echo no > root/f; chmod 700 root; echo ro > ro; chmod 600 ro")).await;
    for (operation, payload) in [
        ("fs/read_file", json!({"path": "ro"})),
        ("fs/read_file", json!({"path": "root/f"})),
        ("fs/write_file", json!({"path": "root/g", "content": "x"})),
        ("fs/delete_file", json!({"path": "root/f"})),
        ("fs/list_dir", json!({"path": "root"})),
        ("fs/create_file", json!({"path": "root/new/f"})),
    ] {
        let detail = fleet.refuses(operation, payload, 403).await;
        assert!(
            detail.contains("ermission denied") && !detail.contains("Access denied"),
            "{operation}: {detail}"
        );
    }
    assert_eq!(
        sh(fleet.vessel(), &format!("cd /home/{ANNS}/workspace; cat root/f ro; ls root")).await,
        "no\nro\nf\n"
    );
    fleet.end().await;
}
