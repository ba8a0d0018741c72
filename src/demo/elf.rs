//! What a program needs to run, read from its ELF headers: its interpreter, its libraries, where it wants them searched.
//!
//! Sources: System V ABI, chapters 4 and 5 ("ELF Header", "Program Header", "Dynamic Section"); elf(5); ld.so(8).
//! Pure, and strict about every offset: nothing in a file is believed.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const DT_NULL: u64 = 0;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
const DT_RPATH: u64 = 15;
const DT_RUNPATH: u64 = 29;
/// The longest string that is taken, in bytes: PATH_MAX.
const MAX_STRING: usize = 4096;
/// The most program headers and dynamic entries that are looked at.
const MAX_ENTRIES: u64 = 4096;

/// What a program or library needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Needs {
    /// The dynamic loader.
    pub(super) interpreter: Option<OsString>,
    /// Libraries by name, in order.
    pub(super) libraries: Vec<OsString>,
    /// `DT_RUNPATH`, or else `DT_RPATH`: directories joined by `:`, in which `$ORIGIN` is that of the file.
    pub(super) run_path: Option<OsString>,
}

/// Why a file is not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum ElfError {
    /// It does not begin as one: a script, for one.
    #[error("not an ELF file")]
    Magic,
    /// Neither 32 nor 64 bits, or neither byte order.
    #[error("an ELF file of an unknown kind")]
    Kind,
    /// An offset or size points outside of the file, or is absurd.
    #[error("a damaged ELF file: bad {0}")]
    Damaged(&'static str),
}

/// Reads `file`.
///
/// # Errors
/// [`ElfError`].
pub(super) fn needs(file: &[u8]) -> Result<Needs, ElfError> {
    let elf = Elf::new(file)?;
    let headers = elf.program_headers()?;
    let mut needs = Needs::default();
    if let Some(header) = headers.iter().find(|header| header.kind == PT_INTERP) {
        needs.interpreter = Some(elf.string(header.offset, "interpreter")?);
    }
    let Some(dynamic) = headers.iter().find(|header| header.kind == PT_DYNAMIC) else { return Ok(needs) };
    let entries = elf.dynamic(dynamic)?;
    let Some(&(_, table)) = entries.iter().find(|(tag, _)| *tag == DT_STRTAB) else { return Ok(needs) };
    let table = file_offset(&headers, table).ok_or(ElfError::Damaged("string table"))?;
    let string = |value: u64| {
        let at = table.checked_add(value).ok_or(ElfError::Damaged("string"))?;
        elf.string(at, "string")
    };
    for &(tag, value) in &entries {
        match tag {
            DT_NEEDED => needs.libraries.push(string(value)?),
            DT_RUNPATH => needs.run_path = Some(string(value)?),
            DT_RPATH if needs.run_path.is_none() => needs.run_path = Some(string(value)?),
            _ => {}
        }
    }
    Ok(needs)
}

/// A program header, as far as it is of interest.
#[derive(Debug, Clone, Copy)]
struct Header {
    kind: u32,
    offset: u64,
    address: u64,
    size: u64,
}

/// Where in the file the byte at a virtual address is.
fn file_offset(headers: &[Header], address: u64) -> Option<u64> {
    headers.iter().filter(|header| header.kind == PT_LOAD).find_map(|header| {
        let within = address.checked_sub(header.address).filter(|&within| within < header.size)?;
        header.offset.checked_add(within)
    })
}

/// A file of a known word size and byte order.
struct Elf<'a> {
    file: &'a [u8],
    wide: bool,
    little: bool,
}

impl<'a> Elf<'a> {
    fn new(file: &'a [u8]) -> Result<Self, ElfError> {
        if !file.starts_with(b"\x7fELF") {
            return Err(ElfError::Magic);
        }
        let (class, data) = (file.get(4).copied(), file.get(5).copied());
        let wide = match class {
            Some(1) => false,
            Some(2) => true,
            _ => return Err(ElfError::Kind),
        };
        let little = match data {
            Some(1) => true,
            Some(2) => false,
            _ => return Err(ElfError::Kind),
        };
        Ok(Self { file, wide, little })
    }

    fn program_headers(&self) -> Result<Vec<Header>, ElfError> {
        let wrong = ElfError::Damaged("program headers");
        let (at, size_at, minimum) = if self.wide { (32, 54, 56) } else { (28, 42, 32) };
        let table = self.word(at).ok_or(wrong)?;
        let size = self.number(size_at, 2).filter(|&size| size >= minimum).ok_or(wrong)?;
        let count = self.number(size_at + 2, 2).filter(|&count| count <= MAX_ENTRIES).ok_or(wrong)?;
        let header = |index: u64| {
            let base = size.checked_mul(index).and_then(|offset| table.checked_add(offset))?;
            // p_type, then p_flags first in the wide form only (elf(5)).
            let fields: [u64; 3] = if self.wide { [8, 16, 32] } else { [4, 8, 16] };
            let [offset, address, size] = fields.map(|field| self.word(base.checked_add(field)?));
            let kind = u32::try_from(self.number(base, 4)?).ok()?;
            Some(Header { kind, offset: offset?, address: address?, size: size? })
        };
        (0..count).map(|index| header(index).ok_or(wrong)).collect()
    }

    /// Tags and values up to the end mark.
    fn dynamic(&self, header: &Header) -> Result<Vec<(u64, u64)>, ElfError> {
        let wrong = ElfError::Damaged("dynamic section");
        let word = if self.wide { 8 } else { 4 };
        let count = header.size / (2 * word);
        let mut entries = Vec::new();
        for index in 0..count.min(MAX_ENTRIES) {
            let at = header.offset.checked_add(index * 2 * word).ok_or(wrong)?;
            let (tag, value) = (self.word(at).ok_or(wrong)?, self.word(at + word).ok_or(wrong)?);
            if tag == DT_NULL {
                break;
            }
            entries.push((tag, value));
        }
        Ok(entries)
    }

    fn word(&self, at: u64) -> Option<u64> {
        self.number(at, if self.wide { 8 } else { 4 })
    }

    fn number(&self, at: u64, length: u64) -> Option<u64> {
        let start = usize::try_from(at).ok()?;
        let bytes = self.file.get(start..start.checked_add(usize::try_from(length).ok()?)?)?;
        let fold = |value: u64, &byte: &u8| value << 8 | u64::from(byte);
        Some(if self.little { bytes.iter().rev().fold(0, fold) } else { bytes.iter().fold(0, fold) })
    }

    /// The bytes up to the next NUL.
    fn string(&self, at: u64, what: &'static str) -> Result<OsString, ElfError> {
        let tail =
            usize::try_from(at).ok().and_then(|at| self.file.get(at..)).ok_or(ElfError::Damaged(what))?;
        let end = tail.iter().take(MAX_STRING).position(|&b| b == 0).ok_or(ElfError::Damaged(what))?;
        Ok(OsString::from_vec(tail[..end].to_vec()))
    }
}

#[cfg(test)]
mod tests;
