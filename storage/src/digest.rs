//! [`Digest`]: the name of a blob by its content, and the hasher that makes one.
//!
//! Source: OCI image-spec, descriptor.md, "Digests".
#![forbid(unsafe_code)]

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256, Sha512};
use thiserror::Error;

/// A hash function that a digest may name. Blobs are stored under [`Algorithm::Sha256`] only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// SHA-256, 64 hexadecimal digits.
    Sha256,
    /// SHA-512, 128 hexadecimal digits.
    Sha512,
}

impl Algorithm {
    /// The name before the colon.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// How many hexadecimal digits follow the colon.
    #[must_use]
    pub fn hex_len(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

/// What is wrong with the text of a digest.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DigestError {
    /// There is no colon.
    #[error("it has no ':' between algorithm and value")]
    NoColon,
    /// The algorithm is not one of [`Algorithm`].
    #[error("its algorithm is neither sha256 nor sha512")]
    UnknownAlgorithm,
    /// The value has the wrong length.
    #[error("its value must have {expected} digits")]
    BadLength {
        /// The length that the algorithm demands.
        expected: usize,
    },
    /// The value has a character other than `0-9a-f`.
    #[error("its value may only have the digits 0-9 and a-f")]
    BadDigit,
}

/// A checked digest: `sha256:` and 64, or `sha512:` and 128, lower-case hexadecimal digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest {
    algorithm: Algorithm,
    hex: String,
}

impl Digest {
    /// Parses `algorithm:hex`.
    ///
    /// # Errors
    /// [`DigestError`] says which rule is broken.
    pub fn parse(text: &str) -> Result<Self, DigestError> {
        let (name, hex) = text.split_once(':').ok_or(DigestError::NoColon)?;
        let algorithm = match name {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            _ => return Err(DigestError::UnknownAlgorithm),
        };
        if hex.len() != algorithm.hex_len() {
            return Err(DigestError::BadLength { expected: algorithm.hex_len() });
        }
        if !hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return Err(DigestError::BadDigit);
        }
        Ok(Self { algorithm, hex: hex.to_owned() })
    }

    /// The SHA-256 digest of `bytes`.
    #[must_use]
    pub fn sha256(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(bytes);
        hasher.finish()
    }

    /// The hash function.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The value: safe as a file name.
    #[must_use]
    pub fn hex(&self) -> &str {
        &self.hex
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.as_str(), self.hex)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;
    fn from_str(text: &str) -> Result<Self, DigestError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;
    fn try_from(text: String) -> Result<Self, DigestError> {
        Self::parse(&text)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// A running hash.
#[derive(Debug, Clone)]
pub struct Hasher(State);

#[derive(Debug, Clone)]
enum State {
    Sha256(Sha256),
    Sha512(Box<Sha512>),
}

impl Hasher {
    /// A hash of nothing yet.
    #[must_use]
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Sha256 => State::Sha256(Sha256::new()),
            Algorithm::Sha512 => State::Sha512(Box::new(Sha512::new())),
        })
    }

    /// Adds `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Sha256(hash) => hash.update(bytes),
            State::Sha512(hash) => hash.update(bytes),
        }
    }

    /// The digest of everything added.
    #[must_use]
    pub fn finish(self) -> Digest {
        match self.0 {
            State::Sha256(hash) => Digest { algorithm: Algorithm::Sha256, hex: to_hex(&hash.finalize()) },
            State::Sha512(hash) => Digest { algorithm: Algorithm::Sha512, hex: to_hex(&hash.finalize()) },
        }
    }
}

/// Lower-case hexadecimal digits.
pub(crate) fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    bytes.iter().flat_map(|&b| [digit(b >> 4), digit(b & 15)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::sha256(b"").to_string(), empty);
        let mut hasher = Hasher::new(Algorithm::Sha512);
        hasher.update(b"abc");
        let digest = hasher.finish();
        assert!(digest.hex().starts_with("ddaf35a193617abacc417349ae204131"));
        assert_eq!(Digest::parse(&digest.to_string()), Ok(digest));
    }

    #[test]
    fn malformed_digests_are_refused() {
        let hex = "a".repeat(64);
        for (text, why) in [
            (String::new(), DigestError::NoColon),
            (hex.clone(), DigestError::NoColon),
            (format!("sha1:{}", "a".repeat(40)), DigestError::UnknownAlgorithm),
            (format!("md5:{}", "a".repeat(32)), DigestError::UnknownAlgorithm),
            (format!("SHA256:{hex}"), DigestError::UnknownAlgorithm),
            ("sha256:../../x".into(), DigestError::BadLength { expected: 64 }),
            (format!("sha256:{}", &hex[1..]), DigestError::BadLength { expected: 64 }),
            (format!("sha512:{hex}"), DigestError::BadLength { expected: 128 }),
            (format!("sha256:{}", "A".repeat(64)), DigestError::BadDigit),
            (format!("sha256:{}", "g".repeat(64)), DigestError::BadDigit),
            (format!("sha256:{}\0", "a".repeat(63)), DigestError::BadDigit),
            (format!("sha256:{}", "a".repeat(1 << 20)), DigestError::BadLength { expected: 64 }),
        ] {
            assert_eq!(Digest::parse(&text), Err(why), "{}", &text[..text.len().min(80)]);
        }
    }

    #[test]
    fn json_is_checked_too() {
        assert!(serde_json::from_str::<Digest>("\"sha256:../../x\"").is_err());
        let json = serde_json::to_string(&Digest::sha256(b"x")).unwrap();
        assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), Digest::sha256(b"x"));
    }
}
