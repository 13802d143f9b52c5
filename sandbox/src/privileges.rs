//! Giving up root for good: rlimits, capabilities, groups, IDs, securebits, `no_new_privs`.
//!
//! The order is the point. The bounding set and securebits need the capability that is given up with the UID;
//! the groups need the GID's; the UID goes last of the IDs, because nothing after it can be undone.

use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustix::fs::{Gid, Uid};
use rustix::io::Errno;
use rustix::thread::CapabilitiesSecureBits;

use crate::error::{KernelError, Tried};

/// Limits of each process, beside the cgroup's on the capsule; see setrlimit(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessLimits {
    /// Open files.
    pub open_files: u64,
    /// Signals that wait to be delivered to processes of this UID. (There is no limit on processes: the kernel counts
    /// the UID's over the whole machine, logins included, and would not follow a change. The cgroup's holds alone.)
    pub pending_signals: u64,
}

/// The securebits a capsule ends with: UID 0 would mean nothing, capabilities can not be kept, raised or
/// inherited; locked, each. See capabilities(7).
pub const SECURE_BITS: CapabilitiesSecureBits = CapabilitiesSecureBits::NO_ROOT
    .union(CapabilitiesSecureBits::NO_ROOT_LOCKED)
    .union(CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED)
    .union(CapabilitiesSecureBits::KEEP_CAPS_LOCKED)
    .union(CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE)
    .union(CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED);

/// What is not given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// Nothing.
    Nothing,
    /// CAP_NET_RAW, in the ambient set, so that every program of the slice's has it without a file capability: for a
    /// slice whose definition has `raw`. What it may do with it the network's programs say (`bpf/raw.h`).
    RawSockets,
}

impl Kept {
    /// Every capability of the bounding, permitted, inheritable and ambient sets. The effective set of capsule-init
    /// itself is empty either way; exec fills a program's from the ambient one.
    fn capabilities(self) -> CapsHashSet {
        match self {
            Self::Nothing => CapsHashSet::new(),
            Self::RawSockets => CapsHashSet::from([Capability::CAP_NET_RAW]),
        }
    }

    /// ping sets and clears KEEP_CAPS, and ends if it may not. The bit says what leaving UID 0 does, which no slice ever has.
    fn secure_bits(self) -> CapabilitiesSecureBits {
        match self {
            Self::Nothing => SECURE_BITS,
            Self::RawSockets => SECURE_BITS.difference(CapabilitiesSecureBits::KEEP_CAPS_LOCKED),
        }
    }

    /// That this process has it to give, as plabd has if nothing has taken it from its service.
    ///
    /// # Errors
    /// It has not.
    pub fn require(self) -> Result<(), KernelError> {
        let own = caps::read(None, CapSet::Permitted)
            .map_err(|error| std::io::Error::other(error.to_string()))
            .tried("read", "plabd's permitted set")?;
        match self.capabilities().difference(&own).next() {
            None => Ok(()),
            Some(capability) => {
                Err(KernelError::new(format!("grant {capability}"), "a slice's processes", Errno::PERM).hint(
                    "plabd was started without it: see CapabilityBoundingSet= in `systemctl cat plabd`",
                ))
            }
        }
    }

    /// The same as `/proc/PID/status` shows it.
    pub fn mask(self) -> u64 {
        self.capabilities().iter().fold(0, |mask, capability| mask | capability.bitmask())
    }
}

/// Sets the limits; a hard limit that is lower already stays.
///
/// # Errors
/// The kernel refused one, or shows another afterwards.
pub fn limit_process(limits: ProcessLimits) -> Result<(), KernelError> {
    let wanted = [
        (Resource::RLIMIT_NOFILE, limits.open_files, "open files"),
        // No real-time priority: a spinning real-time thread starves the node's own services.
        (Resource::RLIMIT_RTPRIO, 0, "real-time priority"),
        (Resource::RLIMIT_NICE, 0, "nice"),
        // A core file is written by the kernel to where the host's core_pattern says.
        (Resource::RLIMIT_CORE, 0, "core size"),
        // Locked memory cannot be reclaimed; the usual 8 MiB, as libraries for cryptography expect.
        (Resource::RLIMIT_MEMLOCK, 8 << 20, "locked memory"),
        (Resource::RLIMIT_MSGQUEUE, 819_200, "message queues"),
        (Resource::RLIMIT_SIGPENDING, limits.pending_signals, "pending signals"),
    ];
    for (resource, value, name) in wanted {
        let (_, hard) = getrlimit(resource).tried("read the limit on", name)?;
        let value = value.min(hard);
        setrlimit(resource, value, value).tried(&format!("set the limit to {value} on"), name)?;
        let now = getrlimit(resource).tried("read the limit on", name)?;
        if now != (value, value) {
            return Err(KernelError::new(
                format!("set the limit to {value}"),
                name,
                std::io::Error::other(format!("in force: {} soft, {} hard", now.0, now.1)),
            ));
        }
    }
    Ok(())
}

