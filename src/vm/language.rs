//! What is known of each language: its image, and how it says hello.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};

/// Longest name of a language in an id.
const LONGEST: usize = 32;

struct Language {
    names: &'static [&'static str],
    image: &'static str,
    hello: &'static str,
}

/// Without what an interpreter loads for programs that are more than one line. Go is the only one that needs a file.
const LANGUAGES: [Language; 4] = [
    Language {
        names: &["python"],
        image: "docker.io/library/python:3.11-slim",
        hello: "exec python3 -I -S -c 'print(\"Hello from Python\")'",
    },
    Language {
        names: &["node", "javascript", "js"],
        image: "docker.io/library/node:20-slim",
        hello: "exec node -e 'console.log(\"Hello from JavaScript\")'",
    },
    Language {
        names: &["ruby"],
        image: "docker.io/library/ruby:3.2-slim",
        hello: "exec ruby --disable=gems -e 'puts \"Hello from Ruby\"'",
    },
    Language {
        names: &["golang", "go"],
        image: "docker.io/library/golang:1.22-bookworm",
        hello: "dir=$(mktemp -d) && printf '%s\\n' 'package main' 'import \"syscall\"' \
                'func main() { syscall.Write(1, []byte(\"Hello from Go\\n\")) }' >\"$dir/hello.go\" && \
                GO111MODULE=off GOFLAGS=-p=1 GOCACHE=\"${GOCACHE:-/tmp/go-cache}\" go run \"$dir/hello.go\"; \
                code=$?; rm -rf \"$dir\"; exit $code",
    },
];

fn find(language: &str) -> Result<&'static Language> {
    let found = LANGUAGES.iter().find(|known| known.names.contains(&language));
    found.ok_or_else(|| {
        Error::invalid("unsupported language")
            .with_remedy("use python, javascript, node, ruby or golang, or say which --image")
    })
}

/// The image of a language.
///
/// # Errors
/// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) "unsupported language".
pub fn default_image(language: &str) -> Result<&'static str> {
    find(language).map(|language| language.image)
}

/// A script that has the interpreter, or compiler, of a language say hello.
///
/// # Errors
/// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) "unsupported language".
pub fn hello(language: &str) -> Result<&'static str> {
    find(language).map(|language| language.hello)
}

/// As it is in records.
pub(super) fn normalize(language: &str) -> String {
    language.trim().to_ascii_lowercase()
}

/// The part of an id that says the language.
pub(super) fn slug(language: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let slug: String = language.chars().map(plain).take(LONGEST).collect();
    let slug = slug.trim_matches('-');
    if slug.is_empty() { "vm".to_owned() } else { slug.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_those_of_the_originals() {
        for (language, image) in [
            ("python", "docker.io/library/python:3.11-slim"),
            ("node", "docker.io/library/node:20-slim"),
            ("javascript", "docker.io/library/node:20-slim"),
            ("js", "docker.io/library/node:20-slim"),
            ("ruby", "docker.io/library/ruby:3.2-slim"),
            ("golang", "docker.io/library/golang:1.22-bookworm"),
            ("go", "docker.io/library/golang:1.22-bookworm"),
        ] {
            assert_eq!(default_image(language).unwrap(), image);
            assert!(hello(language).unwrap().contains("Hello from"));
        }
        let error = default_image("cobol").unwrap_err();
        assert_eq!(error.to_string(), "unsupported language");
        assert!(hello("cobol").is_err());
    }

    #[test]
    fn a_language_is_part_of_an_id() {
        assert_eq!(normalize("  Python "), "python");
        for (language, part) in [("python", "python"), ("c++/x", "c---x"), ("../..", "vm"), ("ä", "vm")] {
            assert_eq!(slug(language), part);
        }
    }
}
