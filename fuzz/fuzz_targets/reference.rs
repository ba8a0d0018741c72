//! References, digests and platforms: whatever is typed is refused or has one meaning.
#![no_main]
#![forbid(unsafe_code)]

use libfuzzer_sys::fuzz_target;
use vesselrt_storage::image::platform::Platform;
use vesselrt_storage::{Digest, Reference, validate_id};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(reference) = Reference::parse(text) {
        for written in [reference.to_string(), reference.familiar()] {
            assert_eq!(Reference::parse(&written).as_ref(), Ok(&reference), "{text:?} as {written:?}");
        }
        check(&reference);
    }
    if let Ok(digest) = Digest::parse(text) {
        assert_eq!(digest.to_string(), text);
        assert!(digest.hex().bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase()));
    }
    if let Ok(platform) = text.parse::<Platform>() {
        assert_eq!(platform.to_string().parse::<Platform>(), Ok(platform));
    }
    if validate_id(text).is_ok() {
        assert!(text.len() <= 64 && !text.contains(['/', '\0']) && !matches!(text, "" | "." | ".."));
    }
});

/// What others build of a reference: a URL and a path.
fn check(reference: &Reference) {
    let (domain, path) = (reference.domain(), reference.path());
    let odd = |c: char| c.is_whitespace() || c.is_control() || !c.is_ascii() || "/?#@%\\\"'<>".contains(c);
    assert!(!domain.is_empty() && domain.len() <= 255 && !domain.contains(odd), "{domain:?}");
    assert!(!path.is_empty() && path.len() <= 255 + "library/".len(), "{path:?}");
    for part in path.split('/') {
        assert!(!matches!(part, "" | "." | "..") && !part.contains(odd) && !part.contains(':'), "{path:?}");
    }
    assert!(reference.tag().is_some() || reference.digest().is_some());
    if let Some(tag) = reference.tag() {
        assert!(!tag.is_empty() && tag.len() <= 128 && !tag.contains(odd) && !tag.starts_with(['.', '-']));
    }
}
