//! Values on the command lines of processes: signals, sizes, times. Pure.
#![forbid(unsafe_code)]

use std::str::FromStr;

use nix::sys::signal::Signal;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::cli::values::duration;

/// The least that a log can be limited to, in bytes.
const LEAST: u64 = 4 << 10;
/// The last real-time signal (signal(7)).
const LAST_SIGNAL: i32 = 64;

/// A signal by name, with or without SIG, or by number.
///
/// # Errors
/// A text for the user.
pub(crate) fn signal(text: &str) -> Result<i32, String> {
    let wrong = || format!("{text:?} is not a signal such as TERM, SIGINT or 9");
    if let Ok(number) = text.parse::<i32>() {
        return Some(number).filter(|n| (1..=LAST_SIGNAL).contains(n)).ok_or_else(wrong);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    Signal::from_str(&format!("SIG{name}")).map(|signal| signal as i32).map_err(|_| wrong())
}

/// The name of a signal.
pub(crate) fn signal_name(number: i32) -> String {
    Signal::try_from(number).map_or_else(|_| number.to_string(), |signal| signal.as_str().to_owned())
}

/// How much of a log is kept: bytes, with `k`, `m` or `g` for powers of 1024.
///
/// # Errors
/// A text for the user.
pub(crate) fn log_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a size such as 512k or 64m, of 4k at least");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).filter(|bytes| *bytes >= LEAST).ok_or_else(wrong)
}

/// A time: how long ago it was, such as `10m`, or a date and time of RFC 3339.
///
/// # Errors
/// A text for the user.
pub(crate) fn since(text: &str) -> Result<OffsetDateTime, String> {
    if let Ok(ago) = duration(text) {
        let then =
            time::Duration::try_from(ago).ok().and_then(|ago| OffsetDateTime::now_utc().checked_sub(ago));
        return Ok(then.unwrap_or(OffsetDateTime::UNIX_EPOCH));
    }
    OffsetDateTime::parse(text, &Rfc3339).map_err(|_| {
        format!("{text:?} is neither a duration such as 10m nor a time such as 2026-01-31T12:00:00Z")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, number) in
            [("TERM", 15), ("term", 15), ("SIGKILL", 9), ("sigusr1", 10), ("2", 2), ("64", 64)]
        {
            assert_eq!(signal(text), Ok(number), "{text}");
        }
        for text in ["", "SIG", "0", "65", "-9", "NONE", "SIGSIGTERM"] {
            assert!(signal(text).is_err(), "{text}");
        }
        assert_eq!((signal_name(9).as_str(), signal_name(40).as_str()), ("SIGKILL", "40"));
    }

    #[test]
    fn sizes_have_units_and_a_least() {
        for (text, bytes) in [("4096", 4096), ("4k", 4096), ("64M", 64 << 20), ("1g", 1 << 30)] {
            assert_eq!(log_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "k", "1", "4095", "3k", "-4k", "4kb", "1.5m", "99999999999999999999", "17179869184g"]
        {
            assert!(log_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_relative_or_absolute() {
        let ago = OffsetDateTime::now_utc() - since("10m").unwrap();
        assert!((599..=601).contains(&ago.whole_seconds()));
        assert_eq!(since("1970-01-01T00:01:00Z").unwrap().unix_timestamp(), 60);
        assert_eq!(since("1970-01-01T01:01:00+01:00").unwrap().unix_timestamp(), 60);
        assert!(since("5000000000h").is_ok());
        for text in ["", "yesterday", "1970-01-01"] {
            assert!(since(text).is_err(), "{text}");
        }
    }
}
