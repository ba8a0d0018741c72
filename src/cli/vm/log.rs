//! What is logged, in the original's form: `TIME LEVEL message key=value …`, or as JSON.
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use clap::ValueEnum;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::cli::{Failure, Outcome};

/// Of a file that is new.
const MODE: u32 = 0o640;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    /// For whoever looks for a mistake.
    Debug,
    /// What was done.
    Info,
    /// What is not as it should be.
    Warn,
    /// What failed.
    Error,
}

impl Level {
    /// What is no level is info.
    pub(super) fn parse(text: &str) -> Self {
        match text.trim().to_ascii_lowercase().as_str() {
            "debug" => Self::Debug,
            "warn" => Self::Warn,
            "error" => Self::Error,
            _ => Self::Info,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "DEBUG",
            Self::Info => "INFO",
            Self::Warn => "WARN",
            Self::Error => "ERROR",
        }
    }
}

/// How it is written.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub(super) enum Format {
    /// TIME LEVEL message key=value …
    #[default]
    Logfmt,
    /// An object a line
    Json,
}

/// Where it goes.
#[derive(Debug)]
pub(super) struct Log {
    level: Level,
    format: Format,
    file: Option<File>,
}

/// What is told besides the message, sorted by key.
pub(super) type Fields = Map<String, Value>;

/// Fields of these keys and values.
macro_rules! fields {
    ($($key:literal : $value:expr),* $(,)?) => {{
        let mut fields = serde_json::Map::new();
        $(fields.insert($key.to_owned(), serde_json::json!($value));)*
        fields
    }};
}
pub(super) use fields;

impl Log {
    /// # Errors
    /// Those of opening the file, whose directory is made if missing.
    pub(super) fn open(level: Level, format: Format, path: Option<&Path>) -> Outcome<Self> {
        let file = path.map(append_to).transpose()?;
        Ok(Self { level, format, file })
    }

    pub(super) fn info(&self, message: &str, fields: Fields) {
        self.log(Level::Info, message, fields);
    }

    pub(super) fn error(&self, message: &str, fields: Fields) {
        self.log(Level::Error, message, fields);
    }

    /// Where the log cannot be written nothing can be told about that.
    fn log(&self, level: Level, message: &str, fields: Fields) {
        if level < self.level {
            return;
        }
        let line = line(self.format, OffsetDateTime::now_utc(), level, message, fields);
        let _ = match level < Level::Error {
            true => io::stdout().lock().write_all(line.as_bytes()),
            false => io::stderr().lock().write_all(line.as_bytes()),
        };
        let _ = self.file.as_ref().map(|mut file| file.write_all(line.as_bytes()));
    }
}

fn append_to(path: &Path) -> Outcome<File> {
    let failed = |e| Failure::io(format!("open the log {}", path.display()), e);
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o755).create(dir).map_err(failed)?;
    }
    let new = OpenOptions::new().append(true).create_new(true).mode(MODE).open(path);
    match new {
        // Whatever our umask is.
        Ok(file) => file.set_permissions(Permissions::from_mode(MODE)).map(|()| file).map_err(failed),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            OpenOptions::new().append(true).open(path).map_err(failed)
        }
        Err(e) => Err(failed(e)),
    }
}

fn line(format: Format, now: OffsetDateTime, level: Level, message: &str, fields: Fields) -> String {
    let whole = now.replace_nanosecond(0).unwrap_or(now);
    let time = whole.format(&Rfc3339).unwrap_or_default();
    match format {
        Format::Logfmt => {
            let mut line = format!("{time} {} {message}", level.as_str());
            for (key, value) in sorted(fields) {
                // A string cannot be full.
                let _ = write!(line, " {key}={}", shown(&value));
            }
            line + "\n"
        }
        Format::Json => {
            let mut entry = fields;
            entry.insert("ts".to_owned(), time.into());
            entry.insert("level".to_owned(), level.as_str().to_ascii_lowercase().into());
            entry.insert("msg".to_owned(), message.into());
            format!("{}\n", Value::Object(entry))
        }
    }
}

fn sorted(fields: Fields) -> Vec<(String, Value)> {
    let mut fields: Vec<_> = fields.into_iter().collect();
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    fields
}

/// Quoted where it could be taken for something else.
fn shown(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let plain = |c: char| !matches!(c, ' ' | '=' | ',' | '"' | '\\') && !c.is_control();
    match !text.is_empty() && text.chars().all(plain) {
        true => text,
        false => Value::from(text).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_of_the_original() {
        let now = OffsetDateTime::from_unix_timestamp_nanos(1_700_000_000_123_456_789).unwrap();
        let fields =
            fields! {"vm": "python-1", "error": "a b=\"c\"\n", "exit_code": 7, "empty": "", "k": true};
        let text = line(Format::Logfmt, now, Level::Error, "vm run failed", fields.clone());
        let expected = "2023-11-14T22:13:20Z ERROR vm run failed empty=\"\" error=\"a b=\\\"c\\\"\\n\" exit_code=7 k=true vm=python-1\n";
        assert_eq!(text, expected);
        let json: Value = serde_json::from_str(&line(Format::Json, now, Level::Info, "m", fields)).unwrap();
        assert_eq!((&json["ts"], &json["level"]), (&"2023-11-14T22:13:20Z".into(), &"info".into()));
        assert_eq!((&json["msg"], &json["exit_code"]), (&"m".into(), &7.into()));
    }

    #[test]
    fn what_is_no_level_is_info() {
        for (text, level) in [(" DEBUG", Level::Debug), ("warn", Level::Warn), ("error", Level::Error)] {
            assert_eq!(Level::parse(text), level);
        }
        assert_eq!(Level::parse("loud"), Level::Info);
    }
}
