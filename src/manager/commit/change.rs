//! Changes to an image's configuration, written as in a Dockerfile.
//!
//! Source: docker's Dockerfile reference (ENV, WORKDIR, USER, CMD, ENTRYPOINT, LABEL, EXPOSE, VOLUME, STOPSIGNAL);
//! image-spec config.md for where they go.
#![forbid(unsafe_code)]

use serde_json::{Map, Value, json};
use thiserror::Error;

/// The `config` object of an image configuration.
pub(super) type Config = Map<String, Value>;

/// What is understood.
const KNOWN: &str = "ENV, WORKDIR, USER, CMD, ENTRYPOINT, LABEL, EXPOSE, VOLUME, STOPSIGNAL";

/// Why an instruction is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum ChangeError {
    #[error("{0:?} is not one of {KNOWN}")]
    Unknown(String),
    #[error("{0} needs an argument")]
    Empty(&'static str),
    #[error("{0:?} is not KEY=VALUE")]
    NoPair(String),
    #[error("a quote is not closed")]
    Quote,
    #[error("a variable is not written as $NAME or ${{NAME}}")]
    Variable,
    #[error("{0:?} is not a port, a range of ports, or one with /tcp, /udp or /sctp")]
    Port(String),
    #[error("{0:?} is not a path that begins with a slash")]
    Path(String),
    #[error("{0:?} is not a signal")]
    Signal(String),
    #[error("{0} takes one argument")]
    TooMany(&'static str),
}

type Result<T, E = ChangeError> = std::result::Result<T, E>;

/// Applies one instruction.
pub(super) fn apply(config: &mut Config, instruction: &str) -> Result<()> {
    let instruction = instruction.trim();
    let (keyword, rest) = instruction.split_once(char::is_whitespace).unwrap_or((instruction, ""));
    let rest = rest.trim();
    match keyword.to_ascii_uppercase().as_str() {
        "ENV" => env(config, rest),
        "LABEL" => label(config, rest),
        "WORKDIR" => work_dir(config, rest),
        "USER" => set(config, "User", one(config, "USER", rest)?.into()),
        "CMD" => set(config, "Cmd", command("CMD", rest)?),
        "ENTRYPOINT" => set(config, "Entrypoint", command("ENTRYPOINT", rest)?),
        "EXPOSE" => expose(config, rest),
        "VOLUME" => volume(config, rest),
        "STOPSIGNAL" => stop_signal(config, rest),
        _ => Err(ChangeError::Unknown(keyword.to_owned())),
    }
}

/// Whether an instruction sets the entry point without the command: the command of the base was meant for another
/// one, and goes.
pub(super) fn drops_command(instructions: &[String]) -> bool {
    let has = |keyword: &str| {
        instructions.iter().any(|text| {
            text.split_whitespace().next().is_some_and(|first| first.eq_ignore_ascii_case(keyword))
        })
    };
    has("ENTRYPOINT") && !has("CMD")
}

fn set(config: &mut Config, key: &str, value: Value) -> Result<()> {
    config.insert(key.to_owned(), value);
    Ok(())
}

/// The one word of an instruction.
fn one(config: &Config, keyword: &'static str, rest: &str) -> Result<String> {
    let mut words = words(config, rest)?;
    match (words.len(), words.pop()) {
        (1, Some(word)) if !word.is_empty() => Ok(word),
        (0 | 1, _) => Err(ChangeError::Empty(keyword)),
        _ => Err(ChangeError::TooMany(keyword)),
    }
}

fn env(config: &mut Config, rest: &str) -> Result<()> {
    for (key, value) in pairs(config, "ENV", rest)? {
        let entry = Value::String(format!("{key}={value}"));
        let list = config.entry("Env").or_insert_with(|| json!([]));
        if !list.is_array() {
            *list = json!([]);
        }
        let list = list.as_array_mut().expect("it was made one");
        let prefix = format!("{key}=");
        match list.iter_mut().find(|old| old.as_str().is_some_and(|old| old.starts_with(&prefix))) {
            Some(old) => *old = entry,
            None => list.push(entry),
        }
    }
    Ok(())
}

fn label(config: &mut Config, rest: &str) -> Result<()> {
    for (key, value) in pairs(config, "LABEL", rest)? {
        object(config, "Labels").insert(key, Value::String(value));
    }
    Ok(())
}

/// `K=V K2="a b"`, or the old form `K the rest`.
fn pairs(config: &Config, keyword: &'static str, rest: &str) -> Result<Vec<(String, String)>> {
    let first = rest.split_whitespace().next().ok_or(ChangeError::Empty(keyword))?;
    if !first.contains('=') {
        let value = rest[first.len()..].trim_start();
        if value.is_empty() {
            return Err(ChangeError::NoPair(first.to_owned()));
        }
        return Ok(vec![(first.to_owned(), words(config, value)?.join(" "))]);
    }
    let pair = |word: String| match word.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(ChangeError::NoPair(word)),
    };
    words(config, rest)?.into_iter().map(pair).collect()
}

