//! Where the state is, and what the environment says about it.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The state directory that the environment asks for: `AGENT_STATE_DIR`, or the first of these that can be had: `/var/lib/agent`,
/// `agent` in `$XDG_CONFIG_HOME` or `~/.config`, `~/.agent`, `agent` in the temporary directory.
#[must_use]
pub fn default_state_dir() -> PathBuf {
    let variable = |name: &str| std::env::var_os(name);
    let candidates = candidates(variable, std::env::home_dir(), &std::env::temp_dir());
    let last = candidates.last().cloned().unwrap_or_default();
    candidates.into_iter().find(|dir| is_ours(dir)).unwrap_or(last)
}

/// In the order in which they are tried; one that was asked for is the only one.
fn candidates(
    variable: impl Fn(&str) -> Option<OsString>,
    home: Option<PathBuf>,
    temporary: &Path,
) -> Vec<PathBuf> {
    let asked = variable("AGENT_STATE_DIR").map(|dir| PathBuf::from(trimmed(dir)));
    if let Some(dir) = asked.filter(|dir| !dir.as_os_str().is_empty()) {
        return vec![dir];
    }
    let config = variable("XDG_CONFIG_HOME").map(PathBuf::from).filter(|dir| dir.is_absolute());
    let config = config.or_else(|| home.as_ref().map(|home| home.join(".config")));
    let mut dirs = vec![PathBuf::from("/var/lib/agent")];
    dirs.extend(config.map(|dir| dir.join("agent")));
    dirs.extend(home.map(|home| home.join(".agent")));
    dirs.push(temporary.join("agent"));
    dirs
}

fn trimmed(text: OsString) -> OsString {
    text.to_str().map(|text| text.trim().into()).unwrap_or(text)
}

/// It is a directory, or can be made one, in which this user may make files.
fn is_ours(dir: &Path) -> bool {
    std::fs::create_dir_all(dir).is_ok() && rustix::fs::access(dir, rustix::fs::Access::WRITE_OK).is_ok()
}

/// Whether `AGENT_ENABLE_GUEST_VOLUMES` asks for `/in` and `/out` to be directories of this host: `1`, `t`, `true` in any of the
/// spellings of Go's `strconv.ParseBool`.
#[must_use]
pub fn guest_volumes_enabled() -> bool {
    std::env::var("AGENT_ENABLE_GUEST_VOLUMES").is_ok_and(|text| is_true(&text))
}

fn is_true(text: &str) -> bool {
    matches!(text.trim(), "1" | "t" | "T" | "true" | "TRUE" | "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_tried_in_the_documented_order() {
        let found = |variables: &[(&str, &str)]| {
            let variable = |name: &str| {
                variables.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
            };
            let dirs = candidates(variable, Some("/home/u".into()), Path::new("/tmp"));
            dirs.into_iter().map(|dir| dir.to_string_lossy().into_owned()).collect::<Vec<_>>()
        };
        assert_eq!(found(&[("AGENT_STATE_DIR", " /s "), ("XDG_CONFIG_HOME", "/c")]), ["/s"]);
        assert_eq!(
            found(&[("AGENT_STATE_DIR", " ")]),
            ["/var/lib/agent", "/home/u/.config/agent", "/home/u/.agent", "/tmp/agent"]
        );
        assert_eq!(found(&[("XDG_CONFIG_HOME", "/c")])[1], "/c/agent");
    }

    #[test]
    fn truth_is_spelled_as_in_go() {
        for text in ["1", "t", "T", "true", "TRUE", "True", " true "] {
            assert!(is_true(text));
        }
        for text in ["", "0", "yes", "tRUE", "on"] {
            assert!(!is_true(text));
        }
    }
}
