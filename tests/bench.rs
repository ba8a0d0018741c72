//! `bench`: that it measures, says so in JSON and in pictures, tells who did not take part, and leaves nothing behind. How long
//! anything takes is not asserted: other tests run beside it.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::shell::{Call, Shell, processes_in, settle};
use crate::testkit::caps::which;
use crate::testkit::{self, Cap, need};

/// Everything there is to measure.
const ALL: [&str; 10] =
    ["exec", "run", "snapshot", "pack", "unpack", "restore", "restore-archive", "import", "diff", "fork"];

/// A directory beside which the bench makes its store, and in which it may leave nothing.
struct Place {
    shell: Shell,
    dir: PathBuf,
}

impl Place {
    /// `None`, told, where no vessel can be made.
    fn new() -> Option<Self> {
        if !need(&[Cap::UserNamespaces]) {
            return None;
        }
        let shell = Shell::empty();
        let dir = shell.beside("bench");
        fs::create_dir(&dir).unwrap();
        Some(Self { shell, dir })
    }

    fn bench(&self) -> Call {
        self.rounds("2")
    }

    fn rounds(&self, rounds: &str) -> Call {
        let call = Call::new(testkit::bin()).arg("--root").arg(self.dir.join("store")).arg("bench");
        call.args(["--files", "40", "--size", "200k", "--rounds", rounds])
    }

    /// Nothing runs, nothing is mounted, nothing is there.
    fn is_clean(&self) {
        let running = settle(|| Some(processes_in(&self.dir)).filter(|left| !left.is_empty()));
        assert_eq!(running, None);
        let left: Vec<_> = fs::read_dir(&self.dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(left.is_empty(), "{left:?}");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.dir.to_str().unwrap()), "{mounts}");
    }
}

/// The report of a bench in which nothing of ours failed.
#[track_caller]
fn measured(bench: Call) -> Value {
    let done = bench.in_json().run();
    let report = done.json();
    let failed: Vec<&Value> = match report["benchmarks"].is_array() {
        true => {
            rows(&report).into_iter().filter(|row| row["ours"] == true && row["status"] != "ok").collect()
        }
        false => vec![&report],
    };
    assert!(done.code == 0 && failed.is_empty(), "exit code {}: {failed:#?}", done.code);
    report
}

fn rows(report: &Value) -> Vec<&Value> {
    let benchmarks = report["benchmarks"].as_array().unwrap();
    benchmarks.iter().flat_map(|benchmark| benchmark["rows"].as_array().unwrap()).collect()
}

#[track_caller]
fn is_measured(row: &Value) {
    assert_eq!(row["status"], "ok", "{row}");
    let figures = &row["figures"];
    let number = |name: &str| figures[name].as_f64().unwrap_or_else(|| panic!("no {name} in {row}"));
    assert!(number("rounds") >= 2.0, "{row}");
    assert!(0.0 < number("min_ms") && number("min_ms") <= number("p50_ms"), "{row}");
    assert!(number("p50_ms") <= number("p95_ms") && number("p95_ms") <= number("p99_ms"), "{row}");
    assert!(number("mean_ms") > 0.0, "{row}");
}

#[test]
fn everything_of_ours_is_measured_and_nothing_is_left_behind() {
    let Some(place) = Place::new() else { return };
    let report = measured(place.bench().args(["--peers", "none"]));
    place.is_clean();
    let benchmarks = report["benchmarks"].as_array().unwrap();
    let names: Vec<&str> = benchmarks.iter().map(|benchmark| benchmark["name"].as_str().unwrap()).collect();
    assert_eq!(names, ALL);
    for row in rows(&report) {
        assert_eq!(row["ours"], true);
        is_measured(row);
        assert!(row["figures"]["ratio"].is_null(), "{row}");
    }
    for name in ["snapshot", "pack", "unpack"] {
        let benchmark = benchmarks.iter().find(|benchmark| benchmark["name"] == name).unwrap();
        let figures = &benchmark["rows"][0]["figures"];
        assert_eq!(benchmark["work"]["files"], report["tree"]["files"]);
        assert!(figures["mb_per_s"].as_f64().is_some() && figures["files_per_s"].as_f64().is_some());
        // At least the pages of this program itself.
        assert!(figures["peak_memory_bytes"].as_u64().is_some_and(|peak| peak > 1 << 20), "{figures}");
    }
    let archive = &benchmarks[2]["rows"][0]["figures"]["output_bytes"];
    assert!(archive.as_u64().is_some_and(|size| size > 1000), "{archive}");
    assert_eq!(report["tree"]["profile"], "mixed");
    assert!((35..=45).contains(&report["tree"]["files"].as_u64().unwrap()), "{}", report["tree"]);
    assert_eq!(report["curves"], Value::Array(Vec::new()));
}

