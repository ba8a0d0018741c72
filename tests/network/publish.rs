//! Ports of the host that lead to servers inside.
#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use vesselrt::settings::network::{Network, Publish};
use vesselrt::{ErrorKind, ExecOptions, Running, Vessel};

use super::{free_port, options, vessel};
use crate::testkit::{Store, fails, tests};

tests!(
    a_server_inside_is_reached_through_a_published_port,
    both_ends_of_a_connection_end_by_themselves,
    a_connection_to_no_server_is_closed,
    a_port_that_is_taken_is_a_conflict_and_leaves_nothing,
    a_port_is_free_when_the_vessel_is_closed,
);

/// A server that says what it hears, to each client.
async fn serve(vessel: &Vessel, command: &str) -> Running {
    let server = vessel.spawn(ExecOptions::new(["sh", "-c", command])).await.unwrap();
    // It listens a moment later: asked from inside, as a connection from outside is always accepted.
    let listens = "for i in $(seq 300); do netstat -ln | grep -q ':9 ' && exit; usleep 50000; done; exit 1";
    let ran = vessel.exec(ExecOptions::new(["sh", "-c", listens])).await.unwrap();
    assert!(ran.success(), "no server listens inside");
    server
}

pub(super) fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

/// What comes back of `data`, until the end.
fn echo(port: u16, data: &[u8]) -> Vec<u8> {
    let mut stream = connect(port);
    let mut back = Vec::new();
    std::thread::scope(|scope| {
        let mut writer = stream.try_clone().unwrap();
        scope.spawn(move || {
            writer.write_all(data).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        stream.read_to_end(&mut back).unwrap();
    });
    back
}

async fn a_server_inside_is_reached_through_a_published_port(store: &Store) {
    let port = free_port();
    let (_manager, vessel) = vessel(store, Network::default().publish(Publish::new(port, 9))).await;
    let server = serve(&vessel, "nc -ll -p 9 -e cat").await;
    let data: Vec<u8> = (0..4_000_000u32).map(|n| (n % 251) as u8).collect();
    let back =
        tokio::task::spawn_blocking(move || (echo(port, b"hello") == b"hello", echo(port, &data) == data));
    assert_eq!(back.await.unwrap(), (true, true));
    drop(server);
    vessel.close().await.unwrap();
}

async fn both_ends_of_a_connection_end_by_themselves(store: &Store) {
    let port = free_port();
    let (_manager, vessel) = vessel(store, Network::default().publish(Publish::new(port, 9))).await;
    // It reads to the end, and only then answers.
    let server = serve(&vessel, "nc -ll -p 9 -e wc -c").await;
    let counted = tokio::task::spawn_blocking(move || echo(port, b"12345")).await.unwrap();
    assert_eq!(counted, b"5\n");
    drop(server);
    vessel.close().await.unwrap();
}

async fn a_connection_to_no_server_is_closed(store: &Store) {
    let port = free_port();
    let (_manager, vessel) = vessel(store, Network::default().publish(Publish::new(port, 9))).await;
    let read = tokio::task::spawn_blocking(move || connect(port).read(&mut [0; 1]));
    assert!(matches!(read.await.unwrap(), Ok(0) | Err(_)));
    vessel.close().await.unwrap();
}

async fn a_port_that_is_taken_is_a_conflict_and_leaves_nothing(store: &Store) {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let manager = store.stocked().await;
    let network = Network::default().publish(Publish::new(port, 9));
    let error = fails(manager.create_vessel_with(options(network.clone())).await, &ErrorKind::Conflict);
    assert_eq!(error.to_string(), format!("failed to publish port 127.0.0.1:{port}"));
    assert!(error.remedy().is_some() && manager.list_vessels().await.unwrap().is_empty());
    // A vessel that exists cannot be opened meanwhile, and is none the worse for it.
    drop(taken);
    let vessel = manager.create_vessel_with(options(network)).await.unwrap();
    vessel.close().await.unwrap();
    let taken = TcpListener::bind(("127.0.0.1", port)).unwrap();
    fails(manager.open_vessel(vessel.id()).await, &ErrorKind::Conflict);
    drop(taken);
    manager.open_vessel(vessel.id()).await.unwrap().close().await.unwrap();
}

async fn a_port_is_free_when_the_vessel_is_closed(store: &Store) {
    let port = free_port();
    let (manager, vessel) = vessel(store, Network::default().publish(Publish::new(port, 9))).await;
    vessel.close().await.unwrap();
    for _ in 0..3 {
        drop(TcpListener::bind(("127.0.0.1", port)).unwrap());
        manager.open_vessel(vessel.id()).await.unwrap().close().await.unwrap();
    }
}
