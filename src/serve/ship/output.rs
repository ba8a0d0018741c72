//! What a command writes, kept up to a limit.
#![forbid(unsafe_code)]

/// Bytes that are kept of what one command, or one piece of code, writes to one stream.
pub const MOST_OUTPUT: usize = 16 << 20;

/// The beginning of what was written.
#[derive(Debug)]
pub(super) struct Kept {
    bytes: Vec<u8>,
    limit: usize,
    lost: u64,
}

impl Default for Kept {
    fn default() -> Self {
        Self::up_to(MOST_OUTPUT)
    }
}

impl Kept {
    /// Keeps so many bytes.
    pub(super) fn up_to(limit: usize) -> Self {
        Self { bytes: Vec::new(), limit, lost: 0 }
    }

    /// Keeps so many more from now on.
    pub(super) fn more(&mut self, limit: usize) {
        self.limit = self.bytes.len() + limit;
    }

    pub(super) fn add(&mut self, data: &[u8]) {
        let taken = data.len().min(self.limit - self.bytes.len());
        self.bytes.extend_from_slice(&data[..taken]);
        self.lost += (data.len() - taken) as u64;
    }

    /// As text without white space around it; says so when not all of it was kept.
    pub(super) fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        let text = text.trim();
        match self.lost {
            0 => text.to_owned(),
            lost => format!("{text}\n[output cut: {lost} more bytes]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_is_kept_and_the_rest_is_counted() {
        let mut kept = Kept::default();
        kept.add(b"  hello \n");
        assert_eq!(kept.text(), "hello");
        kept.add(&vec![b'x'; MOST_OUTPUT]);
        assert_eq!(kept.bytes.len(), MOST_OUTPUT);
        assert!(kept.text().ends_with("x\n[output cut: 9 more bytes]"));
        let mut kept = Kept::up_to(2);
        kept.add(b"abc");
        kept.more(3);
        kept.add(b"defg");
        assert_eq!(kept.text(), "abdef\n[output cut: 2 more bytes]");
    }
}
