//! From root to the capsule: layers 2 to 6 of the architecture, in the only order that works.
//!
//! Layer 1, the cgroup, is there since birth. The view comes first because it needs root; privileges go next,
//! because Landlock and seccomp need none and each would have to allow the steps before it; seccomp is last, so
//! that its profile need not allow anything that only setting up takes. No code of the tenant's runs before
//! the last step, and none of these steps looks at anything the tenant made.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{CWD, Mode, OFlags, openat};

use super::skel;
use crate::error::{KernelError, Tried};
use crate::landlock_rules::{Rules, restrict};
use crate::message::Setup;
use crate::privileges::{Kept, ProcessLimits, drop_to, limit_process};
use crate::seccomp::CompiledProfile;
use crate::view::{OwnMounts, StorageMounts, attach};

/// What the reactor needs of a finished setup.
pub(super) struct Capsule {
    pub(super) slice: String,
    pub(super) node: String,
    pub(super) birthmark: String,
    pub(super) listener: OwnedFd,
    pub(super) home: OwnedFd,
}

pub(super) fn become_capsule(setup: Setup, fds: Vec<OwnedFd>) -> Result<Capsule, KernelError> {
    let due = Setup::FIXED_FDS + setup.extra.len() + usize::from(setup.skel);
    if fds.len() != due {
        let message = format!("{} descriptors came, {due} are due", fds.len());
        return Err(KernelError::new("begin", "setup", io::Error::new(io::ErrorKind::InvalidInput, message)));
    }
    let mut fds = fds;
    let skel = if setup.skel { fds.pop() } else { None };
    let mut fds = fds.into_iter();
    let mut take = || {
        fds.next().ok_or_else(|| {
            KernelError::new("take", "a descriptor", io::Error::from(io::ErrorKind::InvalidInput))
        })
    };
    let template = take()?;
    let storage = StorageMounts { home_parent: take()?, tmp: take()?, var_tmp: take()?, identity: take()? };
    let listener = take()?;
    let profile = read_profile(&take()?)?;
    let extra = setup.extra.iter().cloned().zip(fds).collect();

    // Layers 2 and 3. From here on no path of the host exists for this process.
    attach(&template, OwnMounts { storage, extra, gid: setup.uid, shm_bytes: setup.shm_bytes })?;
    drop(template);

    // Layer 4. Standard descriptors may be plabd's log or terminal, and a session or controlling terminal of
    // plabd's would take TIOCSTI or a signal back to it.
    detach_standard_fds()?;
    rustix::process::setsid().tried("leave the session of", "plabd")?;
    close_all_on_exec()?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    limit_process(ProcessLimits {
        open_files: setup.open_files,
        pending_signals: setup.tasks.saturating_mul(8),
    })?;
    let kept = if setup.raw { Kept::RawSockets } else { Kept::Nothing };
    drop_to(setup.uid, kept)?;

    let home_path = format!("/home/{}", setup.slice);
    let home = open_home(&home_path)?;
    rustix::process::fchdir(&home).tried("enter", &home_path)?;
    skel::populate(skel.as_ref(), &home)?;

    // Layer 5.
    restrict(&Rules {
        tcp_ports: setup.tcp_ports.as_deref(),
        abi: setup.landlock_abi,
        readable: &setup.readable,
        writable: &[&home_path, "/tmp", "/var/tmp", "/dev/shm"],
    })?;

    // connect(2) shows the credentials of listen(2): a later plabd sees that the peer is this process.
    rustix::net::listen(&listener, 8).tried("listen on", "the capsule's socket")?;

    // Layer 6.
    if setup.raw {
        crate::seccomp::fence_families().tried("keep to socket families", "a capsule with CAP_NET_RAW")?;
    }
    profile.install().tried("install", "the seccomp profile")?;
    Ok(Capsule { slice: setup.slice, node: setup.node, birthmark: setup.birthmark, listener, home })
}

/// A slice may have shut its own home; as its owner, capsule-init opens it again.
fn open_home(path: &str) -> Result<OwnedFd, KernelError> {
    let open = || openat(CWD, path, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let usable = open().and_then(|home| rustix::process::fchdir(&home).map(|()| home));
    match usable {
        Err(rustix::io::Errno::ACCESS) => {
            rustix::fs::chmod(path, Mode::RWXU).tried("open up", path)?;
            open().tried("open", path)
        }
        other => other.tried("open", path),
    }
}

fn read_profile(memfd: &OwnedFd) -> Result<CompiledProfile, KernelError> {
    let size = rustix::fs::fstat(memfd).tried("look at", "the seccomp profile")?.st_size;
    let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
    let n = rustix::io::pread(memfd, &mut bytes, 0).tried("read", "the seccomp profile")?;
    CompiledProfile::from_bytes(&bytes[..n]).map_err(|error| {
        KernelError::new(
            "read",
            "the seccomp profile",
            io::Error::new(io::ErrorKind::InvalidData, error.to_string()),
        )
    })
}

fn detach_standard_fds() -> Result<(), KernelError> {
    let null =
        openat(CWD, "/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).tried("open", "/dev/null")?;
    rustix::stdio::dup2_stdin(&null).tried("replace", "standard input")?;
    rustix::stdio::dup2_stdout(&null).tried("replace", "standard output")?;
    rustix::stdio::dup2_stderr(&null).tried("replace", "standard error")
}

/// Sets close-on-exec on every descriptor but the standard ones, which are `/dev/null` by now: no program of the
/// slice inherits the link, the listener, or anything plabd might ever leak.
fn close_all_on_exec() -> Result<(), KernelError> {
    // SAFETY: the flag is only set, so no object of this process loses its descriptor.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            crate::spawn::LINK_FD,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(KernelError::new("set close-on-exec on", "every descriptor", io::Error::last_os_error()))
    }
}
