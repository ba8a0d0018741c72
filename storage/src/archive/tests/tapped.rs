//! Layers that somebody else has on their way.
#![forbid(unsafe_code)]

use std::io::Write;

use super::build::*;
use super::*;

/// What a tap does at the end of a layer.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Well,
    FailsFirst,
    FailsLast,
    /// Says that the tar does not end.
    Cut,
    /// Says that it is another layer.
    Other,
}

struct Tap {
    end: End,
    /// The bytes of each layer, with what was said of it.
    seen: Vec<Seen>,
}

/// What was said of a layer, and its bytes.
type Seen = (Option<Digest>, Vec<u8>);

struct Stream<'a>(&'a mut Tap, Compression);

impl Write for Stream<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.end == End::FailsFirst {
            return Err(std::io::ErrorKind::BrokenPipe.into());
        }
        let (_, seen) = self.0.seen.last_mut().unwrap();
        seen.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl TapStream for Stream<'_> {
    fn finish(self: Box<Self>) -> Option<Tapped> {
        let (_, seen) = self.0.seen.last().unwrap();
        let mut plain = Vec::new();
        crate::compression::Decoder::new(seen.as_slice(), self.1).unwrap().read_to_end(&mut plain).unwrap();
        let diff_id =
            if self.0.end == End::Other { Digest::sha256(b"other") } else { Digest::sha256(&plain) };
        let zeros = if self.0.end == End::Cut { 512 } else { 1024 };
        (self.0.end != End::FailsLast).then_some(Tapped { diff_id, zeros, entries: 2 })
    }
}

impl LayerTap for Tap {
    fn begin<'a>(&'a mut self, layer: &TapLayer<'_>) -> Option<Box<dyn TapStream + 'a>> {
        assert!(layer.index <= self.seen.len());
        self.seen.push((layer.diff_id.cloned(), Vec::new()));
        Some(Box::new(Stream(self, layer.compression)))
    }
}

fn tapped(bench: &Bench, input: &[u8], end: End) -> (Result<ImageRecord>, Vec<Seen>) {
    let mut tap = Tap { end, seen: Vec::new() };
    let (path, options) = (bench.file(input), as_app());
    let result = import_tapped(&bench.store, &path, &options, &mut |_| (), Some(&mut tap));
    (result, tap.seen)
}

fn inputs() -> [Vec<u8>; 4] {
    let rootfs = tar(&[("./bin/sh", b"#!"), ("./etc/os-release", b"ID=test\n")]);
    [rootfs.clone(), gzip(&rootfs), docker::simple(), simple_layout().tar()]
}

#[test]
fn a_tap_gets_the_bytes_that_are_stored() {
    for input in inputs() {
        let bench = Bench::new();
        let plain = Bench::new().import(&input).unwrap();
        let (record, seen) = tapped(&bench, &input, End::Well);
        let record = record.unwrap();
        assert_eq!(record.manifest_digest, plain.manifest_digest);
        bench.verify(&record);
        assert_eq!(seen.len(), record.layers.len());
        for (layer, (promised, bytes)) in record.layers.iter().zip(&seen) {
            assert_eq!(layer.digest, Digest::sha256(bytes));
            assert!(promised.as_ref().is_none_or(|promised| *promised == layer.diff_id));
        }
    }
}

#[test]
fn a_tap_that_fails_changes_nothing() {
    for end in [End::FailsFirst, End::FailsLast] {
        for input in inputs() {
            let bench = Bench::new();
            let plain = Bench::new().import(&input).unwrap();
            let record = tapped(&bench, &input, end).0.unwrap();
            assert_eq!(record.layers, plain.layers);
            bench.verify(&record);
        }
    }
}

#[test]
fn what_a_tap_finds_is_checked() {
    let [_, rootfs, docker, _] = inputs();
    for (input, end) in [(rootfs, End::Cut), (docker, End::Other)] {
        let bench = Bench::new();
        let error = tapped(&bench, &input, end).0.unwrap_err();
        assert_eq!(error.kind(), StorageErrorKind::IntegrityViolation, "{error:?}");
        bench.nothing_named();
    }
}
