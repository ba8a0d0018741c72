//! Writes the seeds of all targets: `seeds DIRECTORY` makes `DIRECTORY/TARGET/NAME`.
#![forbid(unsafe_code)]

use std::fs;
use std::io;
use std::path::Path;

use vesselrt_fixtures::hostile::{Form, cases};
use vesselrt_storage::Digest;

/// Larger archives teach a fuzzer nothing but patience.
const LARGEST: usize = 32 << 10;

fn main() -> io::Result<()> {
    let dir = std::env::args_os().nth(1).unwrap_or_else(|| "corpus".into());
    let dir = Path::new(&dir);
    for case in cases().into_iter().filter(|case| case.tar.len() <= LARGEST) {
        let dialect = u8::from(case.form == Form::Snapshot);
        let with = |first: u8| [&[first][..], &case.tar].concat();
        put(dir, "tar_entries", case.name, &with(dialect))?;
        put(dir, "unpack", case.name, &with(dialect))?;
        put(dir, "unpack", &format!("{}-on-a-layer", case.name), &with(dialect | 0x80))?;
        put(dir, "snapshot_archive", case.name, &with(0))?;
    }
    for (n, text) in references().iter().enumerate() {
        put(dir, "reference", &n.to_string(), text.as_bytes())?;
    }
    for (n, (which, text)) in documents().iter().enumerate() {
        put(dir, "manifest", &n.to_string(), &[&[*which][..], text.as_bytes()].concat())?;
    }
    frames(dir)
}

fn put(dir: &Path, target: &str, name: &str, content: &[u8]) -> io::Result<()> {
    let dir = dir.join(target);
    fs::create_dir_all(&dir)?;
    fs::write(dir.join(name), content)
}

fn references() -> Vec<String> {
    let digest = Digest::sha256(b"x");
    let texts = [
        "a",
        "a:5000",
        "test:5000/r:tag",
        "library/alpine",
        "index.docker.io/library/alpine",
        "docker.io/a/b/c",
        "localhost/x",
        "[::1]:5000/r",
        "xn--n3h.com/x",
        "Host/x",
        "a----b",
        "a__b",
        "linux/arm64/v8",
        "linux/amd64",
        "a/../b",
        "user:pw@host/r",
        "http://a/b",
        "a?x",
        "host:99999/r",
        "vessel-1",
    ];
    let pinned = ["r@", "h:1/r:tag@", ""].map(|front| format!("{front}{digest}"));
    texts.into_iter().map(str::to_owned).chain(pinned).collect()
}

fn documents() -> Vec<(u8, String)> {
    let digest = Digest::sha256(b"x");
    let one = |kind: &str| format!(r#"{{"mediaType":"{kind}","digest":"{digest}","size":1}}"#);
    let layer = one("application/vnd.oci.image.layer.v1.tar+gzip");
    let config = one("application/vnd.oci.image.config.v1+json");
    let manifest = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layer},{layer}]}}"#);
    let data = manifest.replacen("\"size\":1", "\"size\":1,\"data\":\"eA==\",\"urls\":[\"http://x/\"]", 1);
    let entry = one("application/vnd.oci.image.manifest.v1+json");
    let platform =
        entry.replace("\"size\":1", r#""size":1,"platform":{"os":"linux","architecture":"amd64"}"#);
    let index =
        format!(r#"{{"schemaVersion":2,"manifests":[{entry},{platform}],"annotations":{{"a":"b"}}}}"#);
    let image = format!(
        r#"{{"architecture":"amd64","os":"linux","created":"2020-01-01T00:00:00Z","config":{{"Env":["A=b"],"Cmd":["x"],
"User":"0:0","Volumes":{{"/v":{{}}}},"Labels":null}},"rootfs":{{"type":"layers","diff_ids":["{digest}"]}},"history":[]}}"#
    );
    let snapshot = |id: &str, parent: &str| {
        format!(
            r#"{{"id":"{id}","vesselId":"v","parentId":"{parent}","message":"m","checksum":"{digest}","size":1,
"createTime":"2025-11-20T10:11:13+08:00","labels":null}}"#
        )
    };
    let vessel = format!(
        r#"{{"version":1,"id":"v","baseImageRef":"a","baseImageDigest":"{digest}","currentSnapshotId":"b","workDir":"/w",
"createTime":"2025-11-20T10:11:12.123456789Z","updateTime":"2025-11-20T02:11:12Z","labels":{{"k":"v"}},"snapshots":[{},{}]}}"#,
        snapshot("a", ""),
        snapshot("b", "a")
    );
    vec![
        (0, manifest.clone()),
        (2, manifest),
        (0, data),
        (1, index.clone()),
        (3, index),
        (5, vessel),
        (13, image.clone()),
        (6, image),
    ]
}

/// Frames as the two ends really send them.
fn frames(dir: &Path) -> io::Result<()> {
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use vesselrt_runtime::settings::Limits;
    use vesselrt_runtime::shim::protocol::{Driver, ExecRequest, MountSpec, Reply, Request, SpawnRequest};
    use vesselrt_runtime::shim::wire;
    let exec =
        ExecRequest { argv: vec![b"sh".to_vec()], env: vec![b"A=b".to_vec()], ..ExecRequest::default() };
    let spec = MountSpec {
        sealed: vec!["s".into()],
        image: vec!["i".into()],
        generation: 1,
        volatile: false,
        driver: Driver::Kernel,
    };
    let requests = [
        Request::Hello,
        Request::Exec(Box::new(exec.clone())),
        Request::Remount(spec),
        Request::Stat { path: b"/x".to_vec(), follow: true },
        Request::Keep(true),
        Request::Linger { millis: 60_000 },
        Request::Shutdown { destroy: true },
        Request::Signal(15),
        Request::Capture { longest_ms: 10_000 },
        Request::CopyAhead,
        Request::Run(Box::new(exec.clone())),
        Request::Limit { limits: Box::new(Limits::new().memory(1 << 30).pids(100)), groups: 1 },
        Request::Spawn(Box::new(SpawnRequest {
            command: exec,
            input: true,
            timeout_ms: Some(1000),
            log_limit: 16 << 20,
        })),
        Request::Processes,
        Request::SignalProcess { process: 1, signal: 9 },
        Request::WaitProcess { process: 1 },
        Request::OpenInput { process: 1 },
        Request::CloseInput { process: 1 },
        Request::EndProcesses { grace_ms: 2000 },
    ];
    for (n, request) in requests.iter().enumerate() {
        let (a, mut b) = UnixStream::pair()?;
        wire::send(&a, request, &[])?;
        wire::send(&a, &Reply::Done, &[])?;
        drop(a);
        let mut bytes = Vec::new();
        b.read_to_end(&mut bytes)?;
        put(dir, "shim_frame", &format!("whole-{n}"), &[&[1][..], &bytes].concat())?;
        put(dir, "shim_frame", &format!("body-{n}"), &[&[0][..], &bytes[8..]].concat())?;
    }
    Ok(())
}
