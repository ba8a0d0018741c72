//! [`Descriptor`]: a typed, checked pointer to a blob.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ImageError;
use super::platform::Platform;
use crate::digest::{Digest, Hasher};

/// The annotation that holds the reference of an index entry (image-spec, annotations.md).
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// A descriptor (image-spec, descriptor.md). `urls` and everything unknown is kept when it is written back, and
/// never used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Type of the content.
    pub media_type: String,
    /// Digest of the content.
    pub digest: Digest,
    /// Size of the content in bytes.
    pub size: u64,
    /// What the image runs on, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// The content itself, in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// Fields that this crate does not know.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

impl Descriptor {
    /// A plain descriptor.
    #[must_use]
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.into(),
            digest,
            size,
            platform: None,
            annotations: None,
            data: None,
            other: BTreeMap::new(),
        }
    }

    /// The reference annotation.
    #[must_use]
    pub fn ref_name(&self) -> Option<&str> {
        self.annotation(REF_NAME)
    }

    /// An annotation.
    #[must_use]
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key).map(String::as_str)
    }

    /// Checks what can be checked without the content: the size is possible, embedded data is the content.
    pub(crate) fn check(&self) -> Result<(), ImageError> {
        if i64::try_from(self.size).is_err() {
            return Err(ImageError::Size);
        }
        let Some(data) = &self.data else { return Ok(()) };
        let matches = decode_base64(data).is_some_and(|bytes| {
            let mut hasher = Hasher::new(self.digest.algorithm());
            hasher.update(&bytes);
            bytes.len() as u64 == self.size && hasher.finish() == self.digest
        });
        if matches { Ok(()) } else { Err(ImageError::EmbeddedData { digest: self.digest.clone() }) }
    }
}

/// Strict base64 with padding (RFC 4648, section 4).
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let bytes = text.as_bytes();
    if !bytes.len().is_multiple_of(4) {
        return None;
    }
    let padding = bytes.iter().rev().take(2).take_while(|b| **b == b'=').count();
    let mut out = Vec::with_capacity(bytes.len() / 4 * 3);
    for quad in bytes[..bytes.len() - padding].chunks(4) {
        let mut word = 0u32;
        for &byte in quad {
            word = word << 6 | sextet(byte)?;
        }
        let missing = 4 - quad.len();
        word <<= 6 * missing;
        let decoded = word.to_be_bytes();
        let (kept, dropped) = decoded[1..].split_at(3 - missing);
        // Bits that padding cuts off must be zero, or two texts would mean one content.
        if dropped.iter().any(|b| *b != 0) {
            return None;
        }
        out.extend_from_slice(kept);
    }
    Some(out)
}

fn sextet(byte: u8) -> Option<u32> {
    let value = match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(u32::from(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_vectors_of_rfc_4648() {
        for (plain, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(decode_base64(text).as_deref(), Some(plain.as_bytes()), "{text}");
        }
        for bad in ["Z", "Zg=", "Zg", "Zh==", "Zm9=", "====", "Z===", "Zm9v\n", "Zm9-", "Zg==Zg=="] {
            assert_eq!(decode_base64(bad), None, "{bad}");
        }
    }

    #[test]
    fn embedded_data_must_be_the_content() {
        let mut descriptor = Descriptor::new("x", Digest::sha256(b"foobar"), 6);
        assert!(descriptor.check().is_ok());
        descriptor.data = Some("Zm9vYmFy".into());
        assert!(descriptor.check().is_ok());
        descriptor.data = Some("Zm9vYmFz".into());
        assert!(descriptor.check().is_err());
    }

    #[test]
    fn sizes_must_be_possible() {
        let json = |size: &str| {
            let digest = Digest::sha256(b"");
            let text = format!(r#"{{"mediaType":"x","digest":"{digest}","size":{size}}}"#);
            serde_json::from_str::<Descriptor>(&text)
        };
        for bad in ["-1", "1.5", "\"12\"", "null", "1e3", "18446744073709551616"] {
            assert!(json(bad).is_err(), "{bad}");
        }
        assert!(json("9223372036854775808").unwrap().check().is_err());
        assert!(json("0").unwrap().check().is_ok());
        assert!(serde_json::from_str::<Descriptor>(r#"{"mediaType":"x","size":1}"#).is_err());
    }

    #[test]
    fn unknown_fields_survive() {
        let text = format!(
            r#"{{"mediaType":"x","digest":"{}","size":1,"artifactType":"y","urls":["http://h/"]}}"#,
            Digest::sha256(b"x")
        );
        let descriptor: Descriptor = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&descriptor).unwrap(), text);
    }
}
