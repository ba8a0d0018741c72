//! Sizes as people type them.
#![forbid(unsafe_code)]

/// A number of bytes in powers of 1024: `4096`, `64k`, `512m`, `512MiB`, `2g`, `1t`, in upper or lower case. `None` where
/// it is no such thing, or above the range of `off_t`.
#[must_use]
pub fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    let number: u64 = number.parse().ok()?;
    number.checked_mul(1 << shift).filter(|bytes| i64::try_from(*bytes).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_of_1024_and_limits() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("4096", Some(4096)),
            ("64k", Some(64 << 10)),
            ("512MiB", Some(512 << 20)),
            ("2G", Some(2 << 30)),
            ("1tb", Some(1 << 40)),
            ("7b", Some(7)),
            ("9223372036854775807", Some(i64::MAX as u64)),
            ("9223372036854775808", None),
            ("8388608t", None),
            ("99999999999999999999", None),
            ("", None),
            ("m", None),
            ("-1", None),
            ("1.5g", None),
            ("1 m", None),
            ("1x", None),
        ] {
            assert_eq!(parse_bytes(text), bytes, "{text:?}");
        }
    }
}
