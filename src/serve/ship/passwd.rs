//! Lines of `/etc/passwd` and `/etc/group` for the users of sessions. The files belong to whoever made the image: nothing in
//! them is believed but what makes a session's user, and that has ids that are nobody else's. Source: passwd(5), group(5).
#![forbid(unsafe_code)]

use std::collections::HashSet;

use sha2::{Digest, Sha256};

/// Ids of sessions' users: below are those of distributions, above those that a mapping of 65536 ids does not have.
const FIRST: u32 = 10_000;
const LAST: u32 = 59_999;
/// Longest name that tools take for a user (useradd(8)), less a suffix.
const PREFIX: usize = 8;

/// A session's user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) name: String,
    /// User and group.
    pub(super) id: u32,
}

impl Account {
    pub(super) fn home(&self) -> String {
        format!("/home/{}", self.name)
    }

    fn passwd_line(&self, session: &str, shell: &str) -> String {
        let Self { name, id } = self;
        format!("{name}:*:{id}:{id}:{}:/home/{name}:{shell}\n", mark(session))
    }
}

/// What marks the user of a session: the id itself may have any characters.
fn mark(session: &str) -> String {
    let digest = Sha256::digest(session.as_bytes());
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("vesselrt session {hex}")
}

struct Line<'a> {
    name: &'a [u8],
    uid: Option<u32>,
    gid: Option<u32>,
    gecos: &'a [u8],
    home: &'a [u8],
}

fn lines(passwd: &[u8]) -> impl Iterator<Item = Line<'_>> {
    passwd.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).map(|line| {
        let mut fields = line.split(|&byte| byte == b':');
        let mut field = || fields.next().unwrap_or_default();
        let (name, _, uid, gid, gecos, home) = (field(), field(), field(), field(), field(), field());
        Line { name, uid: number(uid), gid: number(gid), gecos, home }
    })
}

fn number(field: &[u8]) -> Option<u32> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// The user that the session has. One whose name or ids somebody else has too is none.
pub(super) fn find(passwd: &[u8], session: &str) -> Option<Account> {
    let mark = mark(session);
    let line = lines(passwd).find(|line| line.gecos == mark.as_bytes())?;
    let id = line.uid.filter(|id| (FIRST..=LAST).contains(id) && line.gid == Some(*id))?;
    let name = String::from_utf8(line.name.to_vec()).ok()?;
    let account = Account { name, id };
    let same = |other: &Line<'_>| other.uid == Some(id) || other.name == line.name;
    let alone = lines(passwd).filter(same).count() == 1;
    (alone && is_name(&account.name) && line.home == account.home().as_bytes()).then_some(account)
}

fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    name.starts_with("ship_") && name.len() <= 32 && name.bytes().all(plain)
}

/// Names for the user of a session, the best first: that of the original, then with numbers.
pub(super) fn names(session: &str) -> impl Iterator<Item = String> {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    let first: String = session.chars().take(PREFIX).map(plain).collect();
    let first = format!("ship_{first}");
    let more = first.clone();
    std::iter::once(first).chain((2..1000).map(move |n| format!("{more}_{n}")))
}

/// Whether a user or a group is called so.
pub(super) fn is_taken(passwd: &[u8], group: &[u8], name: &str) -> bool {
    lines(passwd).chain(lines(group)).any(|line| line.name == name.as_bytes())
}

/// An id that is nobody's, and has not been anybody's while there are others.
pub(super) fn free_id(passwd: &[u8], group: &[u8]) -> Option<u32> {
    // Of a group the third field is its id.
    let used: HashSet<u32> = lines(passwd)
        .flat_map(|line| [line.uid, line.gid])
        .chain(lines(group).map(|line| line.uid))
        .flatten()
        .filter(|id| (FIRST..=LAST).contains(id))
        .collect();
    let next = used.iter().max().map_or(FIRST, |most| most + 1);
    (next..=LAST).chain(FIRST..=LAST).find(|id| !used.contains(id))
}

/// `/etc/passwd` with the user of a session.
pub(super) fn with_user(passwd: &[u8], account: &Account, session: &str, shell: &str) -> Vec<u8> {
    with_line(passwd, &account.passwd_line(session, shell))
}

/// `/etc/group` with the group of a session's user.
pub(super) fn with_group(group: &[u8], account: &Account) -> Vec<u8> {
    with_line(group, &format!("{}:*:{}:\n", account.name, account.id))
}

fn with_line(file: &[u8], line: &str) -> Vec<u8> {
    let end: &[u8] = if file.is_empty() || file.ends_with(b"\n") { b"" } else { b"\n" };
    [file, end, line.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n\xff\xfe:::\nuser:x:1000:1000::/home/user:/bin/sh";

    fn account(name: &str, id: u32) -> Account {
        Account { name: name.into(), id }
    }

    #[test]
    fn a_user_is_found_again_and_by_nobody_else() {
        let made = account("ship_12345678", 10_000);
        let file = with_user(PASSWD, &made, "12345678-a", "/bin/sh");
        assert!(file.ends_with(b":/home/ship_12345678:/bin/sh\n") && file.starts_with(PASSWD));
        assert_eq!(find(&file, "12345678-a"), Some(made));
        assert_eq!(find(&file, "12345678-b"), None);
        assert_eq!(find(PASSWD, ""), None);
    }

    #[test]
    fn a_line_of_an_image_gives_nobody_the_ids_of_another() {
        for (name, id, extra) in [
            ("ship_a", 0, ""),
            ("ship_a", 1000, ""),
            ("ship_a", 10_000, "other:x:10000:10000::/:/bin/sh\n"),
            ("ship_a", 10_000, "ship_a:x:10001:10001::/:/bin/sh\n"),
            ("root", 10_000, ""),
            ("ship_/../x", 10_000, ""),
        ] {
            let file = with_user(extra.as_bytes(), &account(name, id), "a", "/bin/sh");
            assert_eq!(find(&file, "a"), None, "{name} {id} {extra}");
        }
    }

    #[test]
    fn names_are_those_of_the_original_or_harmless() {
        assert_eq!(
            names("0123456789abcdef").take(2).collect::<Vec<_>>(),
            ["ship_01234567", "ship_01234567_2"]
        );
        assert_eq!(names("a:b\n/../é").next().unwrap(), "ship_a_b_____");
        assert_eq!(names("").next().unwrap(), "ship_");
        assert!(names("a\0:\u{7f}-Z").all(|name| is_name(&name)));
        assert!(is_taken(b"", b"ship_x:x:5:\n", "ship_x") && !is_taken(PASSWD, b"", "ship_x"));
    }

    #[test]
    fn ids_are_nobody_s() {
        assert_eq!(free_id(PASSWD, b""), Some(FIRST));
        assert_eq!(free_id(b"a:x:10000:10007::/:\n", b"g:x:10010:\n"), Some(10_011));
        assert_eq!(free_id(format!("a:x:{LAST}:{LAST}::/:\n").as_bytes(), b""), Some(FIRST));
        let all: String = (FIRST..=LAST).map(|id| format!("a:x:{id}:{id}::/:\n")).collect();
        assert_eq!(free_id(all.as_bytes(), b""), None);
    }
}
