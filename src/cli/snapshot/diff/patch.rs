//! A change as a patch that `git apply` and `patch -p1` take. Pure.
//!
//! What such a patch cannot say (directories, FIFOs, owners, attributes, the content of binary and of large files) stands as
//! a line of its own before it, which both programs pass over. Source: git-diff(1), "Generating patch text with -p".
#![forbid(unsafe_code)]

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use vesselrt::{Change, ChangeKind, ChangedFile, Content, Contents, FileType};

use super::listing::{notes, shown};
use super::text::{Lines, is_text};
use crate::cli::fs::show::{type_bits, type_name};

/// How git calls an empty content. patch(1) needs to be told to see that an empty file comes or goes.
const EMPTY: &str = "e69de29";

/// One side of a patch.
#[derive(Clone, Copy)]
struct Side<'a> {
    file: &'a ChangedFile,
    path: &'a Path,
    content: &'a Content,
}

impl Side<'_> {
    fn mode(&self) -> String {
        let bits = if self.file.file_type == FileType::Symlink { 0 } else { self.file.mode };
        format!("{:06o}", type_bits(self.file.file_type) | bits)
    }

    fn is_empty(&self) -> bool {
        self.content == &Content::Bytes(Vec::new())
    }
}

/// The patch of one change.
pub(super) fn of(change: &Change, contents: &Contents, context: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let side = |file, path, content| Some(Side { file, path, content });
    let old_path = change.old_path.as_ref().unwrap_or(&change.path);
    let old = change.old.as_ref().and_then(|file| side(file, old_path, &contents.old));
    let new = change.new.as_ref().and_then(|file| side(file, &change.path, &contents.new));
    describe(&mut out, change);
    let (old, new) = (old.filter(has_content), new.filter(has_content));
    match (old, new) {
        // Of what is no file on one side, and of a link, patch(1) takes only the end and the beginning.
        (Some(old), Some(new)) if change.differences.kind || is_other_link(change) => {
            both(&mut out, Some(old), None, false, context);
            both(&mut out, None, Some(new), false, context);
        }
        (None, None) => {}
        (old, new) => both(&mut out, old, new, change.kind == ChangeKind::Renamed, context),
    }
    out
}

fn is_other_link(change: &Change) -> bool {
    let is_link = change.new.as_ref().is_some_and(|file| file.file_type == FileType::Symlink);
    change.differences.content && is_link
}

fn has_content(side: &Side<'_>) -> bool {
    matches!(side.file.file_type, FileType::File | FileType::Symlink)
}

/// What the patch itself does not say.
fn describe(out: &mut Vec<u8>, change: &Change) {
    let path = shown(&change.path);
    let plain = |file: &&ChangedFile| !matches!(file.file_type, FileType::File | FileType::Symlink);
    let what = |file: &ChangedFile| format!("{} {:04o}", type_name(file.file_type), file.mode);
    let mut say = |text: String| out.extend_from_slice(format!("# {text}\n").as_bytes());
    match change.kind {
        ChangeKind::Added | ChangeKind::Deleted => {
            if let Some(file) = change.new.iter().chain(&change.old).find(plain) {
                let verb = if change.kind == ChangeKind::Added { "added" } else { "deleted" };
                say(format!("{verb}: {path} ({})", what(file)));
            }
        }
        ChangeKind::Renamed => {
            let directory = change.new.as_ref().filter(plain);
            if let (Some(file), Some(old)) = (directory, &change.old_path) {
                say(format!("renamed: {} -> {path} ({})", shown(old), what(file)));
            }
            let notes = unsaid(change);
            if !notes.is_empty() {
                say(format!("changed: {path} ({})", notes.join(", ")));
            }
        }
        ChangeKind::Modified => {
            let notes = unsaid(change);
            if !notes.is_empty() {
                say(format!("changed: {path} ({})", notes.join(", ")));
            }
        }
    }
}

/// The differences that are not in the header of a patch.
fn unsaid(change: &Change) -> Vec<String> {
    let files = change.old.iter().chain(&change.new);
    let said = files.map(|file| file.file_type).all(|kind| kind == FileType::File);
    let mut notes = notes(change);
    notes.retain(|note| note != "time" && !(said && note.starts_with("mode ")));
    notes
}

