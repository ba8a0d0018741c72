//! Values on the command line: durations, variables, `ID:PATH`, labels. Pure.
#![forbid(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

/// How long a vessel stays up after a command, unless something else is asked for.
const IDLE: Duration = Duration::from_secs(60);

/// A duration: a number with `ms`, `s`, `m` or `h`; without a unit it is seconds.
///
/// # Errors
/// A text for the user.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    match duration_or_none(text)? {
        Duration::ZERO => Err("a duration of nothing would end before it begins".to_owned()),
        duration => Ok(duration),
    }
}

/// How long a vessel stays up for the next command. An empty variable is as good as none.
///
/// # Errors
/// A text for the user.
pub(crate) fn idle(text: &str) -> Result<Duration, String> {
    if text.is_empty() { Ok(IDLE) } else { duration_or_none(text) }
}

fn duration_or_none(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let wrong = || format!("{text:?} is not a duration such as 500ms, 30s, 1m or 2h");
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let duration = match unit {
        "ms" => Some(Duration::from_millis(number)),
        "" | "s" => Some(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        "h" => number.checked_mul(3600).map(Duration::from_secs),
        _ => None,
    };
    duration.ok_or_else(wrong)
}

/// A variable for a command: `KEY=VALUE`, or `KEY` alone for the value it has here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Variable {
    /// This value.
    Set(OsString, OsString),
    /// The value of this process, if it has one.
    Inherit(OsString),
}

impl Variable {
    /// Splits at the first `=`.
    ///
    /// # Errors
    /// A text for the user.
    pub(crate) fn parse(text: &OsStr) -> Result<Self, String> {
        let bytes = text.as_bytes();
        let end = bytes.iter().position(|&b| b == b'=');
        let key = OsStr::from_bytes(&bytes[..end.unwrap_or(bytes.len())]).to_owned();
        if key.is_empty() {
            return Err(format!("{text:?} is not KEY=VALUE or KEY"));
        }
        Ok(match end {
            Some(at) => Self::Set(key, OsStr::from_bytes(&bytes[at + 1..]).to_owned()),
            None => Self::Inherit(key),
        })
    }

    /// The key and value to pass; nothing for one that is not set here.
    pub(crate) fn resolve(self, here: impl Fn(&OsStr) -> Option<OsString>) -> Option<(OsString, OsString)> {
        match self {
            Self::Set(key, value) => Some((key, value)),
            Self::Inherit(key) => here(&key).map(|value| (key, value)),
        }
    }
}

/// The variables of an environment file: one [`Variable`] a line, without quoting; empty lines and those that begin
/// with `#` do not count.
///
/// # Errors
/// A text for the user, with the number of the line.
pub(crate) fn env_file(content: &[u8]) -> Result<Vec<Variable>, String> {
    let mut variables = Vec::new();
    for (number, line) in content.split(|&b| b == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line).trim_ascii_start();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let variable =
            Variable::parse(OsStr::from_bytes(line)).map_err(|e| format!("line {}: {e}", number + 1))?;
        variables.push(variable);
    }
    Ok(variables)
}

/// A label: `KEY=VALUE`; a key alone has an empty value.
///
/// # Errors
/// A text for the user.
pub(crate) fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    if key.is_empty() {
        return Err(format!("{text:?} is not KEY=VALUE"));
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// Permission bits in octal.
///
/// # Errors
/// A text for the user.
pub(crate) fn mode(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|&mode| mode <= 0o7777 && !text.starts_with('+'))
        .ok_or_else(|| format!("{text:?} is not a mode such as 644 or 0755"))
}

/// One end of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// A path of this host.
    Host(PathBuf),
    /// A path in a vessel.
    Vessel {
        /// Which one.
        id: String,
        /// Path inside; relative ones begin at the working directory.
        path: PathBuf,
    },
    /// An archive on standard input or output.
    Stream,
}

impl Place {
    /// `ID:PATH` is in a vessel, unless what is before the first colon cannot be an id (`./a:b`, `/a:b`); `-` is a stream.
    pub(crate) fn parse(text: &OsStr) -> Self {
        let bytes = text.as_bytes();
        if bytes == b"-" {
            return Self::Stream;
        }
        let Some(colon) = bytes.iter().position(|&b| b == b':') else { return Self::Host(text.into()) };
        let Some(id) = std::str::from_utf8(&bytes[..colon]).ok().filter(|id| looks_like_id(id)) else {
            return Self::Host(text.into());
        };
        let path = PathBuf::from(OsString::from_vec(bytes[colon + 1..].to_vec()));
        Self::Vessel { id: id.to_owned(), path }
    }
}

