//! An allowlist: the proxy connects to what is on it, there is no way around the proxy, and what it denies is written down.
#![forbid(unsafe_code)]

use vesselrt::settings::network::{Network, PROXY};
use vesselrt::{ExecOptions, Vessel};

use super::vessel;
use crate::testkit::web::{HELLO, Web};
use crate::testkit::{Store, run_in, sh, sh_ephemeral, tests};

tests!(
    only_the_allowed_name_is_connected_to,
    socks_has_the_same_rules,
    a_plain_request_goes_to_the_host_that_was_checked,
    names_that_lead_to_this_host_are_refused,
    there_is_no_way_around_the_proxy,
    denied_connections_are_shown_without_their_escapes,
    clients_that_say_nothing_keep_nobody_out,
    requests_without_end_are_refused,
    variables_of_the_command_stay,
);

/// Lets `good.test` lead to the server, as a name of the DNS never may.
fn only(web: &Web) -> Network {
    Network::default().allow(format!("good.test=127.0.0.1:{}", web.port).parse().unwrap())
}

/// What the proxy says to `request`, in the words of printf(1).
async fn ask(vessel: &Vessel, request: &str) -> String {
    sh_ephemeral(vessel, &format!("printf '{request}' | nc -w 20 {} {}", PROXY.ip(), PROXY.port())).await
}

async fn connect(vessel: &Vessel, target: &str) -> String {
    ask(vessel, &format!("CONNECT {target} HTTP/1.1\\r\\n\\r\\nGET / HTTP/1.0\\r\\n\\r\\n")).await
}

async fn only_the_allowed_name_is_connected_to(store: &Store) {
    let web = Web::start();
    let (manager, vessel) = vessel(store, only(&web)).await;
    let port = web.port;
    let answer = connect(&vessel, &format!("GOOD.test:{port}")).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(HELLO), "{answer}");
    let mut wanted = Vec::new();
    for (host, other, reason) in [
        ("evil.test", port, "the name is not allowed"),
        ("xgood.test", port, "the name is not allowed"),
        ("good.test.evil.test", port, "the name is not allowed"),
        ("good.test", 22, "the port is not allowed"),
        ("127.0.0.1", port, "the address is not allowed"),
        ("[::1]", port, "the address is not allowed"),
        ("[::ffff:127.0.0.1]", port, "the address is not allowed"),
        ("2130706433", port, "it is not a name"),
        ("0x7f.1", port, "it is not a name"),
    ] {
        let answer = connect(&vessel, &format!("{host}:{other}")).await;
        assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains(reason), "{host}: {answer}");
        wanted.push((host.to_owned(), other, reason.to_owned()));
    }
    assert_eq!(web.heads().len(), 1);
    let denied = manager.denied_connections(vessel.id()).await.unwrap();
    let denied: Vec<_> = denied.into_iter().map(|entry| (entry.host, entry.port, entry.reason)).collect();
    assert_eq!(denied, wanted);
    vessel.close().await.unwrap();
}

async fn socks_has_the_same_rules(store: &Store) {
    let web = Web::start();
    let (manager, vessel) = vessel(store, only(&web)).await;
    let port = format!("\\{:03o}\\{:03o}", web.port >> 8, web.port & 255);
    let greeting = "\\005\\001\\000";
    let name = |name: &str| format!("{greeting}\\005\\001\\000\\003\\{:03o}{name}{port}", name.len());
    let get = "GET / HTTP/1.0\\r\\n\\r\\n";
    let hex = |request: String| {
        format!("printf '{request}' | nc -w 20 127.0.0.1 3128 | od -An -tx1 | tr -d ' \\n' | cut -c1-24")
    };
    assert!(ask(&vessel, &format!("{}{get}", name("good.test"))).await.ends_with(HELLO));
    let denied = "050005020001000000000000";
    assert_eq!(sh(&vessel, &hex(name("evil.test"))).await.trim(), denied);
    let by_number = format!("{greeting}\\005\\001\\000\\001\\177\\000\\000\\001{port}");
    assert_eq!(sh(&vessel, &hex(by_number)).await.trim(), denied);
    let bind = format!("{greeting}\\005\\002\\000\\001\\177\\000\\000\\001{port}");
    assert_eq!(sh(&vessel, &hex(bind)).await.trim(), "050005070001000000000000");
    // With a password only: there is no method for it.
    assert_eq!(sh(&vessel, &hex("\\005\\001\\002".into())).await.trim(), "05ff");
    let denied = manager.denied_connections(vessel.id()).await.unwrap();
    let denied: Vec<_> = denied.iter().map(|entry| (entry.via.as_str(), entry.host.as_str())).collect();
    assert_eq!(denied, [("socks5", "evil.test"), ("socks5", "127.0.0.1")]);
    vessel.close().await.unwrap();
}

