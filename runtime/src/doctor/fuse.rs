//! fuse-overlayfs, where the kernel refuses an overlay.
#![forbid(unsafe_code)]

use super::helper::{HelperError, find};
use super::{CheckInput, Verdict};

/// What fuse-overlayfs needs.
#[derive(Debug)]
pub(super) struct Fuse {
    /// Opening /dev/fuse for reading and writing, which nothing comes of.
    pub(super) device: Result<(), std::io::Error>,
    pub(super) program: Result<std::path::PathBuf, HelperError>,
}

pub(super) fn read() -> Fuse {
    let device = std::fs::File::options().read(true).write(true).open("/dev/fuse").map(drop);
    Fuse { device, program: find("fuse-overlayfs").map(|helper| helper.path) }
}

pub(super) fn check(fuse: &Fuse, input: &CheckInput) -> Verdict {
    let (found, remedy) = match (&fuse.program, &fuse.device) {
        (Ok(path), Ok(())) => return Verdict::ok(path.display().to_string()),
        (Err(error), _) => {
            (error.to_string(), "sudo apt-get install fuse-overlayfs, or sudo dnf install fuse-overlayfs")
        }
        (Ok(_), Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {
            ("there is no /dev/fuse".to_owned(), "sudo modprobe fuse")
        }
        (Ok(_), Err(error)) => (format!("/dev/fuse cannot be opened: {error}"), "sudo chmod 0666 /dev/fuse"),
    };
    match &input.overlay_mount {
        // Without the kernel's overlay and this, there is none at all.
        Some(Err(_)) => Verdict::fail(found, remedy),
        _ => Verdict::warn(format!("{found}; needed only where the kernel refuses an overlay"), remedy),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Status::{Fail, Ok as Good, Warn};
    use super::*;
    use std::io::{Error, ErrorKind};

    #[test]
    fn the_fallback_matters_when_the_kernel_refuses() {
        let gone = || HelperError::NotFound { name: "fuse-overlayfs".into() };
        let refused = CheckInput { overlay_mount: Some(Err("no".into())) };
        let path = || Ok("/usr/bin/fuse-overlayfs".into());
        let case = |device: Result<(), ErrorKind>, program, input: &CheckInput| {
            check(&Fuse { device: device.map_err(Error::from), program }, input)
        };
        assert_eq!(case(Ok(()), path(), &refused).status, Good);
        assert_eq!(case(Ok(()), Err(gone()), &CheckInput::default()).status, Warn);
        assert_eq!(case(Ok(()), Err(gone()), &refused).status, Fail);
        let denied = case(Err(ErrorKind::PermissionDenied), path(), &refused);
        assert_eq!(denied.remedy.as_deref(), Some("sudo chmod 0666 /dev/fuse"));
        assert_eq!(
            case(Err(ErrorKind::NotFound), path(), &refused).remedy.as_deref(),
            Some("sudo modprobe fuse")
        );
    }
}
