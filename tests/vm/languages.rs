//! Interpreters: each language says hello, in the image that it has by default.
#![forbid(unsafe_code)]

use super::{json, text};
use crate::testkit::image::languages_tar;
use crate::testkit::{Cap, Store, need, tests};

tests!(every_language_says_hello_in_its_own_image);

async fn every_language_says_hello_in_its_own_image(store: &Store) {
    if !need(&[Cap::Languages]) {
        return;
    }
    let manager = store.manager().await;
    let tar = languages_tar().unwrap();
    // What is in the store under the name of the default is what is used.
    manager.import_image(&tar, "python:3.11-slim", |_| {}).await.unwrap();
    for image in ["node:20-slim", "ruby:3.2-slim"] {
        manager.tag_image("python:3.11-slim", image).await.unwrap();
    }
    for language in ["python", "javascript", "node", "ruby"] {
        text(store, &["create", "--language", language, "--mem", "512", "--best-effort"]);
    }
    let out = text(store, &["exec", "--hello", "--all"]);
    for (words, times) in [("Hello from Python", 1), ("Hello from JavaScript", 2), ("Hello from Ruby", 1)] {
        assert_eq!(out.lines().filter(|line| *line == words).count(), times, "{out}");
    }
    let records = json(store, &["list"]);
    let images: Vec<_> =
        records.as_array().unwrap().iter().map(|r| r["RootFSImage"].as_str().unwrap()).collect();
    assert_eq!(images[0], "docker.io/library/python:3.11-slim");
    assert_eq!(images[1], images[2]);
    let temp = text(store, &["temp", "--best-effort", "--cmd", "python3 -c 'print(6*7)'", "-q"]);
    assert_eq!(temp, "42\n");
    text(store, &["clean", "--all"]);
}
