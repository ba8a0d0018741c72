//! This host's own shell and tools, and the libraries that they need.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::elf::{self, Needs};
use crate::cli::{Failure, Outcome};

/// Programs without which there is nothing to show.
const REQUIRED: &[&str] = &["sh", "cat", "ls", "mkdir", "rm"];
/// Programs that are taken if they are there.
const OPTIONAL: &[&str] = &[
    "cp",
    "date",
    "echo",
    "env",
    "false",
    "find",
    "grep",
    "head",
    "id",
    "mv",
    "sed",
    "seq",
    "sha256sum",
    "sleep",
    "sort",
    "stat",
    "sync",
    "tail",
    "touch",
    "true",
    "uname",
    "wc",
];
/// The largest program or library that is taken, in bytes.
const MAX_FILE: u64 = 256 << 20;
/// Directories of programs, after those of `PATH`.
const PROGRAM_DIRS: &[&str] = &["/usr/bin", "/bin", "/usr/sbin", "/sbin"];
/// Directories of libraries that every loader knows, after those that ld.so.conf names.
const LIBRARY_DIRS: &[&str] = &["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib"];
/// Top-level directories that are symlinks into `/usr` on most systems; they are in every image made here.
const MERGED: &[&str] = &["bin", "sbin", "lib", "lib64", "lib32", "libx32"];

/// Files for an image.
#[derive(Debug, Default)]
pub(crate) struct Tools {
    /// Content by absolute path in the image.
    pub(super) files: BTreeMap<PathBuf, Vec<u8>>,
    /// Symlinks by absolute path in the image.
    pub(super) links: BTreeMap<PathBuf, PathBuf>,
    /// How many programs there are.
    pub(super) programs: usize,
    /// How many libraries there are, loaders included.
    pub(super) libraries: usize,
}

impl Tools {
    /// Where the libraries are, joined as `LD_LIBRARY_PATH` has it: the cache of the loader is not in the image.
    pub(crate) fn library_path(&self) -> OsString {
        let dirs: Vec<&OsStr> = self
            .files
            .keys()
            .chain(self.links.keys())
            .filter(|path| !path.starts_with("/usr/bin"))
            .filter_map(|path| path.parent())
            .map(Path::as_os_str)
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect();
        dirs.join(OsStr::new(":"))
    }

    /// Bytes of all files.
    pub(super) fn size(&self) -> u64 {
        self.files.values().map(|content| content.len() as u64).sum()
    }
}

/// A program or library that was taken, and how it is to be searched for others.
struct Taken {
    needs: Needs,
    /// Directory of the real file: what `$ORIGIN` means.
    origin: PathBuf,
    abi: Abi,
}

/// Word size, byte order and machine: libraries of another are passed over by every loader.
type Abi = Option<[u8; 4]>;

fn abi(file: &[u8]) -> Abi {
    Some([*file.get(4)?, *file.get(5)?, *file.get(18)?, *file.get(19)?])
}

/// Collects them.
///
/// # Errors
/// When a required one is missing, or a library that one of them needs.
pub(crate) fn collect() -> Outcome<Tools> {
    let mut collector = Collector { search: library_dirs(), ..Collector::default() };
    for (name, required) in REQUIRED.iter().map(|n| (n, true)).chain(OPTIONAL.iter().map(|n| (n, false))) {
        match collector.program(name) {
            Ok(()) => {}
            Err(failure) if required => return Err(failure),
            // A script, say, or one that only root may read: it is not missed.
            Err(_) => continue,
        }
    }
    collector.libraries()?;
    Ok(collector.tools)
}

#[derive(Default)]
struct Collector {
    tools: Tools,
    search: Vec<PathBuf>,
    queue: VecDeque<Taken>,
    /// Where the content of a real file is in the image.
    placed: BTreeMap<PathBuf, PathBuf>,
    found: HashSet<(OsString, Abi)>,
}

