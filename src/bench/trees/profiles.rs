//! What each profile puts where.
#![forbid(unsafe_code)]

use std::io;

use super::writer::{PAGE, Writer};
use super::{SMALL, Wanted};

/// Sizes of small files, in thousandths of their mean: what `compare` draws from (200, 900, 1800, 4000, 8000 bytes).
const SPREAD: [u64; 5] = [67, 302, 604, 1342, 2685];

/// A size around `mean`.
fn around(writer: &mut Writer, mean: u64) -> u64 {
    let share = writer.random().pick(&SPREAD);
    mean.saturating_mul(share) / 1000
}

/// The mean size of `files` files that have `bytes` together.
fn mean(bytes: u64, files: u64) -> u64 {
    bytes.checked_div(files).unwrap_or(0)
}

/// The data of `compare`: small texts, and one large file that takes the rest.
pub(super) fn mixed(writer: &mut Writer, wanted: &Wanted) -> io::Result<()> {
    let small = wanted.files.saturating_mul(SMALL).min(wanted.bytes);
    texts(writer, wanted.files, small)?;
    let rest = wanted.bytes.saturating_sub(writer.written().bytes);
    writer.half_random("data/big.bin", rest)
}

/// Nothing but texts.
pub(super) fn source(writer: &mut Writer, wanted: &Wanted) -> io::Result<()> {
    texts(writer, wanted.files, wanted.bytes)
}

fn texts(writer: &mut Writer, files: u64, bytes: u64) -> io::Result<()> {
    let mean = mean(bytes, files);
    let mut left = bytes;
    for n in 0..files {
        let size = around(writer, mean).min(left);
        left -= size;
        writer.text(&format!("src/d{:03}/e{:02}/f{n}.txt", n % 100, n / 100 % 20), size)?;
    }
    Ok(())
}

/// Files of a package.
const IN_PACKAGE: u64 = 12;

/// Packages, every tenth of them with a dependency of its own, and one file in 200 a bundle.
pub(super) fn node_modules(writer: &mut Writer, wanted: &Wanted) -> io::Result<()> {
    let mean = mean(wanted.bytes, wanted.files);
    let mut left = wanted.bytes;
    for n in 0..wanted.files {
        let package = n / IN_PACKAGE;
        let home = match package % 10 {
            9 => format!("node_modules/pkg-{}/node_modules/pkg-{package}", package - 1),
            _ => format!("node_modules/pkg-{package}"),
        };
        let name = match n % IN_PACKAGE {
            0 => format!("{home}/package.json"),
            1 => format!("{home}/index.js"),
            2 => format!("{home}/README.md"),
            3..8 => format!("{home}/lib/m{n}.js"),
            _ => format!("{home}/dist/esm/internal/m{n}.d.ts"),
        };
        let size = if n % 200 == 199 { mean * 30 } else { around(writer, mean) * 17 / 20 }.min(left);
        left -= size;
        writer.text(&name, size)?;
        if n % IN_PACKAGE == 1 && package.is_multiple_of(7) && package % 10 != 9 {
            writer
                .link(&format!("node_modules/.bin/tool-{package}"), &format!("../pkg-{package}/index.js"))?;
        }
    }
    Ok(())
}

/// Shards of random bytes.
pub(super) fn model(writer: &mut Writer, wanted: &Wanted) -> io::Result<()> {
    for name in ["config.json", "tokenizer.json"] {
        let left = wanted.bytes.saturating_sub(writer.written().bytes);
        writer.text(name, left.min(SMALL))?;
    }
    let shards = wanted.files.saturating_sub(2).max(1);
    let each = mean(wanted.bytes.saturating_sub(writer.written().bytes), shards);
    (1..=shards)
        .try_for_each(|n| writer.random_file(&format!("model-{n:05}-of-{shards:05}.safetensors"), each))
}

/// Tables of pages, and a log that is all rows.
pub(super) fn database(writer: &mut Writer, wanted: &Wanted) -> io::Result<()> {
    let tables = wanted.files.saturating_sub(1).max(1);
    let log = wanted.bytes / 16;
    let each = mean(wanted.bytes - log, tables) / PAGE * PAGE;
    for n in 0..tables {
        writer.pages(&format!("base/{}/{}", n % 4, 16_384 + n), each)?;
    }
    writer.half_random("wal/000000010000000000000001", log)
}
