//! What `--network isolated` needs: pasta or slirp4netns, and a device for it.
#![forbid(unsafe_code)]

use std::io;
use std::path::PathBuf;

use super::Verdict;
use super::helper::{HelperError, find};

const INSTALL: &str = "sudo apt-get install passt, or sudo dnf install passt (or slirp4netns)";

/// Programs and device.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) pasta: Result<PathBuf, HelperError>,
    pub(super) slirp: Result<PathBuf, HelperError>,
    /// Opening /dev/net/tun for reading and writing, which nothing comes of.
    pub(super) device: Result<(), io::Error>,
}

pub(super) fn read() -> Network {
    let program = |name| find(name).map(|helper| helper.path);
    let device = std::fs::File::options().read(true).write(true).open("/dev/net/tun").map(drop);
    Network { pasta: program("pasta"), slirp: program("slirp4netns"), device }
}

/// Missing is no failure: other networks need neither.
pub(super) fn program(network: &Network) -> Verdict {
    match (&network.pasta, &network.slirp) {
        (Ok(path), _) | (Err(HelperError::NotFound { .. }), Ok(path)) => {
            Verdict::ok(path.display().to_string())
        }
        (Err(error @ HelperError::NotFound { .. }), Err(HelperError::NotFound { .. })) => {
            Verdict::warn(format!("{error}, nor slirp4netns: there is no --network isolated"), INSTALL)
        }
        (Err(HelperError::NotFound { .. }), Err(error)) | (Err(error), _) => {
            Verdict::warn(format!("{error}: there is no --network isolated"), INSTALL)
        }
    }
}

/// The device that either of them makes the vessel's interface with.
pub(super) fn device(network: &Network) -> Verdict {
    match &network.device {
        Ok(()) => Verdict::ok("/dev/net/tun"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Verdict::warn(
            "there is no /dev/net/tun, which --network isolated needs",
            "sudo modprobe tun; where /dev has no such node: sudo mkdir -p /dev/net && sudo mknod -m 0666 /dev/net/tun c 10 200",
        ),
        Err(error) => Verdict::warn(
            format!("/dev/net/tun, which --network isolated needs, cannot be opened: {error}"),
            "sudo chmod 0666 /dev/net/tun",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Status::{Ok as Good, Warn};
    use super::*;

    fn network(pasta: bool, slirp: bool, device: Option<io::ErrorKind>) -> Network {
        let program = |there: bool, name: &str| match there {
            true => Ok(format!("/usr/bin/{name}").into()),
            false => Err(HelperError::NotFound { name: name.into() }),
        };
        Network {
            pasta: program(pasta, "pasta"),
            slirp: program(slirp, "slirp4netns"),
            device: device.map_or(Ok(()), |kind| Err(kind.into())),
        }
    }

    #[test]
    fn one_of_both_programs_is_enough() {
        for (pasta, slirp, found) in [(true, true, "/usr/bin/pasta"), (false, true, "/usr/bin/slirp4netns")] {
            let verdict = program(&network(pasta, slirp, None));
            assert_eq!((verdict.status, verdict.found.as_str()), (Good, found));
        }
        let none = program(&network(false, false, None));
        assert_eq!(none.status, Warn);
        assert!(none.found.contains("pasta") && none.found.contains("slirp4netns"), "{}", none.found);
        let untrusted = Network {
            pasta: Err(HelperError::Untrusted { path: "/bin".into() }),
            ..network(true, false, None)
        };
        assert!(program(&untrusted).found.contains("trust"));
    }

    #[test]
    fn a_device_that_is_not_there_and_one_that_is_closed_have_remedies() {
        assert_eq!(device(&network(true, true, None)).status, Good);
        for (kind, remedy) in
            [(io::ErrorKind::NotFound, "modprobe"), (io::ErrorKind::PermissionDenied, "chmod")]
        {
            let verdict = device(&network(true, true, Some(kind)));
            assert_eq!(verdict.status, Warn);
            assert!(verdict.remedy.unwrap().contains(remedy));
        }
    }
}
