//! Runs a seccomp program as the kernel would, for tests.
#![forbid(unsafe_code)]

use seccompiler::sock_filter;

use super::assembler::{JUMP, JUMP_ANY_BIT, JUMP_AT_LEAST, JUMP_EQUAL, LOAD, RETURN};

/// `struct seccomp_data`, the instruction pointer left out.
pub(super) struct Call {
    pub(super) number: u32,
    pub(super) architecture: u32,
    pub(super) arguments: [u64; 6],
}

impl Call {
    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.architecture,
            16..64 if offset.is_multiple_of(4) => {
                let argument = self.arguments[usize::try_from((offset - 16) / 8).unwrap()];
                u32::try_from(if offset.is_multiple_of(8) { argument & 0xffff_ffff } else { argument >> 32 })
                    .unwrap()
            }
            _ => panic!("load at {offset}"),
        }
    }
}

/// What the program returns, and after how many instructions.
pub(super) fn run(program: &[sock_filter], call: &Call) -> (u32, usize) {
    let (mut accumulator, mut at, mut steps) = (0, 0, 0);
    loop {
        let instruction = &program[at];
        steps += 1;
        at += 1;
        let holds = match instruction.code {
            LOAD => {
                accumulator = call.word(instruction.k);
                continue;
            }
            RETURN => return (instruction.k, steps),
            JUMP => {
                at += usize::try_from(instruction.k).unwrap();
                continue;
            }
            JUMP_EQUAL => accumulator == instruction.k,
            JUMP_AT_LEAST => accumulator >= instruction.k,
            JUMP_ANY_BIT => accumulator & instruction.k != 0,
            code => panic!("instruction {code:#x}"),
        };
        at += usize::from(if holds { instruction.jt } else { instruction.jf });
    }
}
