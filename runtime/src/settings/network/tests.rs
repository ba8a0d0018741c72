//! What can be asked for, what is allowed, and that it survives being written down.
#![forbid(unsafe_code)]

use super::*;

fn allow(text: &str) -> Allow {
    text.parse().unwrap()
}

fn route(network: &Network, host: &str, port: u16) -> Result<Route, Refusal> {
    network.route(&Destination::parse(host)?, port)
}

#[test]
fn published_ports_read_as_they_are_written() {
    for (text, shown) in [
        ("8080:80", "127.0.0.1:8080:80"),
        ("8080:80/tcp", "127.0.0.1:8080:80"),
        ("0.0.0.0:53:5353/udp", "0.0.0.0:53:5353/udp"),
        ("[::1]:8080:80", "[::1]:8080:80"),
    ] {
        let port: Publish = text.parse().unwrap();
        assert_eq!(port.to_string(), shown);
        assert_eq!(shown.parse::<Publish>().unwrap(), port);
    }
}

#[test]
fn what_is_no_published_port_is_refused() {
    for text in [
        "",
        "80",
        ":80",
        "80:",
        "0:80",
        "80:0",
        "65536:1",
        "1:65536",
        "+1:2",
        "a:b",
        "localhost:1:2",
        "::1:1:2",
        "[127.0.0.1]:1:2",
        "1:2/sctp",
        "1:2/",
        "1:2/tcp/udp",
        "1.2.3:1:2",
    ] {
        assert!(matches!(text.parse::<Publish>(), Err(NetworkError::Publish { .. })), "{text}");
    }
}