/// Gives up every privilege but what is kept, and becomes `uid` (its GID has the same number); reads all of it back.
///
/// # Errors
/// A step the kernel refused, or whose result is not there when read back. The caller must end the process.
pub fn drop_to(uid: u32, kept: Kept) -> Result<(), KernelError> {
    let other = |error: caps::errors::CapsError| std::io::Error::other(error.to_string());
    // Bounding first: what is not in it cannot come back by any exec.
    let keeps = kept.capabilities();
    for capability in caps::runtime::thread_all_supported().difference(&keeps).copied() {
        caps::drop(None, CapSet::Bounding, capability)
            .map_err(other)
            .tried("drop from the bounding set", capability)?;
    }
    caps::clear(None, CapSet::Ambient).map_err(other).tried("clear", "the ambient set")?;
    match kept {
        Kept::Nothing => lock_secure_bits(kept)?,
        // Ambient capabilities do not survive leaving UID 0, and with securebits locked none could be raised after it.
        Kept::RawSockets => {
            rustix::thread::set_keep_capabilities(true).tried("keep capabilities of", "capsule-init")?;
        }
    }
    rustix::thread::set_thread_groups(&[]).tried("clear", "supplementary groups")?;
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
    rustix::thread::set_thread_res_gid(group, group, group).tried("become", format!("GID {uid}"))?;
    rustix::thread::set_thread_res_uid(user, user, user).tried("become", format!("UID {uid}"))?;
    if kept == Kept::RawSockets {
        keep_only(kept, &keeps)?;
    }
    // With SECBIT_NO_SETUID_FIXUP unset the kernel has cleared these on leaving UID 0; cleared again, so that
    // nothing here rests on that.
    for (set, keeps) in
        [(CapSet::Inheritable, &keeps), (CapSet::Effective, &CapsHashSet::new()), (CapSet::Permitted, &keeps)]
    {
        caps::set(None, set, keeps).map_err(other).tried("clear", format!("the {set:?} set"))?;
    }
    rustix::thread::set_no_new_privs(true).tried("set", "no_new_privs")?;
    // Against ptrace, /proc/1/mem, /proc/1/fd and /proc/1/exe by processes of the same UID, which everything in
    // this capsule is. Exec of an ordinary program sets it back for that program, so its owner may debug it.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .tried("make undumpable", "capsule-init")?;
    confirm(uid, kept, &keeps)
}

fn lock_secure_bits(kept: Kept) -> Result<(), KernelError> {
    rustix::thread::set_capabilities_secure_bits(kept.secure_bits()).tried("lock", "securebits")
}

/// After UID 0 was left with all of the permitted set: makes these ambient, then locks the way to any more.
fn keep_only(kept: Kept, keeps: &CapsHashSet) -> Result<(), KernelError> {
    let other = |error: caps::errors::CapsError| std::io::Error::other(error.to_string());
    let locking = CapsHashSet::from([Capability::CAP_SETPCAP]);
    let permitted: CapsHashSet = keeps.union(&locking).copied().collect();
    for (set, wanted) in
        [(CapSet::Permitted, &permitted), (CapSet::Effective, &locking), (CapSet::Inheritable, keeps)]
    {
        caps::set(None, set, wanted).map_err(other).tried("reduce", format!("the {set:?} set"))?;
    }
    for capability in keeps {
        caps::raise(None, CapSet::Ambient, *capability).map_err(other).tried("make ambient", capability)?;
    }
    lock_secure_bits(kept)
}

fn confirm(uid: u32, kept: Kept, keeps: &CapsHashSet) -> Result<(), KernelError> {
    let wrong = |what: &str| {
        Err(KernelError::new(
            "give up privileges",
            what,
            std::io::Error::other("not as asked when read back"),
        ))
    };
    for set in [CapSet::Bounding, CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted]
    {
        let left = caps::read(None, set)
            .map_err(|error| std::io::Error::other(error.to_string()))
            .tried("read", format!("{set:?} set"))?;
        let due = if matches!(set, CapSet::Effective) { &CapsHashSet::new() } else { keeps };
        if left != *due {
            return wrong(&format!("the {set:?} set"));
        }
    }
    let ids = [
        rustix::process::getuid().as_raw(),
        rustix::process::geteuid().as_raw(),
        rustix::process::getgid().as_raw(),
        rustix::process::getegid().as_raw(),
    ];
    if ids != [uid; 4] {
        return wrong("UID and GID");
    }
    if !rustix::process::getgroups().tried("read", "groups")?.is_empty() {
        return wrong("supplementary groups");
    }
    if !rustix::thread::no_new_privs().tried("read", "no_new_privs")? {
        return wrong("the right to gain privileges (no_new_privs is not set)");
    }
    let bits = rustix::thread::capabilities_secure_bits().tried("read", "securebits")?;
    if bits != kept.secure_bits() {
        return wrong(&format!("securebits other than asked ({bits:?})"));
    }
    // The way back must be shut, not just unused.
    if rustix::thread::set_thread_uid(Uid::ROOT).is_ok() {
        return wrong("the way back to UID 0");
    }
    Ok(())
}