/// A relative one goes on from the one there is.
fn work_dir(config: &mut Config, rest: &str) -> Result<()> {
    let dir = one(config, "WORKDIR", rest)?;
    let before = config.get("WorkingDir").and_then(Value::as_str).unwrap_or_default();
    let joined = if dir.starts_with('/') { dir } else { format!("{before}/{dir}") };
    let mut parts: Vec<&str> = Vec::new();
    for part in joined.split('/') {
        match part {
            "" | "." => {}
            ".." => _ = parts.pop(),
            part => parts.push(part),
        }
    }
    let clean = format!("/{}", parts.join("/"));
    set(config, "WorkingDir", clean.into())
}

/// A JSON array is the command itself, anything else a line for the shell.
fn command(keyword: &'static str, rest: &str) -> Result<Value> {
    if rest.is_empty() {
        return Err(ChangeError::Empty(keyword));
    }
    match serde_json::from_str::<Vec<String>>(rest) {
        Ok(words) => Ok(json!(words)),
        Err(_) => Ok(json!(["/bin/sh", "-c", rest])),
    }
}

fn expose(config: &mut Config, rest: &str) -> Result<()> {
    let words = words(config, rest)?;
    if words.is_empty() {
        return Err(ChangeError::Empty("EXPOSE"));
    }
    for word in words {
        let (ports, protocol) = word.split_once('/').unwrap_or((&word, "tcp"));
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            text.parse::<u16>().ok().filter(|&port| digits && port > 0)
        };
        let protocol = protocol.to_ascii_lowercase();
        let (Some(first), Some(last), "tcp" | "udp" | "sctp") =
            (number(first), number(last), protocol.as_str())
        else {
            return Err(ChangeError::Port(word));
        };
        if first > last {
            return Err(ChangeError::Port(word));
        }
        for port in first..=last {
            object(config, "ExposedPorts").insert(format!("{port}/{protocol}"), json!({}));
        }
    }
    Ok(())
}

fn volume(config: &mut Config, rest: &str) -> Result<()> {
    let paths = match serde_json::from_str::<Vec<String>>(rest) {
        Ok(paths) => paths,
        Err(_) => words(config, rest)?,
    };
    if paths.is_empty() {
        return Err(ChangeError::Empty("VOLUME"));
    }
    for path in paths {
        if !path.starts_with('/') {
            return Err(ChangeError::Path(path));
        }
        object(config, "Volumes").insert(path, json!({}));
    }
    Ok(())
}

fn stop_signal(config: &mut Config, rest: &str) -> Result<()> {
    let signal = one(config, "STOPSIGNAL", rest)?;
    let number = signal.parse::<u8>().is_ok_and(|number| (1..=64).contains(&number));
    let name = signal.strip_prefix("SIG").is_some_and(|name| {
        !name.is_empty()
            && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b"+-".contains(&b))
    });
    if number || name { set(config, "StopSignal", signal.into()) } else { Err(ChangeError::Signal(signal)) }
}

/// A member that is an object; what docker writes for an empty one (`null`) is replaced.
fn object<'a>(config: &'a mut Config, key: &str) -> &'a mut Map<String, Value> {
    let value = config.entry(key).or_insert_with(|| json!({}));
    if !value.is_object() {
        *value = json!({});
    }
    value.as_object_mut().expect("it was made one")
}

/// Words as a shell splits them: quotes, backslashes, and the variables of the image.
fn words(config: &Config, text: &str) -> Result<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            ('\'' | '"', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            ('\\', None) => word.get_or_insert_default().extend(chars.next()),
            // Within double quotes only some characters can be escaped (POSIX shell, 2.2.3).
            ('\\', Some('"')) if chars.peek().is_some_and(|next| "\"\\$".contains(*next)) => {
                word.get_or_insert_default().extend(chars.next());
            }
            ('$', None | Some('"')) => {
                let value = variable(config, &mut chars)?;
                word.get_or_insert_default().push_str(&value);
            }
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err(ChangeError::Quote);
    }
    words.extend(word);
    Ok(words)
}