impl Collector {
    fn program(&mut self, name: &str) -> Outcome {
        let path = find_program(name).ok_or_else(|| {
            Failure::not_found(format!("this host has no program {name:?}")).remedy("use --image")
        })?;
        let failed = |e| Failure::io(format!("read {}", path.display()), e);
        let (real, content) = read(&path).map_err(failed)?;
        let needs = elf::needs(&content).map_err(|e| {
            Failure::invalid(format!("cannot use {}: {e}", path.display())).remedy("use --image")
        })?;
        self.place(Path::new("/usr/bin").join(name), &real, content, needs);
        self.tools.programs += 1;
        Ok(())
    }

    /// Puts a file into the image, or a symlink if its content is there under another name already (busybox, uutils).
    fn place(&mut self, at: PathBuf, real: &Path, content: Vec<u8>, needs: Needs) {
        if let Some(first) = self.placed.get(real) {
            if *first != at {
                self.tools.links.insert(at, first.clone());
            }
            return;
        }
        let origin = real.parent().unwrap_or(Path::new("/")).to_owned();
        self.queue.push_back(Taken { needs, origin, abi: abi(&content) });
        self.placed.insert(real.to_owned(), at.clone());
        self.tools.files.insert(at, content);
    }

    /// Everything that what is queued needs, and what that needs.
    fn libraries(&mut self) -> Outcome {
        while let Some(taken) = self.queue.pop_front() {
            if let Some(loader) = &taken.needs.interpreter {
                self.library(Path::new(loader))?;
            }
            for name in &taken.needs.libraries {
                if self.found.insert((name.clone(), taken.abi)) {
                    let path = self.find_library(name, &taken).ok_or_else(|| {
                        Failure::not_found(format!("this host has no library {}", name.display()))
                            .remedy("use --image")
                    })?;
                    self.library(&path)?;
                }
            }
        }
        Ok(())
    }

    fn library(&mut self, path: &Path) -> Outcome {
        let at = in_usr(path);
        if self.tools.files.contains_key(&at) || self.tools.links.contains_key(&at) {
            return Ok(());
        }
        let (real, content) = read(path).map_err(|e| Failure::io(format!("read {}", path.display()), e))?;
        let needs = elf::needs(&content).map_err(|e| {
            Failure::invalid(format!("cannot use {}: {e}", path.display())).remedy("use --image")
        })?;
        self.place(at, &real, content, needs);
        self.tools.libraries += 1;
        Ok(())
    }

    /// As ld.so(8) searches, without its cache.
    fn find_library(&self, name: &OsStr, by: &Taken) -> Option<PathBuf> {
        if name.as_bytes().contains(&b'/') {
            return Some(PathBuf::from(name));
        }
        let own = by.needs.run_path.as_deref().map(|path| run_path(path, &by.origin)).unwrap_or_default();
        let loader =
            by.needs.interpreter.as_deref().and_then(|loader| Path::new(loader).parent()).map(Path::to_owned);
        own.iter()
            .chain(&self.search)
            .chain(&loader)
            .map(|dir| dir.join(name))
            .find(|path| head(path).is_some_and(|head| by.abi.is_some() && abi(&head) == by.abi))
    }
}

/// The first bytes of a file that begins as ELF does.
fn head(path: &Path) -> Option<[u8; 20]> {
    let mut head = [0; 20];
    File::open(path).ok()?.read_exact(&mut head).ok()?;
    head.starts_with(b"\x7fELF").then_some(head)
}

/// The real path and the content of a regular file.
fn read(path: &Path) -> io::Result<(PathBuf, Vec<u8>)> {
    let real = fs::canonicalize(path)?;
    let file = File::open(&real)?;
    let meta = file.metadata()?;
    if !meta.is_file() || meta.len() > MAX_FILE {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut content = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut content)?;
    Ok((real, content))
}

fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(PROGRAM_DIRS.iter().map(PathBuf::from));
    let mut found = dirs.filter(|dir| dir.is_absolute()).map(|dir| dir.join(name));
    // A wrapper script in front of the program is passed over.
    found.find(|path| head(path).is_some())
}

/// A program of this host that needs no libraries, if there is one of this name.
pub(crate) fn static_program(name: &str) -> Option<PathBuf> {
    let path = find_program(name)?;
    let needs = elf::needs(&read(&path).ok()?.1).ok()?;
    (needs.interpreter.is_none() && needs.libraries.is_empty()).then_some(path)
}

