//! Tests of [`super`]: the program under an interpreter, for both architectures, and for real in a process of its own.
#![forbid(unsafe_code)]

use std::process::Command;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, socket};

use super::assembler::{RET_ALLOW, RET_ERRNO, RET_KILL_PROCESS};
use super::interpreter::{Call, run};
use super::*;

const REFUSED: u32 = RET_ERRNO | 1;
const MISSING: u32 = RET_ERRNO | 38;

fn verdict(arch: Arch, number: u32, arguments: [u64; 6]) -> u32 {
    run(&program_for(arch.name).unwrap(), &Call { number, architecture: arch.audit, arguments }).0
}

fn named(arch: Arch, name: &str, arguments: &[u64]) -> u32 {
    let mut all = [0xdead_beef_dead_beef; 6];
    all[..arguments.len()].copy_from_slice(arguments);
    verdict(arch, profile::number(arch.name, name).unwrap_or_else(|| panic!("{name}")), all)
}

#[test]
fn everyday_calls_are_allowed() {
    for arch in ARCHES {
        for name in [
            "read",
            "write",
            "openat",
            "openat2",
            "close",
            "mmap",
            "futex",
            "execve",
            "execveat",
            "exit_group",
            "wait4",
            "pidfd_open",
            "ptrace",
            "process_vm_readv",
            "chroot",
            "setuid",
            "setgroups",
            "capset",
            "prctl",
            "seccomp",
            "landlock_create_ruleset",
            "memfd_create",
            "fchmodat2",
            "statx",
            "rseq",
            "mseal",
            "listxattrat",
            "bind",
            "socketpair",
            "fchownat",
            "mknodat",
            "prlimit64",
            "getrandom",
            "epoll_pwait2",
            "renameat2",
            "adjtimex",
        ] {
            assert_eq!(named(arch, name, &[]), RET_ALLOW, "{} {name}", arch.name);
        }
    }
    assert_eq!(named(ARCHES[0], "arch_prctl", &[]), RET_ALLOW);
    assert_eq!(named(ARCHES[0], "uretprobe", &[]), RET_ALLOW);
}

/// T13, T15, T16.
#[test]
fn dangerous_calls_are_refused() {
    for arch in ARCHES {
        for name in [
            "io_uring_setup",
            "io_uring_enter",
            "io_uring_register",
            "userfaultfd",
            "keyctl",
            "add_key",
            "request_key",
            "bpf",
            "perf_event_open",
            "mount",
            "umount2",
            "move_mount",
            "fsopen",
            "fsmount",
            "open_tree",
            "mount_setattr",
            "pivot_root",
            "unshare",
            "setns",
            "open_by_handle_at",
            "kexec_load",
            "kexec_file_load",
            "init_module",
            "finit_module",
            "delete_module",
            "swapon",
            "reboot",
            "quotactl",
            "move_pages",
            "acct",
            "settimeofday",
            "clock_settime",
            "syslog",
            "kcmp",
            "pidfd_getfd",
            "process_madvise",
            "open_tree_attr",
            "lookup_dcookie",
        ] {
            assert_eq!(named(arch, name, &[]), REFUSED, "{} {name}", arch.name);
        }
        assert_eq!(named(arch, "clone3", &[]), MISSING);
    }
    assert_eq!(named(ARCHES[0], "iopl", &[3]), REFUSED);
}

#[test]
fn unknown_numbers_do_not_exist() {
    for arch in ARCHES {
        let newest = *profile::table(arch.name).unwrap().last_key_value().unwrap().0;
        for number in [newest + 1, 500, 1000, 0x3fff_ffff, 350, u32::MAX] {
            assert_eq!(verdict(arch, number, [0; 6]), MISSING, "{} {number}", arch.name);
        }
    }
}

#[test]
fn foreign_calls_kill() {
    let [x86_64, aarch64] = ARCHES;
    for (arch, audit) in
        [(x86_64, 0x4000_0003), (x86_64, aarch64.audit), (aarch64, 0x4000_0028), (aarch64, 0)]
    {
        let program = program_for(arch.name).unwrap();
        for number in [0, 1, 39, 500] {
            let call = Call { number, architecture: audit, arguments: [0; 6] };
            assert_eq!(run(&program, &call).0, RET_KILL_PROCESS);
        }
    }
    for number in [0x4000_0000, 0x4000_0001, 0x4000_0208, 0x7fff_ffff, 0xffff_fffe] {
        assert_eq!(verdict(x86_64, number, [0; 6]), RET_KILL_PROCESS, "{number:#x}");
    }
}

