//! Frames there and back, and what is wrong with archives that are not as they were written.
#![forbid(unsafe_code)]

use std::sync::Arc;

use tokio::io::AsyncReadExt;

use super::FRAME;
use super::table::{FOOTER, Footer, MAX_FRAMES, SeekTable, TableError};
use crate::backend::{ByteStream, RandomAccess, Storage};
use crate::compressed::CompressedStorage;
use crate::error::{Result, StorageErrorKind};
use crate::memory::MemoryStorage;

/// Compressible and not, with nothing that repeats at the size of a frame.
fn content(len: usize) -> Vec<u8> {
    let mut state = 7u64;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        match (out.len() >> 16) % 2 {
            0 => out.extend_from_slice(&(state >> 32).to_le_bytes()[..4]),
            _ => out.extend_from_slice(format!("{} ", state >> 58).as_bytes()),
        }
    }
    out.truncate(len);
    out
}

fn body(bytes: &[u8]) -> ByteStream {
    Box::pin(std::io::Cursor::new(bytes.to_vec()))
}

async fn bytes(mut stream: ByteStream) -> std::io::Result<Vec<u8>> {
    let mut out = Vec::new();
    stream.read_to_end(&mut out).await.map(|_| out)
}

async fn packed(content: &[u8], threads: usize) -> Vec<u8> {
    let storage = CompressedStorage::new(MemoryStorage::new()).with_threads(threads);
    storage.save_snapshot("v", "s", body(content)).await.unwrap();
    bytes(storage.inner().load_snapshot("v", "s").await.unwrap()).await.unwrap()
}

async fn stored(archive: &[u8]) -> CompressedStorage<MemoryStorage> {
    let inner = MemoryStorage::new();
    inner.save_snapshot("v", "s", body(archive)).await.unwrap();
    CompressedStorage::new(inner)
}

async fn opened(archive: &[u8]) -> Result<Option<Arc<dyn RandomAccess>>> {
    stored(archive).await.open_snapshot("v", "s").await
}

/// All of it, through random access.
async fn through(archive: &dyn RandomAccess) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    loop {
        let some = archive.read_at(out.len() as u64, usize::MAX).await?;
        if some.is_empty() {
            return Ok(out);
        }
        out.extend_from_slice(&some);
    }
}

#[tokio::test]
async fn the_bytes_do_not_depend_on_the_number_of_threads() {
    let content = content(3 * FRAME + 12_345);
    let one = packed(&content, 1).await;
    assert!(one.len() < content.len());
    for threads in [2, 3, 8] {
        assert!(packed(&content, threads).await == one, "{threads} threads");
    }
}

#[tokio::test]
async fn any_part_is_read_without_the_rest() {
    let content = content(2 * FRAME + 100);
    let mut archive = packed(&content, 2).await;
    let open = opened(&archive).await.unwrap().unwrap();
    assert_eq!(open.len(), content.len() as u64);
    for at in [0, 1, FRAME - 1, FRAME, 2 * FRAME - 7, 2 * FRAME + 99] {
        let some = open.read_at(at as u64, 300).await.unwrap();
        assert!(!some.is_empty() && some == content[at..at + some.len()], "{at}");
    }
    for beyond in [content.len() as u64, u64::MAX] {
        assert!(open.read_at(beyond, 1).await.unwrap().is_empty());
    }
    // The first frame is not looked at for what is in the second.
    archive[100] ^= 1;
    let open = opened(&archive).await.unwrap().unwrap();
    assert_eq!(open.read_at(FRAME as u64, 4).await.unwrap(), content[FRAME..FRAME + 4]);
    let error = open.read_at(5, 1).await.unwrap_err();
    assert_eq!(error.kind(), StorageErrorKind::IntegrityViolation);
}

