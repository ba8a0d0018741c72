//! The OCI runtime specification that libcontainer starts a vessel's container from: a pure function of a few facts.
//!
//! Nothing of it comes from an image: no hooks, sysctls, annotations, devices or mounts that an image or a
//! manifest could name. Source: OCI runtime-spec 1.2 (config.md, config-linux.md); libcontainer 0.7.0 as it reads it.
#![forbid(unsafe_code)]

pub mod mount_points;
mod rlimits;

use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Capabilities, Capability, Linux, LinuxCapabilities, LinuxNamespace, LinuxNamespaceBuilder,
    LinuxNamespaceType, Mount, MountBuilder, Process, Root, Spec, User,
};
use rustix::thread::CapabilitySet;

pub use mount_points::{
    EtcFile, MountPointError, MountPoints, prepare_mount_points, remove_placeholders, required_mount_points,
};
pub use rlimits::{DefaultRlimit, default_rlimits};

/// `PATH` of a container whose image says nothing, as the OCI engines have it.
pub const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Docker's default set without MKNOD, NET_RAW and AUDIT_WRITE, which are useless or harmful in a user namespace.
pub const CAPABILITIES: [Capability; 11] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::NetBindService,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// What the container itself has besides: with it its init makes the namespaces of each command, which does not get it.
const CAPABILITY_OF_THE_INIT: Capability = Capability::SysAdmin;

/// [`CAPABILITIES`] as the kernel has them.
#[must_use]
pub fn capability_set() -> CapabilitySet {
    CapabilitySet::CHOWN
        | CapabilitySet::DAC_OVERRIDE
        | CapabilitySet::FOWNER
        | CapabilitySet::FSETID
        | CapabilitySet::KILL
        | CapabilitySet::NET_BIND_SERVICE
        | CapabilitySet::SETFCAP
        | CapabilitySet::SETGID
        | CapabilitySet::SETPCAP
        | CapabilitySet::SETUID
        | CapabilitySet::SYS_CHROOT
}

/// Paths hidden in a container; those that a kernel lacks are skipped.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Paths that cannot be written in a container; those that a kernel lacks are skipped.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What differs between two containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerParams {
    /// The merged tree, as the process that calls libcontainer sees it.
    pub rootfs: PathBuf,
    /// Host name inside.
    pub hostname: String,
    /// Path of the container's cgroup, below the root of the cgroup namespace.
    pub cgroups_path: PathBuf,
    /// Whether gid 5 (`tty`) is mapped: only then may terminals belong to it.
    pub tty_gid_mapped: bool,
    /// Directory with the generated `resolv.conf`, `hosts` and `hostname`.
    pub files_dir: PathBuf,
    /// Which of them to bind, and where to: from [`prepare_mount_points`].
    pub etc_files: Vec<EtcFile>,
    /// Masked besides the fixed ones: from [`thermal_throttle_paths`].
    pub extra_masked: Vec<String>,
    /// Bind `/sys` of the process that calls libcontainer instead of mounting a new one, which only the owner of the network
    /// namespace may.
    pub bind_sys: bool,
}

/// What is hidden in the `/proc` of a command, by names in it.
pub(crate) fn masked_in_proc() -> impl Iterator<Item = &'static str> {
    MASKED.into_iter().filter_map(|path| path.strip_prefix("/proc/"))
}

/// What cannot be written in the `/proc` of a command, by names in it.
pub(crate) fn read_only_in_proc() -> impl Iterator<Item = &'static str> {
    READ_ONLY.into_iter().filter_map(|path| path.strip_prefix("/proc/"))
}

