//! The corpus of hostile and odd paths: w01 to w25, by name.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;

use super::*;

#[test]
fn w01_dotdot_is_clamped_to_the_root() {
    let tree = tree();
    fs::create_dir_all(tree.path("a/etc")).unwrap();
    fs::create_dir(tree.path("etc")).unwrap();
    fs::write(tree.path("etc/passwd"), "inside").unwrap();
    for path in
        ["../../etc/passwd", "a/../../../etc/passwd", "/../etc/passwd", "../fs/../etc/passwd/../passwd"]
    {
        match tree.read(path) {
            Ok(text) => assert_eq!(text, "inside", "{path}"),
            Err(fault) => assert!(path.contains("fs") && fault.kind == FaultKind::NotFound, "{fault:?}"),
        }
    }
    tree.write("../../new", "x").unwrap();
    make_dir(&tree.root, b"../made", 0o755, false).unwrap();
    rename(&tree.root, b"../new", b"/../../moved").unwrap();
    assert!(tree.path("moved").exists() && tree.path("made").is_dir());
    remove(&tree.root, b"../../moved", false).unwrap();
    tree.canary_is_well();
}

#[test]
fn w02_absolute_paths_are_the_vessels() {
    let tree = tree();
    let outside = tree.victim().join("secret");
    fails(tree.read(outside.to_str().unwrap()), FaultKind::NotFound);
    fails(tree.read("/etc/passwd"), FaultKind::NotFound);
}

#[test]
fn w03_w04_symlinks_lead_to_the_vessel_never_to_the_host() {
    let tree = tree();
    fs::create_dir(tree.path("deep")).unwrap();
    symlink(tree.victim().join("secret"), tree.path("absolute")).unwrap();
    symlink("../".repeat(100) + "etc/passwd", tree.path("deep/dots")).unwrap();
    symlink("../victim/secret", tree.path("beside")).unwrap();
    symlink(tree.victim(), tree.path("dir")).unwrap();
    for path in ["absolute", "deep/dots", "beside", "dir/secret"] {
        fails(tree.read(path), FaultKind::NotFound);
    }
    for path in ["dir/secret", "dir/new"] {
        fails(tree.write(path, "x"), FaultKind::NotFound);
        fails(remove(&tree.root, path.as_bytes(), true), FaultKind::NotFound);
        fails(make_dir(&tree.root, path.as_bytes(), 0o755, false), FaultKind::NotFound);
    }
    fails(read_dir(&tree.root, b"dir"), FaultKind::NotFound);
    remove(&tree.root, b"dir", true).unwrap();
    remove(&tree.root, b"absolute", true).unwrap();
    tree.canary_is_well();
}

#[test]
fn w05_loops_end() {
    let tree = tree();
    symlink("self", tree.path("self")).unwrap();
    symlink("b", tree.path("a")).unwrap();
    symlink("a", tree.path("b")).unwrap();
    for index in 0..41 {
        symlink(format!("c{}", index + 1), tree.path(&format!("c{index}"))).unwrap();
    }
    fs::write(tree.path("c41"), "end").unwrap();
    for path in ["self", "a", "c0", "self/x"] {
        let fault = fails(tree.read(path), FaultKind::InvalidArgument);
        assert_eq!(fault.errno, Some(Errno::LOOP.raw_os_error()), "{path}");
        fails(tree.write(path, "x"), FaultKind::InvalidArgument);
    }
    assert_eq!(tree.read("c5").unwrap(), "end");
    fails(make_dir(&tree.root, b"self/x", 0o755, true), FaultKind::InvalidArgument);
}

#[test]
fn w06_a_dangling_symlink_is_created_through_inside() {
    let tree = tree();
    symlink("/there", tree.path("link")).unwrap();
    fails(open(&tree.root, b"link", WRONLY | CREATE | EXCL, 0o600), FaultKind::AlreadyExists);
    open(&tree.root, b"link", WRONLY | CREATE, 0o600).unwrap();
    assert!(tree.path("there").is_file() && tree.path("link").is_symlink());
    symlink("d/../there2", tree.path("link2")).unwrap();
    fails(tree.write("link2", "x"), FaultKind::NotFound);
    fs::create_dir(tree.path("d")).unwrap();
    tree.write("link2", "x").unwrap();
    assert_eq!(tree.read("/there2").unwrap(), "x");
    fails(make_dir(&tree.root, b"link2/x", 0o755, true), FaultKind::InvalidArgument);
    symlink("/gone", tree.path("link3")).unwrap();
    fails(make_dir(&tree.root, b"link3", 0o755, true), FaultKind::AlreadyExists);
}

