//! The head of a request to the proxy. Pure, and strict: what could be read in two ways is refused.
#![forbid(unsafe_code)]

/// Most fields of a request.
const MAX_FIELDS: usize = 256;
/// Fields that are between the client and us, or that we set ourselves. RFC 9110 section 7.6.1.
const OURS: [&str; 8] = [
    "connection",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "upgrade",
];

/// What a client wants to talk to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) host: String,
    pub(super) port: u16,
}

/// A request that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) target: Target,
    /// It is CONNECT.
    pub(super) tunnel: bool,
    /// What the server is sent instead of it; nothing for a tunnel.
    pub(super) forwarded: Vec<u8>,
}

/// Why a request is not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("the request line is malformed")]
    RequestLine,
    #[error("the target of the request is malformed")]
    Target,
    #[error("a field of the request is malformed")]
    Field,
    #[error("the request has too many fields")]
    TooManyFields,
    #[error("this is a proxy: the target must be an absolute URL, or that of CONNECT")]
    NotForProxy,
    #[error("only http URLs are forwarded: use CONNECT for others")]
    Scheme,
}

impl Head {
    /// `bytes` end with an empty line.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        // Bytes above 127 may come in the values of fields, and are left alone there.
        let (line, fields) = split_line(bytes).ok_or(Malformed::RequestLine)?;
        let line = std::str::from_utf8(line).map_err(|_| Malformed::RequestLine)?;
        let mut words = line.split(' ');
        let (Some(method), Some(target), Some(version), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(Malformed::RequestLine);
        };
        let method_ok = !method.is_empty() && method.bytes().all(|b| b.is_ascii_alphabetic() || b == b'-');
        let target_ok = target.bytes().all(|b| b.is_ascii_graphic());
        if !method_ok || !target_ok || !matches!(version, "HTTP/1.1" | "HTTP/1.0") {
            return Err(Malformed::RequestLine);
        }
        let fields = read_fields(fields)?;
        if method == "CONNECT" {
            let target = read_authority(target, None)?;
            return Ok(Self { target, tunnel: true, forwarded: Vec::new() });
        }
        let (authority, path) = split_url(target)?;
        let target = read_authority(authority, Some(80))?;
        let forwarded = forward(method, authority, &path, &fields);
        Ok(Self { target, tunnel: false, forwarded })
    }
}

/// The first line without its end, and what follows.
fn split_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    Some((&bytes[..end], &bytes[end + 2..]))
}

fn read_fields(mut bytes: &[u8]) -> Result<Vec<(&str, &[u8])>, Malformed> {
    let mut fields = Vec::new();
    while let Some((line, rest)) = split_line(bytes) {
        if line.is_empty() {
            return Ok(fields);
        }
        if fields.len() == MAX_FIELDS {
            return Err(Malformed::TooManyFields);
        }
        let colon = line.iter().position(|&b| b == b':').ok_or(Malformed::Field)?;
        let name = std::str::from_utf8(&line[..colon]).map_err(|_| Malformed::Field)?;
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        // A lone line feed or carriage return ends a line for some.
        if name.is_empty() || !name.bytes().all(token) || line.iter().any(|b| matches!(b, 0 | b'\n' | b'\r'))
        {
            return Err(Malformed::Field);
        }
        fields.push((name, &line[colon + 1..]));
        bytes = rest;
    }
    Err(Malformed::Field)
}

