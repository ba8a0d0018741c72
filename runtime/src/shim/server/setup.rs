//! From a fresh process in its namespaces to a server with the vessel mounted.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit};

use super::Server;
use crate::settings::NetworkMode;
use crate::shim::attach::Attachments;
use crate::shim::commands::Ground;
use crate::shim::gateway::Attaching;
use crate::shim::house::{self, EtcFiles, HouseError, Site};
use crate::shim::limits::Limiter;
use crate::shim::loopback;
use crate::shim::mounted::{self, Dirs, Mounted};
use crate::shim::protocol::{Driver, Fault, FaultKind, Origin, ShimConfig, VERSION};
use crate::shim::wire;
use crate::spec;

/// Descriptors before those of mounts, ports and the control group.
const STORE_AND_SOCKET: usize = 5;

/// Reads the configuration and builds everything.
pub(super) fn server(
    socket: &UnixStream,
    mut mounts: Vec<OwnedFd>,
    gateway: Option<crate::entry::Gateway>,
) -> Result<Server, Fault> {
    let (config, mut fds) = configuration(socket)?;
    let mut sources = fds.split_off(fds.len().min(STORE_AND_SOCKET));
    let with_descriptor = config.origins.iter().filter(|origin| **origin != Origin::InMemory).count();
    let mut published = sources.split_off(sources.len().min(with_descriptor));
    let groups = published.split_off(published.len().min(config.settings.network.publish.len()));
    let [image_layers, sealed_layers, vessel, listener, lock] = <[OwnedFd; 5]>::try_from(fds)
        .map_err(|_| Fault::new(FaultKind::InvalidArgument, "a shim needs five descriptors"))?;
    raise_descriptor_limit();
    // The mode that a request names is the mode that a file gets.
    rustix::process::umask(Mode::empty());
    let on_host = config.settings.network.mode == NetworkMode::Host;
    if !on_host {
        loopback::up().map_err(|e| Fault::io("bring up the loopback interface", &e))?;
    }
    let network = Attaching::new(config.settings.network, gateway)?;
    network.begin(vessel.as_fd(), &published)?;
    drop(published);
    let files = EtcFiles { hosts: network.hosts(), resolv_conf: network.resolv_conf() };
    let site = Site::build(&config.hostname, &files, on_host).map_err(|e| house_fault(&e))?;
    let trees = mounts.split_off(mounts.len().min(house::STORE.len()));
    let mut dirs =
        site.attach_store(mounts, &[image_layers, sealed_layers, vessel]).map_err(|e| house_fault(&e))?;
    let place = site.path(house::MOUNTS);
    dirs.attachments = Attachments::new(&place, &config.settings.mounts, &config.origins, trees, sources)?;
    mounted::sweep(&dirs);
    let mounted = mount(config.mount, &dirs, site)?;
    if let Some(fault) = mounted.attached.fault().filter(|_| config.is_new) {
        return Err(fault.clone());
    }
    let limiter = Limiter::new(config.settings.limits, groups, config.groups)?;
    Ok(Server {
        listener: UnixListener::from(listener),
        limiter,
        processes: super::detached::Processes::begin(&dirs.vessel),
        ground: ground(config.hostname, on_host)?,
        network: network.finish()?,
        dirs,
        mounted: Some(mounted),
        detached: None,
        clients: BTreeMap::new(),
        commands: BTreeMap::new(),
        running: super::running::Running::default(),
        jobs: BTreeMap::new(),
        deferred: VecDeque::new(),
        quiesced_by: None,
        packed: false,
        capture: None,
        placeholders: Vec::new(),
        next: 0,
        keep: false,
        linger: std::time::Duration::ZERO,
        deserted: None,
        leaving: false,
        destroy: false,
        lock,
    })
}

fn configuration(socket: &UnixStream) -> Result<(ShimConfig, Vec<OwnedFd>), Fault> {
    let (config, fds) = wire::recv::<ShimConfig>(socket)
        .map_err(|e| Fault::io("read the configuration", &e))?
        .ok_or_else(|| Fault::new(FaultKind::InvalidArgument, "no configuration came"))?;
    if config.version != VERSION {
        let message = format!("this shim speaks protocol version {VERSION}, not {}", config.version);
        return Err(Fault::new(FaultKind::Unsupported, message)
            .with_remedy("use the library and the executable of one version of vesselrt"));
    }
    Ok((config, fds))
}

/// fuse-overlayfs is a program of the host: it starts while the host's files are in sight. The kernel's overlay needs
/// nothing of the host and is mounted when the shim is alone.
fn mount(spec: crate::shim::protocol::MountSpec, dirs: &Dirs, site: Site) -> Result<Mounted, Fault> {
    let target = Path::new(house::MERGED);
    match spec.driver {
        Driver::Kernel => {
            site.move_in().map_err(|e| house_fault(&e))?;
            Mounted::new(spec, dirs, target)
        }
        Driver::Fuse => {
            let mounted = Mounted::new(spec, dirs, &site.path(house::MERGED))?;
            site.move_in().map_err(|e| house_fault(&e))?;
            Ok(mounted)
        }
    }
}

fn ground(hostname: String, on_host: bool) -> Result<Ground, Fault> {
    Ok(Ground {
        hostname,
        bind_sys: on_host,
        ids: crate::idmap::mapped_here().map_err(|e| Fault::io("read /proc/self/uid_map", &e))?,
        masked: spec::thermal_throttle_paths(),
    })
}

/// Every layer is a descriptor: hundreds of layers need hundreds of them.
fn raise_descriptor_limit() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // Without it vessels of few layers work all the same, and others say which layer could not be opened.
    let _ = rustix::process::setrlimit(Resource::Nofile, raised);
}

fn house_fault(error: &HouseError) -> Fault {
    Fault { errno: error.errno(), ..Fault::new(FaultKind::Unsupported, error.to_string()) }
        .with_remedy("`vesselrt doctor` says what this host lacks")
        .of_host()
}