async fn a_plain_request_goes_to_the_host_that_was_checked(store: &Store) {
    let web = Web::start();
    let (_manager, vessel) = vessel(store, only(&web)).await;
    let request = format!(
        "GET http://good.test:{}/a?b HTTP/1.1\\r\\nHost: evil.test\\r\\nX-Y: z\\r\\n\\r\\n",
        web.port
    );
    assert!(ask(&vessel, &request).await.ends_with(HELLO));
    let head = format!("GET /a?b HTTP/1.1\nHost: good.test:{}\nConnection: close\nX-Y: z", web.port);
    assert_eq!(web.heads(), [head]);
    for (request, status) in [
        ("GET / HTTP/1.1\\r\\nHost: good.test\\r\\n\\r\\n", "421"),
        ("GET https://good.test/ HTTP/1.1\\r\\n\\r\\n", "501"),
        ("GET http://x@good.test/ HTTP/1.1\\r\\n\\r\\n", "400"),
        ("GET http://evil.test/ HTTP/1.1\\r\\nHost: good.test\\r\\n\\r\\n", "403"),
        ("nonsense\\r\\n\\r\\n", "400"),
    ] {
        let answer = ask(&vessel, request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
    }
    assert_eq!(web.heads().len(), 1);
    vessel.close().await.unwrap();
}

/// `localhost` is a name that leads to an address of this host whatever the DNS says.
async fn names_that_lead_to_this_host_are_refused(store: &Store) {
    let web = Web::start();
    let localhost: Network = Network::default().allow(format!("localhost:{}", web.port).parse().unwrap());
    let (manager, vessel) = vessel(store, localhost.clone()).await;
    let answer = connect(&vessel, &format!("localhost:{}", web.port)).await;
    assert!(answer.contains("403") && answer.contains("leads to an address that is not public"), "{answer}");
    assert!(web.heads().is_empty());
    vessel.close().await.unwrap();
    let open = manager.create_vessel_with(super::options(localhost.allow_private(true))).await.unwrap();
    assert!(connect(&open, &format!("localhost:{}", web.port)).await.ends_with(HELLO));
    open.close().await.unwrap();
}

async fn there_is_no_way_around_the_proxy(store: &Store) {
    let web = Web::start();
    let (_manager, vessel) = vessel(store, only(&web)).await;
    assert_eq!(sh(&vessel, "tail -n +3 /proc/net/dev | cut -d: -f1").await.trim(), "lo");
    assert_eq!(sh(&vessel, "tail -n +2 /proc/net/route").await, "");
    let port = web.port;
    let attempts = [
        format!("nc -w 3 127.0.0.1 {port} </dev/null"),
        format!("nc -w 3 1.1.1.1 {port} </dev/null"),
        "nc -w 3 169.254.169.254 80 </dev/null".to_owned(),
        "ip link add d0 type dummy".to_owned(),
        "ip addr add 192.0.2.1/24 dev lo".to_owned(),
        "ip route add default dev lo".to_owned(),
    ];
    for attempt in attempts {
        let ran = run_in(&vessel, ExecOptions::new(["sh", "-c", &attempt])).await.unwrap();
        assert!(!ran.result.success(), "{attempt}: {ran:?}");
    }
    assert!(web.heads().is_empty());
    vessel.close().await.unwrap();
}

async fn denied_connections_are_shown_without_their_escapes(store: &Store) {
    let web = Web::start();
    let (_manager, vessel) = vessel(store, only(&web)).await;
    let odd = "a\\033[2Jb.test";
    let greeting = "\\005\\001\\000\\005\\001\\000\\003\\013";
    sh(&vessel, &format!("printf '{greeting}{odd}\\000\\120' | nc -w 20 127.0.0.1 3128 | wc -c")).await;
    let table = store.cli(&["network", "log", vessel.id()]).output().unwrap();
    let text = String::from_utf8(table.stdout).unwrap();
    assert!(table.status.success() && !text.contains('\u{1b}') && text.contains("b.test"), "{text}");
    let json = store.cli(&["network", "log", vessel.id(), "--json"]).output().unwrap().stdout;
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json[0]["host"], "a\u{1b}[2Jb.test");
    assert_eq!(json[0]["reason"], "it is not a name");
    let unknown = store.cli(&["network", "log", "no-such"]).output().unwrap();
    assert_eq!(unknown.status.code(), Some(125));
    vessel.close().await.unwrap();
}