#[test]
fn what_is_installed_is_measured_beside_ours_and_leaves_nothing_behind() {
    let Some(place) = Place::new() else { return };
    let bench = place.bench().args(["exec", "snapshot", "unpack", "import", "--timeout", "60s"]);
    let report = measured(bench);
    place.is_clean();
    let rows = rows(&report);
    for row in &rows {
        match row["status"].as_str().unwrap() {
            "ok" => {
                is_measured(row);
                assert_eq!(row["figures"]["ratio"].is_f64(), row["ours"] == false, "{row}");
            }
            "failed" | "unable" | "absent" => {
                assert_eq!(row["ours"], false, "{row}");
                assert!(row["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{row}");
                assert!(row["figures"].is_null(), "{row}");
            }
            other => panic!("{other}"),
        }
    }
    // These work for every user.
    for (program, name) in [("zstd", "tar | zstd -1 -T0"), ("umoci", "umoci repack (gzip)")] {
        let row = rows.iter().find(|row| row["name"] == name).unwrap();
        assert_eq!(row["status"] == "ok", which(program).is_some(), "{row}");
    }
}

/// A directory of programs: these of the host, and this one that fails.
fn programs(place: &Place, real: &[&str], broken: &str) -> PathBuf {
    let dir = place.shell.beside("programs");
    fs::create_dir(&dir).unwrap();
    for program in real {
        if let Some(path) = which(program) {
            symlink(path, dir.join(program)).unwrap();
        }
    }
    fs::write(dir.join(broken), "#!/bin/sh\necho first >&2\necho 'not today' >&2\nexit 3\n").unwrap();
    fs::set_permissions(dir.join(broken), PermissionsExt::from_mode(0o755)).unwrap();
    dir
}

#[test]
fn a_peer_that_fails_or_is_not_there_is_shown_and_not_counted() {
    let Some(place) = Place::new() else { return };
    let helpers = ["newuidmap", "newgidmap", "fuse-overlayfs", "fusermount3", "sh", "tar", "bash"];
    let dir = programs(&place, &helpers, "zstd");
    let bench = || place.bench().args(["pack", "--unsettled", "--peers", "tar,umoci"]).env("PATH", &dir);
    let report = measured(bench());
    assert_eq!(report["settled"], false);
    let rows = rows(&report);
    is_measured(rows[0]);
    let failed = rows.iter().find(|row| row["name"] == "zstd -1 -T0 of a ready tar").unwrap();
    assert_eq!(
        (failed["status"].as_str(), failed["reason"].as_str()),
        (Some("failed"), Some("zstd: not today"))
    );
    assert!(failed["figures"].is_null());
    let absent = rows.iter().find(|row| row["name"] == "umoci repack (gzip)").unwrap();
    assert_eq!(absent["status"], "absent");
    let text = bench().succeeds().text();
    assert!(text.contains("failed: zstd: not today") && text.contains("not installed"), "{text}");
    place.is_clean();
}

/// The names of all elements of a document in which every one is closed in order.
fn elements(xml: &str) -> Vec<String> {
    let mut open: Vec<&str> = Vec::new();
    let mut seen = Vec::new();
    for tag in xml.split('<').skip(1).map(|rest| rest.split_once('>').expect("a tag that ends").0) {
        match tag.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name), "closed in order"),
            None => {
                let name = tag.split([' ', '/']).next().unwrap();
                assert_eq!(tag.matches('"').count() % 2, 0, "quoted: {tag}");
                seen.push(name.to_owned());
                if !tag.ends_with('/') {
                    open.push(name);
                }
            }
        }
    }
    assert!(open.is_empty(), "not closed: {open:?}");
    seen
}

fn count(elements: &[String], name: &str) -> usize {
    elements.iter().filter(|element| *element == name).count()
}

#[test]
fn the_curves_are_drawn() {
    let Some(place) = Place::new() else { return };
    let file = place.shell.beside("curves.svg");
    let bench = place.bench().args(["exec", "--peers", "none", "--plot-size", "20k", "--plot-chain", "4"]);
    let report = measured(bench.arg("--plot").arg(&file));
    place.is_clean();
    let curves = report["curves"].as_array().unwrap();
    for curve in curves {
        let points = curve["points"].as_array().unwrap();
        let at: Vec<u64> = points.iter().map(|point| point["at"].as_u64().unwrap()).collect();
        let expected: &[u64] = match (curve["panel"].as_str().unwrap(), curve["name"].as_str().unwrap()) {
            ("size", _) => &[1000, 10_000, 20_000],
            (_, "snapshot") => &[1, 3],
            (_, "sealed snapshot") => &[2, 4],
            _ => &[1, 2, 3, 4],
        };
        assert_eq!(at, expected, "{curve}");
        assert!(points.iter().all(|point| point["ms"].as_f64().unwrap() > 0.0), "{curve}");
    }
    let svg = fs::read_to_string(file).unwrap();
    let elements = elements(&svg);
    assert_eq!(elements[0], "svg");
    assert_eq!(count(&elements, "polyline"), curves.len());
    assert!(curves.len() >= 8 && count(&elements, "text") > 10, "{svg}");
}

#[test]
fn an_interrupted_bench_cleans_up() {
    let Some(place) = Place::new() else { return };
    for (delay, signal) in [(10, Signal::INT), (200, Signal::TERM), (700, Signal::INT), (1500, Signal::HUP)] {
        let bench = place.rounds("100").args(["--peers", "tar,umoci,bwrap"]).start();
        std::thread::sleep(Duration::from_millis(delay));
        bench.signal(signal);
        let done = bench.wait();
        assert!(!done.complaint().contains("panicked"), "{done:?}");
        // Before the first thing was made there is nothing to clean, and the signal ends it.
        assert!([128, 1000].map(|base| base + signal.as_raw()).contains(&done.code), "{done:?}");
        assert!(!done.text().contains("rounds"), "nothing was finished: {done:?}");
        place.is_clean();
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let shell = Shell::empty();
    for args in [
        ["nonsense"].as_slice(),
        &["--rounds", "0"],
        &["--size", "1.5M"],
        &["--peers", "docker"],
        &["--profile", "unknown"],
        &["--plot-chain", "5"],
    ] {
        shell.call(["bench"]).args(args).refused("invalid_argument");
    }
    assert!(!Path::new(shell.root()).exists());
}
