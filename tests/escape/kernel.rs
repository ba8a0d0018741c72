//! What of the kernel a command can reach: tried by real system calls, from a Debian whose perl makes them.
#![forbid(unsafe_code)]

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use crate::shell::Shell;
use crate::testkit::image::debian_tar;
use crate::testkit::{Cap, Store, need, run_in, sh, tests};
use vesselrt::ExecOptions;

const SIGSYS: i32 = 31;
const EPERM: i32 = 1;
const ENOSYS: i32 = 38;
const EAFNOSUPPORT: i32 = 97;

/// `syscall` of perl with these arguments, and the errors of which one must come.
const SHUT: &[(&str, &str, &[i32])] = &[
    ("AF_ALG (CVE-2026-31431)", "41, 38, 5, 0", &[EPERM, EAFNOSUPPORT]),
    ("AF_VSOCK", "41, 40, 1, 0", &[EPERM, EAFNOSUPPORT]),
    ("io_uring_setup", "425, 1, 0", &[EPERM, ENOSYS]),
    ("bpf", "321, 0, 0, 0", &[EPERM, ENOSYS]),
    ("userfaultfd", "323, 0", &[EPERM, ENOSYS]),
    ("perf_event_open", "298, 0, 0, 0, 0, 0", &[EPERM, ENOSYS]),
    ("add_key", "248, 0, 0, 0, 0, 0", &[EPERM, ENOSYS]),
    ("request_key", "249, 0, 0, 0, 0", &[EPERM, ENOSYS]),
    ("keyctl", "250, 0, 0, 0, 0, 0", &[EPERM, ENOSYS]),
    ("unshare of a user namespace (CVE-2022-0185)", "272, 0x10000000", &[EPERM]),
    ("unshare of a mount namespace", "272, 0x20000", &[EPERM]),
    ("clone of a user namespace", "56, 0x10000011, 0, 0, 0, 0", &[EPERM]),
    ("clone3", "435, 0, 0", &[ENOSYS]),
    ("setns", "308, 0, 0", &[EPERM]),
    ("mount", "165, 0, 0, 0, 0, 0", &[EPERM]),
    ("umount2", "166, 0, 0", &[EPERM]),
    ("pivot_root", "155, 0, 0", &[EPERM]),
    ("fsopen", "430, 0, 0", &[EPERM, ENOSYS]),
    ("open_by_handle_at (CVE-2014-3519)", "304, 0, 0, 0", &[EPERM]),
    ("kexec_load", "246, 0, 0, 0, 0", &[EPERM, ENOSYS]),
    ("init_module", "175, 0, 0, 0", &[EPERM, ENOSYS]),
    ("reboot", "169, 0, 0, 0, 0", &[EPERM]),
    ("settimeofday", "164, 0, 0", &[EPERM]),
    ("acct", "163, 0", &[EPERM, ENOSYS]),
    ("swapon", "167, 0, 0", &[EPERM]),
    ("ptrace of the init", "101, 16, 1, 0, 0", &[EPERM]),
    ("a call that there is not", "9999, 0", &[ENOSYS]),
];

/// Runs perl in a Debian vessel of its own.
fn perl(shell: &Shell, script: &str) -> String {
    shell.call(["run", "--rm", "debian", "--", "perl", "-e", script]).succeeds().text()
}

fn debian() -> Option<Shell> {
    if !cfg!(target_arch = "x86_64") || !need(&[Cap::Debian, Cap::SubordinateIds]) {
        return None;
    }
    let shell = Shell::empty();
    shell.import(&debian_tar().expect("asked for"), "debian");
    Some(shell)
}

#[test]
fn what_commands_have_no_business_with_is_shut() {
    let Some(shell) = debian() else { return };
    let calls: Vec<&str> = SHUT.iter().map(|(_, call, _)| *call).collect();
    let tries =
        calls.iter().map(|call| format!("$! = 0; $r = syscall({call}); print $r, ' ', $! + 0, \"\\n\";"));
    let answers = perl(&shell, &tries.collect::<String>());
    assert_eq!(answers.lines().count(), SHUT.len(), "{answers}");
    for ((what, _, errors), answer) in SHUT.iter().zip(answers.lines()) {
        let (result, error) = answer.split_once(' ').unwrap();
        assert_eq!(result, "-1", "{what}");
        assert!(errors.contains(&error.parse().unwrap()), "{what}: {answer}");
    }
}