async fn clients_that_say_nothing_keep_nobody_out(store: &Store) {
    let web = Web::start();
    let (_manager, vessel) = vessel(store, only(&web)).await;
    let crowd = "for i in $(seq 100); do sleep 100 | nc 127.0.0.1 3128 & done; \
                 for i in $(seq 100); do (printf 'CONNECT good'; sleep 100) | nc 127.0.0.1 3128 & done; echo ready; wait";
    let ready = crate::testkit::capture();
    let silent = vessel.spawn(ExecOptions::new(["sh", "-c", crowd]).stdout(ready.clone())).await.unwrap();
    crate::testkit::until("the crowd is there", async || ready.text().contains("ready")).await;
    let answer = connect(&vessel, &format!("good.test:{}", web.port)).await;
    assert!(answer.ends_with(HELLO), "{answer}");
    drop(silent);
    vessel.close().await.unwrap();
}

async fn requests_without_end_are_refused(store: &Store) {
    let web = Web::start();
    let (_manager, vessel) = vessel(store, only(&web)).await;
    let endless = "(printf 'CONNECT good.test:1 HTTP/1.1\\r\\nA: '; yes | tr -d '\\n' | head -c 1000000) | nc -w 20 127.0.0.1 3128 || true";
    let answer = sh(&vessel, endless).await;
    // What it still sends may take the answer away, but nothing is ever connected.
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let many = "(printf 'CONNECT good.test:1 HTTP/1.1\\r\\n'; for i in $(seq 300); do printf 'A: b\\r\\n'; done; printf '\\r\\n') | nc -w 20 127.0.0.1 3128";
    assert!(sh(&vessel, many).await.starts_with("HTTP/1.1 400 "));
    assert!(connect(&vessel, &format!("good.test:{}", web.port)).await.ends_with(HELLO));
    vessel.close().await.unwrap();
}

async fn variables_of_the_command_stay(store: &Store) {
    let web = Web::start();
    let (_manager, vessel) = vessel(store, only(&web)).await;
    let shown = sh(&vessel, "echo $HTTP_PROXY $https_proxy $ALL_PROXY $NO_PROXY $NODE_USE_ENV_PROXY").await;
    let proxy = "http://127.0.0.1:3128";
    assert_eq!(shown.trim(), format!("{proxy} {proxy} {proxy} localhost,127.0.0.1,::1 1"));
    let options = ExecOptions::new(["sh", "-c", "echo $HTTP_PROXY $HTTPS_PROXY"]).env("HTTP_PROXY", "mine");
    assert_eq!(run_in(&vessel, options).await.unwrap().out.trim(), format!("mine {proxy}"));
    vessel.close().await.unwrap();
}
