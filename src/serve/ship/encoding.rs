//! Text in the encodings that Python has names for, as far as they are used for files. Source: Python's library reference,
//! codecs, "Standard Encodings".
#![forbid(unsafe_code)]

/// An encoding of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Utf8,
    /// With a mark at the beginning, which is no text.
    Utf8Marked,
    Ascii,
    Latin1,
    Utf16 {
        big: bool,
    },
    /// With a mark that tells which end is first.
    Utf16Marked,
}

impl Encoding {
    /// # Errors
    /// What Python says of a name that it does not know.
    pub(super) fn named(name: &str) -> Result<Self, String> {
        match name.to_ascii_lowercase().replace(['_', ' '], "-").as_str() {
            "utf-8" | "utf8" | "u8" => Ok(Self::Utf8),
            "utf-8-sig" => Ok(Self::Utf8Marked),
            "ascii" | "us-ascii" | "646" => Ok(Self::Ascii),
            "latin-1" | "latin1" | "iso-8859-1" | "iso8859-1" | "8859" | "cp819" | "l1" => Ok(Self::Latin1),
            "utf-16" | "utf16" | "u16" => Ok(Self::Utf16Marked),
            "utf-16-le" | "utf-16le" => Ok(Self::Utf16 { big: false }),
            "utf-16-be" | "utf-16be" => Ok(Self::Utf16 { big: true }),
            _ => Err(format!("unknown encoding: {name}")),
        }
    }

    /// # Errors
    /// Where the bytes are no text of this encoding.
    pub(super) fn decode(self, bytes: &[u8]) -> Result<String, String> {
        match self {
            Self::Utf8 => utf8(bytes),
            Self::Utf8Marked => utf8(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)),
            Self::Ascii => match bytes.iter().position(|byte| !byte.is_ascii()) {
                Some(at) => Err(no_text("ascii", at)),
                None => utf8(bytes),
            },
            Self::Latin1 => Ok(bytes.iter().copied().map(char::from).collect()),
            Self::Utf16 { big } => utf16(bytes, big),
            Self::Utf16Marked => match bytes {
                [0xfe, 0xff, rest @ ..] => utf16(rest, true),
                [0xff, 0xfe, rest @ ..] => utf16(rest, false),
                all => utf16(all, false),
            },
        }
    }

    /// # Errors
    /// Which character this encoding does not have.
    pub(super) fn encode(self, text: &str) -> Result<Vec<u8>, String> {
        match self {
            Self::Utf8 => Ok(text.as_bytes().to_vec()),
            Self::Utf8Marked => Ok([b"\xef\xbb\xbf", text.as_bytes()].concat()),
            Self::Ascii => bytes(text, "ascii", 0x7f),
            Self::Latin1 => bytes(text, "latin-1", 0xff),
            Self::Utf16 { big } => Ok(units(text, big)),
            Self::Utf16Marked => Ok([vec![0xff, 0xfe], units(text, false)].concat()),
        }
    }
}

fn utf8(bytes: &[u8]) -> Result<String, String> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(error) => Err(no_text("utf-8", error.valid_up_to())),
    }
}

fn utf16(bytes: &[u8], big: bool) -> Result<String, String> {
    let (pairs, rest) = bytes.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(no_text("utf-16", bytes.len() - 1));
    }
    let unit = |pair: &[u8; 2]| if big { u16::from_be_bytes(*pair) } else { u16::from_le_bytes(*pair) };
    char::decode_utf16(pairs.iter().map(unit))
        .enumerate()
        .map(|(at, c)| c.map_err(|_| no_text("utf-16", 2 * at)))
        .collect()
}

fn no_text(encoding: &str, at: usize) -> String {
    format!("'{encoding}' codec can't decode what is at position {at}")
}

fn bytes(text: &str, encoding: &str, most: u32) -> Result<Vec<u8>, String> {
    let byte = |(at, c): (usize, char)| {
        let byte = u8::try_from(u32::from(c)).ok().filter(|byte| u32::from(*byte) <= most);
        byte.ok_or_else(|| format!("'{encoding}' codec can't encode character {c:?} in position {at}"))
    };
    text.chars().enumerate().map(byte).collect()
}

fn units(text: &str, big: bool) -> Vec<u8> {
    text.encode_utf16().flat_map(|unit| if big { unit.to_be_bytes() } else { unit.to_le_bytes() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_comes_back_from_every_encoding_that_has_it() {
        for (name, text, length) in [
            ("utf-8", "aé\u{1f600}", 7),
            ("UTF8", "x", 1),
            ("utf_8_sig", "é", 5),
            ("latin-1", "aé", 2),
            ("ISO-8859-1", "ÿ", 1),
            ("ascii", "a\n", 2),
            ("utf-16", "é\u{1f600}", 8),
            ("utf-16-be", "é", 2),
        ] {
            let encoding = Encoding::named(name).unwrap();
            let bytes = encoding.encode(text).unwrap();
            assert_eq!((bytes.len(), encoding.decode(&bytes).unwrap().as_str()), (length, text), "{name}");
        }
    }

    #[test]
    fn what_an_encoding_does_not_have_is_refused() {
        assert_eq!(Encoding::named("klingon").unwrap_err(), "unknown encoding: klingon");
        assert!(Encoding::Utf8.decode(b"ab\xff").unwrap_err().ends_with("position 2"));
        assert!(Encoding::Ascii.decode(b"\x80").is_err() && Encoding::Ascii.encode("é").is_err());
        assert!(Encoding::Latin1.encode("a\u{20ac}").unwrap_err().contains("position 1"));
        assert!(Encoding::Utf16 { big: false }.decode(b"a").is_err());
        assert!(Encoding::Utf16 { big: true }.decode(b"\xd8\x00").is_err());
    }
}
