//! Numbers and times as tar writes them.
#![forbid(unsafe_code)]

/// Why a field of a header or a PAX record is malformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// Not the digits that the field must have.
    #[error("not a number")]
    NotANumber,
    /// Too large for 63 bits.
    #[error("the number is too large")]
    Overflow,
    /// A negative number where there can be none.
    #[error("the number is negative")]
    Negative,
}

/// A modification time: seconds since the epoch (may be negative) and the nanoseconds after them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Mtime {
    pub(crate) seconds: i64,
    pub(crate) nanos: u32,
}

/// A numeric header field: octal digits padded by spaces and NULs, or GNU's base-256 (high bit of the first byte).
pub(crate) fn header_number(field: &[u8]) -> Result<i64, FieldError> {
    match field.first() {
        Some(first) if first & 0x80 != 0 => base256(field),
        _ => octal(field),
    }
}

/// [`header_number`] where a negative number makes no sense.
pub(crate) fn header_unsigned(field: &[u8]) -> Result<u64, FieldError> {
    u64::try_from(header_number(field)?).map_err(|_| FieldError::Negative)
}

fn octal(field: &[u8]) -> Result<i64, FieldError> {
    let start = field.iter().position(|b| !matches!(b, b' ' | 0)).unwrap_or(field.len());
    let digits = &field[start..];
    let end = digits.iter().position(|b| matches!(b, b' ' | 0)).unwrap_or(digits.len());
    if digits[end..].iter().any(|b| !matches!(b, b' ' | 0)) {
        return Err(FieldError::NotANumber);
    }
    let mut value: i64 = 0;
    for &digit in &digits[..end] {
        if !(b'0'..=b'7').contains(&digit) {
            return Err(FieldError::NotANumber);
        }
        let shifted = value.checked_mul(8).ok_or(FieldError::Overflow)?;
        value = shifted | i64::from(digit - b'0');
    }
    Ok(value)
}

/// Two's complement, big-endian, in all bits but the first.
fn base256(field: &[u8]) -> Result<i64, FieldError> {
    let negative = field[0] & 0x40 != 0;
    let mut value: i128 = if negative { -1 } else { 0 };
    for (at, &byte) in field.iter().enumerate() {
        let byte = match (at, negative) {
            (0, true) => byte | 0x80,
            (0, false) => byte & 0x7f,
            _ => byte,
        };
        value = value.checked_mul(256).ok_or(FieldError::Overflow)? | i128::from(byte);
    }
    i64::try_from(value).map_err(|_| FieldError::Overflow)
}

/// A decimal number: digits only, no sign, no blanks.
pub(crate) fn decimal(text: &[u8]) -> Result<u64, FieldError> {
    if text.is_empty() {
        return Err(FieldError::NotANumber);
    }
    let mut value: u64 = 0;
    for &digit in text {
        if !digit.is_ascii_digit() {
            return Err(FieldError::NotANumber);
        }
        let shifted = value.checked_mul(10).ok_or(FieldError::Overflow)?;
        value = shifted.checked_add(u64::from(digit - b'0')).ok_or(FieldError::Overflow)?;
    }
    if value > i64::MAX as u64 { Err(FieldError::Overflow) } else { Ok(value) }
}

/// A PAX time: `-`? digits (`.` digits)?. Digits after the ninth are dropped, towards the past as the kernel does.
pub(crate) fn pax_time(text: &[u8]) -> Result<Mtime, FieldError> {
    let (negative, rest) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = match rest.iter().position(|&b| b == b'.') {
        Some(at) => (&rest[..at], &rest[at + 1..]),
        None => (rest, &b""[..]),
    };
    let seconds = i64::try_from(decimal(whole)?).map_err(|_| FieldError::Overflow)?;
    let (nanos, dropped) = fraction_nanos(fraction)?;
    if !negative {
        return Ok(Mtime { seconds, nanos });
    }
    let up = nanos + u32::from(dropped);
    match up {
        0 => Ok(Mtime { seconds: -seconds, nanos: 0 }),
        up => Ok(Mtime { seconds: -seconds - 1, nanos: 1_000_000_000 - up }),
    }
}

/// The nanoseconds of a decimal fraction, and whether anything smaller was cut off.
fn fraction_nanos(digits: &[u8]) -> Result<(u32, bool), FieldError> {
    if !digits.iter().all(u8::is_ascii_digit) {
        return Err(FieldError::NotANumber);
    }
    let mut nanos = 0;
    for at in 0..9 {
        nanos = nanos * 10 + u32::from(digits.get(at).map_or(0, |d| d - b'0'));
    }
    Ok((nanos, digits.iter().skip(9).any(|&d| d != b'0')))
}

/// A time as a PAX value, the shortest that reads back equal.
pub(crate) fn pax_time_text(time: Mtime) -> String {
    let (sign, whole, nanos) = match (time.seconds < 0, time.nanos) {
        (false, nanos) => ("", time.seconds.unsigned_abs(), nanos),
        (true, 0) => ("-", time.seconds.unsigned_abs(), 0),
        (true, nanos) => ("-", time.seconds.unsigned_abs() - 1, 1_000_000_000 - nanos),
    };
    if nanos == 0 {
        return format!("{sign}{whole}");
    }
    format!("{sign}{whole}.{nanos:09}").trim_end_matches('0').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octal_fields_as_real_writers_pad_them() {
        for (field, value) in [
            (&b"0000644\0"[..], 0o644),
            (b"   644 \0", 0o644),
            (b"\0\0\0", 0),
            (b"77777777777 ", 0o77777777777),
        ] {
            assert_eq!(header_number(field), Ok(value));
        }
        for field in [&b"12x4567\0"[..], b"0000 12\0", b"-000001\0", b"+000001\0", b"0x10000\0", b"9999999\0"]
        {
            assert_eq!(header_number(field), Err(FieldError::NotANumber), "{field:?}");
        }
    }

    #[test]
    fn base256_fields_may_be_negative_and_may_overflow() {
        let mut field = [0u8; 12];
        field[0] = 0x80;
        field[11] = 7;
        assert_eq!(header_number(&field), Ok(7));
        assert_eq!(header_number(&[0xff; 12]), Ok(-1));
        assert_eq!(header_unsigned(&[0xff; 12]), Err(FieldError::Negative));
        field[1] = 1;
        assert_eq!(header_number(&field), Err(FieldError::Overflow));
    }

    #[test]
    fn pax_times_read_and_write_alike() {
        for (text, seconds, nanos) in [
            ("0", 0, 0),
            ("1.5", 1, 500_000_000),
            ("-1.5", -2, 500_000_000),
            ("-1", -1, 0),
            ("-0.000000001", -1, 999_999_999),
            ("17179869184.000000001", 1 << 34, 1),
        ] {
            let time = Mtime { seconds, nanos };
            assert_eq!(pax_time(text.as_bytes()), Ok(time), "{text}");
            assert_eq!(pax_time_text(time), text);
        }
        assert_eq!(pax_time(b"1.0000000019"), Ok(Mtime { seconds: 1, nanos: 1 }));
        assert_eq!(pax_time(b"-1.0000000019"), Ok(Mtime { seconds: -2, nanos: 999_999_998 }));
    }

    #[test]
    fn bad_pax_times_are_refused() {
        for text in ["", "-", "1e9", "NaN", "+1", " 1", "1.x", "0x1", "--1", "9223372036854775808"] {
            assert!(pax_time(text.as_bytes()).is_err(), "{text}");
        }
    }
}
