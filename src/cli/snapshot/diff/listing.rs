//! Changes as lines and as JSON. Pure.
#![forbid(unsafe_code)]

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde_json::{Map, Value, json};
use vesselrt::{Change, ChangeKind, ChangedFile, FileType};

use crate::cli::fs::show::{put_name, time_text, type_bits, type_name};
use crate::cli::tables::{Table, permissions, size};
use crate::cli::values::printable;

/// A path for a terminal.
pub(super) fn shown(path: &Path) -> String {
    printable(path.as_os_str().as_bytes())
}

fn letter(kind: ChangeKind) -> &'static str {
    match kind {
        ChangeKind::Added => "A",
        ChangeKind::Modified => "M",
        ChangeKind::Deleted => "D",
        ChangeKind::Renamed => "R",
    }
}

/// One change a line: letter, permissions, size, path, and in what it differs besides its content.
pub(super) fn text(changes: &[Change]) -> String {
    let mut table = Table::bare();
    for change in changes {
        let (mode, bytes) =
            change.new.as_ref().or(change.old.as_ref()).map_or_else(Default::default, |file| {
                let bytes = if file.file_type == FileType::File { size(file.size) } else { "-".to_owned() };
                (permissions(type_bits(file.file_type) | file.mode), bytes)
            });
        let mut path = shown(&change.path);
        if let Some(old) = &change.old_path {
            path = format!("{} -> {path}", shown(old));
        }
        let notes = notes(change);
        if !notes.is_empty() {
            path = format!("{path} ({})", notes.join(", "));
        }
        table.row([letter(change.kind).to_owned(), mode, bytes, path]);
    }
    table.render()
}

/// In what both sides differ, as far as a new size does not say it.
pub(super) fn notes(change: &Change) -> Vec<String> {
    let (Some(old), Some(new)) = (&change.old, &change.new) else { return Vec::new() };
    let differences = change.differences;
    let mut notes = Vec::new();
    if differences.kind {
        notes.push(format!("{} -> {}", type_name(old.file_type), type_name(new.file_type)));
    }
    if differences.mode {
        notes.push(format!("mode {:04o} -> {:04o}", old.mode, new.mode));
    }
    if differences.owner {
        notes.push(format!("owner {}:{} -> {}:{}", old.uid, old.gid, new.uid, new.gid));
    }
    if differences.attributes {
        notes.push("attributes".to_owned());
    }
    let others = differences.content || differences.kind || change.kind == ChangeKind::Renamed;
    if notes.is_empty() && differences.mtime && !others {
        notes.push("time".to_owned());
    }
    notes
}

/// The paths as they are, each ended by a NUL.
pub(super) fn raw_names(changes: &[Change]) -> Vec<u8> {
    let name = |change: &Change| [change.path.as_os_str().as_bytes(), b"\0"].concat();
    changes.iter().flat_map(name).collect()
}

/// The paths, one a line.
pub(super) fn names(changes: &[Change]) -> String {
    changes.iter().map(|change| format!("{}\n", shown(&change.path))).collect()
}

/// The paths for JSON.
pub(super) fn lossy_names(changes: &[Change]) -> Vec<String> {
    changes.iter().map(|change| change.path.to_string_lossy().into_owned()).collect()
}

/// One change for JSON. A path that is not UTF-8 is there as hexadecimal bytes too.
pub(super) fn json(change: &Change) -> Value {
    let mut value = Map::new();
    value.insert("status".to_owned(), json!(letter(change.kind)));
    put_name(&mut value, "path", change.path.as_os_str());
    if let Some(old) = &change.old_path {
        put_name(&mut value, "oldPath", old.as_os_str());
    }
    value.insert("old".to_owned(), json!(change.old.as_ref().map(file)));
    value.insert("new".to_owned(), json!(change.new.as_ref().map(file)));
    let differences = change.differences;
    let names = [
        (differences.kind, "type"),
        (differences.content, "content"),
        (differences.mode, "mode"),
        (differences.owner, "owner"),
        (differences.mtime, "mtime"),
        (differences.attributes, "attributes"),
    ];
    let names: Vec<&str> = names.iter().filter(|(differ, _)| *differ).map(|(_, name)| *name).collect();
    value.insert("differences".to_owned(), json!(names));
    Value::Object(value)
}

fn file(file: &ChangedFile) -> Value {
    json!({
        "type": type_name(file.file_type),
        "size": file.size,
        "mode": format!("{:04o}", file.mode),
        "uid": file.uid,
        "gid": file.gid,
        "mtime": time_text(file.modified),
    })
}

/// How many there are of each kind.
pub(super) fn totals(changes: &[Change]) -> Value {
    let count = |kind| changes.iter().filter(|change| change.kind == kind).count();
    json!({
        "added": count(ChangeKind::Added),
        "modified": count(ChangeKind::Modified),
        "deleted": count(ChangeKind::Deleted),
        "renamed": count(ChangeKind::Renamed),
    })
}
