//! Networks as programs of Debian meet them: the allowlist by curl, Python and Node.js; published servers in Python.
#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::net::UdpSocket;
use std::time::Duration;

use vesselrt::settings::Settings;
use vesselrt::settings::network::{Network, Protocol, Publish};
use vesselrt::{CreateOptions, ExecOptions, Manager, Vessel};

use super::free_port;
use super::publish::connect;
use crate::testkit::web::{HELLO, Web};
use crate::testkit::{Cap, Store, capture, image, need, run_in, tests, until};

tests!(
    curl_python_and_node_reach_the_allowed_name_and_nothing_else,
    many_connections_and_datagrams_are_forwarded_at_once,
);

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
    if host != '127.0.0.1':
        attempt('udp ' + host, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', (host, 53)))
for host in ['::1', '2606:4700:4700::1111', 'fe80::1%lo']:
    attempt(host, lambda: socket.create_connection((host, port), 3))
for kind in [(socket.AF_INET, socket.SOCK_RAW, 1), (socket.AF_PACKET, socket.SOCK_RAW, 3), (40, socket.SOCK_STREAM, 0)]:
    attempt(kind, lambda: socket.socket(*kind))
for host in ['good.test', 'localhost.localdomain', 'debian.org']:
    attempt(host, lambda: socket.getaddrinfo(host, 80))
print(reached)";

/// Says what it hears, to everybody at once, in connections and in datagrams.
const ECHO: &str = "\
import socket, threading
tcp = socket.create_server(('', 9), backlog=200)
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); udp.bind(('127.0.0.1', 9))
def each(c):
    while data := c.recv(65536): c.sendall(data)
    c.close()
def datagrams():
    while True: udp.sendto(*udp.recvfrom(65536))
threading.Thread(target=datagrams).start()
print('ready', flush=True)
while True: threading.Thread(target=each, args=(tcp.accept()[0],)).start()";

/// A vessel of Debian in this network.
async fn debian(store: &Store, network: Network) -> (Manager, Vessel) {
    let manager = store.manager().await;
    let tar = image::network_debian_tar().unwrap();
    manager.import_image(&tar, "debian:net", |_| {}).await.unwrap();
    let settings = Settings { network, ..Settings::default() };
    let vessel =
        manager.create_vessel_with(CreateOptions::new("debian:net").settings(settings)).await.unwrap();
    (manager, vessel)
}

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
    let network = Network::default().allow(format!("good.test=127.0.0.1:{}", web.port).parse().unwrap());
    let (manager, vessel) = debian(store, network).await;
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
        for bad in [
            format!("http://evil.test:{}", web.port),
            "http://good.test:1".into(),
            "http://1.1.1.1:81".into(),
        ] {
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

async fn many_connections_and_datagrams_are_forwarded_at_once(store: &Store) {
    if !need(&[Cap::NetworkDebian]) {
        return;
    }
    let port = free_port();
    let udp = Publish { protocol: Protocol::Udp, ..Publish::new(port, 9) };
    let network = Network::default().publish(Publish::new(port, 9)).publish(udp);
    let (_manager, vessel) = debian(store, network).await;
    let ready = capture();
    let options = ExecOptions::new(["python3", "-c", ECHO]).stdout(ready.clone());
    let server = vessel.spawn(options).await.unwrap();
    until("the server listens", async || ready.text().contains("ready")).await;
    let answered = tokio::task::spawn_blocking(move || (connections(port), datagrams(port)));
    assert_eq!(answered.await.unwrap(), (150, 40));
    drop(server);
    vessel.close().await.unwrap();
}

/// How many of 150 connections that are open at once hear what they say.
fn connections(port: u16) -> usize {
    let mut streams: Vec<_> = (0..150u8).map(|number| (number, connect(port))).collect();
    for (number, stream) in &mut streams {
        stream.write_all(&[*number]).unwrap();
    }
    // In another order than they came.
    let hears = |(number, stream): &mut (u8, std::net::TcpStream)| {
        let mut answer = [255];
        stream.read_exact(&mut answer).is_ok() && answer == [*number]
    };
    streams.iter_mut().rev().map(hears).filter(|&heard| heard).count()
}

/// How many of 40 senders of datagrams hear their own.
fn datagrams(port: u16) -> usize {
    let client = |number: u8| {
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(("127.0.0.1", port)).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        (number, client)
    };
    let clients: Vec<_> = (0..40).map(client).collect();
    for (number, client) in &clients {
        client.send(&[*number; 1200]).unwrap();
    }
    let hears = |(number, client): &&(u8, UdpSocket)| {
        let mut buffer = [0; 2000];
        client.recv(&mut buffer).is_ok_and(|size| buffer[..size] == [*number; 1200])
    };
    clients.iter().filter(hears).count()
}