/// The value of the variable whose name follows a dollar sign; nothing for one that is not set.
fn variable(config: &Config, chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<String> {
    let is_name = |c: &char| c.is_ascii_alphanumeric() || *c == '_';
    let braced = chars.next_if_eq(&'{').is_some();
    let name: String = std::iter::from_fn(|| chars.next_if(is_name)).collect();
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(ChangeError::Variable);
    }
    if braced && chars.next_if_eq(&'}').is_none() {
        return Err(ChangeError::Variable);
    }
    let entries = config.get("Env").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let value = entries.filter_map(|entry| entry.split_once('=')).find(|(key, _)| *key == name);
    Ok(value.map(|(_, value)| value.to_owned()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(instructions: &[&str]) -> Value {
        let mut config = Config::new();
        config.insert("Env".into(), json!(["PATH=/bin", "A=1"]));
        config.insert("WorkingDir".into(), json!("/srv"));
        for instruction in instructions {
            apply(&mut config, instruction).unwrap_or_else(|e| panic!("{instruction}: {e}"));
        }
        Value::Object(config)
    }

    #[test]
    fn each_instruction_goes_where_the_specification_has_it() {
        for (instruction, key, value) in [
            ("ENV B=2", "Env", json!(["PATH=/bin", "A=1", "B=2"])),
            ("env A=2 C='x y'", "Env", json!(["PATH=/bin", "A=2", "C=x y"])),
            ("ENV PATH=/opt:$PATH", "Env", json!(["PATH=/opt:/bin", "A=1"])),
            ("ENV D the old  form", "Env", json!(["PATH=/bin", "A=1", "D=the old form"])),
            ("WORKDIR /a/../b/", "WorkingDir", json!("/b")),
            ("WORKDIR sub", "WorkingDir", json!("/srv/sub")),
            ("USER 1000:50", "User", json!("1000:50")),
            ("CMD [\"a\", \"b c\"]", "Cmd", json!(["a", "b c"])),
            ("CMD echo $A", "Cmd", json!(["/bin/sh", "-c", "echo $A"])),
            ("ENTRYPOINT [\"/init\"]", "Entrypoint", json!(["/init"])),
            ("LABEL k=\"v w\" x=", "Labels", json!({"k": "v w", "x": ""})),
            (
                "EXPOSE 80 53/UDP 9-10",
                "ExposedPorts",
                json!({"80/tcp": {}, "53/udp": {}, "9/tcp": {}, "10/tcp": {}}),
            ),
            ("VOLUME /a /b", "Volumes", json!({"/a": {}, "/b": {}})),
            ("VOLUME [\"/a b\"]", "Volumes", json!({"/a b": {}})),
            ("STOPSIGNAL SIGRTMIN+3", "StopSignal", json!("SIGRTMIN+3")),
            ("STOPSIGNAL 9", "StopSignal", json!("9")),
        ] {
            assert_eq!(changed(&[instruction])[key], value, "{instruction}");
        }
    }

    #[test]
    fn words_are_split_as_a_shell_does() {
        let mut config = Config::new();
        config.insert("Env".into(), json!(["A=1"]));
        for (text, expected) in [
            ("a  b", &["a", "b"][..]),
            (r#""a b" 'c $A' "$A" ${A}x \$A"#, &["a b", "c $A", "1", "1x", "$A"]),
            (r#""say \"hi\" \n""#, &["say \"hi\" \\n"]),
            ("x$NONE", &["x"]),
            ("''", &[""]),
            ("", &[]),
        ] {
            assert_eq!(words(&config, text).unwrap(), expected, "{text}");
        }
        for text in ["'a", "\"a", "$", "${A", "$1"] {
            assert!(words(&config, text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for instruction in [
            "",
            "RUN true",
            "ENV",
            "ENV A",
            "ENV =x",
            "LABEL",
            "WORKDIR",
            "WORKDIR a b",
            "USER",
            "USER ''",
            "CMD",
            "ENTRYPOINT ",
            "EXPOSE",
            "EXPOSE 0",
            "EXPOSE 65536",
            "EXPOSE 1/icmp",
            "EXPOSE 2-1",
            "EXPOSE +1",
            "VOLUME",
            "VOLUME a",
            "STOPSIGNAL",
            "STOPSIGNAL 65",
            "STOPSIGNAL TERM",
            "ONBUILD RUN x",
        ] {
            assert!(apply(&mut Config::new(), instruction).is_err(), "{instruction}");
        }
    }

    #[test]
    fn an_entry_point_of_its_own_drops_the_command_of_the_base() {
        let list = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        assert!(drops_command(&list(&["entrypoint [\"x\"]"])));
        assert!(!drops_command(&list(&["ENTRYPOINT x", "CMD y"])));
        assert!(!drops_command(&list(&["ENV A=ENTRYPOINT"])));
    }
}
