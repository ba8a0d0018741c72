//! The keys that leave a process: Ctrl-P Ctrl-Q. Pure.
#![forbid(unsafe_code)]

const CTRL_P: u8 = 0x10;
const CTRL_Q: u8 = 0x11;

/// Looks for them in what is typed. A Ctrl-P waits for the next key.
#[derive(Debug, Default)]
pub(super) struct Keys {
    begun: bool,
}

impl Keys {
    /// What of `typed` is for the process, and whether the keys were among it: what comes after them is dropped.
    pub(super) fn filter(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(typed.len() + 1);
        for &key in typed {
            match (std::mem::replace(&mut self.begun, key == CTRL_P), key) {
                (true, CTRL_Q) => return (passed, true),
                (true, CTRL_P) => passed.push(CTRL_P),
                (true, other) => passed.extend([CTRL_P, other]),
                (false, CTRL_P) => {}
                (false, other) => passed.push(other),
            }
        }
        (passed, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(parts: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut keys = Keys::default();
        let mut all = Vec::new();
        for part in parts {
            let (passed, left) = keys.filter(part);
            all.extend(passed);
            if left {
                return (all, true);
            }
        }
        (all, false)
    }

    #[test]
    fn only_the_one_after_the_other_leaves() {
        assert_eq!(typed(&[b"a\x10\x11b"]), (b"a".to_vec(), true));
        assert_eq!(typed(&[b"a\x10", b"\x11b"]), (b"a".to_vec(), true));
        assert_eq!(typed(&[b"\x10\x10\x11"]), (b"\x10".to_vec(), true));
        assert_eq!(typed(&[b"\x10x\x11\x10", b"\x10", b"y"]), (b"\x10x\x11\x10\x10y".to_vec(), false));
        assert_eq!(typed(&[b"\x11\x10"]), (b"\x11".to_vec(), false));
    }
}
