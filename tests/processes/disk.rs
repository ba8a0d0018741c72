//! A log on a disk that gets full.
#![forbid(unsafe_code)]

use crate::shell::{BASE, Call, Shell};
use crate::testkit::{self, Cap, need};

/// What a shell does in a mount namespace of its own, with a small file system at `$DIR`.
const SCRIPT: &str = r#"
set -e
mount -t tmpfs -o size=40m none "$DIR"
v() { "$BIN" --root "$DIR/store" "$@"; }
v image import "$TAR" --ref "$REF" > /dev/null
id=$(v create "$REF" --workdir /work)
p=$(v exec -d -i "$id" -- sh -c 'echo before; read a; head -c 300000 /dev/zero; echo; read b; echo after; read c; exit 5')
until v logs "$id" "$p" | grep -q before; do sleep 0.05; done
dd if=/dev/zero of="$DIR/filler" bs=64k 2> /dev/null || true
{ echo a; sleep 2; rm "$DIR/filler"; sleep 0.3; echo b; sleep 1; echo c; } | v attach --eof "$id" "$p" > /dev/null 2>&1 || code=$?
echo "attached $code"
v wait "$id" "$p" || echo "ended $?"
v logs --json "$id" "$p"
v ps --json "$id"
v rm "$id" > /dev/null
umount "$DIR"
"#;

#[test]
fn a_full_disk_costs_the_log_some_bytes_and_the_process_nothing() {
    if !need(&[Cap::Root]) {
        return;
    }
    let shell = Shell::empty();
    let dir = shell.beside("small");
    std::fs::create_dir(&dir).unwrap();
    let tar = shell.base_tar();
    let call = Call::new("unshare").args(["-m", "--propagation", "private", "sh", "-c", SCRIPT]);
    let call = call.env("DIR", &dir).env("BIN", testkit::bin()).env("TAR", &tar).env("REF", BASE);
    let done = call.succeeds();
    let text = done.text();
    assert!(text.contains("attached 5\n") && text.contains("ended 5\n"), "{done:?}");
    let events: Vec<serde_json::Value> =
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let said =
        |what: &str| events.iter().any(|event| event["text"].as_str().is_some_and(|t| t.ends_with(what)));
    assert!(said("before\n") && said("after\n"), "{events:?}");
    let gone: Vec<_> = events.iter().filter(|event| event["event"] == "gone").collect();
    assert!(!gone.is_empty(), "{events:?}");
    let lost: u64 = gone.iter().map(|g| g["to"].as_u64().unwrap() - g["from"].as_u64().unwrap()).sum();
    assert!(lost > 0 && lost <= 300_001, "{lost}");
    assert!(text.contains(&format!("\"logLost\": {lost}")), "{done:?}");
}
