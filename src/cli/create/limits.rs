//! Flags for limits, and how their values are typed.
#![forbid(unsafe_code)]

use std::time::Duration;

use clap::Args;
use vesselrt::settings::{Limits, parse_bytes};

/// Limits of a command, or of all commands of a vessel together.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub(in crate::cli) struct CommandLimits {
    /// Processors that may be used, such as 1.5
    #[arg(help_heading = "Limits", long, value_name = "N", value_parser = cpus)]
    cpus: Option<u32>,
    /// Memory that may be used, such as 512m, 2g; what takes more is killed
    #[arg(help_heading = "Limits", long, value_name = "SIZE", value_parser = bytes)]
    memory: Option<u64>,
    /// Processes and threads that there may be
    #[arg(help_heading = "Limits", long, value_name = "N")]
    pids: Option<u32>,
    /// Files that each process may have open
    #[arg(help_heading = "Limits", long, value_name = "N")]
    nofile: Option<u64>,
    /// Where control groups cannot be had, take what holds for single processes instead of an error
    #[arg(help_heading = "Limits", long)]
    best_effort: bool,
}

/// Limits of a vessel.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub(in crate::cli) struct VesselLimits {
    #[command(flatten)]
    command: CommandLimits,
    /// What may be written, such as 2g; commands that write more are killed
    #[arg(help_heading = "Limits", long, value_name = "SIZE", value_parser = bytes)]
    disk: Option<u64>,
}

impl CommandLimits {
    /// As the library takes them.
    pub(in crate::cli) fn limits(&self) -> Limits {
        let mut limits = Limits::new().best_effort(self.best_effort);
        limits.milli_cpus = self.cpus;
        limits.memory = self.memory;
        limits.pids = self.pids;
        limits.nofile = self.nofile;
        limits
    }
}

impl VesselLimits {
    /// As the library takes them.
    pub(in crate::cli) fn limits(&self) -> Limits {
        let mut limits = self.command.limits();
        limits.disk = self.disk;
        limits
    }
}

/// A limit to change: to this, or to none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Asked<T> {
    Set(T),
    Nothing,
}

impl<T: Copy> Asked<T> {
    /// Changes `limit`, if that was asked for.
    pub(in crate::cli) fn change(asked: Option<Self>, limit: &mut Option<T>) {
        match asked {
            Some(Self::Set(value)) => *limit = Some(value),
            Some(Self::Nothing) => *limit = None,
            None => {}
        }
    }
}

/// `none` takes a limit away.
///
/// # Errors
/// That of `parse`.
pub(in crate::cli) fn or_none<T>(
    text: &str,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<Asked<T>, String> {
    if text == "none" { Ok(Asked::Nothing) } else { parse(text).map(Asked::Set) }
}

/// A number of bytes, in powers of 1024: `4096`, `64k`, `512m`, `512MiB`, `2g`, `1t`.
///
/// # Errors
/// A text for the user.
pub(in crate::cli) fn bytes(text: &str) -> Result<u64, String> {
    parse_bytes(text).ok_or_else(|| format!("{text:?} is not a size such as 65536, 64k, 512m or 2g"))
}

/// Processors in thousandths: `2`, `1.5`, `0.125`.
///
/// # Errors
/// A text for the user.
pub(in crate::cli) fn cpus(text: &str) -> Result<u32, String> {
    let wrong = || format!("{text:?} is not a number of processors such as 2, 1.5 or 0.25");
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(part) || part.len() > 3 {
        return Err(wrong());
    }
    let whole: u32 = whole.parse().map_err(|_| wrong())?;
    let part: u32 = format!("{part:0<3}").parse().map_err(|_| wrong())?;
    whole.checked_mul(1000).and_then(|whole| whole.checked_add(part)).ok_or_else(wrong)
}

/// Processors as they are typed.
pub(in crate::cli) fn shown_cpus(milli_cpus: u32) -> String {
    let (whole, part) = (milli_cpus / 1000, format!("{:03}", milli_cpus % 1000));
    match part.trim_end_matches('0') {
        "" => whole.to_string(),
        part => format!("{whole}.{part}"),
    }
}

/// A size as it is typed: `512m` where it is that exactly.
pub(in crate::cli) fn shown_bytes(bytes: u64) -> String {
    let unit = [("t", 40), ("g", 30), ("m", 20), ("k", 10)]
        .into_iter()
        .find(|(_, shift)| bytes >> shift > 0 && bytes.trailing_zeros() >= *shift);
    match unit {
        Some((unit, shift)) => format!("{}{unit}", bytes >> shift),
        None => bytes.to_string(),
    }
}

/// One line for each limit that there is: its name, and its value as people read it.
pub(in crate::cli) fn listed(limits: &Limits) -> Vec<(&'static str, String)> {
    let time = |millis: u64| format!("{:?}", Duration::from_millis(millis));
    let lines = [
        ("cpus", limits.milli_cpus.map(shown_cpus)),
        ("memory", limits.memory.map(shown_bytes)),
        ("pids", limits.pids.map(|count| count.to_string())),
        ("disk", limits.disk.map(shown_bytes)),
        ("nofile", limits.nofile.map(|count| count.to_string())),
        ("timeout", limits.timeout_ms.map(time)),
    ];
    lines.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

/// Limits as JSON: numbers, and `null` for what is not limited.
pub(in crate::cli) fn to_json(limits: &Limits) -> serde_json::Value {
    serde_json::json!({
        "cpus": limits.milli_cpus.map(|cpus| f64::from(cpus) / 1000.0),
        "memory": limits.memory,
        "pids": limits.pids,
        "disk": limits.disk,
        "nofile": limits.nofile,
        "timeoutMs": limits.timeout_ms,
        "bestEffort": limits.best_effort,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_units() {
        for (text, value) in [
            ("0", 0),
            ("4096", 4096),
            ("64k", 65536),
            ("512m", 512 << 20),
            ("2G", 2 << 30),
            ("1TiB", 1 << 40),
        ] {
            assert_eq!(bytes(text), Ok(value), "{text}");
        }
        for text in ["", "m", "-1", "1.5g", "1x", "1 m", "8388608t", "18446744073709551616"] {
            assert!(bytes(text).is_err(), "{text}");
        }
        for text in ["0", "1", "1023", "1025", "1500k", "64k", "512m", "1536m", "2g", "3t"] {
            assert_eq!(shown_bytes(bytes(text).unwrap()), text);
        }
        assert_eq!(shown_bytes(1 << 20), "1m");
    }

    #[test]
    fn processors_have_three_decimals_at_most() {
        for (text, value) in [("2", 2000), ("1.5", 1500), ("0.25", 250), ("0.125", 125), ("10.05", 10050)] {
            assert_eq!(cpus(text), Ok(value), "{text}");
            assert_eq!(shown_cpus(value), text);
        }
        for text in ["", ".5", "1.", "1.2345", "-1", "+1", "1e3", "4294968"] {
            assert!(cpus(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_limit_is_set_taken_away_or_left() {
        let mut limit = Some(1);
        Asked::change(None, &mut limit);
        assert_eq!(limit, Some(1));
        Asked::change(Some(or_none("2k", bytes).unwrap()), &mut limit);
        assert_eq!(limit, Some(2048));
        Asked::change(Some(or_none("none", bytes).unwrap()), &mut limit);
        assert_eq!(limit, None);
        assert!(or_none("nothing", bytes).is_err());
    }
}
