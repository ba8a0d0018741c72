use super::*;
use proptest::prelude::*;

/// A program with an interpreter, two libraries and a run path, in either word size and byte order.
fn program(wide: bool, little: bool) -> Vec<u8> {
    let word = if wide { 8 } else { 4 };
    let put = |file: &mut Vec<u8>, at: usize, length: usize, value: u64| {
        if file.len() < at + length {
            file.resize(at + length, 0);
        }
        let bytes = value.to_be_bytes();
        let bytes = &bytes[8 - length..];
        for (index, &byte) in bytes.iter().enumerate() {
            file[at + if little { length - 1 - index } else { index }] = byte;
        }
    };
    let mut file = b"\x7fELF".to_vec();
    file.extend([if wide { 2 } else { 1 }, if little { 1 } else { 2 }]);
    let (entry, table) = if wide { (56, 64) } else { (32, 52) };
    let strings = b"\0/lib/ld.so\0liba.so\0libb.so.6\0$ORIGIN/x:/opt\0";
    let (strings_at, dynamic_at, base) = (0x400, 0x300, 0x10_000);
    put(&mut file, if wide { 32 } else { 28 }, word, table as u64);
    put(&mut file, if wide { 54 } else { 42 }, 2, entry as u64);
    put(&mut file, if wide { 56 } else { 44 }, 2, 3);
    let headers: [(u32, u64, u64, u64); 3] = [
        (PT_LOAD, 0, base, 0x1000),
        (PT_INTERP, strings_at + 1, 0, 11),
        (PT_DYNAMIC, dynamic_at, base + dynamic_at, 6 * 2 * word as u64),
    ];
    for (index, (kind, offset, address, size)) in headers.into_iter().enumerate() {
        let at = table + index * entry;
        put(&mut file, at, 4, kind.into());
        let fields = if wide { [8, 16, 32] } else { [4, 8, 16] };
        for (field, value) in fields.into_iter().zip([offset, address, size]) {
            put(&mut file, at + field, word, value);
        }
    }
    let entries = [
        (DT_NEEDED, 12),
        (DT_RPATH, 29),
        (DT_NEEDED, 20),
        (DT_RUNPATH, 30),
        (DT_STRTAB, base + strings_at),
        (0, 0),
    ];
    for (index, (tag, value)) in entries.into_iter().enumerate() {
        put(&mut file, dynamic_at as usize + index * 2 * word, word, tag);
        put(&mut file, dynamic_at as usize + index * 2 * word + word, word, value);
    }
    file.resize(strings_at as usize, 0);
    file.extend(strings);
    file
}

#[test]
fn needs_are_read_in_every_word_size_and_byte_order() {
    for (wide, little) in [(true, true), (true, false), (false, true), (false, false)] {
        let needs = needs(&program(wide, little)).unwrap();
        assert_eq!(needs.interpreter.unwrap(), "/lib/ld.so");
        assert_eq!(needs.libraries, ["liba.so", "libb.so.6"]);
        assert_eq!(needs.run_path.unwrap(), "$ORIGIN/x:/opt");
    }
}

#[test]
fn what_is_no_program_is_refused() {
    assert_eq!(needs(b"#!/bin/sh\n"), Err(ElfError::Magic));
    assert_eq!(needs(b""), Err(ElfError::Magic));
    assert_eq!(needs(b"\x7fELF\x03\x01"), Err(ElfError::Kind));
    assert_eq!(needs(b"\x7fELF\x02\x01"), Err(ElfError::Damaged("program headers")));
    let mut wild = program(true, true);
    wild[0x400 - 0x100 + 8] = 0xff;
    wild[0x400 - 0x100 + 9] = 0xff;
    assert_eq!(needs(&wild), Err(ElfError::Damaged("string")));
}

#[test]
fn this_test_is_a_program_with_needs_or_a_static_one() {
    let file = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let needs = needs(&file).unwrap();
    assert_eq!(needs.interpreter.is_some(), !needs.libraries.is_empty());
}

proptest! {
    #[test]
    fn no_damage_is_a_panic(at in 0usize..0x430, value: u8, cut in 0usize..0x430) {
        let mut file = program(true, true);
        let last = file.len() - 1;
        file[at.min(last)] = value;
        let _ = needs(&file);
        let _ = needs(&file[..cut.min(last)]);
    }
}