/// Header and hunks.
fn both(out: &mut Vec<u8>, old: Option<Side<'_>>, new: Option<Side<'_>>, renamed: bool, context: usize) {
    let Some(any) = new.or(old) else { return };
    let (old_path, new_path) = (old.unwrap_or(any).path, new.unwrap_or(any).path);
    let names = (
        old.map_or_else(|| b"/dev/null".to_vec(), |_| quoted("a", old_path)),
        new.map_or_else(|| b"/dev/null".to_vec(), |_| quoted("b", new_path)),
    );
    let hunks = match hunks(old, new, context) {
        Ok(hunks) => hunks,
        Err(why) => {
            out.extend_from_slice(&[why.0.as_bytes(), b" ", &names.0, b" and ", &names.1].concat());
            out.extend_from_slice(&[b" differ", why.1.as_bytes(), b"\n"].concat());
            // Of the rest only the mode and the name can be applied.
            if old.is_none() || new.is_none() {
                return;
            }
            Vec::new()
        }
    };
    let lines = header(old, new, renamed);
    if lines.is_empty() && hunks.is_empty() {
        return;
    }
    let (a, b) = (quoted("a", old_path), quoted("b", new_path));
    out.extend_from_slice(&[b"diff --git ", a.as_slice(), b" ", &b, b"\n"].concat());
    lines.iter().for_each(|line| out.extend_from_slice(&[line.as_slice(), b"\n"].concat()));
    if !hunks.is_empty() {
        let (a, b) = (ended(names.0), ended(names.1));
        out.extend_from_slice(&[b"--- ", a.as_slice(), b"\n+++ ", &b, b"\n"].concat());
        out.extend_from_slice(&hunks);
    }
}

/// The extended lines of the header.
fn header(old: Option<Side<'_>>, new: Option<Side<'_>>, renamed: bool) -> Vec<Vec<u8>> {
    let mut lines = Vec::new();
    match (old, new) {
        (None, Some(new)) => {
            lines.push(format!("new file mode {}", new.mode()).into_bytes());
            lines.extend(new.is_empty().then(|| format!("index 0000000..{EMPTY}").into_bytes()));
        }
        (Some(old), None) => {
            lines.push(format!("deleted file mode {}", old.mode()).into_bytes());
            lines.extend(old.is_empty().then(|| format!("index {EMPTY}..0000000").into_bytes()));
        }
        (Some(old), Some(new)) => {
            if old.mode() != new.mode() {
                lines.push(format!("old mode {}", old.mode()).into_bytes());
                lines.push(format!("new mode {}", new.mode()).into_bytes());
            }
            if renamed {
                lines.push(b"similarity index 100%".to_vec());
                lines.push([b"rename from ", quoted("", old.path).as_slice()].concat());
                lines.push([b"rename to ", quoted("", new.path).as_slice()].concat());
            }
        }
        (None, None) => {}
    }
    lines
}

/// The hunks, or what is said instead of them: before and after the names.
fn hunks(
    old: Option<Side<'_>>,
    new: Option<Side<'_>>,
    context: usize,
) -> Result<Vec<u8>, (&'static str, &'static str)> {
    let bytes = |side: Option<Side<'_>>| match side.map(|side| side.content) {
        None | Some(Content::None) => Ok(Vec::new()),
        Some(Content::Bytes(bytes)) if is_text(bytes) => Ok(bytes.clone()),
        Some(Content::Bytes(_)) => Err(("Binary files", "")),
        Some(Content::TooLarge) => Err(("Files", ": too large to compare")),
        Some(_) => Err(("Files", ": changed while they were read")),
    };
    let (old, new) = (bytes(old)?, bytes(new)?);
    Ok(Lines::compare(&old, &new).hunks(context))
}

/// A path from `/` on as git has it: below `prefix`, and in quotes if it has a character that needs it.
fn quoted(prefix: &str, path: &Path) -> Vec<u8> {
    let path = path.as_os_str().as_bytes();
    let path = if prefix.is_empty() { path.strip_prefix(b"/").unwrap_or(path) } else { path };
    let plain = [prefix.as_bytes(), path].concat();
    let odd = |c: char| {
        c.is_control()
            || matches!(c, '"' | '\\' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if std::str::from_utf8(&plain).is_ok_and(|text| !text.contains(odd)) {
        return plain;
    }
    let mut out = vec![b'"'];
    for &byte in &plain {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b' '..=b'~' => out.push(byte),
            byte => out.extend_from_slice(format!("\\{byte:03o}").as_bytes()),
        }
    }
    out.push(b'"');
    out
}

/// A name in a line that may end in a time: a tab says that its spaces belong to it.
fn ended(mut name: Vec<u8>) -> Vec<u8> {
    if name.contains(&b' ') {
        name.push(b'\t');
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_names_are_quoted_as_git_does() {
        let quote = |name: &[u8]| {
            let path = Path::new(std::ffi::OsStr::from_bytes(name));
            String::from_utf8(quoted("a", path)).unwrap()
        };
        assert_eq!(quote(b"/etc/motd"), "a/etc/motd");
        assert_eq!(quote("/grün x".as_bytes()), "a/grün x");
        assert_eq!(quote(b"/a\"b\\c\nd\x1b\xff"), "\"a/a\\\"b\\\\c\\nd\\033\\377\"");
        assert_eq!(quoted("", Path::new("/x/y")), b"x/y");
    }
}