#[tokio::test]
async fn sizes_around_a_frame_come_back_and_other_decoders_read_them() {
    for len in [0, 1, FRAME - 1, FRAME, FRAME + 1] {
        let content = content(len);
        let archive = packed(&content, 2).await;
        assert!(zstd::decode_all(&archive[..]).unwrap() == content, "{len}");
        assert!(
            bytes(stored(&archive).await.load_snapshot("v", "s").await.unwrap()).await.unwrap() == content
        );
        let open = opened(&archive).await.unwrap().unwrap();
        assert!(through(&*open).await.unwrap() == content, "{len}");
    }
}

#[tokio::test]
async fn the_layout_is_that_of_the_seekable_format() {
    let archive = packed(b"hello", 1).await;
    let table = &archive[archive.len() - 29..];
    assert_eq!(table[..8], [0x5e, 0x2a, 0x4d, 0x18, 21, 0, 0, 0]);
    let frame = archive.len() - 29;
    assert_eq!(table[8..12], (frame as u32).to_le_bytes());
    assert_eq!(table[12..16], 5u32.to_le_bytes());
    // XXH64 of "hello" is 0x26c7827d889f6da3 (reference vector of the algorithm's authors' tool).
    assert_eq!(table[16..20], 0x889f_6da3_u32.to_le_bytes());
    assert_eq!(table[20..], [1, 0, 0, 0, 0x80, 0xb1, 0xea, 0x92, 0x8f]);
}

#[tokio::test]
async fn archives_of_others_are_read_from_their_beginning() {
    let content = content(300_000);
    let plain = zstd::encode_all(&content[..], 1).unwrap();
    assert!(opened(&plain).await.unwrap().is_none());
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, &content).unwrap();
    assert!(opened(&encoder.finish().unwrap()).await.unwrap().is_none());
    // A plain one needs no table.
    assert!(through(&*opened(&content).await.unwrap().unwrap()).await.unwrap() == content);
    // A table without checksums, in front of whose frames nothing vouches for the content.
    let mut table = [0x5e, 0x2a, 0x4d, 0x18, 17, 0, 0, 0].to_vec();
    table.extend_from_slice(&(plain.len() as u32).to_le_bytes());
    table.extend_from_slice(&300_000u32.to_le_bytes());
    table.extend_from_slice(&[1, 0, 0, 0, 0, 0xb1, 0xea, 0x92, 0x8f]);
    assert!(opened(&[plain, table].concat()).await.unwrap().is_none());
}

/// Whatever is done to an archive: it is refused, or the content is what it was.
async fn never_wrong(archive: &[u8], content: &[u8], what: &str) -> bool {
    let sequential = bytes(stored(archive).await.load_snapshot("v", "s").await.unwrap()).await;
    if let Ok(read) = &sequential {
        assert!(read == content || read.len() != content.len(), "{what}: other content, read in order");
    }
    let read = match opened(archive).await {
        Ok(None) => return true,
        Ok(Some(open)) => through(&*open).await,
        Err(error) => Err(error),
    };
    match read {
        // Plain, because what says that it is zstd was changed: no tar.
        Ok(read) if read == archive => true,
        Ok(read) => {
            assert!(read == content, "{what}: other content");
            false
        }
        Err(error) => {
            assert_eq!(error.kind(), StorageErrorKind::IntegrityViolation, "{what}: {error}");
            true
        }
    }
}

#[tokio::test]
async fn no_flipped_bit_and_no_cut_gives_other_content() {
    let content = content(400);
    let archive = packed(&content, 1).await;
    let mut harmless = 0;
    for at in 0..archive.len() {
        for bit in 0..8 {
            let mut flipped = archive.clone();
            flipped[at] ^= 1 << bit;
            harmless +=
                usize::from(!never_wrong(&flipped, &content, &format!("bit {bit} of byte {at}")).await);
        }
        never_wrong(&archive[..at], &content, &format!("cut at {at}")).await;
    }
    // The lowest two bits of the descriptor of the table mean nothing, and some of a frame's header may not.
    assert!(harmless <= 4, "{harmless} flipped bits are not noticed");
    never_wrong(&[&archive[..], b"more"].concat(), &content, "more behind it").await;
    never_wrong(&[b"more", &archive[..]].concat(), &content, "more in front").await;
    never_wrong(&[&archive[..], &archive[..]].concat(), &[&content[..], &content].concat(), "twice").await;
}

