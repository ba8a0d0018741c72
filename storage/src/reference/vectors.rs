//! The vectors of the distribution project (`reference_test.go` and `normalize_test.go` of github.com/distribution/reference,
//! Apache-2.0), as facts: what is valid, what it is normalised to, what is refused.
#![forbid(unsafe_code)]

use super::{Digest, Reference};

/// Text, registry, repository, tag. A digest is added by the test.
const PARSED: [(&str, &str, &str, Option<&str>); 24] = [
    ("test_com", "docker.io", "library/test_com", None),
    ("test.com:tag", "docker.io", "library/test.com", Some("tag")),
    ("test.com:5000", "docker.io", "library/test.com", Some("5000")),
    ("test.com/repo:tag", "test.com", "repo", Some("tag")),
    ("test:5000/repo", "test:5000", "repo", None),
    ("test:5000/repo:tag", "test:5000", "repo", Some("tag")),
    ("lowercase:Uppercase", "docker.io", "library/lowercase", Some("Uppercase")),
    ("sub-dom1.foo.com/bar/baz/quux", "sub-dom1.foo.com", "bar/baz/quux", None),
    (
        "sub-dom1.foo.com/bar/baz/quux:some-long-tag",
        "sub-dom1.foo.com",
        "bar/baz/quux",
        Some("some-long-tag"),
    ),
    (
        "b.gcr.io/test.example.com/my-app:test.example.com",
        "b.gcr.io",
        "test.example.com/my-app",
        Some("test.example.com"),
    ),
    ("xn--n3h.com/myimage:xn--n3h.com", "xn--n3h.com", "myimage", Some("xn--n3h.com")),
    ("foo_bar.com:8080", "docker.io", "library/foo_bar.com", Some("8080")),
    ("foo/foo_bar.com:8080", "docker.io", "foo/foo_bar.com", Some("8080")),
    ("192.168.1.1", "docker.io", "library/192.168.1.1", None),
    ("192.168.1.1:tag", "docker.io", "library/192.168.1.1", Some("tag")),
    ("192.168.1.1:5000", "docker.io", "library/192.168.1.1", Some("5000")),
    ("192.168.1.1/repo", "192.168.1.1", "repo", None),
    ("192.168.1.1:5000/repo", "192.168.1.1:5000", "repo", None),
    ("192.168.1.1:5000/repo:5050", "192.168.1.1:5000", "repo", Some("5050")),
    ("[2001:db8::1]/repo", "[2001:db8::1]", "repo", None),
    ("[2001:db8:1:2:3:4:5:6]/repo:tag", "[2001:db8:1:2:3:4:5:6]", "repo", Some("tag")),
    ("[2001:db8::1]:5000/repo", "[2001:db8::1]:5000", "repo", None),
    ("[2001:db8::]:5000/repo", "[2001:db8::]:5000", "repo", None),
    ("[::1]:5000/repo:tag", "[::1]:5000", "repo", Some("tag")),
];

/// Valid texts, and what they are in full.
const NORMALISED: [(&str, &str); 29] = [
    ("docker/docker", "docker.io/docker/docker"),
    ("library/debian", "docker.io/library/debian"),
    ("debian", "docker.io/library/debian"),
    ("docker.io/docker/docker", "docker.io/docker/docker"),
    ("docker.io/library/debian", "docker.io/library/debian"),
    ("docker.io/debian", "docker.io/library/debian"),
    ("index.docker.io/docker/docker", "docker.io/docker/docker"),
    ("index.docker.io/library/debian", "docker.io/library/debian"),
    ("index.docker.io/debian", "docker.io/library/debian"),
    ("127.0.0.1:5000/docker/docker", "127.0.0.1:5000/docker/docker"),
    ("127.0.0.1:5000/library/debian", "127.0.0.1:5000/library/debian"),
    ("127.0.0.1:5000/debian", "127.0.0.1:5000/debian"),
    ("192.168.0.1:8/debian", "192.168.0.1:8/debian"),
    ("192.168.0.2:25000/debian", "192.168.0.2:25000/debian"),
    ("[fc00::1]:5000/docker", "[fc00::1]:5000/docker"),
    ("[fc00::1]:5000/docker/docker", "[fc00::1]:5000/docker/docker"),
    ("[fc00:1:2:3:4:5:6:7]:5000/library/debian", "[fc00:1:2:3:4:5:6:7]:5000/library/debian"),
    ("localhost/debian", "localhost/debian"),
    ("localhost/library/debian", "localhost/library/debian"),
    ("localhost:5000/debian", "localhost:5000/debian"),
    ("LOCALDOMAIN/debian", "LOCALDOMAIN/debian"),
    ("Docker/docker", "Docker/docker"),
    ("DOCKER/docker", "DOCKER/docker"),
    ("foo/bar", "docker.io/foo/bar"),
    ("quay.io/foo/bar", "quay.io/foo/bar"),
    (
        "docker.io/1a3f5e7d9c1b3a5f7e9d1c3b5a7f9e1d3c5b7a9f1e3d5d7c9b1a3f5e7d9c1b3a",
        "docker.io/library/1a3f5e7d9c1b3a5f7e9d1c3b5a7f9e1d3c5b7a9f1e3d5d7c9b1a3f5e7d9c1b3a",
    ),
    (
        "thisisthesongthatneverendsitgoesonandonandonthisisthesongthatnev",
        "docker.io/library/thisisthesongthatneverendsitgoesonandonandonthisisthesongthatnev",
    ),
    ("dock__er/docker", "docker.io/dock__er/docker"),
    ("dash-----ed/d.o.t.s/under_score", "docker.io/dash-----ed/d.o.t.s/under_score"),
];

