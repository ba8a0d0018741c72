//! The allowlist as curl, Python and Node.js of Debian meet it.
#![forbid(unsafe_code)]

use vesselrt::settings::Settings;
use vesselrt::settings::network::Network;
use vesselrt::{CreateOptions, ExecOptions, Vessel};

use crate::testkit::web::{HELLO, Web};
use crate::testkit::{Cap, Store, image, need, run_in, tests};

tests!(curl_python_and_node_reach_the_allowed_name_and_nothing_else);

/// Fetches the URL that is its first argument, as a program does that knows of proxies.
const PYTHON: &str = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=20).read().decode(), end='')";
/// The same by CONNECT.
const PYTHON_TUNNEL: &str = "\
import http.client, os, sys, urllib.parse as u
proxy, to = u.urlparse(os.environ['HTTPS_PROXY']), u.urlparse(sys.argv[1])
c = http.client.HTTPConnection(proxy.hostname, proxy.port, timeout=20)
c.set_tunnel(to.hostname, to.port)
c.request('GET', '/')
print(c.getresponse().read().decode(), end='')";
/// Node.js of Debian has no proxy of its own: this is what its libraries do.
const NODE: &str = "\
const http = require('http'), proxy = new URL(process.env.HTTPS_PROXY), to = new URL(process.argv[1]);
http.request({host: proxy.hostname, port: proxy.port, method: 'CONNECT', path: to.host})
  .on('connect', (answer, socket) => {
    if (answer.statusCode != 200) { console.error(answer.statusCode); process.exit(1); }
    http.get({createConnection: () => socket, host: to.host}, r => r.pipe(process.stdout));
  }).on('error', e => { console.error(e); process.exit(1); }).end();";
/// Every way to another host that needs no proxy and no library: the errors of each.
const RAW: &str = "\
import socket, sys
port = int(sys.argv[1])
reached = []
def attempt(what, f):
    try: f(); reached.append(what)
    except OSError: pass
for host in ['127.0.0.1', '1.1.1.1', '169.254.169.254', '192.0.2.1', '10.0.0.1']:
    attempt(host, lambda: socket.create_connection((host, port), 3))
    attempt('udp ' + host, lambda: host == '127.0.0.1' or socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', (host, 53)))
for host in ['::1', '2606:4700:4700::1111', 'fe80::1%lo']:
    attempt(host, lambda: socket.create_connection((host, port), 3))
for kind in [(socket.AF_INET, socket.SOCK_RAW, 1), (socket.AF_PACKET, socket.SOCK_RAW, 3), (40, socket.SOCK_STREAM, 0)]:
    attempt(kind, lambda: socket.socket(*kind))
for host in ['good.test', 'localhost.localdomain', 'debian.org']:
    attempt(host, lambda: socket.getaddrinfo(host, 80))
print(reached)";

async fn get(vessel: &Vessel, program: &[&str], url: &str) -> (bool, String) {
    let argv = program.iter().copied().chain([url]);
    let ran = run_in(vessel, ExecOptions::new(argv)).await.unwrap();
    (ran.result.success(), ran.out)
}

async fn curl_python_and_node_reach_the_allowed_name_and_nothing_else(store: &Store) {
    if !need(&[Cap::NetworkDebian]) {
        return;
    }
    let web = Web::start();
    let manager = store.manager().await;
    let tar = image::network_debian_tar().unwrap();
    manager.import_image(&tar, "debian:net", |_| {}).await.unwrap();
    let network = Network::default().allow(format!("good.test=127.0.0.1:{}", web.port).parse().unwrap());
    let settings = Settings { network, ..Settings::default() };
    let vessel =
        manager.create_vessel_with(CreateOptions::new("debian:net").settings(settings)).await.unwrap();
    let programs: [&[&str]; 6] = [
        &["curl", "-sSf", "-m", "20"],
        &["curl", "-sSf", "-m", "20", "--proxytunnel"],
        &["curl", "-sSf", "-m", "20", "--proxy", "socks5h://127.0.0.1:3128"],
        &["python3", "-c", PYTHON],
        &["python3", "-c", PYTHON_TUNNEL],
        &["node", "-e", NODE],
    ];
    for program in programs {
        let good = get(&vessel, program, &format!("http://good.test:{}", web.port)).await;
        assert_eq!(good, (true, HELLO.to_owned()), "{program:?}");
        for bad in
            [format!("http://evil.test:{}", web.port), "http://good.test:1".into(), "http://1.1.1.1".into()]
        {
            assert_eq!(get(&vessel, program, &bad).await, (false, String::new()), "{program:?} {bad}");
        }
    }
    assert_eq!(web.heads().len(), programs.len());
    let port = web.port.to_string();
    let raw = run_in(&vessel, ExecOptions::new(["python3", "-c", RAW, &port])).await.unwrap();
    assert_eq!(raw.out, "[]\n", "{raw:?}");
    let direct =
        get(&vessel, &["curl", "-sS", "-m", "5", "--noproxy", "*"], &format!("http://127.0.0.1:{port}"))
            .await;
    assert_eq!(direct, (false, String::new()));
    assert_eq!(manager.denied_connections(vessel.id()).await.unwrap().len(), 3 * programs.len());
    vessel.close().await.unwrap();
}