/// An archive of two frames, with a table made of `entries`.
async fn with_table(frames: &[u8], entries: &[[u32; 3]], count: u32, descriptor: u8) -> StorageErrorKind {
    let mut archive = frames.to_vec();
    for word in
        [0x184D_2A5E, entries.len() as u32 * 12 + 9].into_iter().chain(entries.iter().flatten().copied())
    {
        archive.extend_from_slice(&word.to_le_bytes());
    }
    archive.extend_from_slice(&count.to_le_bytes());
    archive.push(descriptor);
    archive.extend_from_slice(&0x8F92_EAB1_u32.to_le_bytes());
    let read = match opened(&archive).await {
        Ok(open) => through(&*open.expect("it has a table")).await,
        Err(error) => Err(error),
    };
    read.expect_err("the table lies").kind()
}

#[tokio::test]
async fn a_table_that_lies_is_refused() {
    let content = content(FRAME + 1000);
    let archive = packed(&content, 1).await;
    let footer = Footer::parse(archive.last_chunk::<FOOTER>().unwrap()).unwrap().unwrap();
    let (frames, bytes) = archive.split_at(archive.len() - footer.table_len());
    let table = SeekTable::parse(footer, bytes, archive.len() as u64).unwrap();
    let [a, b] = table.frames() else { panic!("two frames") };
    let (a, b) = ([a.packed, a.len, a.checksum.unwrap()], [b.packed, b.len, b.checksum.unwrap()]);
    let shift = |frame: [u32; 3], by: i32| [frame[0].wrapping_add_signed(by), frame[1], frame[2]];
    let cases: Vec<(&str, Vec<[u32; 3]>, u32, u8)> = vec![
        ("frames exchanged", vec![b, a], 2, 0x80),
        ("one frame left out", vec![a], 1, 0x80),
        ("one frame twice", vec![a, a, b], 3, 0x80),
        ("frames that overlap", vec![shift(a, 1), shift(b, -1)], 2, 0x80),
        ("one frame for both", vec![[a[0] + b[0], a[1] + b[1], b[2]]], 1, 0x80),
        ("content that is longer", vec![[a[0], a[1] + 1, a[2]], b], 2, 0x80),
        ("content that is shorter", vec![[a[0], a[1] - 1, a[2]], b], 2, 0x80),
        ("a frame of 4 GiB", vec![[a[0], u32::MAX, a[2]], b], 2, 0x80),
        ("another checksum", vec![a, [b[0], b[1], b[2] ^ 1]], 2, 0x80),
        ("a frame behind the end", vec![a, [u32::MAX, b[1], b[2]]], 2, 0x80),
        ("nothing but frames without bytes", vec![[0, 1, 0]; 9], 9, 0x80),
        ("more frames than entries", vec![a, b], 3, 0x80),
        ("four thousand million frames", vec![a, b], u32::MAX, 0x80),
        ("as many as are allowed", vec![a, b], MAX_FRAMES, 0x80),
        ("fewer frames than entries", vec![a, b], 1, 0x80),
        ("a reserved bit", vec![a, b], 2, 0x84),
        ("no checksums, where there are some", vec![a, b], 2, 0),
    ];
    for (what, entries, count, descriptor) in cases {
        let kind = with_table(frames, &entries, count, descriptor).await;
        assert_eq!(kind, StorageErrorKind::IntegrityViolation, "{what}");
    }
}

#[test]
fn a_huge_table_is_refused_before_it_is_read() {
    let mut footer = [0; FOOTER];
    footer[..4].copy_from_slice(&(MAX_FRAMES + 1).to_le_bytes());
    footer[4] = 0x80;
    footer[5..].copy_from_slice(&0x8F92_EAB1_u32.to_le_bytes());
    assert_eq!(Footer::parse(&footer).unwrap_err(), TableError::TooMany { frames: MAX_FRAMES + 1 });
}
