//! The kernel: version, user namespaces and what restricts them, overlayfs.
#![forbid(unsafe_code)]

use super::{CheckInput, Verdict, read_trimmed};

/// First version with `userxattr`, without which a rootless overlay corrupts.
const USERXATTR: (u32, u32) = (5, 11);
/// First version with `lowerdir+`, without which the paths of all layers must fit one page.
const MANY_LAYERS: (u32, u32) = (6, 8);

/// Settings that concern user namespaces; `None` where the kernel has no such setting.
#[derive(Debug, Default)]
pub(super) struct Settings {
    pub(super) max_user_namespaces: Option<String>,
    pub(super) unprivileged_userns_clone: Option<String>,
    pub(super) apparmor_restricts: Option<String>,
}

pub(super) fn read() -> Settings {
    Settings {
        max_user_namespaces: read_trimmed("/proc/sys/user/max_user_namespaces"),
        unprivileged_userns_clone: read_trimmed("/proc/sys/kernel/unprivileged_userns_clone"),
        apparmor_restricts: read_trimmed("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
    }
}

pub(super) fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

pub(super) fn filesystems() -> String {
    read_trimmed("/proc/filesystems").unwrap_or_default()
}

/// `6.18.44-cloud` → (6, 18).
fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|character: char| !character.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

pub(super) fn version(release: &str) -> Verdict {
    match parse_release(release) {
        None => {
            Verdict::warn(format!("{release:?}, not understood"), "check that the kernel is 5.11 or newer")
        }
        Some(version) if version < USERXATTR => Verdict::fail(
            format!("{release}: overlayfs in a user namespace needs 5.11"),
            "install a newer kernel and reboot",
        ),
        Some(version) if version < MANY_LAYERS => Verdict::warn(
            format!("{release}: works; vessels with many layers need 6.8"),
            "install a newer kernel and reboot, or squash snapshots early",
        ),
        Some(_) => Verdict::ok(release),
    }
}

pub(super) fn user_namespaces(settings: &Settings, uid: u32) -> Verdict {
    let sysctl = |name: &str, value: &str| {
        format!(
            "sudo sysctl -w {name}={value} && echo '{name}={value}' | sudo tee /etc/sysctl.d/90-vesselrt.conf"
        )
    };
    match &settings.max_user_namespaces {
        None => Verdict::fail(
            "this kernel has no user namespaces",
            "use a kernel with CONFIG_USER_NS=y, as all distributions have it",
        ),
        Some(max) if max == "0" => {
            Verdict::fail("user.max_user_namespaces is 0", sysctl("user.max_user_namespaces", "15000"))
        }
        Some(_) if uid != 0 && settings.unprivileged_userns_clone.as_deref() == Some("0") => Verdict::fail(
            "kernel.unprivileged_userns_clone is 0: only root may create them",
            sysctl("kernel.unprivileged_userns_clone", "1"),
        ),
        Some(max) => Verdict::ok(format!("at most {max} of each user")),
    }
}

pub(super) fn apparmor(settings: &Settings, uid: u32, input: &CheckInput) -> Verdict {
    let restricts = settings.apparmor_restricts.as_deref().is_some_and(|value| value != "0");
    match (restricts, &input.overlay_mount) {
        (false, _) => Verdict::ok("none"),
        (true, _) if uid == 0 => Verdict::ok("there is one, root is exempt"),
        (true, Some(Ok(()))) => Verdict::ok("there is one, this program is exempt"),
        (true, _) => Verdict::fail(
            "kernel.apparmor_restrict_unprivileged_userns is on (Ubuntu 23.10 and newer): programs without a profile \
             get user namespaces without capabilities",
            "give this program a profile: printf 'abi <abi/4.0>,\\ninclude <tunables/global>\\nprofile vesselrt %s \
             flags=(unconfined) {\\n  userns,\\n}\\n' \"$(command -v vesselrt)\" | sudo tee /etc/apparmor.d/vesselrt && \
             sudo apparmor_parser -r /etc/apparmor.d/vesselrt; or, for all programs: sudo sysctl -w \
             kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    }
}

pub(super) fn overlay(filesystems: &str, input: &CheckInput) -> Verdict {
    let known = filesystems.lines().any(|line| line.split('\t').next_back() == Some("overlay"));
    match &input.overlay_mount {
        Some(Ok(())) => Verdict::ok("mounts in a user namespace, with userxattr"),
        Some(Err(error)) => Verdict::warn(
            format!("does not mount in a user namespace: {error}"),
            if known {
                "put the store on ext4, xfs or btrfs; until then fuse-overlayfs is used if it is there"
            } else {
                "sudo modprobe overlay && echo overlay | sudo tee /etc/modules-load.d/overlay.conf"
            },
        ),
        None if known => Verdict::ok("known to the kernel; mounting was not tried"),
        None => Verdict::warn(
            "not known to the kernel, perhaps not loaded yet",
            "sudo modprobe overlay && echo overlay | sudo tee /etc/modules-load.d/overlay.conf",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Status::{Fail, Ok as Good, Warn};
    use super::*;

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn kernels_by_version() {
        for (release, status) in [
            ("6.18.44", Good),
            ("6.8.0-45-generic", Good),
            ("6.7.12", Warn),
            ("5.11.0-rc1", Warn),
            ("5.10.0-28-amd64", Fail),
            ("4.18.0-553.el8_10.x86_64", Fail),
            ("10.0", Good),
            ("6-rc1", Warn),
            ("", Warn),
            ("99999999999.1", Warn),
        ] {
            assert_eq!(version(release).status, status, "{release}");
        }
    }

    #[test]
    fn user_namespaces_by_settings() {
        let check = |max: Option<&str>, clone: Option<&str>, uid| {
            let settings = Settings {
                max_user_namespaces: max.map(str::to_owned),
                unprivileged_userns_clone: clone.map(str::to_owned),
                apparmor_restricts: None,
            };
            user_namespaces(&settings, uid)
        };
        assert_eq!(check(Some("15000"), None, 1000).status, Good);
        assert_eq!(check(Some("15000"), Some("1"), 1000).status, Good);
        assert_eq!(check(Some("15000"), Some("0"), 0).status, Good);
        assert_eq!(check(Some("15000"), Some("0"), 1000).status, Fail);
        assert_eq!(check(None, None, 0).status, Fail);
        let none = check(Some("0"), None, 0);
        assert!(
            none.status == Fail && none.remedy.unwrap().contains("sysctl -w user.max_user_namespaces=15000")
        );
    }

    #[test]
    fn apparmor_matters_to_users_without_a_profile() {
        let on = Settings { apparmor_restricts: some("1"), ..Settings::default() };
        let off = Settings { apparmor_restricts: some("0"), ..Settings::default() };
        let mounted = CheckInput { overlay_mount: Some(Ok(())) };
        let untried = CheckInput::default();
        assert_eq!(apparmor(&Settings::default(), 1000, &untried).status, Good);
        assert_eq!(apparmor(&off, 1000, &untried).status, Good);
        assert_eq!(apparmor(&on, 0, &untried).status, Good);
        assert_eq!(apparmor(&on, 1000, &mounted).status, Good);
        let restricted = apparmor(&on, 1000, &untried);
        assert!(restricted.status == Fail && restricted.remedy.unwrap().contains("apparmor_parser -r"));
    }

    #[test]
    fn overlay_by_trial_and_by_list() {
        let list = "nodev\tsysfs\nnodev\toverlay\n\text4";
        let tried = |result| CheckInput { overlay_mount: Some(result) };
        assert_eq!(overlay(list, &CheckInput::default()).status, Good);
        assert_eq!(overlay("nodev\tnotoverlay\n", &CheckInput::default()).status, Warn);
        assert_eq!(overlay("", &tried(Ok(()))).status, Good);
        let refused = overlay(list, &tried(Err("operation not permitted".to_owned())));
        assert!(refused.status == Warn && refused.found.ends_with("operation not permitted"));
        assert!(overlay("", &tried(Err(String::new()))).remedy.unwrap().contains("modprobe"));
    }
}