#[test]
fn allowed_destinations_read_as_they_are_written() {
    for (text, shown) in [
        ("Example.COM", "example.com"),
        ("example.com.:80,443", "example.com"),
        ("*.example.com:8443", "*.example.com:8443"),
        ("10.0.0.5:22", "10.0.0.5:22"),
        ("::1", "[::1]"),
        ("[::1]:80", "[::1]:80"),
        ("db.test=10.0.0.5:5432", "db.test=10.0.0.5:5432"),
        ("db.test=[fd00::1]:5432,5433", "db.test=[fd00::1]:5432,5433"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
    ] {
        assert_eq!(allow(text).to_string(), shown, "{text}");
        assert_eq!(allow(shown), allow(text));
    }
}

#[test]
fn what_is_no_destination_is_refused() {
    for text in [
        "",
        "*",
        "*.",
        "a b",
        "a..b",
        ".a",
        "a:",
        "a:0",
        "a:65536",
        "a:80,",
        "http://a",
        "a/b",
        "ü.de",
        "1",
        "0x7f.1",
        "127.1",
        "2130706433",
        "a.0x1f",
        "[::1",
        "[::1]x",
        "[a]",
        "a=b",
        "a=",
        "=10.0.0.1",
        "10.0.0.1=10.0.0.2",
        "*.*.a",
        "a*.b",
        "a:b:c",
        "a\0",
    ] {
        assert!(matches!(text.parse::<Allow>(), Err(NetworkError::Allow { .. })), "{text:?}");
    }
    let long = format!("{}.com", "a".repeat(64));
    assert!(long.parse::<Allow>().is_err());
    assert!("a.".repeat(128).parse::<Allow>().is_err());
}

#[test]
fn only_the_allowed_name_on_the_allowed_port_has_a_route() {
    let network = Network::default().allow(allow("example.com")).allow(allow("*.sub.test:8443"));
    assert_eq!(route(&network, "EXAMPLE.com.", 443), Ok(Route::Public));
    assert_eq!(route(&network, "example.com", 80), Ok(Route::Public));
    assert_eq!(route(&network, "example.com", 22), Err(Refusal::Port));
    assert_eq!(route(&network, "a.sub.test", 8443), Ok(Route::Public));
    assert_eq!(route(&network, "b.a.sub.test", 8443), Ok(Route::Public));
    for name in
        ["sub.test", "evilsub.test", ".sub.test", "a.sub.test.evil.com", "www.example.com", "xexample.com"]
    {
        let refused = route(&network, name, 8443).unwrap_err();
        assert!(matches!(refused, Refusal::Name | Refusal::NotAName), "{name}");
    }
    for number in ["93.184.216.34", "[::1]", "127.0.0.1"] {
        assert_eq!(route(&network, number, 443), Err(Refusal::Address), "{number}");
    }
    for odd in
        ["0x7f000001", "2130706433", "127.1", "0177.0.0.1", "", "a b", "example.com\0.evil", "exa%6dple.com"]
    {
        assert_eq!(route(&network, odd, 443), Err(Refusal::NotAName), "{odd:?}");
    }
}

#[test]
fn an_address_has_to_be_allowed_as_one_and_a_name_can_be_given_one() {
    let network = Network::default().allow(allow("10.0.0.5:22")).allow(allow("db.test=10.0.0.6:5432"));
    assert_eq!(route(&network, "10.0.0.5", 22), Ok(Route::To("10.0.0.5".parse().unwrap())));
    assert_eq!(route(&network, "::ffff:10.0.0.5", 22), Ok(Route::To("10.0.0.5".parse().unwrap())));
    assert_eq!(route(&network, "10.0.0.6", 5432), Err(Refusal::Address));
    assert_eq!(route(&network, "db.test", 5432), Ok(Route::To("10.0.0.6".parse().unwrap())));
    let private = Network::default().allow(allow("a.test")).allow_private(true);
    assert_eq!(route(&private, "a.test", 80), Ok(Route::Any));
}

#[test]
fn settings_that_exclude_each_other_are_refused() {
    let port = Publish::new(1, 2);
    for network in [
        Network::new(NetworkMode::Host).publish(port),
        Network::new(NetworkMode::Host).allow(allow("a")),
        Network::new(NetworkMode::Isolated).allow(allow("a")),
        Network::default().dns("9.9.9.9".parse().unwrap()),
        Network::default().allow_private(true),
    ] {
        assert!(matches!(network.check(), Err(NetworkError::Excluded { .. })), "{network:?}");
    }
    let twice = Network::default().publish(port).publish(Publish { guest: 3, ..port });
    assert_eq!(twice.check().unwrap_err().to_string(), "the port 127.0.0.1:1 is published twice");
    let both = Network::default().publish(port).publish(Publish { protocol: Protocol::Udp, ..port });
    both.check().unwrap();
    let many = (1..=33).fold(Network::default(), |network, port| network.publish(Publish::new(port, 1)));
    assert!(matches!(many.check(), Err(NetworkError::TooMany { count: 33, .. })));
}

#[test]
fn settings_read_back_from_a_file_and_from_the_wire() {
    let network = Network::new(NetworkMode::None)
        .publish("[::1]:8080:80/udp".parse().unwrap())
        .allow(allow("db.test=[fd00::1]:5432"))
        .allow(allow("*.example.com"))
        .allow_private(true);
    let json = serde_json::to_string(&network).unwrap();
    assert_eq!(serde_json::from_str::<Network>(&json).unwrap(), network);
    let bytes = postcard::to_stdvec(&network).unwrap();
    assert_eq!(postcard::from_bytes::<Network>(&bytes).unwrap(), network);
    assert_eq!(serde_json::from_str::<Network>("{}").unwrap(), Network::default());
}

#[test]
fn commands_are_led_to_the_proxy_only_where_there_is_one() {
    assert!(Network::default().environment().is_empty() && !Network::default().needs_gateway());
    let proxied = Network::default().allow(allow("a"));
    let environment = proxied.environment();
    assert!(proxied.needs_gateway());
    assert!(environment.contains(&("https_proxy", "http://127.0.0.1:3128".to_owned())));
    assert!(environment.contains(&("NO_PROXY", "localhost,127.0.0.1,::1".to_owned())));
    assert!(environment.contains(&("NODE_USE_ENV_PROXY", "1".to_owned())));
}