/// `$ORIGIN` of a run path, in both of its forms. Other variables of ld.so are rare and not known here.
fn run_path(path: &OsStr, origin: &Path) -> Vec<PathBuf> {
    let dirs = path.as_bytes().split(|&b| b == b':');
    dirs.filter_map(|dir| {
        let rest = dir.strip_prefix(b"$ORIGIN").or_else(|| dir.strip_prefix(b"${ORIGIN}"));
        match rest {
            Some(rest) => {
                let mut joined = origin.as_os_str().to_owned();
                joined.push(OsStr::from_bytes(rest));
                fs::canonicalize(joined).ok()
            }
            None => Some(PathBuf::from(OsStr::from_bytes(dir))).filter(|dir| dir.is_absolute()),
        }
    })
    .collect()
}

/// Directories that the loader searches: those of ld.so.conf, the usual ones, those of other architectures and ABIs.
fn library_dirs() -> Vec<PathBuf> {
    let mut dirs = configured(Path::new("/etc/ld.so.conf"));
    for entry in sorted(Path::new("/etc/ld.so.conf.d")) {
        dirs.extend(configured(&entry));
    }
    dirs.extend(LIBRARY_DIRS.iter().map(PathBuf::from));
    for base in ["/lib", "/usr/lib"] {
        let is_abi = |path: &PathBuf| path.to_string_lossy().contains("-linux-") && path.is_dir();
        dirs.extend(sorted(Path::new(base)).into_iter().filter(is_abi));
    }
    dirs
}

fn sorted(dir: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    entries.sort();
    entries
}

/// The directories that a file of ld.so.conf(5) names; `include` is known to be ld.so.conf.d.
fn configured(path: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::trim).filter(|line| line.starts_with('/')).map(PathBuf::from).collect()
}

/// Where a path is on a system whose top-level directories are merged into `/usr`.
fn in_usr(path: &Path) -> PathBuf {
    let top = path.components().nth(1).map(Component::as_os_str);
    match (top, path.strip_prefix("/")) {
        (Some(top), Ok(rest)) if MERGED.iter().any(|merged| *merged == top) => Path::new("/usr").join(rest),
        _ => path.to_owned(),
    }
}

/// The top-level symlinks of such a system, as far as they lead somewhere.
pub(super) fn merged_links(tools: &Tools) -> Vec<(&'static str, String)> {
    let exists = |dir: &str| {
        let dir = Path::new("/usr").join(dir);
        tools.files.keys().chain(tools.links.keys()).any(|path| path.starts_with(&dir))
    };
    MERGED.iter().filter(|dir| exists(dir)).map(|dir| (*dir, format!("usr/{dir}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_has_what_it_takes_and_all_that_is_needed_is_there() {
        let tools = collect().unwrap();
        assert!(tools.programs >= REQUIRED.len());
        let names: HashSet<_> =
            tools.files.keys().chain(tools.links.keys()).filter_map(|path| path.file_name()).collect();
        for (path, content) in &tools.files {
            for library in elf::needs(content).unwrap().libraries {
                let name = Path::new(&library).file_name().unwrap();
                assert!(names.contains(name), "{path:?} needs {library:?}");
            }
        }
        assert!(tools.links.values().all(|target| tools.files.contains_key(target)));
    }

    #[test]
    fn top_level_directories_are_merged() {
        for (path, merged) in [
            ("/lib/x/libc.so.6", "/usr/lib/x/libc.so.6"),
            ("/lib64/ld.so", "/usr/lib64/ld.so"),
            ("/usr/lib/a", "/usr/lib/a"),
            ("/nix/store/x/lib/a", "/nix/store/x/lib/a"),
            ("/library/a", "/library/a"),
        ] {
            assert_eq!(in_usr(Path::new(path)), Path::new(merged));
        }
    }

    #[test]
    fn a_run_path_begins_at_its_file() {
        let dirs = run_path(OsStr::new("$ORIGIN/../lib:/opt/x:relative:${ORIGIN}"), Path::new("/usr/bin"));
        assert_eq!(dirs, ["/usr/lib", "/opt/x", "/usr/bin"].map(PathBuf::from));
    }
}
