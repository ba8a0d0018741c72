//! [`Token`]: what clients must know.
#![forbid(unsafe_code)]

use std::fmt;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use subtle::ConstantTimeEq;

use super::config::ServeConfig;
use crate::error::{Error, Result};

/// The file of a random token, in the directory of the state.
const FILE: &str = "token";
/// Longer than any token that somebody types.
const LONGEST: u64 = 4096;

/// A secret, which is neither shown nor compared byte by byte.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// A token that was given.
    #[must_use]
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// Whether `given` is it, in a time that says nothing of what is wrong.
    pub(super) fn is(&self, given: &str) -> bool {
        self.0.as_bytes().ct_eq(given.as_bytes()).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// The token of the configuration, or the random one of this state and its file.
pub(super) fn obtain(config: &ServeConfig) -> Result<(Token, Option<PathBuf>)> {
    if let Some(token) = &config.token {
        return match token.0.trim() {
            "" => Err(Error::invalid("the token is empty")),
            _ => Ok((token.clone(), None)),
        };
    }
    let path = config.data.join(FILE);
    let failed = |e| Error::io(format!("failed to keep the token in {}", path.display()), e);
    let token = match read(&path).map_err(failed)? {
        Some(token) => token,
        None => make(&path).map_err(failed)?,
    };
    Ok((Token(token), Some(path)))
}

fn read(path: &Path) -> std::io::Result<Option<String>> {
    let nofollow = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or_default();
    let file = match fs::OpenOptions::new().read(true).custom_flags(nofollow).open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let mut text = String::new();
    file.take(LONGEST).read_to_string(&mut text)?;
    // An empty file is one that a crash left before anything was in it.
    Ok(Some(text.trim().to_owned()).filter(|token| !token.is_empty()))
}

fn make(path: &Path) -> std::io::Result<String> {
    let token = format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
    let staged = path.with_extension("new");
    let _ = fs::remove_file(&staged);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&staged)?;
    writeln!(file, "{token}")?;
    file.sync_all()?;
    fs::rename(&staged, path)?;
    fs::File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()?;
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_random_token_is_made_once_and_only_the_owner_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let config = ServeConfig::new(dir.path());
        let (first, file) = obtain(&config).unwrap();
        let file = file.unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let kept = fs::read_to_string(&file).unwrap();
        assert!(first.is(kept.trim()) && kept.trim().len() == 64);
        assert!(obtain(&config).unwrap().0.is(kept.trim()));
        assert_eq!(format!("{first:?}"), "Token");
    }

    #[test]
    fn only_the_same_token_is_it() {
        let token = Token::new("secret");
        assert!(token.is("secret"));
        for wrong in ["", "secre", "secrets", "Secret"] {
            assert!(!token.is(wrong), "{wrong}");
        }
        let mut config = ServeConfig::new("/nowhere");
        config.token = Some(Token::new(" "));
        assert!(obtain(&config).is_err());
    }
}
