//! [`ProjectName`]: a name that cannot lead out of the base directory.
#![forbid(unsafe_code)]

use std::fmt;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// Longest name, in bytes: with the date of the archive it still is the name of a file.
const LONGEST: usize = 128;
/// Longest part of a name in the id of a vessel, which has 64 characters at most.
const LONGEST_SLUG: usize = 40;

/// The name of a project: letters, digits, `_`, `.` and `-`, beginning with a letter, a digit or `_`; 128 at most.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProjectName(String);

impl ProjectName {
    /// Checks a name.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for what is no name, paths among it.
    pub fn parse(text: &str) -> Result<Self> {
        let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        let allowed = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
        if begins && allowed && text.len() <= LONGEST {
            return Ok(Self(text.to_owned()));
        }
        Err(Error::invalid(format!("invalid name of a project: {text:?}"))
            .with_remedy("use letters, digits, `_`, `.` and `-`, and begin with a letter, a digit or `_`"))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of its container, as messages have it.
    pub(super) fn container(&self) -> String {
        format!("vega-{}", self.0)
    }

    /// Ids for its vessel: the plain one, unless an id cannot say this name, and one that no other base directory has.
    pub(super) fn vessel_ids(&self, base: &str) -> Vec<String> {
        let plain = self.container();
        let slug: String = self.0.to_ascii_lowercase().chars().take(LONGEST_SLUG).collect();
        let hash = Sha256::digest(format!("{base}\0{}", self.0).as_bytes());
        let hash: String = hash.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        let own = format!("vega-{slug}-{hash}");
        match slug == self.0 {
            true => vec![plain, own],
            false => vec![own],
        }
    }
}

impl fmt::Display for ProjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for name in ["web", "My_app-2.0", "_x", "0"] {
            assert_eq!(ProjectName::parse(name).unwrap().as_str(), name);
        }
        let long = "x".repeat(129);
        for name in
            ["", ".", "..", "../../../escape", "a/b", "/abs", "-rf", ".hidden", "a b", "ä", "a\0", &long]
        {
            let error = ProjectName::parse(name).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::InvalidArgument, "{name:?}");
        }
    }

    #[test]
    fn every_name_has_an_id_that_a_vessel_can_have() {
        for name in ["web", "My_App", &"x".repeat(128)] {
            let ids = ProjectName::parse(name).unwrap().vessel_ids("/base");
            assert!(ids.iter().all(|id| vesselrt_storage::validate_id(id).is_ok()), "{ids:?}");
            assert_ne!(ids, ProjectName::parse(name).unwrap().vessel_ids("/other"));
        }
        assert_eq!(ProjectName::parse("web").unwrap().vessel_ids("/base")[0], "vega-web");
        let (upper, lower) = (ProjectName::parse("WEB").unwrap(), ProjectName::parse("web").unwrap());
        assert!(!upper.vessel_ids("/b").iter().any(|id| lower.vessel_ids("/b").contains(id)));
    }
}
