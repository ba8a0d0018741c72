//! Logs: offsets, reconnecting, rotation, tails, times.
#![forbid(unsafe_code)]

use std::time::Duration;

use time::OffsetDateTime;
use vesselrt::{ErrorKind, LogOptions, LogStart, Process, ProcessEvent, SpawnOptions, Vessel};

use super::{all, code, ends, next, output, script, spawn};
use crate::testkit::random::Random;
use crate::testkit::{Store, fails_with, leftovers, tests};

tests!(
    events_come_in_order_and_their_offsets_join,
    a_reader_that_reconnects_at_its_offset_gets_every_byte_once,
    what_was_rotated_away_is_told_with_where_the_log_begins,
    a_log_is_never_larger_than_its_limit,
    the_last_lines_and_the_last_moments_can_be_asked_for,
    one_stream_can_be_asked_for,
    ten_megabytes_are_logged_whole,
    a_follower_hears_at_once,
);

async fn events_come_in_order_and_their_offsets_join(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let text = "printf abc; usleep 100000; printf de >&2; usleep 100000; printf f; exit 2";
    let process = spawn(&vessel, text).await;
    let mut events = process.events(LogOptions::new().follow(true)).await.unwrap();
    let Some(ProcessEvent::Started { time: begun }) = next(&mut events).await else { panic!("not started") };
    let mut last = begun;
    for (expected, at, is_err) in [(&b"abc"[..], 0, false), (b"de", 3, true), (b"f", 5, false)] {
        let (offset, time, data, err) = match next(&mut events).await.unwrap() {
            ProcessEvent::Stdout { offset, time, data } => (offset, time, data, false),
            ProcessEvent::Stderr { offset, time, data } => (offset, time, data, true),
            other => panic!("{other:?}"),
        };
        assert_eq!((data.as_slice(), offset, err), (expected, at, is_err));
        assert_eq!(events.offset(), offset + data.len() as u64);
        assert!(time >= last && time <= OffsetDateTime::now_utc());
        last = time;
    }
    let Some(ProcessEvent::Exited(end)) = next(&mut events).await else { panic!("not exited") };
    assert_eq!((end.result.unwrap().exit_code, end.log_end, end.log_lost), (2, Some(6), 0));
    assert_eq!(next(&mut events).await, None);
    assert_eq!(next(&mut events).await, None);
    vessel.close().await.unwrap();
}

/// A process that writes numbered lines to both streams in turn, and what they are.
async fn counting(vessel: &Vessel, lines: usize) -> (Process, Vec<u8>) {
    let text = format!("i=0; while [ $i -lt {lines} ]; do echo line $i; i=$((i+1)); done");
    let expected = (0..lines).flat_map(|n| format!("line {n}\n").into_bytes()).collect();
    (spawn(vessel, &text).await, expected)
}

async fn a_reader_that_reconnects_at_its_offset_gets_every_byte_once(store: &Store) {
    let (manager, vessel) = store.vessel().await;
    let mut random = Random::new();
    let (process, expected) = counting(&vessel, 5_000).await;
    vessel.close().await.unwrap();
    let (mut got, mut offset, mut over, mut connections) = (Vec::<u8>::new(), 0, false, 0);
    while !over {
        // A new reader each time, as after a lost connection: it knows nothing but its offset.
        let reader = manager.process(vessel.id(), &process.id()).await.unwrap();
        let options = LogOptions::new().start(LogStart::Offset(offset)).follow(true);
        let mut events = reader.events(options).await.unwrap();
        connections += 1;
        for _ in 0..=random.below(80) {
            match next(&mut events).await {
                Some(ProcessEvent::Stdout { offset: at, data, .. }) => {
                    assert_eq!(at, offset);
                    // It may have had a part of it only.
                    let some = data.len().min(random.below(3000) as usize + 1);
                    got.extend(&data[..some]);
                    offset += some as u64;
                    if some < data.len() {
                        break;
                    }
                }
                Some(ProcessEvent::Exited(_)) => over = true,
                Some(other) => panic!("{other:?}"),
                None => break,
            }
        }
    }
    assert_eq!(got, expected);
    assert!(connections > 5, "{connections}");
}

async fn what_was_rotated_away_is_told_with_where_the_log_begins(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let text = "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done";
    let process = vessel.spawn_detached(SpawnOptions::new(script(text)).log_limit(8192)).await.unwrap();
    let end = ends(&process).await;
    let whole = (0..3000).map(|n| format!("line {n}\n")).collect::<String>();
    assert_eq!(end.log_end, Some(whole.len() as u64));
    let mut events = process.events(LogOptions::new()).await.unwrap();
    assert!(matches!(next(&mut events).await, Some(ProcessEvent::Started { .. })));
    let Some(ProcessEvent::Stdout { offset: begin, .. }) = next(&mut events).await else { panic!("nothing") };
    assert!(begin > 0);
    let (kept, _) = output(&process, LogOptions::new()).await;
    assert_eq!(kept, whole.as_bytes()[usize::try_from(begin).unwrap()..]);
    for offset in [0, 1, begin - 1] {
        let error = process.events(LogOptions::new().start(LogStart::Offset(offset))).await;
        let error = fails_with(error, &ErrorKind::NotFound, "is gone");
        assert!(error.remedy().unwrap().contains(&format!("begins at {begin}")), "{error:?}");
    }
    let from = begin + 7;
    let (rest, _) = output(&process, LogOptions::new().start(LogStart::Offset(from))).await;
    assert_eq!(rest, whole.as_bytes()[usize::try_from(from).unwrap()..]);
    vessel.close().await.unwrap();
}