fn looks_like_id(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// A name for a terminal: what could command it, and what is not UTF-8, is escaped.
pub(crate) fn printable(bytes: &[u8]) -> String {
    let mut shown = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() || is_directional(c) {
                shown.extend(c.escape_default());
            } else {
                shown.push(c);
            }
        }
        shown.extend(chunk.invalid().escape_ascii().map(char::from));
    }
    shown
}

/// Characters that reorder the text around them, so that a name shows as another (Unicode UAX #9).
fn is_directional(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units_and_are_not_nothing() {
        for (text, millis) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("30", 30_000),
            ("1m", 60_000),
            ("2h", 7_200_000),
            ("007s", 7_000),
        ] {
            assert_eq!(duration(text).unwrap(), Duration::from_millis(millis), "{text}");
        }
        for text in [
            "",
            "s",
            "-1s",
            "1.5s",
            "1e3",
            "0s",
            "0",
            "1d",
            "1 s",
            "+1s",
            "99999999999999999999s",
            "6148914691236517206m",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_vessel_may_stay_up_for_no_time() {
        assert_eq!(idle("0"), Ok(Duration::ZERO));
        assert_eq!(idle("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(idle(""), Ok(IDLE));
        assert!(idle("soon").is_err());
    }

    #[test]
    fn variables_split_at_the_first_equals_sign() {
        let parse = |text: &str| Variable::parse(OsStr::new(text));
        let set = |key: &str, value: &str| Ok(Variable::Set(key.into(), value.into()));
        assert_eq!(parse("A=1"), set("A", "1"));
        assert_eq!(parse("A="), set("A", ""));
        assert_eq!(parse("A=b=c\n"), set("A", "b=c\n"));
        assert_eq!(parse("A"), Ok(Variable::Inherit("A".into())));
        assert!(parse("=B").is_err() && parse("").is_err());
        let odd = Variable::parse(OsStr::from_bytes(b"K=\xff")).unwrap();
        assert_eq!(odd, Variable::Set("K".into(), OsString::from_vec(vec![0xff])));
    }

    #[test]
    fn a_key_alone_has_the_value_it_has_here_or_none() {
        let here = |key: &OsStr| (key == "HERE").then(|| OsString::from("yes"));
        assert_eq!(Variable::Inherit("HERE".into()).resolve(here), Some(("HERE".into(), "yes".into())));
        assert_eq!(Variable::Inherit("GONE".into()).resolve(here), None);
        assert_eq!(Variable::Set("A".into(), "".into()).resolve(here), Some(("A".into(), "".into())));
    }

    #[test]
    fn environment_files_have_comments_and_line_numbers() {
        let file = b"# note\n\nA=1\r\n  B=two words # not a comment\nC\n";
        let expected = [
            Variable::Set("A".into(), "1".into()),
            Variable::Set("B".into(), "two words # not a comment".into()),
            Variable::Inherit("C".into()),
        ];
        assert_eq!(env_file(file).unwrap(), expected);
        assert!(env_file(b"A=1\n=2\n").unwrap_err().starts_with("line 2:"));
    }

    #[test]
    fn labels_and_modes_are_checked() {
        assert_eq!(label("a=b=c").unwrap(), ("a".into(), "b=c".into()));
        assert_eq!(label("a").unwrap(), ("a".into(), String::new()));
        assert!(label("=b").is_err() && label("").is_err());
        assert_eq!((mode("644").unwrap(), mode("04755").unwrap()), (0o644, 0o4755));
        for text in ["", "8", "10000", "-1", "+644", "rw"] {
            assert!(mode(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_colon_means_a_vessel_unless_a_path_comes_first() {
        let vessel = |id: &str, path: &str| Place::Vessel { id: id.into(), path: path.into() };
        for (text, place) in [
            ("abc:/work/", vessel("abc", "/work/")),
            ("abc:", vessel("abc", "")),
            ("a.b-c_1:x:y", vessel("a.b-c_1", "x:y")),
            ("./a:b", Place::Host("./a:b".into())),
            ("/a:b", Place::Host("/a:b".into())),
            (":b", Place::Host(":b".into())),
            ("plain", Place::Host("plain".into())),
            ("-", Place::Stream),
            ("./-", Place::Host("./-".into())),
        ] {
            assert_eq!(Place::parse(OsStr::new(text)), place, "{text}");
        }
    }

    #[test]
    fn names_cannot_command_a_terminal() {
        assert_eq!(printable(b"a\x1b[31m\nb\xff"), "a\\u{1b}[31m\\nb\\xff");
        assert_eq!(printable("grün \u{202e}x".as_bytes()), "grün \\u{202e}x");
    }
}
