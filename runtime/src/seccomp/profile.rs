//! The profile as data: which system calls of an architecture are allowed, refused or looked at more closely.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use serde::Deserialize;

use super::SeccompError;

/// moby's default profile, worked out for our capabilities and two architectures, with their numbers.
const PROFILE: &str = include_str!("profile.json");

/// What the profile says of a system call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Rule {
    Allow,
    Deny,
    /// It depends on the arguments; the name of the call.
    Conditional(String),
}

#[derive(Deserialize)]
struct Table {
    conditional: BTreeMap<String, u32>,
    allow: BTreeMap<String, u32>,
    deny: BTreeMap<String, u32>,
}

/// Every known number of the architecture, ascending.
pub(super) fn table(arch: &str) -> Result<BTreeMap<u32, Rule>, SeccompError> {
    let parse = |source| SeccompError::Profile { source };
    let mut profile: BTreeMap<String, serde_json::Value> = serde_json::from_str(PROFILE).map_err(parse)?;
    let table = profile.remove(arch).ok_or_else(|| SeccompError::Architecture { arch: arch.to_owned() })?;
    let table: Table = serde_json::from_value(table).map_err(parse)?;
    let conditional = table.conditional.into_iter().map(|(name, number)| (number, Rule::Conditional(name)));
    let allow = table.allow.into_values().map(|number| (number, Rule::Allow));
    let deny = table.deny.into_values().map(|number| (number, Rule::Deny));
    Ok(conditional.chain(allow).chain(deny).collect())
}

/// The number of a call.
#[cfg(test)]
pub(super) fn number(arch: &str, name: &str) -> Option<u32> {
    let profile: serde_json::Value = serde_json::from_str(PROFILE).unwrap();
    let parts = ["conditional", "allow", "deny"].into_iter();
    parts
        .filter_map(|part| profile[arch][part][name].as_u64())
        .next()
        .map(|number| u32::try_from(number).unwrap())
}
