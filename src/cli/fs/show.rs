//! Files as text and as JSON. Names are whatever the vessel makes them: nothing of them reaches a terminal unescaped.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use vesselrt::{FileInfo, FileType};

use super::Named;
use crate::cli::tables::{Table, permissions};
use crate::cli::values::printable;

/// One name a line.
pub(super) fn names(entries: &[Named]) -> String {
    entries.iter().map(|(name, _)| format!("{}\n", printable(name.as_bytes()))).collect()
}

/// As `ls -l` has it.
pub(super) fn long(entries: &[Named]) -> String {
    let mut table = Table::bare();
    for (name, info) in entries {
        let mut shown = printable(name.as_bytes());
        if let Some(target) = &info.link_target {
            shown = format!("{shown} -> {}", printable(target.as_os_str().as_bytes()));
        }
        table.row([
            permissions(full_mode(info)),
            info.nlink.to_string(),
            info.uid.to_string(),
            info.gid.to_string(),
            info.size.to_string(),
            time_text(info.modified).unwrap_or_else(|| "?".to_owned()),
            shown,
        ]);
    }
    table.render()
}

/// All that is known about one file, a line each.
pub(super) fn stat(path: &OsStr, info: &FileInfo) -> String {
    let mut table = Table::bare();
    table.row(["path".to_owned(), printable(path.as_bytes())]);
    table.row(["type", type_name(info.file_type)]);
    table.row(["mode".to_owned(), format!("{:04o} {}", info.mode, permissions(full_mode(info)))]);
    table.row(["owner".to_owned(), format!("{}:{}", info.uid, info.gid)]);
    table.row(["size".to_owned(), info.size.to_string()]);
    table.row(["modified".to_owned(), time_text(info.modified).unwrap_or_else(|| "?".to_owned())]);
    table.row(["inode".to_owned(), info.ino.to_string()]);
    table.row(["links".to_owned(), info.nlink.to_string()]);
    if let Some(target) = &info.link_target {
        table.row(["target".to_owned(), printable(target.as_os_str().as_bytes())]);
    }
    table.render()
}

/// One file. A name or target that is not UTF-8 is there as hexadecimal bytes too.
pub(super) fn json(name: &OsStr, info: &FileInfo) -> Value {
    let mut value = Map::new();
    put_name(&mut value, "name", name);
    value.insert("type".to_owned(), json!(type_name(info.file_type)));
    value.insert("mode".to_owned(), json!(format!("{:04o}", info.mode)));
    value.insert("uid".to_owned(), json!(info.uid));
    value.insert("gid".to_owned(), json!(info.gid));
    value.insert("size".to_owned(), json!(info.size));
    value.insert("modified".to_owned(), json!(time_text(info.modified)));
    value.insert("ino".to_owned(), json!(info.ino));
    value.insert("nlink".to_owned(), json!(info.nlink));
    if let Some(target) = &info.link_target {
        put_name(&mut value, "target", target.as_os_str());
    }
    Value::Object(value)
}

pub(in crate::cli) fn put_name(value: &mut Map<String, Value>, key: &str, name: &OsStr) {
    value.insert(key.to_owned(), json!(name.to_string_lossy()));
    if name.to_str().is_none() {
        let hex = name.as_bytes().iter().fold(String::new(), |mut hex, byte| {
            // Writing to a string cannot fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        value.insert(format!("{key}Hex"), json!(hex));
    }
}

pub(in crate::cli) fn type_name(file_type: FileType) -> &'static str {
    match file_type {
        FileType::File => "file",
        FileType::Directory => "directory",
        FileType::Symlink => "symlink",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
        FileType::CharDevice => "character device",
        FileType::BlockDevice => "block device",
        _ => "unknown",
    }
}

fn full_mode(info: &FileInfo) -> u32 {
    type_bits(info.file_type) | info.mode
}

/// The type as `st_mode` has it.
pub(in crate::cli) fn type_bits(file_type: FileType) -> u32 {
    match file_type {
        FileType::File => 0o100_000,
        FileType::Directory => 0o040_000,
        FileType::Symlink => 0o120_000,
        FileType::Fifo => 0o010_000,
        FileType::Socket => 0o140_000,
        FileType::CharDevice => 0o020_000,
        FileType::BlockDevice => 0o060_000,
        _ => 0,
    }
}

/// RFC 3339; `None` for a time beyond the year 9999 or before -9999, which a vessel may set.
pub(in crate::cli) fn time_text(time: SystemTime) -> Option<String> {
    let nanos = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i128::try_from(after.as_nanos()).ok()?,
        Err(before) => -i128::try_from(before.duration().as_nanos()).ok()?,
    };
    OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()?.format(&Rfc3339).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_that_no_calendar_has_are_no_panic() {
        assert_eq!(time_text(UNIX_EPOCH).unwrap(), "1970-01-01T00:00:00Z");
        assert_eq!(time_text(UNIX_EPOCH - Duration::from_millis(500)).unwrap(), "1969-12-31T23:59:59.5Z");
        let odd = UNIX_EPOCH.checked_add(Duration::from_secs(1 << 50)).unwrap();
        assert_eq!(time_text(odd), None);
    }

    #[test]
    fn names_that_are_not_utf8_are_there_as_bytes() {
        let mut value = Map::new();
        put_name(&mut value, "name", OsStr::from_bytes(b"a\xff"));
        assert_eq!(value["nameHex"], "61ff");
        put_name(&mut value, "target", OsStr::new("plain"));
        assert!(!value.contains_key("targetHex"));
    }
}
