//! [`Platform`]: what an image runs on, and which of several images is meant.
#![forbid(unsafe_code)]

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A platform, in the words of Go: `linux/amd64`, `linux/arm/v7` (image-spec, image-index.md).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// Operating system.
    pub os: String,
    /// CPU architecture (GOARCH).
    pub architecture: String,
    /// Variant of the architecture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// The text of a platform is not `os/architecture[/variant]`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("it is not of the form os/architecture[/variant]")]
pub struct PlatformError;

impl Platform {
    /// The platform of this process.
    #[must_use]
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "x86" => "386",
            "aarch64" => "arm64",
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "powerpc64" => "ppc64",
            "loongarch64" => "loong64",
            "mips64" if cfg!(target_endian = "little") => "mips64le",
            other => other,
        };
        Self { os: "linux".into(), architecture: architecture.into(), variant: None }
    }

    /// How well `candidate` serves where `self` is wanted: higher is better, `None` is not at all.
    ///
    /// A candidate without a platform may be anything and comes last. Variants are levels: one that is lower
    /// than wanted works, a higher one does not (image-spec, "Platform Variants").
    #[must_use]
    pub fn rank(&self, candidate: Option<&Self>) -> Option<u32> {
        let Some(candidate) = candidate else { return Some(0) };
        let architecture = normalised(&candidate.architecture);
        if candidate.os != self.os || architecture != normalised(&self.architecture) {
            return None;
        }
        match (level(architecture, self.variant()), level(architecture, candidate.variant())) {
            (Some(wanted), Some(offered)) if offered <= wanted => Some(1 + offered),
            (None, None) if self.variant() == candidate.variant() => Some(1),
            _ => None,
        }
    }

    fn variant(&self) -> &str {
        self.variant.as_deref().unwrap_or("")
    }
}

/// Names that are in use for the same thing.
fn normalised(architecture: &str) -> &str {
    match architecture {
        "x86_64" | "x86-64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// A variant as a number, with the default of its architecture.
fn level(architecture: &str, variant: &str) -> Option<u32> {
    match (architecture, variant) {
        ("amd64", "") => Some(1),
        ("arm64", "") => Some(8),
        ("arm", "") => Some(7),
        (_, variant) => variant.strip_prefix('v')?.parse().ok().filter(|level| *level < 1000),
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Platform {
    type Err = PlatformError;
    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let parts: Vec<&str> = text.split('/').collect();
        let word = |part: &&str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
        };
        let (os, architecture, variant) = match parts[..] {
            [os, architecture] => (os, architecture, None),
            [os, architecture, variant] => (os, architecture, Some(variant.to_owned())),
            _ => return Err(PlatformError),
        };
        if !parts.iter().all(word) {
            return Err(PlatformError);
        }
        Ok(Self { os: os.into(), architecture: architecture.into(), variant })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn variants_are_levels() {
        for (wanted, candidate, serves) in [
            ("linux/amd64", "linux/amd64", true),
            ("linux/amd64", "linux/x86_64", true),
            ("linux/amd64", "linux/amd64/v1", true),
            ("linux/amd64", "linux/amd64/v3", false),
            ("linux/amd64/v3", "linux/amd64/v2", true),
            ("linux/amd64", "linux/arm64", false),
            ("linux/amd64", "windows/amd64", false),
            ("linux/amd64", "unknown/unknown", false),
            ("linux/arm64", "linux/arm64/v8", true),
            ("linux/arm64/v8", "linux/arm64", true),
            ("linux/arm64", "linux/arm64/v9", false),
            ("linux/arm", "linux/arm/v6", true),
            ("linux/arm/v6", "linux/arm/v7", false),
            ("linux/riscv64", "linux/riscv64", true),
            ("linux/s390x", "linux/s390x/odd", false),
        ] {
            assert_eq!(
                platform(wanted).rank(Some(&platform(candidate))).is_some(),
                serves,
                "{wanted} {candidate}"
            );
        }
        let arm = platform("linux/arm");
        assert!(arm.rank(Some(&platform("linux/arm/v7"))) > arm.rank(Some(&platform("linux/arm/v6"))));
        assert!(arm.rank(Some(&platform("linux/arm/v5"))) > arm.rank(None));
    }

    #[test]
    fn texts_are_checked() {
        assert_eq!(platform("linux/arm/v7").to_string(), "linux/arm/v7");
        for bad in ["", "linux", "linux/", "/amd64", "a/b/c/d", "linux/am d", "linux//v1"] {
            assert_eq!(bad.parse::<Platform>(), Err(PlatformError), "{bad}");
        }
    }

    #[test]
    fn this_host_runs_its_own_images() {
        let host = Platform::host();
        assert!(host.rank(Some(&host)).is_some());
    }
}
