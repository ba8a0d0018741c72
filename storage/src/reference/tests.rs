//! Vectors of the reference grammar.
#![forbid(unsafe_code)]

use proptest::prelude::*;

use super::*;

const HEX: &str = "86e0e091d0da6bde2456dbb48306f3956bbeb2eae1b5b9a43045843f69fe4aaa";

#[test]
fn references_are_normalised() {
    for (text, canonical, familiar) in [
        ("a", "docker.io/library/a:latest", "a:latest"),
        ("a:5000", "docker.io/library/a:5000", "a:5000"),
        ("alpine:3.20", "docker.io/library/alpine:3.20", "alpine:3.20"),
        ("library/alpine", "docker.io/library/alpine:latest", "alpine:latest"),
        ("docker.io/alpine", "docker.io/library/alpine:latest", "alpine:latest"),
        ("index.docker.io/library/alpine", "docker.io/library/alpine:latest", "alpine:latest"),
        ("user/app", "docker.io/user/app:latest", "user/app:latest"),
        ("docker.io/library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
        ("test:5000/r:tag", "test:5000/r:tag", "test:5000/r:tag"),
        ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
        ("Host/x", "Host/x:latest", "Host/x:latest"),
        ("xn--n3h.com/x", "xn--n3h.com/x:latest", "xn--n3h.com/x:latest"),
        ("[::1]:5000/r", "[::1]:5000/r:latest", "[::1]:5000/r:latest"),
        ("[fd00::1]/r", "[fd00::1]/r:latest", "[fd00::1]/r:latest"),
        (
            "sub-dom1.foo.com/bar/baz__q-u.x",
            "sub-dom1.foo.com/bar/baz__q-u.x:latest",
            "sub-dom1.foo.com/bar/baz__q-u.x:latest",
        ),
        ("foo_bar.com:8080", "docker.io/library/foo_bar.com:8080", "foo_bar.com:8080"),
        ("docker.io/localhost/x", "docker.io/localhost/x:latest", "docker.io/localhost/x:latest"),
        ("docker.io/a.b/c", "docker.io/a.b/c:latest", "docker.io/a.b/c:latest"),
        ("a----b", "docker.io/library/a----b:latest", "a----b:latest"),
    ] {
        let reference = Reference::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(reference.to_string(), canonical, "{text}");
        assert_eq!(reference.familiar(), familiar, "{text}");
        assert_eq!(Reference::parse(familiar).as_ref(), Ok(&reference));
        assert_eq!(Reference::parse(canonical), Ok(reference));
    }
}

#[test]
fn a_digest_replaces_the_default_tag_only() {
    let pinned = Reference::parse(&format!("r@sha256:{HEX}")).unwrap();
    assert_eq!((pinned.tag(), pinned.digest().unwrap().hex()), (None, HEX));
    assert_eq!(pinned.to_string(), format!("docker.io/library/r@sha256:{HEX}"));
    let both = Reference::parse(&format!("h:1/r:tag@sha256:{HEX}")).unwrap();
    assert_eq!((both.domain(), both.path(), both.tag()), ("h:1", "r", Some("tag")));
    assert_eq!(both.to_string(), format!("h:1/r:tag@sha256:{HEX}"));
}

#[test]
fn lengths_are_limited() {
    let longest = Reference::parse(&"a".repeat(255)).unwrap();
    assert_eq!(Reference::parse(&longest.to_string()), Ok(longest));
    assert_eq!(Reference::parse(&"a".repeat(256)), Err(ReferenceError::NameTooLong));
    assert!(Reference::parse(&format!("{}a:tag-puts-this-over-max", "a/".repeat(127))).is_ok());
    assert_eq!(Reference::parse(&format!("{}a", "a/".repeat(128))), Err(ReferenceError::NameTooLong));
    assert!(Reference::parse(&format!("a:{}", "t".repeat(128))).is_ok());
    assert_eq!(Reference::parse(&format!("a:{}", "t".repeat(129))), Err(ReferenceError::BadTag));
}

const MALFORMED: &[&str] = &[
    "",
    ":t",
    "@",
    "/",
    "Upper:t",
    "aa/asdf$$^/aa",
    "repo@sha256:ffffffffffffffffffffffffffffffffff",
    "a/../b",
    "a//b",
    "a/",
    "/a",
    " a",
    "a ",
    "a\n",
    "a\0",
    "-a",
    "a-",
    "a_",
    "a..b",
    "a___b",
    "_a",
    ".a",
    "http://a/b",
    "https://a/b:c",
    "a?x",
    "a#b",
    "user:pw@host/r",
    "host:99999/r",
    "host:0/r",
    "host:/r",
    "host:+1/r",
    "host:x/r",
    "[::1%eth0]/r",
    "[]/r",
    "[::1]x/r",
    "[::1/r",
    "\u{430}lpine",
    "%2e%2e/",
    "a:..",
    "a:.",
    "a:",
    "a:b:c",
    "a:-x",
    "-host.com/r",
    "ho_st.com/r",
    "..",
    "../x",
    "a..com/x",
    "Foo/Bar",
    HEX,
];

#[test]
fn malformed_references_are_refused() {
    let pinned = format!("@sha256:{HEX}");
    let upper = format!("a@sha256:{}", HEX.to_uppercase());
    let foreign = format!("x@bad:{HEX}");
    for bad in MALFORMED.iter().copied().chain([pinned.as_str(), &upper, &foreign]) {
        assert!(Reference::parse(bad).is_err(), "{bad:?}");
    }
}

proptest! {
    #[test]
    fn whatever_parses_is_canonical_and_safe(text in "[a-zA-Z0-9:/@._\\[\\]-]{0,40}") {
        if let Ok(reference) = Reference::parse(&text) {
            prop_assert_eq!(Reference::parse(&reference.to_string()), Ok(reference.clone()));
            prop_assert_eq!(Reference::parse(&reference.familiar()), Ok(reference.clone()));
            prop_assert!(!reference.to_string().split('/').any(|c| c.is_empty() || c.starts_with('.')));
        }
    }

    #[test]
    fn no_input_panics(text in ".*") {
        let _ = Reference::parse(&text);
    }
}
