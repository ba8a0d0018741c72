//! A small assembler of seccomp programs (classic BPF) for little-endian machines.
//!
//! Source: linux/filter.h, linux/seccomp.h; `struct seccomp_data`: number at 0, architecture at 4, arguments of 64 bits
//! from 16.
#![forbid(unsafe_code)]

use seccompiler::{BpfProgram, sock_filter};

pub(super) const LOAD: u16 = 0x20;
pub(super) const JUMP: u16 = 0x05;
pub(super) const JUMP_EQUAL: u16 = 0x15;
pub(super) const JUMP_AT_LEAST: u16 = 0x35;
pub(super) const JUMP_ANY_BIT: u16 = 0x45;
pub(super) const RETURN: u16 = 0x06;

pub(super) const RET_ALLOW: u32 = 0x7fff_0000;
pub(super) const RET_ERRNO: u32 = 0x0005_0000;
pub(super) const RET_KILL_PROCESS: u32 = 0x8000_0000;

const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// How a program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Allow,
    Errno(u16),
    Kill,
}

/// What decides about a call. Arguments are judged by their low 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    Always(Verdict),
    /// Allow if the argument is one of the values.
    OneOf {
        argument: u32,
        values: &'static [u32],
        otherwise: Verdict,
    },
    /// Allow if it is none of them.
    NotOneOf {
        argument: u32,
        values: &'static [u32],
        otherwise: Verdict,
    },
    /// Allow if the argument has none of the bits.
    NoBits {
        argument: u32,
        bits: u32,
        otherwise: Verdict,
    },
}

/// The check of all numbers from `first` up to the next segment's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) first: u32,
    pub(super) check: Check,
}

/// The program: kills on another architecture, then searches the number in `segments`, which start at 0 and ascend.
pub(super) fn assemble(architecture: u32, segments: &[Segment]) -> BpfProgram {
    let mut program =
        vec![load(ARCHITECTURE), jump(JUMP_EQUAL, architecture, 1, 0), ret(Verdict::Kill), load(NUMBER)];
    program.append(&mut search(segments));
    program
}

/// A binary search; the accumulator holds the number.
fn search(segments: &[Segment]) -> BpfProgram {
    let [.., last] = segments else { return vec![ret(Verdict::Kill)] };
    if segments.len() == 1 {
        return leaf(last.check);
    }
    let (low, high) = segments.split_at(segments.len() / 2);
    let (mut below, mut above) = (search(low), search(high));
    let mut program = match u8::try_from(below.len()) {
        Ok(distance) => vec![jump(JUMP_AT_LEAST, high[0].first, distance, 0)],
        // Conditional jumps have 8 bits, unconditional ones 32.
        Err(_) => vec![jump(JUMP_AT_LEAST, high[0].first, 0, 1), far_jump(below.len())],
    };
    program.append(&mut below);
    program.append(&mut above);
    program
}

fn leaf(check: Check) -> BpfProgram {
    match check {
        Check::Always(verdict) => vec![ret(verdict)],
        Check::OneOf { argument, values, otherwise } => one_of(argument, values, [otherwise, Verdict::Allow]),
        Check::NotOneOf { argument, values, otherwise } => {
            one_of(argument, values, [Verdict::Allow, otherwise])
        }
        Check::NoBits { argument, bits, otherwise } => vec![
            load(ARGUMENTS + 8 * argument),
            jump(JUMP_ANY_BIT, bits, 1, 0),
            ret(Verdict::Allow),
            ret(otherwise),
        ],
    }
}

fn one_of(argument: u32, values: &[u32], [no, yes]: [Verdict; 2]) -> BpfProgram {
    let mut program = vec![load(ARGUMENTS + 8 * argument)];
    for (index, &value) in values.iter().enumerate() {
        let distance = u8::try_from(values.len() - index).expect("lists of values are short constants");
        program.push(jump(JUMP_EQUAL, value, distance, 0));
    }
    program.extend([ret(no), ret(yes)]);
    program
}

fn load(offset: u32) -> sock_filter {
    sock_filter { code: LOAD, jt: 0, jf: 0, k: offset }
}

fn jump(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

fn far_jump(distance: usize) -> sock_filter {
    let k = u32::try_from(distance).expect("programs are far shorter than 4 GiB");
    sock_filter { code: JUMP, jt: 0, jf: 0, k }
}

fn ret(verdict: Verdict) -> sock_filter {
    let k = match verdict {
        Verdict::Allow => RET_ALLOW,
        Verdict::Errno(errno) => RET_ERRNO | u32::from(errno),
        Verdict::Kill => RET_KILL_PROCESS,
    };
    sock_filter { code: RETURN, jt: 0, jf: 0, k }
}

#[cfg(test)]
mod tests {
    use super::super::interpreter::{Call, run};
    use super::*;

    #[test]
    fn far_subtrees_are_reached() {
        let verdict = |first: u32| Check::Always(Verdict::Errno(u16::try_from(first % 4000).unwrap()));
        let segments: Vec<_> =
            (0..1500).map(|index| Segment { first: index * 2, check: verdict(index) }).collect();
        let program = assemble(7, &segments);
        for number in 0..3100 {
            let expected = RET_ERRNO | (number / 2).min(1499);
            assert_eq!(
                run(&program, &Call { number, architecture: 7, arguments: [0; 6] }).0,
                expected,
                "{number}"
            );
        }
    }
}