#[test]
fn sockets_by_family() {
    for arch in ARCHES {
        for (family, expected) in [
            (1, RET_ALLOW),
            (2, RET_ALLOW),
            (10, RET_ALLOW),
            (16, RET_ALLOW),
            (17, RET_ALLOW),
            (37, RET_ALLOW),
            (38, REFUSED),
            (39, RET_ALLOW),
            (40, REFUSED),
            (41, RET_ALLOW),
            (45, RET_ALLOW),
            // The kernel takes an int: the high bits do not make it another family.
            (38 | 1 << 32, REFUSED),
            (40 | 0xffff_ffff << 32, REFUSED),
        ] {
            assert_eq!(named(arch, "socket", &[family, 5, 0]), expected, "{family:#x}");
        }
    }
}

/// T12: CVE-2017-5226, CVE-2023-28100.
#[test]
fn terminal_input_cannot_be_faked() {
    for arch in ARCHES {
        for (request, expected) in [
            (0x5412, REFUSED),
            (0x541c, REFUSED),
            (0x5412 | 1 << 32, REFUSED),
            (0x541c | 1 << 63, REFUSED),
            (0x5413, RET_ALLOW),
            (0x5401, RET_ALLOW),
            (0, RET_ALLOW),
            (0x8000_5412, RET_ALLOW),
        ] {
            assert_eq!(named(arch, "ioctl", &[0, request]), expected, "{request:#x}");
        }
        assert_eq!(named(arch, "ioctl", &[0x5412, 0x5401]), RET_ALLOW, "the descriptor is not the request");
    }
}

#[test]
fn threads_may_be_made_and_namespaces_not() {
    for arch in ARCHES {
        for flag in
            [0x0002_0000_u64, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000]
        {
            assert_eq!(named(arch, "clone", &[flag]), REFUSED, "{flag:#x}");
            assert_eq!(named(arch, "clone", &[flag | 17 | 1 << 40]), REFUSED, "{flag:#x}");
        }
        // fork, vfork and pthread_create of glibc; CLONE_IO, the highest allowed flag.
        for flags in [0x0120_0011, 0x4111, 0x003d_0f00, 0x8000_0000] {
            assert_eq!(named(arch, "clone", &[flags]), RET_ALLOW, "{flags:#x}");
        }
    }
}

#[test]
fn personalities_of_the_list_only() {
    for arch in ARCHES {
        for (persona, expected) in [
            (0, RET_ALLOW),
            (8, RET_ALLOW),
            (0x2_0000, RET_ALLOW),
            (0x2_0008, RET_ALLOW),
            (0xffff_ffff, RET_ALLOW),
            (0x0004_0000, REFUSED),
            (0x0040_0000, REFUSED),
            (1, REFUSED),
            (0xffff_fffe, REFUSED),
        ] {
            assert_eq!(named(arch, "personality", &[persona]), expected, "{persona:#x}");
        }
    }
}

#[test]
fn the_program_is_short_and_quick() {
    for arch in ARCHES {
        let program = program_for(arch.name).unwrap();
        assert!(program.len() < 400, "{} {}", arch.name, program.len());
        let steps = |number| run(&program, &Call { number, architecture: arch.audit, arguments: [0; 6] }).1;
        let slowest = (0..600).map(steps).max().unwrap();
        assert!(slowest < 25, "{} {slowest}", arch.name);
    }
}

#[test]
fn every_number_has_the_verdict_of_the_profile() {
    for arch in ARCHES {
        let table = profile::table(arch.name).unwrap();
        for number in 0..1000 {
            let expected = match table.get(&number) {
                Some(profile::Rule::Allow) => RET_ALLOW,
                Some(profile::Rule::Deny) => REFUSED,
                Some(profile::Rule::Conditional(_)) => continue,
                None => MISSING,
            };
            assert_eq!(verdict(arch, number, [0; 6]), expected, "{} {number}", arch.name);
        }
    }
}

#[test]
fn other_machines_are_told_so() {
    assert!(matches!(program_for("riscv64"), Err(SeccompError::Architecture { arch }) if arch == "riscv64"));
}

#[test]
fn the_kernel_enforces_it() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture", "seccomp::tests::inside_the_filter"])
        .output()
        .unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
#[ignore = "installs the filter: the_kernel_enforces_it runs it in a process of its own"]
fn inside_the_filter() {
    install(default_program().unwrap()).unwrap();
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    assert!(status.contains("Seccomp:\t2") && status.contains("NoNewPrivs:\t1"), "{status}");
    for family in [38, 40] {
        let result = socket(AddressFamily::from_raw(family), SocketType::SEQPACKET, None);
        assert_eq!(result.unwrap_err(), Errno::PERM, "{family}");
    }
    socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    let unshared = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER);
    assert_eq!(unshared, Err(nix::errno::Errno::EPERM));
    let mounted = rustix::mount::fsopen("tmpfs", rustix::mount::FsOpenFlags::empty());
    assert_eq!(mounted.unwrap_err(), Errno::PERM);
    // A thread and a process: the C library falls back from clone3.
    assert_eq!(std::thread::spawn(|| 7).join().unwrap(), 7);
    assert!(Command::new("/bin/true").status().unwrap().success());
}