/// Builds the specification.
///
/// Namespaces: pid, ipc, uts, mount and cgroup. User and network are not in it: the caller of libcontainer is in those
/// already. There is no cgroup mount: nothing inside may see or write the host's hierarchies (`/sys/fs/cgroup` is the
/// empty directory of the fresh sysfs). `linux.devices` is empty: libcontainer adds null, zero, full, tty, random and
/// urandom by itself, as bind mounts, because it finds itself in a user namespace. No rlimits: [`default_rlimits`].
#[must_use]
pub fn build(params: &ContainerParams) -> Spec {
    let mut root = Root::default();
    root.set_path(params.rootfs.clone()).set_readonly(Some(false));
    let mut spec = Spec::default();
    spec.set_version("1.0.2".to_owned())
        .set_root(Some(root))
        .set_hostname(Some(params.hostname.clone()))
        .set_process(Some(process()))
        .set_mounts(Some(mounts(params)))
        .set_linux(Some(linux(params)))
        .set_hooks(None)
        .set_annotations(None);
    spec
}

fn process() -> Process {
    let mut user = User::default();
    user.set_uid(0).set_gid(0).set_umask(Some(0o022));
    let mut process = Process::default();
    process
        .set_terminal(Some(false))
        .set_user(user)
        .set_args(Some(vec!["vesselrt-init".to_owned()]))
        // Without HOME libcontainer asks the C library for it, inside: which reads files of the guest, and loads whatever
        // libraries its /etc/nsswitch.conf names, into the init.
        .set_env(Some(vec![DEFAULT_PATH.to_owned(), "HOME=/".to_owned()]))
        .set_cwd(PathBuf::from("/"))
        .set_capabilities(Some(capabilities()))
        .set_rlimits(None)
        .set_no_new_privileges(Some(true))
        .set_apparmor_profile(None)
        .set_selinux_label(None)
        .set_oom_score_adj(None);
    process
}

/// Inheritable and ambient stay empty (CVE-2022-24769 and its kin), which [`None`] would not promise.
fn capabilities() -> LinuxCapabilities {
    let set: Capabilities = CAPABILITIES.into_iter().chain([CAPABILITY_OF_THE_INIT]).collect();
    let mut capabilities = LinuxCapabilities::default();
    capabilities
        .set_bounding(Some(set.clone()))
        .set_permitted(Some(set.clone()))
        .set_effective(Some(set))
        .set_inheritable(Some(Capabilities::new()))
        .set_ambient(Some(Capabilities::new()));
    capabilities
}

fn linux(params: &ContainerParams) -> Linux {
    let namespaces = [
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Ipc,
        LinuxNamespaceType::Uts,
        LinuxNamespaceType::Mount,
        LinuxNamespaceType::Cgroup,
    ];
    let masked = MASKED.into_iter().map(str::to_owned).chain(params.extra_masked.iter().cloned());
    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(namespaces.map(namespace).into()))
        .set_cgroups_path(Some(params.cgroups_path.clone()))
        .set_masked_paths(Some(masked.collect()))
        .set_readonly_paths(Some(READ_ONLY.map(str::to_owned).into()))
        .set_devices(Some(Vec::new()))
        // Limits are set by us, on a cgroup that libcontainer only joins.
        .set_resources(None)
        .set_sysctl(None)
        .set_seccomp(None)
        .set_mount_label(None)
        .set_uid_mappings(None)
        .set_gid_mappings(None);
    linux
}

fn namespace(typ: LinuxNamespaceType) -> LinuxNamespace {
    LinuxNamespaceBuilder::default().typ(typ).build().expect("a namespace of a known type is valid")
}

fn mounts(params: &ContainerParams) -> Vec<Mount> {
    let mut devpts = vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
    if params.tty_gid_mapped {
        devpts.push("gid=5");
    }
    let shm = ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"];
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("/dev/pts", "devpts", "devpts", &devpts),
        mount("/dev/shm", "tmpfs", "shm", &shm),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        match params.bind_sys {
            true => mount("/sys", "bind", "/sys", &["bind", "nosuid", "noexec", "nodev", "ro"]),
            false => mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        },
    ];
    // Read-only: these files are the host's, shared by all commands, and no part of the workspace.
    let options = ["bind", "ro", "nosuid", "nodev", "noexec"];
    mounts.extend(
        params
            .etc_files
            .iter()
            .map(|file| mount(&file.destination, "bind", params.files_dir.join(file.name), &options)),
    );
    mounts
}

