//! Files of a session: `fs/…`. All of it is done as its user, in its workspace.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::encoding::Encoding;
use super::payload::{Answer, Refusal, take};
use super::staged::Staged;
use super::users::User;
use crate::{DirEntry, Error, ErrorKind, OpenOptions};

#[derive(Debug, Deserialize)]
struct Create {
    path: String,
    #[serde(default)]
    content: String,
    #[serde(default = "plain_mode")]
    mode: u32,
}

#[derive(Debug, Deserialize)]
struct Read {
    path: String,
    #[serde(default = "utf8")]
    encoding: String,
    #[serde(default)]
    offset: Option<i64>,
    #[serde(default)]
    limit: Option<i64>,
}

#[derive(Debug, Deserialize)]
struct Write {
    path: String,
    content: String,
    #[serde(default = "write")]
    mode: String,
    #[serde(default = "utf8")]
    encoding: String,
}

#[derive(Debug, Deserialize)]
struct Edit {
    path: String,
    old_string: String,
    new_string: String,
    #[serde(default)]
    replace_all: bool,
    #[serde(default = "utf8")]
    encoding: String,
}

#[derive(Debug, Deserialize)]
struct Delete {
    path: String,
}

#[derive(Debug, Deserialize)]
struct List {
    #[serde(default = "here")]
    path: String,
    #[serde(default)]
    show_hidden: bool,
}

fn plain_mode() -> u32 {
    0o644
}

fn utf8() -> String {
    "utf-8".to_owned()
}

fn write() -> String {
    "w".to_owned()
}

fn here() -> String {
    ".".to_owned()
}

type Done = Result<Value, Refusal>;

/// `fs/` and this.
pub(super) async fn operate(user: &User, name: &str, payload: &Value) -> Option<Answer> {
    macro_rules! with {
        ($operation:ident) => {
            match take(payload) {
                Ok(request) => $operation(user, request).await,
                Err(answer) => return Some(answer),
            }
        };
    }
    let done: Done = match name {
        "create_file" => with!(create),
        "read_file" => with!(read),
        "write_file" => with!(write_file),
        "edit_file" => with!(edit),
        "delete_file" => with!(delete),
        "list_dir" => with!(list),
        _ => return None,
    };
    Some(done.map_or_else(Answer::from, Answer::ok))
}

/// Where a path of a request is, as answers say it.
pub(super) fn place(user: &User, path: &str) -> PathBuf {
    let mut place = PathBuf::from("/");
    for part in user.workspace.join(path).components() {
        match part {
            std::path::Component::ParentDir => {
                place.pop();
            }
            std::path::Component::Normal(name) => place.push(name),
            _ => {}
        }
    }
    place
}

/// The refusal of what failed while `doing` ("Failed to …") something with the path of a request.
pub(super) fn refused(user: &User, doing: &str, error: &Error) -> Refusal {
    match error.kind() {
        _ if error.leads_outside() => {
            let workspace = user.workspace.display();
            Refusal::new(403, format!("Access denied: path must be within workspace {workspace}"))
        }
        ErrorKind::LimitExceeded => Refusal::new(413, format!("{doing}: {}", error.chain())),
        _ => Refusal::failed(doing, error),
    }
}

async fn make_parent(user: &User, path: &Path, doing: &str) -> Result<(), Refusal> {
    let parent = path.parent().unwrap_or(path);
    user.files.make_dir_all(parent, 0o755).await.map_err(|error| refused(user, doing, &error))
}

async fn create(user: &User, request: Create) -> Done {
    let (doing, path) = ("Failed to create file", place(user, &request.path));
    let failed = |error| refused(user, doing, &error);
    make_parent(user, &path, doing).await?;
    // A new file in its place has the mode that was asked for, whatever the old one had.
    let staged = Staged::beside(&user.files, &path);
    user.files
        .write_file(staged.path(), request.content.as_bytes(), request.mode & 0o7777)
        .await
        .map_err(failed)?;
    staged.put(&path).await.map_err(failed)?;
    Ok(json!({"success": true, "message": format!("File created: {}", request.path), "path": path}))
}

/// The content of a file that must be there, as text.
async fn content(user: &User, path: &str, encoding: Encoding, doing: &str) -> Result<(String, u64), Refusal> {
    let place = place(user, path);
    let failed = |error: Error| match error.kind() {
        ErrorKind::NotFound => Refusal::new(404, format!("File not found: {path}")),
        _ => refused(user, doing, &error),
    };
    let found = user.files.stat(&place).await.map_err(failed)?;
    if !found.is_file() {
        return Err(Refusal::new(400, format!("Path is not a file: {path}")));
    }
    let bytes = user.files.read_file(&place).await.map_err(failed)?;
    let text = encoding.decode(&bytes).map_err(|why| Refusal::new(400, format!("{doing}: {why}")))?;
    Ok((text, bytes.len() as u64))
}

fn encoding(name: &str, doing: &str) -> Result<Encoding, Refusal> {
    Encoding::named(name).map_err(|why| Refusal::new(400, format!("{doing}: {why}")))
}

async fn read(user: &User, request: Read) -> Done {
    let doing = "Failed to read file";
    let (text, size) = content(user, &request.path, encoding(&request.encoding, doing)?, doing).await?;
    let content = lines(&text, request.offset, request.limit);
    Ok(json!({"content": content, "path": place(user, &request.path), "size": size}))
}

/// So many lines from a line on, which count from 1.
fn lines(text: &str, offset: Option<i64>, limit: Option<i64>) -> String {
    let skipped = usize::try_from(offset.unwrap_or(1).saturating_sub(1)).unwrap_or(0);
    let taken = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(0));
    text.split_inclusive('\n').skip(skipped).take(taken).collect()
}