/// Authority, and what the server is asked for.
fn split_url(target: &str) -> Result<(&str, String), Malformed> {
    let Some((scheme, rest)) = target.split_once("://") else { return Err(Malformed::NotForProxy) };
    if !scheme.eq_ignore_ascii_case("http") {
        return Err(Malformed::Scheme);
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if path.contains('#') {
        return Err(Malformed::Target);
    }
    let slash = if path.starts_with('/') { "" } else { "/" };
    Ok((authority, format!("{slash}{path}")))
}

/// `HOST[:PORT]`, without anything before it.
fn read_authority(text: &str, default: Option<u16>) -> Result<Target, Malformed> {
    let bracket = text.starts_with('[').then(|| text.find(']')).flatten();
    let (host, port) = match bracket {
        Some(end) => (&text[..=end], text[end + 1..].strip_prefix(':')),
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let whole = host.len() + port.map_or(0, |port| port.len() + 1) == text.len();
    if host.is_empty() || !whole || host.contains('@') {
        return Err(Malformed::Target);
    }
    let port = match port {
        None => default.ok_or(Malformed::Target)?,
        Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => {
            port.parse().map_err(|_| Malformed::Target)?
        }
        Some(_) => return Err(Malformed::Target),
    };
    Ok(Target { host: host.to_owned(), port })
}

/// The request as the server gets it: for the host that was checked, and the last one of its connection.
fn forward(method: &str, authority: &str, path: &str, fields: &[(&str, &[u8])]) -> Vec<u8> {
    let mut head =
        format!("{method} {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n").into_bytes();
    // What the client's Connection names is between it and us, too.
    let named: Vec<String> = fields
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case("connection"))
        .flat_map(|(_, value)| {
            String::from_utf8_lossy(value)
                .to_ascii_lowercase()
                .split(',')
                .map(|n| n.trim().to_owned())
                .collect::<Vec<_>>()
        })
        .filter(|name| !matches!(name.as_str(), "content-length" | "transfer-encoding"))
        .collect();
    for (name, value) in fields {
        let lower = name.to_ascii_lowercase();
        if !OURS.contains(&lower.as_str()) && !named.contains(&lower) {
            head.extend([name.as_bytes(), b":", *value, b"\r\n"].concat());
        }
    }
    head.extend(b"\r\n");
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Head, Malformed> {
        Head::parse(text.as_bytes())
    }

    fn target(host: &str, port: u16) -> Target {
        Target { host: host.to_owned(), port }
    }

    #[test]
    fn tunnels_are_understood() {
        let head = parse("CONNECT example.com:443 HTTP/1.1\r\nHost: other\r\n\r\n").unwrap();
        assert_eq!(head, Head { target: target("example.com", 443), tunnel: true, forwarded: vec![] });
        assert_eq!(parse("CONNECT [::1]:22 HTTP/1.0\r\n\r\n").unwrap().target, target("[::1]", 22));
    }

    #[test]
    fn a_plain_request_reaches_the_host_that_was_checked_and_is_the_last_of_its_connection() {
        let head = parse(
            "GET http://Example.com:8080/a?b=c HTTP/1.1\r\nHost: evil.test\r\nX-A: 1\r\nProxy-Connection: keep-alive\r\n\
             Connection: keep-alive, x-hop\r\nX-Hop: 2\r\nProxy-Authorization: Basic eA==\r\nContent-Length: 3\r\n\r\n",
        )
        .unwrap();
        assert_eq!(head.target, target("Example.com", 8080));
        assert_eq!(
            String::from_utf8(head.forwarded).unwrap(),
            "GET /a?b=c HTTP/1.1\r\nHost: Example.com:8080\r\nConnection: close\r\nX-A: 1\r\nContent-Length: 3\r\n\r\n"
        );
        let bare = parse("HEAD http://a?x HTTP/1.1\r\n\r\n").unwrap();
        assert_eq!(bare.target, target("a", 80));
        assert!(bare.forwarded.starts_with(b"HEAD /?x HTTP/1.1\r\nHost: a\r\n"));
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        use Malformed::{Field, NotForProxy, RequestLine, Scheme, Target};
        for (text, why) in [
            ("GET / HTTP/1.1\r\n\r\n", NotForProxy),
            ("GET example.com HTTP/1.1\r\n\r\n", NotForProxy),
            ("GET https://a/ HTTP/1.1\r\n\r\n", Scheme),
            ("GET ftp://a/ HTTP/1.1\r\n\r\n", Scheme),
            ("GET http://a@b/ HTTP/1.1\r\n\r\n", Target),
            ("GET http://a:b@c/ HTTP/1.1\r\n\r\n", Target),
            ("GET http:///x HTTP/1.1\r\n\r\n", Target),
            ("GET http://a/#x HTTP/1.1\r\n\r\n", Target),
            ("GET http://a:/ HTTP/1.1\r\n\r\n", Target),
            ("GET http://a:80x/ HTTP/1.1\r\n\r\n", Target),
            ("GET http://a:99999/ HTTP/1.1\r\n\r\n", Target),
            ("CONNECT a HTTP/1.1\r\n\r\n", Target),
            ("CONNECT a:+1 HTTP/1.1\r\n\r\n", Target),
            ("CONNECT a:1:2 HTTP/1.1\r\n\r\n", Target),
            ("CONNECT [::1]x:1 HTTP/1.1\r\n\r\n", Target),
            ("CONNECT x@a:1 HTTP/1.1\r\n\r\n", Target),
            ("CONNECT a:1 HTTP/2.0\r\n\r\n", RequestLine),
            ("CONNECT  a:1 HTTP/1.1\r\n\r\n", RequestLine),
            ("CONNECT a:1 HTTP/1.1 x\r\n\r\n", RequestLine),
            ("CONNECT a\t:1 HTTP/1.1\r\n\r\n", RequestLine),
            ("C\nX a:1 HTTP/1.1\r\n\r\n", RequestLine),
            ("\r\n\r\n", RequestLine),
            ("CONNECT a:1 HTTP/1.1\r\nA\r\n\r\n", Field),
            ("CONNECT a:1 HTTP/1.1\r\n A: b\r\n\r\n", Field),
            ("CONNECT a:1 HTTP/1.1\r\nA : b\r\n\r\n", Field),
            ("CONNECT a:1 HTTP/1.1\r\nA: b\nC: d\r\n\r\n", Field),
            ("CONNECT a:1 HTTP/1.1\r\nA: b\rC: d\r\n\r\n", Field),
            ("CONNECT a:1 HTTP/1.1\r\n: d\r\n\r\n", Field),
        ] {
            assert_eq!(parse(text).unwrap_err(), why, "{text:?}");
        }
        let many = format!("CONNECT a:1 HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(MAX_FIELDS + 1));
        assert_eq!(parse(&many).unwrap_err(), Malformed::TooManyFields);
    }
}
