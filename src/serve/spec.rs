//! What a ship may use, in the words of the API.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use vesselrt_runtime::settings::Limits;

/// The least memory of a ship: less is raised to it, as the original does.
const LEAST_MEMORY: u64 = 128 << 20;
/// The least disk of a ship, likewise.
const LEAST_DISK: u64 = 100 << 20;
/// More processors than any machine has.
const MOST_CPUS: f64 = 4096.0;

/// What a ship may use of the machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ShipSpec {
    /// Processors.
    #[schema(exclusive_minimum = 0, maximum = 4096)]
    pub(super) cpus: Option<f64>,
    /// Memory, such as `512m`: a number with k, m or g; less than 128 MiB is raised to that.
    #[schema(pattern = "^[0-9]{1,9}([.][0-9]{1,3})?([kKmMgG]([iI]?[bB])?|[kKmMgG][iI])?$")]
    pub(super) memory: Option<String>,
    /// What may be written, likewise; less than 100 MiB is raised to that.
    #[schema(pattern = "^[0-9]{1,9}([.][0-9]{1,3})?([kKmMgG]([iI]?[bB])?|[kKmMgG][iI])?$")]
    pub(super) disk: Option<String>,
}

impl ShipSpec {
    /// Limits of a ship, on top of those that all have.
    pub(super) fn apply(&self, limits: &mut Limits) {
        if let Some(cpus) = self.cpus {
            limits.milli_cpus = Some(milli(cpus));
        }
        if let Some(memory) = self.memory.as_deref().and_then(parse_size) {
            limits.memory = Some(memory.max(LEAST_MEMORY));
        }
        if let Some(disk) = self.disk.as_deref().and_then(parse_size) {
            limits.disk = Some(disk.max(LEAST_DISK));
        }
    }
}

/// Thousandths of a processor; at least what the kernel takes.
fn milli(cpus: f64) -> u32 {
    let thousandths = (cpus.min(MOST_CPUS) * 1000.0).round();
    // In range: at most 4,096,000, and never negative.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let thousandths = thousandths as u32;
    thousandths.max(vesselrt_runtime::settings::LEAST_MILLI_CPUS)
}

/// Whether so many processors can be asked for.
#[must_use]
pub fn valid_cpus(cpus: f64) -> bool {
    cpus > 0.0 && cpus <= MOST_CPUS
}

/// A size as specs have it: digits, perhaps with a fraction, and a unit (`k`, `m`, `g`, with `i` and `b` or without, in any case,
/// all powers of 1024). `None` for anything else.
#[must_use]
pub fn parse_size(text: &str) -> Option<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit: u64 = match unit.to_ascii_lowercase().as_str() {
        "" => 1,
        "k" | "ki" | "kb" | "kib" => 1 << 10,
        "m" | "mi" | "mb" | "mib" => 1 << 20,
        "g" | "gi" | "gb" | "gib" => 1 << 30,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || whole.len() > 9 || fraction.is_empty() || fraction.len() > 3 {
        return None;
    }
    let thousandths = fraction.parse::<u64>().ok()? * 10_u64.pow(3 - u32::try_from(fraction.len()).ok()?);
    whole.parse::<u64>().ok()?.checked_mul(unit)?.checked_add(thousandths * unit / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_the_units_of_the_original_in_any_case() {
        for (text, bytes) in [
            ("512m", 512 << 20),
            ("1Gi", 1 << 30),
            ("2gb", 2 << 30),
            ("64KI", 64 << 10),
            ("100Kb", 100 << 10),
            ("1.5g", 3 << 29),
            ("4096", 4096),
        ] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for wrong in ["", "m", "-1m", "1x", "1 m", ".5g", "1.", "9999999999", "1.2345g", "1e3", "٣m"] {
            assert_eq!(parse_size(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn too_little_is_raised() {
        let spec = ShipSpec { cpus: Some(0.001), memory: Some("1m".into()), disk: Some("1k".into()) };
        let mut limits = Limits::new();
        spec.apply(&mut limits);
        assert_eq!((limits.memory, limits.disk), (Some(128 << 20), Some(100 << 20)));
        assert_eq!(limits.milli_cpus, Some(10));
        limits.check().unwrap();
        assert_eq!((milli(1.5), milli(1e9)), (1500, 4_096_000));
        assert!(valid_cpus(0.5) && !valid_cpus(0.0) && !valid_cpus(f64::NAN) && !valid_cpus(1e9));
    }
}