const REFUSED: [&str; 44] = [
    "",
    ":justtag",
    "repo@sha256:ffffffffffffffffffffffffffffffffff",
    "Uppercase:tag",
    "test:5000/Uppercase/lowercase:tag",
    "aa/asdf$$^/aa",
    "[2001:db8::1]",
    "[2001:db8::1]:5000",
    "[2001:db8::1]:tag",
    "[fe80::1%eth0]:5000/repo",
    "[fe80::1%@invalidzone]:5000/repo",
    "[2001:db8:3:4::192.0.2.33]:5000/debian",
    "fc00::1:5000/debian",
    "[fc00::1]",
    "[fc00::1]:5000",
    "https://github.com/docker/docker",
    "docker/Docker",
    "-docker",
    "-docker/docker",
    "-docker.io/docker/docker",
    "docker///docker",
    "docker.io/docker/Docker",
    "docker.io/docker///docker",
    "1a3f5e7d9c1b3a5f7e9d1c3b5a7f9e1d3c5b7a9f1e3d5d7c9b1a3f5e7d9c1b3a",
    "docker-/docker",
    "_docker/docker",
    "docker_/docker",
    "____/____",
    "_docker/_docker",
    "dock..er/docker",
    "dock_.er/docker",
    "dock-.er/docker",
    ".docker/docker",
    "docker./docker/",
    "docker/docker.",
    "a/..",
    "xn--n3h.com/myimage:xn--n3h.com@",
    "a.-b.com/repo",
    "example.com:/repo",
    "example.com:tag/repo",
    "docker.io/library/debian:",
    "debian:la test",
    "debian@",
    "docker.io/",
];

#[test]
fn vectors_of_distribution_are_parsed() {
    let digests = [format!("sha256:{}", "f".repeat(64)), format!("sha512:{}", "f".repeat(128))];
    for (text, domain, path, tag) in PARSED {
        let reference = Reference::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!((reference.domain(), reference.path()), (domain, path), "{text}");
        assert_eq!(reference.tag(), tag.or(Some("latest")), "{text}");
        for digest in &digests {
            let pinned = Reference::parse(&format!("{text}@{digest}")).unwrap();
            assert_eq!((pinned.domain(), pinned.path(), pinned.tag()), (domain, path, tag), "{text}");
            assert_eq!(pinned.digest(), Some(&Digest::parse(digest).unwrap()));
        }
    }
}

#[test]
fn vectors_of_distribution_are_normalised() {
    for (text, full) in NORMALISED {
        let reference = Reference::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(reference.name(), full, "{text}");
        let again = Reference::parse(&reference.familiar()).unwrap();
        assert_eq!(again, reference, "{text}");
    }
}

#[test]
fn vectors_of_distribution_are_refused() {
    let f = "f".repeat(64);
    let too_long = [format!("{}a:tag", "a/".repeat(128)), format!("{}:x", "a".repeat(256))];
    let digests = [format!("@sha256:{f}"), format!("validname@invaliddigest:{f}"), format!("a@sha256:{f}f")];
    let computed = too_long.iter().chain(&digests).map(String::as_str);
    for text in REFUSED.into_iter().chain(computed) {
        assert!(Reference::parse(text).is_err(), "{text:?} is {:?}", Reference::parse(text));
    }
}