#[test]
fn characters_cannot_be_pushed_into_a_terminal() {
    let Some(shell) = debian() else { return };
    // TIOCSTI, and with bits above that the kernel does not look at (CVE-2019-10063); TIOCLINUX (CVE-2023-28100).
    let script = "my $c = 'x'; for my $n (0x5412, 0x5412 | (1 << 32), 0x541C, 0x541C | (1 << 32)) {
        $! = 0; my $r = syscall(16, 0, $n, $c); print $r, ' ', $! + 0, qq(\\n); }";
    assert_eq!(perl(&shell, script), "-1 1\n".repeat(4));
}

#[test]
fn calls_of_other_machines_kill() {
    let Some(shell) = debian() else { return };
    // getpid of x32.
    let getpid = ["run", "--rm", "debian", "--", "perl", "-e", "syscall(0x40000000 | 39); print 'lives'"];
    shell.call(getpid).exits(128 + SIGSYS);
    // exit(0) of i386, from a program of 64 bits: mov eax, 1; xor ebx, ebx; int 0x80; ud2.
    let text = b"\xb8\x01\x00\x00\x00\x31\xdb\xcd\x80\x0f\x0b";
    let path = shell.file("int80", &program(text));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    shell.call(["create", "debian", "--id", "v"]).succeeds();
    shell.call(["cp", path.to_str().unwrap(), "v:/int80"]).succeeds();
    shell.call(["exec", "v", "--", "/int80"]).exits(128 + SIGSYS);
    shell.call(["rm", "v"]).succeeds();
}

/// The smallest program for x86-64 that is its code (elf(5)).
fn program(code: &[u8]) -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    elf.extend([2u16, 62].map(u16::to_le_bytes).concat());
    elf.extend(1u32.to_le_bytes());
    elf.extend([BASE + HEADERS, 64, 0].map(u64::to_le_bytes).concat());
    elf.extend(0u32.to_le_bytes());
    elf.extend([64u16, 56, 1, 0, 0, 0].map(u16::to_le_bytes).concat());
    let size = HEADERS + code.len() as u64;
    elf.extend([1u32, 5].map(u32::to_le_bytes).concat());
    elf.extend([0, BASE, BASE, size, size, 0x1000].map(u64::to_le_bytes).concat());
    elf.extend(code);
    elf
}

tests!(
    no_keys_of_the_host_are_seen,
    control_groups_are_neither_mounted_nor_mountable,
    a_process_that_stopped_itself_dies_with_the_rest,
    groups_of_the_caller_are_not_inside,
);

async fn no_keys_of_the_host_are_seen(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    assert_eq!(sh(&vessel, "cat /proc/keys; wc -c < /proc/keys").await.trim(), "0");
    vessel.close().await.unwrap();
}

/// CVE-2022-0492 needs a hierarchy of the first version that can be mounted.
async fn control_groups_are_neither_mounted_nor_mountable(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let said = sh(&vessel, "grep -c cgroup /proc/self/mountinfo; ls -A /sys/fs/cgroup | wc -l").await;
    assert_eq!(said, "0\n0\n");
    let script = "mkdir -p /c; mount -t cgroup -o memory none /c || mount -t cgroup2 none /c";
    let ran = run_in(&vessel, ExecOptions::new(["sh", "-c", script])).await.unwrap();
    assert!(!ran.result.success() && ran.err.contains("ermi"), "{ran:?}");
    // What it is in is not told: the root of a namespace of its own.
    let groups = sh(&vessel, "cut -d: -f3 /proc/self/cgroup | sort -u").await;
    assert!(groups.lines().all(|group| !group.contains("..") || group == "/"), "{groups}");
    vessel.close().await.unwrap();
}

async fn a_process_that_stopped_itself_dies_with_the_rest(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    let options = ExecOptions::new(["sh", "-c", "kill -STOP $$"]).timeout(Duration::from_millis(300));
    let ran = run_in(&vessel, options).await.unwrap();
    assert!(ran.result.timed_out);
    assert_eq!(sh(&vessel, "echo on").await, "on\n");
    vessel.close().await.unwrap();
}

/// CVE-2022-36109 and its kin: a group of the caller that the vessel did not ask for would open files, or shut them.
async fn groups_of_the_caller_are_not_inside(store: &Store) {
    let (_manager, vessel) = store.vessel().await;
    for user in ["0", "12", "12:34"] {
        let ran = run_in(&vessel, ExecOptions::new(["id", "-G"]).user(user)).await.unwrap();
        let groups: Vec<&str> = ran.out.split_whitespace().collect();
        let expected = if user == "12:34" { "34" } else { "0" };
        assert_eq!(groups, [expected], "{user}: {}", ran.err);
    }
    vessel.close().await.unwrap();
}