async fn write_file(user: &User, request: Write) -> Done {
    let (doing, path) = ("Failed to write file", place(user, &request.path));
    let failed = |error| refused(user, doing, &error);
    let encoding = encoding(&request.encoding, doing)?;
    let bytes =
        encoding.encode(&request.content).map_err(|why| Refusal::new(400, format!("{doing}: {why}")))?;
    make_parent(user, &path, doing).await?;
    match request.mode.as_str() {
        "w" => user.files.write_file(&path, &bytes, 0o644).await.map_err(failed)?,
        _ => append(user, &path, &bytes).await.map_err(failed)?,
    }
    let size = user.files.stat(&path).await.map_err(failed)?.size;
    Ok(
        json!({"success": true, "message": format!("File written: {}", request.path), "path": path, "size": size}),
    )
}

async fn append(user: &User, path: &Path, bytes: &[u8]) -> crate::Result<()> {
    let mut file = user.files.open_file(path, &OpenOptions::new().append(true).create(true)).await?;
    file.write_all(bytes).await.map_err(|e| Error::io("failed to append", e))?;
    file.close().await
}

async fn edit(user: &User, request: Edit) -> Done {
    let doing = "Failed to edit file";
    let encoding = encoding(&request.encoding, doing)?;
    let (old, new) = (request.old_string.as_str(), request.new_string.as_str());
    let (text, _) = content(user, &request.path, encoding, doing).await?;
    if old == new {
        return Err(Refusal::new(400, "'old_string' and 'new_string' must differ"));
    }
    let count = text.matches(old).count();
    let (text, replacements) = match count {
        0 => return Err(Refusal::new(400, "'old_string' not found in file")),
        1 => (text.replacen(old, new, 1), 1),
        _ if request.replace_all => (text.replace(old, new), count),
        _ => {
            let why = "set replace_all=true to replace all occurrences";
            return Err(Refusal::new(400, format!("'old_string' appears {count} times in file; {why}")));
        }
    };
    let bytes = encoding.encode(&text).map_err(|why| Refusal::new(400, format!("{doing}: {why}")))?;
    let path = place(user, &request.path);
    user.files.write_file(&path, &bytes, 0o644).await.map_err(|error| refused(user, doing, &error))?;
    let message = format!("File edited: {}", request.path);
    Ok(
        json!({"success": true, "message": message, "path": path, "replacements": replacements, "size": bytes.len()}),
    )
}

async fn delete(user: &User, request: Delete) -> Done {
    let path = place(user, &request.path);
    let failed = |error: Error| match error.kind() {
        ErrorKind::NotFound => Refusal::new(404, format!("Path not found: {}", request.path)),
        _ => refused(user, "Failed to delete", &error),
    };
    let found = user.files.symlink_stat(&path).await.map_err(failed)?;
    user.files.delete_all(&path).await.map_err(failed)?;
    let what = if found.is_dir() { "Directory" } else { "File" };
    Ok(json!({"success": true, "message": format!("{what} deleted: {}", request.path)}))
}

async fn list(user: &User, request: List) -> Done {
    let path = place(user, &request.path);
    let failed = |error: Error| match error.kind() {
        ErrorKind::NotFound => Refusal::new(404, format!("Directory not found: {}", request.path)),
        _ => refused(user, "Failed to list directory", &error),
    };
    if !user.files.stat(&path).await.map_err(failed)?.is_dir() {
        return Err(Refusal::new(400, format!("Path is not a directory: {}", request.path)));
    }
    let entries = user.files.read_dir(&path).await.map_err(failed)?;
    let mut files = Vec::new();
    for entry in entries {
        if request.show_hidden || !entry.name.as_encoded_bytes().starts_with(b".") {
            files.extend(listed(user, &path, entry).await);
        }
    }
    files.sort_by_cached_key(|(is_dir, name, _)| (!is_dir, name.to_lowercase()));
    let files: Vec<Value> = files.into_iter().map(|(_, _, file)| file).collect();
    Ok(json!({"files": files, "current_path": path}))
}

/// An entry, or what it leads to; none for a symlink that leads to nothing. One that leads elsewhere is neither file nor
/// directory.
async fn listed(user: &User, dir: &Path, entry: DirEntry) -> Option<(bool, String, Value)> {
    let path = dir.join(&entry.name);
    let info = match entry.info.is_symlink() {
        false => entry.info,
        true => match user.files.stat(&path).await {
            Ok(info) => info,
            Err(error) if error.leads_outside() => entry.info,
            Err(_) => return None,
        },
    };
    let name = entry.name.to_string_lossy().into_owned();
    let modified = info.modified.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    let shown = json!({
        "name": name,
        "path": path.to_string_lossy(),
        "is_file": info.is_file(),
        "is_dir": info.is_dir(),
        "size": info.is_file().then_some(info.size),
        "modified_time": modified,
    });
    Some((info.is_dir(), name, shown))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_count_from_one_and_end_with_the_file() {
        let text = "one\ntwo\r\nthree";
        for (offset, limit, read) in [
            (None, None, text),
            (Some(1), Some(1), "one\n"),
            (Some(2), Some(5), "two\r\nthree"),
            (Some(0), Some(1), "one\n"),
            (Some(-7), Some(1), "one\n"),
            (Some(4), None, ""),
            (Some(i64::MAX), Some(i64::MAX), ""),
            (Some(1), Some(0), ""),
            (Some(1), Some(-1), ""),
        ] {
            assert_eq!(lines(text, offset, limit), read, "{offset:?} {limit:?}");
        }
    }
}
