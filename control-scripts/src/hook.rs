//! The names of the hooks (PDN-02-002, 4.7).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A script that the node runs, if the slice has it. Its name is its file's name.
///
/// The first four are the specification's. It leaves open which other events a node tells a service
/// about; `suspend` and `resume` are this node's answer for windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hook {
    /// Once per installation of the software.
    Configure,
    /// After `configure`, and each time the capsule comes up. May stay as the service.
    Start,
    /// At an interval and on request: one line, and an exit status that says failed or not.
    Status,
    /// Before the capsule is killed, when the node has the choice.
    Stop,
    /// Before the capsule is frozen for another slice's window.
    Suspend,
    /// After the capsule was frozen for another slice's window.
    Resume,
}

impl Hook {
    /// Every hook, in the order in which a capsule meets them.
    pub const ALL: [Hook; 6] =
        [Hook::Configure, Hook::Start, Hook::Status, Hook::Stop, Hook::Suspend, Hook::Resume];

    /// The name of the hook's file in `PlanetLab-control`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Hook::Configure => "configure",
            Hook::Start => "start",
            Hook::Status => "status",
            Hook::Stop => "stop",
            Hook::Suspend => "suspend",
            Hook::Resume => "resume",
        }
    }

    /// The hook whose file has this name, as the kernel reports file names: bytes.
    #[must_use]
    pub fn from_file_name(name: &[u8]) -> Option<Hook> {
        Hook::ALL.into_iter().find(|hook| hook.name().as_bytes() == name)
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `pad`, so that a table can give it a width.
        f.pad(self.name())
    }
}

/// A name that is no hook's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown hook {0:?}; the hooks are configure, start, status, stop, suspend, resume")]
pub struct UnknownHook(String);

impl FromStr for Hook {
    type Err = UnknownHook;

    fn from_str(name: &str) -> Result<Hook, UnknownHook> {
        Hook::from_file_name(name.as_bytes()).ok_or_else(|| UnknownHook(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_reads_back_the_same_way_everywhere() {
        for hook in Hook::ALL {
            assert_eq!(hook.name().parse(), Ok(hook));
            assert_eq!(Hook::from_file_name(hook.name().as_bytes()), Some(hook));
            assert_eq!(serde_json::to_string(&hook).unwrap(), format!("\"{hook}\""));
            assert_eq!(serde_json::from_str::<Hook>(&format!("\"{hook}\"")).unwrap(), hook);
        }
        assert_eq!(format!("{:<10}|", Hook::Stop), "stop      |");
    }

    #[test]
    fn nothing_else_is_a_hook() {
        for name in ["", "Start", "start ", "start.sh", "start~", ".start", "startx", "resources"] {
            assert_eq!(name.parse::<Hook>(), Err(UnknownHook(name.to_owned())), "{name:?}");
        }
        assert_eq!(Hook::from_file_name(b"start\0"), None);
        assert!("boot".parse::<Hook>().unwrap_err().to_string().contains("\"boot\""));
    }
}
