//! The machine's own life: its boots, kept so that a root server can publish them (3.8), and the reboot or the
//! switching off that root has planned (3.5).
//!
//! Stable shapes: fields are added, never renamed, and [`BOOTS_VERSION`] rises if a meaning changes.

use serde::{Deserialize, Serialize};

/// The version of [`Boots`].
pub const BOOTS_VERSION: u32 = 1;

/// The boots that are kept, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boots {
    /// [`BOOTS_VERSION`].
    pub version: u32,
    /// The node's name.
    pub node: String,
    /// Newest first; the first is the present one.
    pub boots: Vec<Boot>,
}

/// One boot of the machine, as plabd saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// The kernel's name for it: `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// When the kernel began, RFC 3339. Corrected while the boot lasts when the clock is set.
    pub began: String,
    /// How far `began` can be believed.
    pub clock: ClockState,
    /// The kernel's release.
    pub kernel: String,
    /// How it ended; none while it lasts.
    pub ended: Option<BootEnd>,
    /// When it ended, RFC 3339; if not in order, when plabd was last known to run.
    pub ended_at: Option<String>,
    /// What `ended` rests on, for people.
    pub evidence: Option<String>,
    /// What became of the wait for the network; none while it goes on.
    pub network: Option<Network>,
    /// How often plabd was started in it.
    pub starts: u32,
    /// How many of these ended without an order while the machine went on.
    pub crashes: u32,
    /// plabd's last starts in it, newest first; at most [`RUNS_SHOWN`].
    pub runs: Vec<Run>,
}

/// The most of [`Boot::runs`].
pub const RUNS_SHOWN: u32 = 10;

/// One start of plabd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// When, RFC 3339, by the clock of that time.
    pub began: String,
    /// plabd's version.
    pub version: String,
    /// How it ended; none while it lasts.
    pub ended: Option<RunEnd>,
    /// When it ended, if it ended in order; else when it was last known to run.
    pub ended_at: Option<String>,
}

/// How a boot ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BootEnd {
    /// In order, to boot again.
    Reboot,
    /// In order, to be off.
    Poweroff,
    /// In order; what for is not known.
    Shutdown,
    /// The kernel gave up; it left a record.
    Panic,
    /// Without a sign: the power was cut, the machine was reset, it hung, or it panicked and could leave no record.
    Unclean,
    /// plabd had been stopped in order while the machine went on, so nobody saw how it ended.
    Unknown,
}

impl BootEnd {
    /// The name as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reboot => "reboot",
            Self::Poweroff => "poweroff",
            Self::Shutdown => "shutdown",
            Self::Panic => "panic",
            Self::Unclean => "unclean",
            Self::Unknown => "unknown",
        }
    }

    /// The end of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Reboot, Self::Poweroff, Self::Shutdown, Self::Panic, Self::Unclean, Self::Unknown]
            .into_iter()
            .find(|end| end.name() == name)
    }

    /// Whether somebody ordered it.
    pub const fn is_orderly(self) -> bool {
        matches!(self, Self::Reboot | Self::Poweroff | Self::Shutdown)
    }
}

/// How one run of plabd ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunEnd {
    /// It was told to.
    Stopped,
    /// It was killed or died, and the machine went on.
    Crashed,
    /// It ended with its boot.
    WithBoot,
}

impl RunEnd {
    /// The name as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Crashed => "crashed",
            Self::WithBoot => "with-boot",
        }
    }

    /// The end of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Stopped, Self::Crashed, Self::WithBoot].into_iter().find(|end| end.name() == name)
    }
}

/// How far the node believes its clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClockState {
    /// The kernel says that somebody keeps it in step with the world's.
    Synchronised,
    /// Nobody does, and nothing speaks against it.
    Unsynchronised,
    /// It is behind a time that has been.
    Behind,
    /// It is further ahead of the last time known than the node can have been off, and nobody keeps it in step.
    Suspicious,
}

impl ClockState {
    /// The name as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Synchronised => "synchronised",
            Self::Unsynchronised => "unsynchronised",
            Self::Behind => "behind",
            Self::Suspicious => "suspicious",
        }
    }

    /// The state of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Synchronised, Self::Unsynchronised, Self::Behind, Self::Suspicious]
            .into_iter()
            .find(|state| state.name() == name)
    }

    /// Whether leases are judged by it.
    pub const fn is_believed(self) -> bool {
        matches!(self, Self::Synchronised | Self::Unsynchronised)
    }
}

/// What became of the wait for the network at the beginning of a boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Network {
    /// It was up when the capsules were started.
    Up,
    /// It was not, and the wait was over.
    Absent,
    /// The node file asks for no wait.
    NotAwaited,
}

impl Network {
    /// The name as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Absent => "absent",
            Self::NotAwaited => "not-awaited",
        }
    }

    /// The outcome of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Up, Self::Absent, Self::NotAwaited].into_iter().find(|network| network.name() == name)
    }
}

/// What the machine is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PowerAction {
    /// Boot again.
    Reboot,
    /// Be off.
    Poweroff,
}

impl PowerAction {
    /// The name as in JSON, on the command line, and of systemctl(1)'s verb.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reboot => "reboot",
            Self::Poweroff => "poweroff",
        }
    }

    /// What the node does then, in a sentence.
    pub const fn verb(self) -> &'static str {
        match self {
            Self::Reboot => "reboots",
            Self::Poweroff => "is switched off",
        }
    }
}

/// A reboot, or a switching off, that is to come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// What.
    pub action: PowerAction,
    /// When the stopping of capsules begins, RFC 3339, UTC.
    pub at: String,
    /// Why, in root's words.
    pub reason: Option<String>,
    /// When it was planned, RFC 3339.
    pub planned: String,
}

/// What `plab status` says of the present boot, and of how the one before it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootSummary {
    /// When the kernel began, RFC 3339.
    pub began: String,
    /// How the boot before ended; none if there was none.
    pub previous: Option<BootEnd>,
    /// How far the clock is believed.
    pub clock: ClockState,
}
