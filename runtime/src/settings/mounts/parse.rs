//! Mounts as people type them: `type=bind,src=/host,dst=/inside,ro`, and `SRC:DST[:ro]`.
#![forbid(unsafe_code)]

use std::fmt;
use std::path::Path;

use super::super::parse_bytes;
use super::{Mount, MountError, MountSource};

/// What `--mount` understands, for messages.
const FORM: &str = "it is type=bind|volume|tmpfs,src=SOURCE,dst=/DESTINATION[,ro]";

impl Mount {
    /// What `--mount` takes: `type=bind,src=PATH,dst=PATH[,ro]`, `type=volume,src=NAME,dst=PATH[,ro]`,
    /// `type=tmpfs,dst=PATH[,size=64m][,mode=1777]`; `source`, `destination`, `target` and `readonly` mean the same. Without a
    /// type it is a volume. A relative path of the host begins at `base`.
    ///
    /// # Errors
    /// [`MountError`].
    pub fn parse(text: &str, base: &Path) -> Result<Self, MountError> {
        let mut fields = Fields { text, ..Fields::default() };
        text.split(',').try_for_each(|field| fields.take(field))?;
        fields.mount(base)
    }

    /// What `--volume` takes: `SRC:DST[:ro]`, where a source with a slash is a path of the host, and any other the name of a
    /// volume. A relative path of the host begins at `base`.
    ///
    /// # Errors
    /// [`MountError`].
    pub fn parse_short(text: &str, base: &Path) -> Result<Self, MountError> {
        let wrong = || MountError::Text {
            text: text.to_owned(),
            problem: "it is SOURCE:/DESTINATION[:ro]".to_owned(),
        };
        let parts: Vec<&str> = text.split(':').collect();
        let (source, destination, read_only) = match *parts.as_slice() {
            [source, destination] | [source, destination, "rw"] => (source, destination, false),
            [source, destination, "ro"] => (source, destination, true),
            _ => return Err(wrong()),
        };
        if source.is_empty() {
            return Err(wrong());
        }
        let mount = match source.contains('/') {
            true => Self::bind(base.join(source), destination),
            false => Self::volume(source, destination),
        };
        Ok(mount?.read_only(read_only))
    }
}

/// What was said so far.
#[derive(Default)]
struct Fields<'a> {
    text: &'a str,
    kind: Option<&'a str>,
    source: Option<&'a str>,
    destination: Option<&'a str>,
    size: Option<u64>,
    mode: Option<u32>,
    read_only: Option<bool>,
}

impl<'a> Fields<'a> {
    fn wrong(&self, problem: impl Into<String>) -> MountError {
        MountError::Text { text: self.text.to_owned(), problem: problem.into() }
    }

    fn take(&mut self, field: &'a str) -> Result<(), MountError> {
        let (key, value) = field.split_once('=').map_or((field, None), |(key, value)| (key, Some(value)));
        let value = match (key, value) {
            ("ro" | "readonly", None) => "true",
            (_, Some(value)) if !value.is_empty() => value,
            _ => return Err(self.wrong(format!("{field:?} is nothing that can be set; {FORM}"))),
        };
        let twice = match key {
            "type" => self.kind.replace(value).is_some(),
            "src" | "source" => self.source.replace(value).is_some(),
            "dst" | "destination" | "target" => self.destination.replace(value).is_some(),
            "ro" | "readonly" => {
                let flag = match value {
                    "true" | "1" => true,
                    "false" | "0" => false,
                    _ => return Err(self.wrong(format!("{key} is true or false"))),
                };
                self.read_only.replace(flag).is_some()
            }
            "size" | "tmpfs-size" => {
                let bytes =
                    bytes(value).ok_or_else(|| self.wrong("size is such as 65536, 64k, 512m or 2g"))?;
                self.size.replace(bytes).is_some()
            }
            "mode" | "tmpfs-mode" => {
                let mode = u32::from_str_radix(value, 8).ok().filter(|mode| *mode <= 0o7777);
                let mode = mode.filter(|_| !value.starts_with('+'));
                let mode = mode.ok_or_else(|| self.wrong("mode is octal, such as 1777"))?;
                self.mode.replace(mode).is_some()
            }
            _ => return Err(self.wrong(format!("{key:?} is nothing that can be set; {FORM}"))),
        };
        if twice { Err(self.wrong(format!("{key} is there twice"))) } else { Ok(()) }
    }

    fn mount(self, base: &Path) -> Result<Mount, MountError> {
        let destination = self.destination.ok_or_else(|| self.wrong(format!("dst is missing; {FORM}")))?;
        let source = || self.source.ok_or_else(|| self.wrong(format!("src is missing; {FORM}")));
        let kind = self.kind.unwrap_or("volume");
        if kind != "tmpfs" && (self.size.is_some() || self.mode.is_some()) {
            return Err(self.wrong("size and mode are those of type=tmpfs"));
        }
        let mount = match kind {
            "bind" => Mount::bind(base.join(source()?), destination)?,
            "volume" => Mount::volume(source()?, destination)?,
            "tmpfs" if self.source.is_some() => return Err(self.wrong("a tmpfs has no source")),
            "tmpfs" => Mount::tmpfs(destination)?,
            other => return Err(self.wrong(format!("there is no type {other:?}; {FORM}"))),
        };
        let mount = self.size.into_iter().fold(mount, Mount::size);
        let mount = self.mode.into_iter().fold(mount, Mount::mode);
        Ok(mount.read_only(self.read_only.unwrap_or(false)))
    }
}

/// No size at all would be no limit: tmpfs(5).
fn bytes(text: &str) -> Option<u64> {
    parse_bytes(text).filter(|bytes| *bytes > 0)
}

impl fmt::Display for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let destination = self.destination();
        match self.source() {
            MountSource::Bind { path } => write!(f, "type=bind,src={path},dst={destination}")?,
            MountSource::Volume { name } => write!(f, "type=volume,src={name},dst={destination}")?,
            MountSource::Tmpfs { size, mode } => {
                write!(f, "type=tmpfs,dst={destination}")?;
                size.map_or(Ok(()), |bytes| write!(f, ",size={bytes}"))?;
                write!(f, ",mode={mode:o}")?;
            }
        }
        f.write_str(if self.is_read_only() { ",ro" } else { "" })
    }
}
