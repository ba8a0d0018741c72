//! `docs/security.md` promises by the names of tests: every one of them exists, and every case of the corpus is in it.
#![forbid(unsafe_code)]

mod attacks;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use vesselrt_fixtures::hostile::{Expect, Form, cases};

const DOCUMENT: &str = include_str!("../docs/security.md");

/// What stands around the table of attacks.
const BEGIN: &str = "<!-- attacks: ";
const END: &str = "<!-- end of attacks -->";

/// Words in backticks that can only be the names of tests and cases: lower case, with two underscores or more.
fn named() -> BTreeSet<&'static str> {
    let words = DOCUMENT.split('`').skip(1).step_by(2);
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    words.filter(|word| word.chars().all(plain) && word.matches('_').count() >= 2).collect()
}

/// Functions of files that have tests.
fn functions(dir: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.ends_with("target") {
            functions(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            if ["#[test]", "#[tokio::test", "tests!(", "tests! {", "tests_on_each_driver!"]
                .iter()
                .any(|mark| text.contains(mark))
            {
                let names = text.split("fn ").skip(1).filter_map(|rest| rest.split('(').next());
                found.extend(names.map(str::to_owned));
            }
        }
    }
}

#[test]
fn every_test_that_the_document_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    if !root.join("storage/src").is_dir() {
        eprintln!(
            "SKIP every_test_that_the_document_names_exists: the sources are not here, or not for this user"
        );
        return;
    }
    let mut known: BTreeSet<String> = cases().iter().map(|case| case.name.to_owned()).collect();
    for dir in ["src", "runtime", "storage", "tests"] {
        functions(&root.join(dir), &mut known);
    }
    let missing: Vec<_> = named().into_iter().filter(|name| !known.contains(*name)).collect();
    assert!(missing.is_empty(), "named in docs/security.md, and no tests: {missing:#?}");
    assert!(named().len() > 250, "{}", named().len());
}

#[test]
fn every_case_of_the_corpus_is_in_the_document_with_its_verdict() {
    for case in cases() {
        let row = format!("| `{}` |", case.name);
        let Some(line) = DOCUMENT.lines().find(|line| line.starts_with(&row)) else {
            panic!("{} is not in docs/security.md", case.name);
        };
        let verdict = line[row.len()..].trim_start();
        let refused = matches!(case.expect, Expect::Reject(_));
        assert!(verdict.starts_with(if refused { "refused" } else { "taken" }), "{line}");
        // The others were asked about image layers.
        assert!(case.form == Form::Snapshot || line.matches('|').count() == 6, "{line}");
    }
}

#[test]
fn the_table_of_attacks_is_that_of_the_tests() {
    let begin = DOCUMENT.find(BEGIN).and_then(|at| Some(at + DOCUMENT[at..].find('\n')? + 1));
    let (begin, end) = (begin.expect("its begin"), DOCUMENT.find(END).expect("its end"));
    let rows: String = attacks::ATTACKS.iter().map(|attack| attack.row() + "\n").collect();
    let table = format!("\n| attack | known as | tests |\n|---|---|---|\n{rows}\n");
    if DOCUMENT[begin..end] == table {
        return;
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/security.md");
    if std::env::var_os("VESSELRT_TEST_WRITE_DOCS").is_some() {
        return fs::write(path, [&DOCUMENT[..begin], &table, &DOCUMENT[end..]].concat()).unwrap();
    }
    let written: BTreeSet<&str> = DOCUMENT[begin..end].lines().collect();
    let differs: Vec<&str> = table.lines().filter(|line| !written.contains(line)).collect();
    panic!(
        "docs/security.md has other rows than tests/security_doc/attacks.rs (VESSELRT_TEST_WRITE_DOCS=1 writes it): {differs:#?}"
    );
}
