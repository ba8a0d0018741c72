//! Files that come in and go out as streams.
#![forbid(unsafe_code)]

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use super::files::{place, refused};
use super::payload::Refusal;
use super::staged::Staged;
use super::users::User;
use crate::{Error, ErrorKind, File, OpenOptions};

/// Bytes that are copied at once.
const PORTION: usize = 256 << 10;

/// A file on its way out.
#[derive(Debug)]
pub struct Download {
    /// Its name, without directories.
    pub name: String,
    /// Bytes that it has now; reading ends there even if it grows.
    pub size: u64,
    /// What is in it.
    pub content: tokio::io::Take<File>,
}

/// The absolute path of a file that is there as a whole, or not at all.
pub(super) async fn upload(
    user: &User,
    path: &str,
    mut body: impl AsyncRead + Unpin + Send,
    most: u64,
) -> Result<String, Refusal> {
    let (doing, place) = ("File upload failed", place(user, path));
    let failed = |error| refused(user, doing, &error);
    let parent = place.parent().unwrap_or(&place);
    user.files.make_dir_all(parent, 0o755).await.map_err(failed)?;
    if user.files.stat(&place).await.is_ok_and(|found| found.is_dir()) {
        return Err(Refusal::new(400, format!("Path is a directory: {path}")));
    }
    let staged = Staged::beside(&user.files, &place);
    let options = OpenOptions::new().write(true).exclusive(true);
    let mut file = user.files.open_file(staged.path(), &options).await.map_err(failed)?;
    let (mut buffer, mut size) = (vec![0; PORTION], 0);
    loop {
        let read = body.read(&mut buffer).await;
        let read = read.map_err(|error| Refusal::new(400, format!("{doing}: {error}")))?;
        if read == 0 {
            break;
        }
        size += read as u64;
        if size > most {
            return Err(Refusal::new(413, format!("File size exceeds the limit of {most} bytes")));
        }
        file.write_all(&buffer[..read]).await.map_err(|e| failed(Error::io("failed to write", e)))?;
    }
    file.close().await.map_err(failed)?;
    staged.put(&place).await.map_err(failed)?;
    Ok(place.to_string_lossy().into_owned())
}

pub(super) async fn download(user: &User, path: &str) -> Result<Download, Refusal> {
    let place = place(user, path);
    let failed = |error: Error| match error.kind() {
        ErrorKind::NotFound => Refusal::new(404, format!("File not found: {path}")),
        _ => refused(user, "File download failed", &error),
    };
    let found = user.files.stat(&place).await.map_err(failed)?;
    if !found.is_file() {
        return Err(Refusal::new(400, format!("Path is not a file: {path}")));
    }
    let file = user.files.open_file(&place, &OpenOptions::new().read(true)).await.map_err(failed)?;
    let name = place.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    Ok(Download { name, size: found.size, content: file.take(found.size) })
}
