//! A network of its own with a way out, in a network namespace that the test makes: what is reached there is no host's.
#![forbid(unsafe_code)]

use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::testkit::image::{self, Layer};
use crate::testkit::{Cap, Store, bin, need, tests, unprivileged};

tests!(
    pasta_reaches_a_server_outside_and_a_published_server_is_reached,
    slirp4netns_does_where_there_is_no_pasta,
    names_that_lead_elsewhere_are_refused,
    without_either_program_it_is_unsupported,
    without_a_tun_device_it_is_unsupported,
);

/// A host of two addresses, one of which the vessel takes over, with a web server on the other, and files of its own in `/etc`.
/// An ordinary user has one id in it only: no program with the set-uid bit works there.
const WORLD: &str = r#"
set -eu
ip link set lo up
ip tuntap add d0 mode tap
ip addr add 10.77.0.1/24 dev d0
ip link set d0 up
ip route add default via 10.77.0.254
ip addr add 10.78.0.1/32 dev lo
mount --bind /dev/null /usr/bin/newuidmap
printf '127.0.0.1 localhost rebound.test\n169.254.169.254 metadata.test\n10.78.0.1 web.test\n' >"$DIR/hosts"
mount --bind "$DIR/hosts" /etc/hosts
mkdir "$DIR/www"
echo 'hello from the world' >"$DIR/www/index.html"
busybox httpd -f -p 10.78.0.1:8000 -h "$DIR/www" &
web=$!
trap 'kill $web; "$V" -q stop --all >/dev/null 2>&1 || true' EXIT
"$V" -q image import "$DIR/tiny.tar" --ref tiny:1 >/dev/null
hide() { for program; do [ ! -e "$program" ] || mount --bind /dev/null "$program"; done; }
get='(printf "GET / HTTP/1.0\r\n\r\n"; sleep 1) | nc -w 5 10.78.0.1 8000 | tail -n 1'
"#;

/// Runs a script in a world of its own.
fn in_world(store: &Store, script: &str) -> Output {
    let dir = store.beside("world");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("tiny.tar"), tiny()).unwrap();
    let user: &[&str] = if unprivileged() { &["--user", "--map-current-user", "--keep-caps"] } else { &[] };
    let mut command = Command::new("timeout");
    command.args(["-k", "5", "100", "unshare", "--net", "--mount"]).args(user);
    command.args(["sh", "-c", &format!("{WORLD}{script}")]).stdin(std::process::Stdio::null());
    command.env_clear().env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin").env("HOME", &dir).env("DIR", &dir);
    command.env("V", bin()).env("VESSELRT_ROOT", dir.join("store")).env("VESSELRT_IDLE", "0");
    command.output().unwrap()
}

/// One id is enough for it.
fn tiny() -> Vec<u8> {
    let mut layer = Layer::new();
    for dir in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
        layer = layer.dir(dir, 0o755, 0);
    }
    layer = layer.file("bin/busybox", 0o755, 0, &std::fs::read(image::BUSYBOX).unwrap());
    for applet in ["sh", "cat", "nc", "tail", "cut", "sleep", "echo"] {
        layer = layer.symlink(&format!("bin/{applet}"), "busybox");
    }
    layer.file("etc/passwd", 0o644, 0, b"root:x:0:0:root:/root:/bin/sh\n").finish()
}

#[track_caller]
fn text(output: &Output) -> String {
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}: {}{err}", output.status, String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn error(output: &Output) -> Value {
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    let line =
        text.lines().find(|line| line.starts_with('{')).unwrap_or_else(|| panic!("no error in {text}"));
    serde_json::from_str::<Value>(line).unwrap()["error"].clone()
}

async fn pasta_reaches_a_server_outside_and_a_published_server_is_reached(store: &Store) {
    if !need(&[Cap::Pasta]) {
        return;
    }
    let output = in_world(
        store,
        r#"
        "$V" create tiny:1 --id box --network isolated --dns 10.78.0.1 -p 8080:80 >/dev/null
        "$V" start box >/dev/null
        "$V" exec box -- sh -c "$get; cut -d: -f1 /proc/net/dev | tail -n +3; cat /etc/resolv.conf"
        "$V" exec box -- sh -c 'echo from inside | nc -l -p 80' >/dev/null &
        for i in $(seq 100); do got=$(busybox nc -w 5 127.0.0.1 8080 </dev/null || true); [ -z "$got" ] || break; sleep 0.1; done
        echo "$got"
        "$V" stop box >/dev/null
        "#,
    );
    let out = text(&output);
    let lines: Vec<&str> = out.lines().map(str::trim).collect();
    assert_eq!(lines, ["hello from the world", "lo", "d0", "nameserver 10.78.0.1", "from inside"]);
}

async fn slirp4netns_does_where_there_is_no_pasta(store: &Store) {
    if !need(&[Cap::Slirp]) {
        return;
    }
    let script = r#"
        hide /usr/bin/pasta /usr/bin/passt
        "$V" run --rm --network isolated tiny:1 -- sh -c "$get"
        "#;
    assert_eq!(text(&in_world(store, script)), "hello from the world\n");
}

async fn names_that_lead_elsewhere_are_refused(store: &Store) {
    let output = in_world(
        store,
        r#"
        "$V" create tiny:1 --id box --allow rebound.test:8000 --allow metadata.test --allow web.test:8000 >/dev/null
        "$V" start box >/dev/null
        for target in rebound.test:8000 metadata.test:80 web.test:8000; do
            "$V" exec box -- sh -c "printf 'CONNECT $target HTTP/1.1\r\n\r\n' | nc -w 20 127.0.0.1 3128 | tail -n 1"
        done
        "$V" stop box >/dev/null
        "$V" --json network log box
        "#,
    );
    let out = text(&output);
    let (said, log) = out.split_once('[').unwrap();
    let not_public = "the name leads to an address that is not public:";
    let expected = [
        format!("vesselrt: rebound.test:8000: {not_public} 127.0.0.1"),
        format!("vesselrt: metadata.test:80: {not_public} 169.254.169.254"),
        format!("vesselrt: web.test:8000: {not_public} 10.78.0.1"),
    ];
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);
    let log: Value = serde_json::from_str(&format!("[{log}")).unwrap();
    assert_eq!(log.as_array().unwrap().len(), 3);
}

async fn without_either_program_it_is_unsupported(store: &Store) {
    let script = r#"
        hide /usr/bin/pasta /usr/bin/passt /usr/bin/slirp4netns
        "$V" --json run --rm --network isolated tiny:1 -- echo no
        "#;
    let error = error(&in_world(store, script));
    assert_eq!(error["kind"], json!("unsupported"), "{error}");
    assert!(error["remedy"].as_str().unwrap().contains("passt"), "{error}");
}

async fn without_a_tun_device_it_is_unsupported(store: &Store) {
    let script = r#"
        mount -t tmpfs tmpfs /dev/net
        "$V" --json run --rm --network isolated tiny:1 -- echo no
        "#;
    let error = error(&in_world(store, script));
    assert_eq!(error["kind"], json!("unsupported"), "{error}");
    assert!(error["remedy"].as_str().unwrap().contains("/dev/net/tun"), "{error}");
}
