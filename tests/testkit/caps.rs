//! What a test needs of the machine.
#![forbid(unsafe_code)]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Something that not every machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cap {
    /// This user may make user namespaces.
    UserNamespaces,
    /// More than one id can be mapped.
    SubordinateIds,
    /// The kernel mounts overlayfs in a user namespace.
    Overlay,
    /// `/dev/fuse` can be opened, and there is fuse-overlayfs.
    Fuse,
    /// `/bin/busybox`, linked statically.
    Busybox,
    /// setfattr, getfattr, setcap and getcap.
    AttributeTools,
    /// A Debian root file system, or mmdebstrap to make one.
    Debian,
    /// podman.
    Podman,
    /// skopeo.
    Skopeo,
    /// umoci.
    Umoci,
    /// The tests run as root.
    Root,
    /// perl, which makes any system call without starting a process.
    Perl,
    /// docker-registry.
    Registry,
    /// strace, which makes system calls fail.
    Strace,
    /// openssl.
    OpenSsl,
    /// A virtual environment of Python with shipyard-python-sdk, which `VESSELRT_TEST_SDK` names.
    ShipyardSdk,
    /// Control groups in which this user can limit processors, memory and processes.
    ControlGroups,
    /// qemu-system-x86_64, and the kernel of Debian's cloud images or apt to get it.
    VirtualMachines,
    /// pasta, and a device for it.
    Pasta,
    /// slirp4netns, and a device for it.
    Slirp,
    /// A Debian root file system with curl, Python, Node.js, vim, top and less, or mmdebstrap to make one.
    NetworkDebian,
    /// tmux.
    Tmux,
    /// A root file system with Python, IPython and matplotlib, made by `fixtures/languages.sh`.
    Languages,
    /// chromium, for the page of the service.
    Chromium,
}

/// Whether the machine has all of it. Says what is missing, and panics about it where nothing may be missing.
pub(crate) fn need(caps: &[Cap]) -> bool {
    let Some(missing) = caps.iter().find(|cap| !cap.is_there()) else { return true };
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    // Which user runs the tests is a choice and no defect of the machine.
    let optional = matches!(missing, Cap::Root) || (*missing == Cap::ControlGroups && super::unprivileged());
    let required = std::env::var_os("VESSELRT_TEST_REQUIRE").is_some() && !optional;
    assert!(!required, "{name} needs {missing:?}, which this machine does not have");
    eprintln!("SKIP {name}: needs {missing:?}");
    false
}

impl Cap {
    /// Whether the machine has it.
    pub(crate) fn is_there(self) -> bool {
        static KNOWN: [OnceLock<bool>; 32] = [const { OnceLock::new() }; 32];
        *KNOWN[self as usize].get_or_init(|| self.probe())
    }

    fn probe(self) -> bool {
        match self {
            Self::UserNamespaces => !super::unprivileged() || succeeds("unshare", &["-r", "true"]),
            Self::SubordinateIds => {
                !super::unprivileged() || succeeds("unshare", &["--map-root-user", "--map-auto", "true"])
            }
            Self::Overlay => overlay(),
            Self::Fuse => {
                let device = File::options().read(true).write(true).open("/dev/fuse");
                device.is_ok() && which("fuse-overlayfs").is_some()
            }
            Self::Busybox => static_busybox(),
            Self::AttributeTools => ATTRIBUTE_TOOLS.iter().all(|tool| which(tool).is_some()),
            Self::Debian => super::image::debian_tar().is_some(),
            Self::Perl => which("perl").is_some(),
            Self::Podman => which("podman").is_some(),
            Self::Skopeo => which("skopeo").is_some(),
            Self::Umoci => which("umoci").is_some(),
            Self::Root => !super::unprivileged(),
            Self::Registry => which("docker-registry").is_some(),
            Self::Strace => which("strace").is_some(),
            Self::OpenSsl => which("openssl").is_some(),
            Self::ShipyardSdk => sdk_python().is_some(),
            Self::ControlGroups => {
                let limits = vesselrt::settings::Limits::new().milli_cpus(1000).memory(1 << 30).pids(100);
                vesselrt_runtime::cgroup::Group::plan("vesselrt-probe", &limits).is_ok()
            }
            Self::VirtualMachines => super::machine::can_boot(),
            Self::Pasta => which("pasta").is_some() && tun(),
            Self::Slirp => which("slirp4netns").is_some() && tun(),
            Self::Languages => super::image::languages_tar().is_some(),
            Self::NetworkDebian => super::image::network_debian_tar().is_some(),
            Self::Tmux => which("tmux").is_some(),
            Self::Chromium => which("chromium").is_some(),
        }
    }
}

/// The programs of [`Cap::AttributeTools`].
pub(crate) const ATTRIBUTE_TOOLS: [&str; 4] = ["setfattr", "getfattr", "setcap", "getcap"];

/// The Python of [`Cap::ShipyardSdk`].
pub(crate) fn sdk_python() -> Option<PathBuf> {
    let dir = PathBuf::from(std::env::var_os("VESSELRT_TEST_SDK")?);
    Some(dir.join("bin/python")).filter(|python| python.exists())
}

/// A program of the host, by its name.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir| dir.join(program))
        .find(|candidate| candidate.is_file())
}

fn succeeds(program: &str, args: &[&str]) -> bool {
    let quiet = || Stdio::null();
    let status = Command::new(program).args(args).stdin(quiet()).stdout(quiet()).stderr(quiet()).status();
    status.is_ok_and(|status| status.success())
}

fn overlay() -> bool {
    let dir = tempfile::tempdir_in(super::store::base_dir()).unwrap();
    for name in ["lower", "upper", "work", "merged"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    let script = "cd \"$0\" && mount -t overlay overlay -o userxattr,lowerdir=lower,upperdir=upper,workdir=work merged";
    succeeds("unshare", &["-rm", "sh", "-c", script, dir.path().to_str().unwrap()])
}

fn tun() -> bool {
    File::options().read(true).write(true).open("/dev/net/tun").is_ok()
}

/// Has the kernel no interpreter to load for it, it runs in an image without libraries.
fn static_busybox() -> bool {
    let program = Path::new(super::image::BUSYBOX);
    let text = Command::new("ldd").arg(program).output();
    program.is_file() && text.is_ok_and(|ldd| !String::from_utf8_lossy(&ldd.stdout).contains("=>"))
}
