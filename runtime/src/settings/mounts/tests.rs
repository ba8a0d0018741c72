//! What can be said about mounts, and what is refused.
#![forbid(unsafe_code)]

use super::*;

fn parse(text: &str) -> Result<Mount, MountError> {
    Mount::parse(text, Path::new("/base"))
}

fn short(text: &str) -> Result<Mount, MountError> {
    Mount::parse_short(text, Path::new("/base"))
}

#[test]
fn what_is_typed_is_what_is_mounted_and_is_shown_the_same() {
    for text in [
        "type=bind,src=/host/dir,dst=/inside",
        "type=bind,src=/host/dir,dst=/inside,ro",
        "type=volume,src=cache,dst=/root/.cache,ro",
        "type=tmpfs,dst=/tmp,mode=1777",
        "type=tmpfs,dst=/tmp,size=67108864,mode=700",
    ] {
        assert_eq!(parse(text).unwrap().to_string(), text);
    }
    let same = parse("type=bind,source=/host/dir,target=/inside,readonly=true").unwrap();
    assert_eq!(same, parse("destination=//inside/.,type=bind,src=/host/dir,ro").unwrap());
    assert_eq!(parse("type=tmpfs,dst=/a,size=64m").unwrap(), Mount::tmpfs("/a").unwrap().size(64 << 20));
}

#[test]
fn a_source_with_a_slash_is_of_the_host_and_any_other_a_volume() {
    for (text, shown) in [
        ("/host:/inside", "type=bind,src=/host,dst=/inside"),
        ("./x:/inside:ro", "type=bind,src=/base/x,dst=/inside,ro"),
        ("cache:/inside:rw", "type=volume,src=cache,dst=/inside"),
    ] {
        assert_eq!(short(text).unwrap().to_string(), shown);
    }
    for text in ["", ":", "/host", ":/inside", "/a:/b:rx", "/a:/b:ro:ro", "/a:b", "a b:/x", ".:/x"] {
        assert!(short(text).is_err(), "{text}");
    }
}

#[test]
fn nothing_is_mounted_over_what_a_vessel_is_made_of() {
    for path in [
        "/",
        "//",
        "/.",
        "/proc",
        "/proc/self",
        "/sys",
        "/sys/fs/cgroup",
        "/dev",
        "/dev/shm",
        "/etc",
        "/etc/",
        "relative",
        "",
        "/a/../b",
        "/..",
        "/a/..",
        "/a\0b",
    ] {
        assert!(matches!(Mount::tmpfs(path), Err(MountError::Destination { .. })), "{path:?}");
    }
    for path in ["/etc/app", "/etc/hosts", "/process", "/devices", "/tmp", "/a/...", "/a/./b//c"] {
        Mount::tmpfs(path).unwrap();
    }
    let long = format!("/{}", "a/".repeat(2100));
    assert!(Mount::tmpfs(&long).is_err());
}

#[test]
fn texts_that_say_nothing_or_two_things_are_refused() {
    for text in [
        "",
        "type=bind",
        "type=bind,dst=/x",
        "type=bind,src=/x",
        "type=npipe,src=/x,dst=/y",
        "type=bind,src=/x,src=/y,dst=/z",
        "type=bind,src=/x,dst=/y,ro,readonly",
        "type=bind,src=/x,dst=/y,rw",
        "type=bind,src=/x,dst=/y,size=1m",
        "type=volume,src=a/b,dst=/y",
        "type=volume,src=,dst=/y",
        "type=tmpfs,src=/x,dst=/y",
        "type=tmpfs,dst=/y,size=0",
        "type=tmpfs,dst=/y,size=-1",
        "type=tmpfs,dst=/y,mode=8",
        "type=tmpfs,dst=/y,mode=17777",
        "type=tmpfs,dst=/y,ro=maybe",
        "type=bind,src=/x,dst=/y,bind-propagation=shared",
    ] {
        assert!(parse(text).is_err(), "{text}");
    }
}

#[test]
fn names_of_volumes_are_no_paths() {
    for name in ["a", "A9", "0.x_y-z", &"n".repeat(64)] {
        check_volume_name(name).unwrap();
    }
    for name in ["", ".", "..", ".a", "-a", "_a", "a/b", "a b", "ä", "a\n", &"n".repeat(65)] {
        assert!(check_volume_name(name).is_err(), "{name:?}");
    }
}

#[test]
fn what_was_read_is_checked_like_what_was_made() {
    let good = vec![Mount::bind("/a", "/b").unwrap(), Mount::volume("v", "/c").unwrap()];
    check_mounts(&good).unwrap();
    let json = serde_json::to_string(&good).unwrap();
    assert_eq!(serde_json::from_str::<Vec<Mount>>(&json).unwrap(), good);
    for (is, bad) in
        [("/b", "/proc"), ("/b", "/x/../b"), ("/b", "b"), ("/b", "/c"), ("\"v\"", "\"../v\""), ("/a", "a")]
    {
        let mounts: Vec<Mount> = serde_json::from_str(&json.replace(is, bad)).unwrap();
        assert!(check_mounts(&mounts).is_err(), "{bad}");
    }
    let many: Vec<Mount> = (0..33).map(|n| Mount::tmpfs(&format!("/m{n}")).unwrap()).collect();
    assert_eq!(check_mounts(&many), Err(MountError::TooMany { count: 33 }));
    check_mounts(&many[1..]).unwrap();
    assert!(check_mounts(&[Mount::tmpfs("/a").unwrap().mode(0o10000)]).is_err());
}
