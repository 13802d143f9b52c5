//! One Landlock ruleset: the view's rules again, as defence in depth, and scopes no mount can express.
//!
//! Should a mount ever be missing, writable by mistake, or reached by a kernel bug in path walking, these rules
//! still hold: they sit on inodes and not on names. Against abstract Unix sockets (the network namespace is
//! shared, so mounts do not hide them) and signals across capsules they are the first line. See landlock(7).
//!
//! Nothing here is best effort: the caller says which ABI to use, and every access right of that ABI is asked
//! for as a hard requirement.

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, NetPort, PathBeneath, PathFd,
    RestrictionStatus, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};

use crate::error::KernelError;

/// The newest ABI whose file-system rights and scopes this build knows how to use.
pub const NEWEST_KNOWN: i32 = 7;

/// The first ABI that shuts a capsule off from abstract Unix sockets and signals of others.
pub const SCOPES_SINCE: i32 = 6;

/// The first ABI that restricts TCP ports.
pub const PORTS_SINCE: i32 = 4;

/// The first ABI that restricts ioctls on devices.
pub const IOCTL_SINCE: i32 = 5;

/// The ABI of the running kernel; 0 if it has no Landlock or it is off. See landlock_create_ruleset(2).
pub fn kernel_abi() -> i32 {
    const LANDLOCK_CREATE_RULESET_VERSION: libc::c_uint = 1;
    // SAFETY: with this flag the kernel takes a null attribute of size 0 and returns a number.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<libc::c_void>(),
            0_usize,
            LANDLOCK_CREATE_RULESET_VERSION,
        )
    };
    i32::try_from(version).unwrap_or(0).max(0)
}

/// What the capsule may do where, as seen inside its view.
#[derive(Debug, Clone)]
pub struct Rules<'a> {
    /// The ABI to use, at least 1.
    pub abi: i32,
    /// TCP ports that can be bound, beside those of the kernel's choice; none for any. Only where nothing else holds
    /// ports (`network.bpf` in the node file's `degrade`): the kernel lets nobody loosen a ruleset, so a port that is
    /// added to a running capsule would be refused by it. Since ABI 4; UDP has no such rules.
    pub tcp_ports: Option<&'a [u16]>,
    /// Read and execute.
    pub readable: &'a [String],
    /// Everything: home, `/tmp`, `/var/tmp`, `/dev/shm`.
    pub writable: &'a [&'a str],
}

/// Restricts this thread and its children to `rules`, for good.
///
/// # Errors
/// A directory that cannot be opened, or a right that this kernel does not have.
pub fn restrict(rules: &Rules<'_>) -> Result<(), KernelError> {
    let failed = |what: &str, error: String| KernelError::new(what, "landlock", std::io::Error::other(error));
    let abi = ABI::from(rules.abi.min(NEWEST_KNOWN));
    let all = AccessFs::from_all(abi);
    let read = AccessFs::from_read(abi);
    // Terminals and /dev/null: opened for writing, and asked for their window size; no file is made there.
    let mut device = AccessFs::ReadFile | AccessFs::ReadDir | AccessFs::WriteFile;
    if rules.abi >= 3 {
        device |= AccessFs::Truncate;
    }
    if rules.abi >= IOCTL_SINCE {
        device |= AccessFs::IoctlDev;
    }
    // A process writes to files of its own in /proc (oom_score_adj, comm); modes keep others' shut.
    let mut process = AccessFs::ReadFile | AccessFs::ReadDir | AccessFs::WriteFile;
    if rules.abi >= 3 {
        process |= AccessFs::Truncate;
    }

    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(all)
        .map_err(|error| failed("handle every file-system right", error.to_string()))?;
    if rules.abi >= SCOPES_SINCE {
        ruleset = ruleset
            .scope(Scope::AbstractUnixSocket | Scope::Signal)
            .map_err(|error| failed("scope abstract sockets and signals", error.to_string()))?;
    }
    let tcp_ports = rules.tcp_ports.filter(|_| rules.abi >= PORTS_SINCE);
    if tcp_ports.is_some() {
        ruleset = ruleset
            .handle_access(AccessNet::BindTcp)
            .map_err(|error| failed("handle binding of TCP ports", error.to_string()))?;
    }
    let mut ruleset = ruleset.create().map_err(|error| failed("create a ruleset", error.to_string()))?;
    let readable = rules.readable.iter().map(|path| (path.as_str(), read));
    let writable = rules.writable.iter().map(|path| (*path, all));
    // Names may be listed everywhere: what the view has, it has to be seen. Content takes a rule of its own.
    let listing = AccessFs::ReadDir.into();
    for (path, access) in
        readable.chain(writable).chain([("/", listing), ("/dev", device), ("/proc", process)])
    {
        let fd = PathFd::new(path)
            .map_err(|error| failed(&format!("open {path} for a rule"), error.to_string()))?;
        ruleset = ruleset
            .add_rule(PathBeneath::new(fd, access))
            .map_err(|error| failed(&format!("add a rule for {path}"), error.to_string()))?;
    }
    // Port 0 is the kernel's choice.
    for port in tcp_ports.into_iter().flat_map(|ports| ports.iter().copied().chain([0])) {
        ruleset = ruleset
            .add_rule(NetPort::new(port, AccessNet::BindTcp))
            .map_err(|error| failed(&format!("add a rule for tcp/{port}"), error.to_string()))?;
    }
    let RestrictionStatus { ruleset: status, no_new_privs, .. } =
        ruleset.restrict_self().map_err(|error| failed("restrict this process", error.to_string()))?;
    if status != RulesetStatus::FullyEnforced || !no_new_privs {
        return Err(failed("restrict this process", format!("only {status:?}, no_new_privs {no_new_privs}")));
    }
    Ok(())
}