#[test]
fn w07_w08_special_files_are_neither_opened_nor_waited_for() {
    let tree = tree();
    mkfifo(&tree.path("fifo"));
    let _socket = UnixListener::bind(tree.path("socket")).unwrap();
    symlink("fifo", tree.path("link")).unwrap();
    for path in ["fifo", "socket", "link"] {
        for flags in [RDONLY, WRONLY, 2, WRONLY | CREATE] {
            let fault = fails(open(&tree.root, path.as_bytes(), flags, 0o600), FaultKind::InvalidArgument);
            assert_eq!(fault.message, format!("failed to open \"{path}\": not a regular file or directory"));
        }
        fails(tree.write(path, "x"), FaultKind::InvalidArgument);
        assert!(stat(&tree.root, path.as_bytes(), true).is_ok());
    }
    remove(&tree.root, b"fifo", false).unwrap();
}

#[test]
fn w09_there_is_no_proc_or_dev_of_the_host() {
    let tree = tree();
    for path in ["/proc/self/root/etc/passwd", "/proc/1/root", "/proc/self/fd/3", "/dev/fd/0", "/dev/stdin"] {
        fails(tree.read(path), FaultKind::NotFound);
    }
}

#[test]
fn w10_trailing_slashes_and_dots() {
    let tree = tree();
    fs::write(tree.path("file"), "x").unwrap();
    fs::create_dir_all(tree.path("dir/sub")).unwrap();
    for path in ["file/", "file/.", "file/x", "file//"] {
        fails(tree.read(path), FaultKind::InvalidArgument);
        fails(remove(&tree.root, path.as_bytes(), true), FaultKind::InvalidArgument);
        fails(tree.write(path, "y"), FaultKind::InvalidArgument);
        fails(rename(&tree.root, path.as_bytes(), b"z"), FaultKind::InvalidArgument);
        fails(make_dir(&tree.root, path.as_bytes(), 0o755, true), FaultKind::InvalidArgument);
    }
    fails(rename(&tree.root, b"file", b"z/"), FaultKind::InvalidArgument);
    for path in ["", "/", ".", "//", "dir/.."] {
        assert_eq!(read_dir(&tree.root, path.as_bytes()).unwrap().len(), 2, "{path:?}");
        fails(remove(&tree.root, path.as_bytes(), true), FaultKind::InvalidArgument);
        fails(rename(&tree.root, path.as_bytes(), b"z"), FaultKind::InvalidArgument);
        fails(rename(&tree.root, b"dir", path.as_bytes()), FaultKind::InvalidArgument);
        fails(tree.write(path, "y"), FaultKind::InvalidArgument);
        fails(open(&tree.root, path.as_bytes(), WRONLY, 0), FaultKind::InvalidArgument);
    }
    make_dir(&tree.root, b"/", 0o755, true).unwrap();
    make_dir(&tree.root, b"dir//sub/", 0o755, true).unwrap();
    assert_eq!(tree.read("dir/..//file").unwrap(), "x");
    remove(&tree.root, b"dir/sub/", false).unwrap();
}

#[test]
fn w11_long_names_and_paths_are_typed_errors() {
    let tree = tree();
    tree.write(&"n".repeat(255), "x").unwrap();
    for path in ["n".repeat(256), "a/".repeat(2047) + "bc", "a".repeat(100_000)] {
        let path = path.as_bytes();
        fails(open(&tree.root, path, RDONLY, 0), FaultKind::InvalidArgument);
        fails(make_dir(&tree.root, path, 0o755, false), FaultKind::InvalidArgument);
        fails(stat(&tree.root, path, false), FaultKind::InvalidArgument);
    }
}

#[test]
fn w12_names_are_bytes_and_messages_are_escaped() {
    let tree = tree();
    let names: [&[u8]; 4] = [b"caf\xe9", b"new\nline", b"\x1b[31mred", b"tab\t"];
    for name in names {
        write_file(&tree.root, name, 0o600, &b"x"[..]).unwrap();
        assert!(tree.path("/").join(OsStr::from_bytes(name)).exists());
        let missing = [name, b".gone"].concat();
        let fault = fails(stat(&tree.root, &missing, false), FaultKind::NotFound);
        assert!(
            fault.message.chars().all(|it| !it.is_control())
                && fault.message.ends_with(": no such file or directory")
        );
    }
    assert_eq!(read_dir(&tree.root, b"/").unwrap().len(), names.len());
    for path in [&b"a\0b"[..], b"\0"] {
        fails(stat(&tree.root, path, false), FaultKind::InvalidArgument);
        fails(rename(&tree.root, b"tab\t", path), FaultKind::InvalidArgument);
    }
    assert_eq!(
        fails(stat(&tree.root, b"/x", true), FaultKind::NotFound).message,
        "failed to stat \"/x\": no such file or directory"
    );
}

#[test]
fn w14_a_file_with_two_names_stays_one_file() {
    let tree = tree();
    fs::write(tree.path("one"), "old content").unwrap();
    fs::hard_link(tree.path("one"), tree.path("two")).unwrap();
    tree.write("one", "new").unwrap();
    assert_eq!(tree.read("two").unwrap(), "new");
    assert_eq!(stat(&tree.root, b"two", false).unwrap().nlink, 2);
}