fn mount(destination: impl AsRef<Path>, typ: &str, source: impl AsRef<Path>, options: &[&str]) -> Mount {
    MountBuilder::default()
        .destination(destination.as_ref())
        .typ(typ)
        .source(source.as_ref())
        .options(options.iter().map(|&option| option.to_owned()).collect::<Vec<_>>())
        .build()
        .expect("a mount without id mappings is valid")
}

/// The `thermal_throttle` directories of the machine's processors, a side channel that moby masks too: one bind mount
/// each, so only those that exist. Empty in most virtual machines.
#[must_use]
pub fn thermal_throttle_paths() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/sys/devices/system/cpu") else { return Vec::new() };
    let mut paths: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.strip_prefix("cpu").is_some_and(|rest| rest.parse::<u32>().is_ok()))
        .map(|name| format!("/sys/devices/system/cpu/{name}/thermal_throttle"))
        .filter(|path| Path::new(path).is_dir())
        .collect();
    paths.sort_unstable();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn params() -> ContainerParams {
        let file = |name| EtcFile { name, destination: Path::new("/etc").join(name) };
        ContainerParams {
            rootfs: "/run/v/merged".into(),
            hostname: "box".into(),
            cgroups_path: "/vesselrt/box".into(),
            tty_gid_mapped: true,
            files_dir: "/run/v/files".into(),
            etc_files: vec![file("resolv.conf"), file("hosts")],
            extra_masked: vec!["/sys/devices/system/cpu/cpu0/thermal_throttle".into()],
            bind_sys: false,
        }
    }

    /// Capabilities are a hash set in memory: sorted, so that the text is one.
    fn sorted(mut value: Value) -> Value {
        let sets = value["process"]["capabilities"].as_object_mut().unwrap();
        for set in sets.values_mut() {
            set.as_array_mut().unwrap().sort_by_key(|name| name.as_str().unwrap().to_owned());
        }
        value
    }

    #[test]
    fn the_specification_is_the_golden_one() {
        let golden: Value = serde_json::from_str(include_str!("spec/golden.json")).unwrap();
        let built = sorted(serde_json::to_value(build(&params())).unwrap());
        assert_eq!(built, golden, "{}", serde_json::to_string_pretty(&built).unwrap());
    }

    #[test]
    fn terminals_have_a_group_only_if_it_is_mapped() {
        let spec = build(&ContainerParams { tty_gid_mapped: false, ..params() });
        let mounts = spec.mounts().as_ref().unwrap();
        let devpts = mounts.iter().find(|mount| mount.destination() == Path::new("/dev/pts")).unwrap();
        assert!(!devpts.options().as_ref().unwrap().iter().any(|option| option.starts_with("gid=")));
    }

    #[test]
    fn every_bind_is_read_only_and_from_the_files_directory() {
        let spec = build(&params());
        let is_bind = |mount: &&Mount| mount.typ().as_deref() == Some("bind");
        let binds: Vec<_> = spec.mounts().as_ref().unwrap().iter().filter(is_bind).collect();
        assert_eq!(binds.len(), 2);
        for bind in binds {
            assert!(bind.source().as_ref().unwrap().starts_with("/run/v/files"));
            assert!(bind.options().as_ref().unwrap().contains(&"ro".to_owned()));
        }
    }

    #[test]
    fn in_the_host_s_network_sys_is_the_shim_s_and_read_only() {
        let spec = build(&ContainerParams { bind_sys: true, ..params() });
        let sys: Vec<_> =
            spec.mounts().as_ref().unwrap().iter().filter(|m| m.destination() == Path::new("/sys")).collect();
        let [sys] = sys.as_slice() else { panic!("{sys:?}") };
        assert_eq!((sys.typ().as_deref(), sys.source().as_deref()), (Some("bind"), Some(Path::new("/sys"))));
        assert!(sys.options().as_ref().unwrap().contains(&"ro".to_owned()));
    }

    #[test]
    fn the_destinations_are_those_that_were_prepared() {
        let required: Vec<_> = required_mount_points().map(|point| PathBuf::from(point.path)).collect();
        for mount in build(&params()).mounts().as_ref().unwrap() {
            assert!(required.contains(mount.destination()), "{:?}", mount.destination());
        }
    }
}