async fn a_log_is_never_larger_than_its_limit(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let limit = 1 << 20;
    let process = vessel.spawn_detached(SpawnOptions::new(script("yes")).log_limit(limit)).await.unwrap();
    let record = store.root().join("vessels").join(vessel.id()).join("processes/p1");
    let mut largest = 0;
    for _ in 0..40 {
        let log = |path: &std::path::PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("log.");
        let files = leftovers::entries(&record).into_iter().filter(log);
        // One may be removed between the two.
        let size: u64 = files.filter_map(|file| std::fs::metadata(file).ok()).map(|meta| meta.len()).sum();
        assert!(size <= limit, "{size}");
        largest = largest.max(size);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(largest > limit / 2, "{largest}");
    process.signal(9).await.unwrap();
    let end = ends(&process).await;
    assert!(end.log_end.unwrap() > limit && end.log_lost == 0, "{end:?}");
    vessel.close().await.unwrap();
}

async fn the_last_lines_and_the_last_moments_can_be_asked_for(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let process = spawn(&vessel, "echo one; echo two; sleep 1; echo three; printf four").await;
    ends(&process).await;
    for (lines, expected) in
        [(0, ""), (1, "four"), (2, "three\nfour"), (3, "two\nthree\nfour"), (99, "one\ntwo\nthree\nfour")]
    {
        let (out, _) = output(&process, LogOptions::new().start(LogStart::Tail(lines))).await;
        assert_eq!(String::from_utf8(out).unwrap(), expected, "{lines}");
    }
    let begun = process.info().await.unwrap().started;
    let since = |time| output(&process, LogOptions::new().start(LogStart::Since(time)));
    assert_eq!(since(begun).await.0, b"one\ntwo\nthree\nfour");
    let (late, _) = since(begun + Duration::from_millis(800)).await;
    assert!(late == b"three\nfour", "{late:?}");
    assert_eq!(since(OffsetDateTime::now_utc()).await.0, b"");
    assert_eq!(output(&process, LogOptions::new().start(LogStart::Now)).await.0, b"");
    vessel.close().await.unwrap();
}

async fn one_stream_can_be_asked_for(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let process = spawn(&vessel, "for i in 1 2 3; do echo out $i; echo err $i >&2; done").await;
    assert_eq!(all(&process).await, ("out 1\nout 2\nout 3\n".into(), "err 1\nerr 2\nerr 3\n".into()));
    let only = |options: LogOptions| output(&process, options);
    assert_eq!(only(LogOptions::new().stderr(false)).await, (b"out 1\nout 2\nout 3\n".to_vec(), vec![]));
    assert_eq!(only(LogOptions::new().stdout(false)).await, (vec![], b"err 1\nerr 2\nerr 3\n".to_vec()));
    let last = LogOptions::new().stdout(false).start(LogStart::Tail(1));
    assert_eq!(only(last).await, (vec![], b"err 3\n".to_vec()));
    vessel.close().await.unwrap();
}

async fn ten_megabytes_are_logged_whole(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let text = "yes 0123456789abcde | head -c 5242880 & yes fedcba987654321 | head -c 5242880 >&2; wait";
    let process = spawn(&vessel, text).await;
    let (out, err) = all(&process).await;
    assert_eq!((out.len(), err.len()), (5 << 20, 5 << 20));
    assert!(out.as_bytes().chunks(16).all(|line| line == b"0123456789abcde\n"));
    assert!(err.as_bytes().chunks(16).all(|line| line == b"fedcba987654321\n"));
    assert_eq!(code(&process).await, 0);
    vessel.close().await.unwrap();
}

async fn a_follower_hears_at_once(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let text = "while [ ! -e go ]; do usleep 10000; done; echo now; sleep 1000";
    let process = spawn(&vessel, text).await;
    let mut events = process.events(LogOptions::new().start(LogStart::Now).follow(true)).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(300), events.next()).await.is_err());
    vessel.write_file("go", "", 0o644).await.unwrap();
    let Some(ProcessEvent::Stdout { data, time, .. }) = next(&mut events).await else { panic!("nothing") };
    let late = OffsetDateTime::now_utc() - time;
    assert_eq!(data, b"now\n");
    assert!(late < Duration::from_millis(900), "without inotify it would be told within a second: {late}");
    process.signal(9).await.unwrap();
    assert!(matches!(next(&mut events).await, Some(ProcessEvent::Exited(_))));
    vessel.close().await.unwrap();
}