#[test]
fn w15_w16_replaced_files_keep_their_mode_without_setuid() {
    let tree = tree();
    for (mode, expected) in [(0o4755, 0o755), (0o2644, 0o644), (0o600, 0o600), (0o1666, 0o1666)] {
        fs::write(tree.path("f"), "old").unwrap();
        fs::set_permissions(tree.path("f"), fs::Permissions::from_mode(mode)).unwrap();
        tree.write("f", "new").unwrap();
        assert_eq!(stat(&tree.root, b"f", false).unwrap().mode & 0o7777, expected, "{mode:o}");
        assert_eq!(tree.read("f").unwrap(), "new");
    }
    write_file(&tree.root, b"made", 0o666, &b"x"[..]).unwrap();
    assert_eq!(stat(&tree.root, b"made", false).unwrap().mode & 0o7777, 0o666, "whatever the umask");
    tree.is_clean("/");
}

#[test]
fn w19_sparse_files_and_long_lists() {
    let tree = tree();
    let file = fs::File::create(tree.path("sparse")).unwrap();
    file.set_len(10 << 30).unwrap();
    file.write_all_at(b"end", (10 << 30) - 3).unwrap();
    let fd = fs::File::from(open(&tree.root, b"sparse", RDONLY, 0).unwrap());
    let mut buffer = [0; 3];
    fd.read_exact_at(&mut buffer, (10 << 30) - 3).unwrap();
    assert_eq!(&buffer, b"end");
    for index in 0..50 {
        fs::write(tree.path(&format!("{index}")), "").unwrap();
    }
    let names: Vec<_> = read_dir(&tree.root, b"/").unwrap().into_iter().map(|entry| entry.0).collect();
    assert!(names.len() == 51 && names.is_sorted());
    let dir = tree.root.open(Path::new("/"), OFlags::RDONLY | OFlags::DIRECTORY, 0).unwrap();
    assert_eq!(entries(dir.as_fd(), 51).unwrap().len(), 51);
    let limited = entries(dir.as_fd(), 50).unwrap_err().fault("list", &[b"/"]);
    assert_eq!(limited.kind, FaultKind::LimitExceeded);
}

#[test]
fn w20_data_that_breaks_off_leaves_the_old_content() {
    struct Breaks(u32);
    impl Read for Breaks {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.0 = self.0.checked_sub(1).ok_or_else(|| std::io::Error::other("the sender went away"))?;
            buffer.fill(b'x');
            Ok(buffer.len())
        }
    }
    let tree = tree();
    tree.write("f", "old").unwrap();
    let fault = fails(write_file(&tree.root, b"f", 0o644, Breaks(3)), FaultKind::Internal);
    assert_eq!(fault.message, "failed to write \"f\": the sender went away");
    assert_eq!(tree.read("f").unwrap(), "old");
    fails(write_file(&tree.root, b"new", 0o644, Breaks(0)), FaultKind::Internal);
    assert!(!tree.path("new").exists());
    tree.is_clean("/");
}

#[test]
fn w24_w25_names_that_look_special_are_names() {
    let tree = tree();
    let names = [".wh.x", ".wh..wh..opq", "-", " ", ".\t", "Case", "case", "#1", "..."];
    for name in names {
        tree.write(name, name).unwrap();
    }
    for name in names {
        assert_eq!(tree.read(name).unwrap(), name);
        rename(&tree.root, name.as_bytes(), b"x").unwrap();
        remove(&tree.root, b"x", false).unwrap();
    }
    assert!(read_dir(&tree.root, b"/").unwrap().is_empty());
}

#[test]
fn flags_beyond_the_protocol_are_refused() {
    let tree = tree();
    fs::write(tree.path("f"), "x").unwrap();
    // O_TMPFILE, O_PATH, O_DIRECT, O_ASYNC, access mode 3.
    for flags in [0o20_200_001, 0o10_000_000, 0o40_000, 0o20_000, 3] {
        fails(open(&tree.root, b"f", flags, 0o600), FaultKind::InvalidArgument);
    }
    let file = open(&tree.root, b"f", 0o2_000_000, 0).unwrap();
    assert!(!rustix::fs::fcntl_getfl(&file).unwrap().contains(OFlags::NONBLOCK));
    symlink("f", tree.path("l")).unwrap();
    assert_eq!(fails(open(&tree.root, b"l", 0o400_000, 0), FaultKind::InvalidArgument).errno, Some(40));
    assert_eq!(stat(&tree.root, b"l", false).unwrap().target.as_deref(), Some(&b"f"[..]));
    assert_eq!(stat(&tree.root, b"l", true).unwrap().size, 1);
}
