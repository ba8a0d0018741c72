//! Any interleaving of streams, any limit, any number of readers at any offset: every byte once, or told to be gone.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::path::Path;

use proptest::prelude::*;

use super::*;

fn open(dir: &Path) -> OwnedFd {
    rustix::fs::open(dir, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap()
}

fn size(dir: &Path) -> u64 {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

/// The byte at an offset, and its stream, as the model has them.
type Model = Vec<(Stream, u8)>;

/// Reads until the end; checks every byte against the model, and gives the offset that was reached and what was gone.
fn read_all(reader: &mut LogReader, model: &Model) -> Vec<(u64, u64)> {
    let mut gone = Vec::new();
    loop {
        let before = reader.offset();
        match reader.next().unwrap() {
            Read::End => return gone,
            Read::Gone { from, to } => {
                assert!(from == before && from < to && reader.offset() == to);
                gone.push((from, to));
            }
            Read::Chunk(chunk) => {
                assert_eq!(chunk.offset, before);
                assert_eq!(reader.offset(), before + chunk.data.len() as u64);
                let from = usize::try_from(chunk.offset).unwrap();
                let expected = &model[from..from + chunk.data.len()];
                assert!(!chunk.data.is_empty());
                assert!(expected.iter().zip(&chunk.data).all(|(e, byte)| *e == (chunk.stream, *byte)));
            }
        }
    }
}

fn bytes(offset: usize, len: usize) -> Vec<u8> {
    (offset..offset + len).map(|n| u8::try_from(n * 31 % 251).unwrap()).collect()
}

fn stream() -> impl Strategy<Value = Stream> {
    prop_oneof![Just(Stream::Stdout), Just(Stream::Stderr)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_byte_is_read_once_whatever_the_rotation_and_wherever_a_reader_begins(
        limit in 0u64..40_000,
        writes in prop::collection::vec((stream(), 1usize..5_000, any::<u64>()), 1..60),
        start in any::<prop::sample::Index>(),
        pauses in prop::collection::vec(any::<bool>(), 60),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = LogWriter::new(open(dir.path()), limit);
        let (mut model, mut follower) = (Model::new(), LogReader::new(open(dir.path()), 0));
        for ((stream, len, micros), pause) in writes.into_iter().zip(pauses) {
            let data = bytes(model.len(), len);
            model.extend(data.iter().map(|byte| (stream, *byte)));
            writer.append(stream, micros, &data);
            prop_assert!(size(dir.path()) <= limit.max(MIN_LIMIT));
            if pause {
                read_all(&mut follower, &model);
                prop_assert_eq!(follower.offset(), writer.offset());
            }
        }
        read_all(&mut follower, &model);
        prop_assert_eq!(follower.offset(), model.len() as u64);
        prop_assert_eq!(writer.lost(), 0);
        let from = start.index(model.len() + 1) as u64;
        let mut late = LogReader::new(open(dir.path()), from);
        let begin = late.begin().unwrap();
        let gone = read_all(&mut late, &model);
        prop_assert_eq!(late.offset(), model.len() as u64);
        // Only what is before the oldest byte is gone, and it is told at once.
        let expected: Vec<_> = (from < begin).then_some((from, begin)).into_iter().collect();
        prop_assert_eq!(gone, expected);
        // Most of what the limit allows is kept.
        prop_assert!(begin == 0 || model.len() as u64 - begin >= limit.max(MIN_LIMIT) / 8);
    }

    #[test]
    fn a_torn_or_damaged_end_ends_the_log_before_it(
        writes in prop::collection::vec((stream(), 1usize..300), 2..20),
        cut in any::<prop::sample::Index>(),
        damage in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = LogWriter::new(open(dir.path()), 1 << 20);
        let (mut model, mut ends) = (Model::new(), vec![(0u64, 0u64)]);
        for (stream, len) in writes {
            let data = bytes(model.len(), len);
            model.extend(data.iter().map(|byte| (stream, *byte)));
            writer.append(stream, 0, &data);
            ends.push((size(dir.path()), writer.offset()));
        }
        let path = dir.path().join(segment_name(0));
        let mut content = std::fs::read(&path).unwrap();
        let at = cut.index(content.len());
        if damage { content[at] ^= 0x40 } else { content.truncate(at) }
        std::fs::write(&path, content).unwrap();
        let mut reader = LogReader::new(open(dir.path()), 0);
        prop_assert!(read_all(&mut reader, &model).is_empty());
        let whole = ends.iter().rev().find(|(on_disk, _)| *on_disk <= at as u64).unwrap().1;
        prop_assert_eq!(reader.offset(), whole);
    }
}

#[test]
fn a_reader_that_is_overtaken_is_told_what_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = LogWriter::new(open(dir.path()), MIN_LIMIT);
    let mut model = Model::new();
    let mut slow = LogReader::new(open(dir.path()), 0);
    for round in 0..200 {
        let data = bytes(model.len(), 100);
        model.extend(data.iter().map(|byte| (Stream::Stdout, *byte)));
        writer.append(Stream::Stdout, round, &data);
        if round == 0 {
            assert!(read_all(&mut slow, &model).is_empty());
        }
    }
    // The segment that it has open is still there for it.
    let gone = read_all(&mut slow, &model);
    assert_eq!(gone.len(), 1, "{gone:?}");
    assert_eq!((gone[0].1, slow.offset()), (slow.begin().unwrap(), writer.offset()));
}

#[test]
fn what_could_not_be_written_is_counted_and_shown_as_gone() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = LogWriter::new(open(dir.path()), MIN_LIMIT);
    let (before, lost) = (bytes(0, 480), bytes(480, 300));
    writer.append(Stream::Stdout, 1, &before);
    writer.append(Stream::Stdout, 1, &before);
    // What is in the way of the next segment stands for a disk that refuses it.
    let blocked = dir.path().join(segment_name(960));
    std::fs::create_dir(&blocked).unwrap();
    writer.append(Stream::Stdout, 2, &lost);
    assert_eq!((writer.offset(), writer.lost()), (1260, 300));
    std::fs::remove_dir(blocked).unwrap();
    writer.append(Stream::Stderr, 3, b"after");
    let mut reader = LogReader::new(open(dir.path()), 480);
    let mut found = Vec::new();
    loop {
        match reader.next().unwrap() {
            Read::End => break,
            read => found.push(read),
        }
    }
    let chunk = |stream, offset, micros, data: &[u8]| {
        Read::Chunk(Chunk { stream, offset, micros, data: data.to_vec() })
    };
    let expected = [
        chunk(Stream::Stdout, 480, 1, &before),
        Read::Gone { from: 960, to: 1260 },
        chunk(Stream::Stderr, 1260, 3, b"after"),
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_reader_beside_the_writer_sees_whole_frames_in_order() {
    for (limit, may_be_overtaken) in [(64 << 20, false), (64 << 10, true)] {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = LogWriter::new(open(dir.path()), limit);
        let done = std::sync::atomic::AtomicBool::new(false);
        let total = std::thread::scope(|scope| {
            let writing = scope.spawn(|| {
                for round in 0..6_000usize {
                    let offset = usize::try_from(writer.offset()).unwrap();
                    let stream = if round % 3 == 0 { Stream::Stderr } else { Stream::Stdout };
                    writer.append(stream, 0, &bytes(offset, round * 7 % 3_000 + 1));
                }
                done.store(true, std::sync::atomic::Ordering::Release);
                writer.offset()
            });
            let mut reader = LogReader::new(open(dir.path()), 0);
            loop {
                let over = done.load(std::sync::atomic::Ordering::Acquire);
                match reader.next().unwrap() {
                    Read::Chunk(chunk) => {
                        let from = usize::try_from(chunk.offset).unwrap();
                        assert_eq!(chunk.data, bytes(from, chunk.data.len()));
                    }
                    Read::Gone { from, to } => assert!(may_be_overtaken, "{from} to {to} are gone"),
                    Read::End if over => break,
                    Read::End => std::thread::yield_now(),
                }
            }
            let total = writing.join().unwrap();
            assert_eq!(reader.offset(), total);
            total
        });
        assert!(total > 8 << 20, "{total}");
    }
}
