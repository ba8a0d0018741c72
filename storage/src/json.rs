//! Reading JSON that somebody else wrote: size, depth and duplicate keys are checked before anything is
//! decoded.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use thiserror::Error;

/// How deep objects and arrays may be nested.
pub const MAX_DEPTH: usize = 64;

/// What is wrong with a JSON document.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum JsonError {
    /// The document has more bytes than allowed.
    #[error("it has {size} bytes, more than {limit}")]
    TooLarge {
        /// Its size.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// Not JSON, nested deeper than [`MAX_DEPTH`], or an object with one key twice.
    #[error("it is not well-formed JSON")]
    Malformed(#[source] serde_json::Error),
    /// JSON, with the wrong fields or types.
    #[error("it is not the expected JSON structure")]
    Structure(#[source] serde_json::Error),
}

/// Decodes `bytes`, at most `limit` of them. Unknown fields are for `T` to judge; keys may not occur twice in
/// one object (parsers disagree on which one counts), and nesting ends at [`MAX_DEPTH`].
///
/// # Errors
/// [`JsonError`].
pub fn parse<T: DeserializeOwned>(bytes: &[u8], limit: u64) -> Result<T, JsonError> {
    check(bytes, limit)?;
    serde_json::from_slice(bytes).map_err(JsonError::Structure)
}

/// The checks of [`parse`] alone.
///
/// # Errors
/// [`JsonError`].
pub fn check(bytes: &[u8], limit: u64) -> Result<(), JsonError> {
    let size = bytes.len() as u64;
    if size > limit {
        return Err(JsonError::TooLarge { size, limit });
    }
    let mut parser = serde_json::Deserializer::from_slice(bytes);
    Shape { depth: MAX_DEPTH }.deserialize(&mut parser).map_err(JsonError::Malformed)?;
    parser.end().map_err(JsonError::Malformed)
}

/// Walks any value; keeps nothing but the keys of the objects it is in.
#[derive(Clone, Copy)]
struct Shape {
    depth: usize,
}

impl Shape {
    fn deeper<E: de::Error>(self) -> Result<Self, E> {
        let depth = self.depth.checked_sub(1);
        Ok(Self { depth: depth.ok_or_else(|| E::custom(format!("more than {MAX_DEPTH} levels")))? })
    }
}

impl<'de> DeserializeSeed<'de> for Shape {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Shape {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        while seq.next_element_seed(inner)?.is_some() {}
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        let mut keys = Keys::default();
        while let Some(Key(key)) = map.next_key::<Key<'de>>()? {
            map.next_value_seed(inner)?;
            keys.add(key).map_err(|twice| {
                de::Error::custom(format!("the key {} occurs twice", crate::error::quoted(&twice)))
            })?;
        }
        Ok(())
    }
}

/// A key as it stands in the document, or without its escapes.
#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

/// The keys of one object. Nearly all have few, which are compared faster than hashed.
#[derive(Default)]
struct Keys<'a> {
    few: Vec<Cow<'a, str>>,
    many: HashSet<Cow<'a, str>>,
}

impl<'a> Keys<'a> {
    const FEW: usize = 16;

    /// # Errors
    /// The key, if it is there already.
    fn add(&mut self, key: Cow<'a, str>) -> Result<(), Cow<'a, str>> {
        if self.few.contains(&key) {
            return Err(key);
        }
        if self.few.len() < Self::FEW {
            self.few.push(key);
            return Ok(());
        }
        self.many.replace(key).map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(text: &str) -> bool {
        check(text.as_bytes(), 1 << 20).is_ok()
    }

    #[test]
    fn well_formed_documents_pass() {
        for text in ["{}", "[1,-2,3.5,true,null,\"x\"]", r#"{"a":{"x":1},"b":{"x":2}}"#, " {} \n"] {
            assert!(accepts(text), "{text}");
        }
    }

    #[test]
    fn hostile_documents_do_not() {
        let deep = "[".repeat(10_000) + &"]".repeat(10_000);
        for text in [
            "",
            "{",
            "{}x",
            "{} {}",
            "\u{feff}{}",
            "NaN",
            r#"{"a":1,"a":2}"#,
            r#"{"layers":[],"layers":[]}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"{"deep":[{"a":1,"a":1}]}"#,
            &deep,
        ] {
            assert!(!accepts(text), "{}", &text[..text.len().min(40)]);
        }
        assert!(check(b"\xff\xfe{\0}\0", 100).is_err());
        assert!(matches!(check(b"{    }", 5), Err(JsonError::TooLarge { .. })));
    }

    #[test]
    fn a_key_that_occurs_twice_is_found_among_many() {
        let keys: Vec<String> = (0..100).map(|n| format!("\"k{n}\":{n}")).collect();
        assert!(accepts(&format!("{{{}}}", keys.join(","))));
        for again in [0, 15, 16, 17, 99] {
            assert!(!accepts(&format!("{{{},\"k{again}\":0}}", keys.join(","))), "{again}");
        }
    }

    #[test]
    fn sixty_four_levels_and_no_more() {
        assert!(accepts(&("[".repeat(64) + &"]".repeat(64))));
        assert!(!accepts(&("[".repeat(65) + &"]".repeat(65))));
    }
}
