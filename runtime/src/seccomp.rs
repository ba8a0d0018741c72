//! The system calls that a command in a vessel may make.
//!
//! The profile is moby's default as it works out for our capabilities, with these differences:
//! * `socket`: AF_ALG and AF_VSOCK are told by the low 32 bits, as the kernel takes them; comparing all 64, as moby does,
//!   lets `AF_ALG | 1 << 32` through;
//! * `ioctl`: TIOCSTI and TIOCLINUX, which type into a terminal, are refused whatever the high bits (CVE-2023-28100);
//! * calls of another architecture, x32 included, kill the process: their arguments cannot be judged by this filter;
//! * a number that the profile does not know fails with ENOSYS, so that C libraries fall back to older calls; a known
//!   one that is not allowed with EPERM.
//!
//! The program is assembled by hand rather than by [`seccompiler`]'s compiler, which knows one refusal per filter and
//! tests numbers one after the other; here they are found by binary search. The crate loads it.
//! Sources: moby/profiles `seccomp/default.json` (Apache-2.0); seccomp(2); Documentation/userspace-api/seccomp_filter.rst.
#![forbid(unsafe_code)]

mod assembler;
#[cfg(test)]
mod interpreter;
mod profile;

use std::sync::OnceLock;

use seccompiler::BpfProgram;

use assembler::{Check, Segment, Verdict};

/// Longest program that the kernel takes: BPF_MAXINSNS of linux/bpf_common.h.
const MAX_INSTRUCTIONS: usize = 4096;

const EPERM: u16 = 1;
const ENOSYS: u16 = 38;

/// Namespaces that clone(2) may not create: every CLONE_NEW* flag it has.
const CLONE_NEW: u32 = 0x7e02_0000;
/// AF_ALG (the kernel's cryptography, CVE-2026-31431) and AF_VSOCK (the hypervisor).
const FAMILIES: &[u32] = &[38, 40];
/// TIOCSTI and TIOCLINUX.
const TERMINAL_INPUT: &[u32] = &[0x5412, 0x541c];
/// PER_LINUX, PER_LINUX32, both with UNAME26, and the query.
const PERSONALITIES: &[u32] = &[0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Why there is no filter.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SeccompError {
    /// The profile has no table for this architecture.
    #[error("failed to make a system call filter: the architecture {arch} is not supported")]
    Architecture {
        /// As [`std::env::consts::ARCH`] has it.
        arch: String,
    },
    /// The profile cannot be parsed.
    #[error("failed to parse the system call profile")]
    Profile {
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The profile has a conditional call without a condition.
    #[error("failed to make a system call filter: no condition for {name:?}")]
    Condition {
        /// Name of the call.
        name: String,
    },
    /// The program is too long for the kernel.
    #[error(
        "failed to make a system call filter: {length} instructions, the kernel takes {MAX_INSTRUCTIONS}"
    )]
    TooLong {
        /// Instructions.
        length: usize,
    },
    /// The kernel refused the program.
    #[error("failed to install the system call filter")]
    Install {
        /// Why.
        #[source]
        source: seccompiler::Error,
    },
}

/// What sets an architecture apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Arch {
    /// As [`std::env::consts::ARCH`] has it, and the profile.
    name: &'static str,
    /// `AUDIT_ARCH_*` of linux/audit.h.
    audit: u32,
    /// First number of another ABI under the same `AUDIT_ARCH_*`: `__X32_SYSCALL_BIT`.
    foreign: Option<u32>,
}

const ARCHES: [Arch; 2] = [
    Arch { name: "x86_64", audit: 0xc000_003e, foreign: Some(0x4000_0000) },
    Arch { name: "aarch64", audit: 0xc000_00b7, foreign: None },
];

/// The filter of a command for the architecture that this program runs on, made once.
///
/// # Errors
/// [`SeccompError::Architecture`] on other machines than x86_64 and aarch64.
pub fn default_program() -> Result<&'static BpfProgram, SeccompError> {
    static PROGRAM: OnceLock<BpfProgram> = OnceLock::new();
    if let Some(program) = PROGRAM.get() {
        return Ok(program);
    }
    let program = program_for(std::env::consts::ARCH)?;
    Ok(PROGRAM.get_or_init(|| program))
}

/// Installs `program` on the calling thread, for good, and sets `no_new_privs` (seccomp(2) requires it).
///
/// # Errors
/// [`SeccompError::Install`].
pub fn install(program: &BpfProgram) -> Result<(), SeccompError> {
    seccompiler::apply_filter(program).map_err(|source| SeccompError::Install { source })
}

fn program_for(arch: &str) -> Result<BpfProgram, SeccompError> {
    let unsupported = || SeccompError::Architecture { arch: arch.to_owned() };
    let arch = ARCHES.into_iter().find(|known| known.name == arch).ok_or_else(unsupported)?;
    let program = assembler::assemble(arch.audit, &segments(arch)?);
    match program.len() {
        length if length > MAX_INSTRUCTIONS => Err(SeccompError::TooLong { length }),
        _ => Ok(program),
    }
}

/// The number line, cut where the verdict changes.
fn segments(arch: Arch) -> Result<Vec<Segment>, SeccompError> {
    let table = profile::table(arch.name)?;
    let mut segments = Vec::new();
    let mut next = 0;
    let mut push = |first: u32, check: Check| {
        if segments.last().is_none_or(|last: &Segment| last.check != check) {
            segments.push(Segment { first, check });
        }
    };
    for (number, rule) in table {
        if number > next {
            push(next, Check::Always(Verdict::Errno(ENOSYS)));
        }
        push(number, check(&rule)?);
        next = number + 1;
    }
    push(next, Check::Always(Verdict::Errno(ENOSYS)));
    if let Some(foreign) = arch.foreign {
        push(foreign, Check::Always(Verdict::Kill));
        // -1: how a tracer skips a call.
        push(u32::MAX, Check::Always(Verdict::Errno(ENOSYS)));
    }
    Ok(segments)
}

fn check(rule: &profile::Rule) -> Result<Check, SeccompError> {
    let eperm = Verdict::Errno(EPERM);
    Ok(match rule {
        profile::Rule::Allow => Check::Always(Verdict::Allow),
        profile::Rule::Deny => Check::Always(eperm),
        profile::Rule::Conditional(name) => match name.as_str() {
            "socket" => Check::NotOneOf { argument: 0, values: FAMILIES, otherwise: eperm },
            "ioctl" => Check::NotOneOf { argument: 1, values: TERMINAL_INPUT, otherwise: eperm },
            "personality" => Check::OneOf { argument: 0, values: PERSONALITIES, otherwise: eperm },
            "clone" => Check::NoBits { argument: 0, bits: CLONE_NEW, otherwise: eperm },
            // Its flags are in memory, where a filter cannot look; ENOSYS makes C libraries use clone.
            "clone3" => Check::Always(Verdict::Errno(ENOSYS)),
            _ => return Err(SeccompError::Condition { name: name.clone() }),
        },
    })
}

#[cfg(test)]
mod tests;
