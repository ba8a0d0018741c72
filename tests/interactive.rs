//! Interactive use, as a person has it: the command line in a terminal of tmux, in a Debian with bash, vim, top and less.
#![forbid(unsafe_code)]

mod ends;
mod keys;
mod programs;
mod tmux;

use crate::shell::Shell;
use crate::testkit::{Cap, image, need};

/// Reference of the image.
const DEBIAN: &str = "debian";

/// A store with Debian in it, where the machine has all that is needed.
fn debian() -> Option<Shell> {
    if !need(&[Cap::UserNamespaces, Cap::SubordinateIds, Cap::Overlay, Cap::Tmux, Cap::NetworkDebian]) {
        return None;
    }
    let shell = Shell::empty();
    shell.import(&image::network_debian_tar().unwrap(), DEBIAN);
    Some(shell)
}
