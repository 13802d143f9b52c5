//! From an accepted definition to hooks begun. Blocking; runs on the pool's threads.
//!
//! Whatever fails leaves nothing running: capsule-init ends when its link closes before it was told to go, and
//! the caller clears the cgroup away.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use plab_config::Definition;
use plab_sandbox::KernelError;
use plab_sandbox::cgroup::{CapsuleCgroup, Limits};
use plab_sandbox::landlock_rules::NEWEST_KNOWN;
use plab_sandbox::message::{self, ExtraTree, FromInit, Go, MAX_DATAGRAM, PROTOCOL, Setup, ToInit};
use plab_sandbox::privileges::Kept;
use plab_sandbox::readback;
use plab_sandbox::spawn::{Birth, Child, spawn};
use plab_sandbox::view::detached_tree;
use rustix::fs::{AtFlags, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, socket_with, socketpair, sockopt,
};

use super::birthmark::Birthmark;
use super::{Capsule, wishes};
use crate::machine::Machine;

/// A setup takes milliseconds; past this something in the kernel is stuck.
const SETUP_TIMEOUT: Duration = Duration::from_secs(20);

/// Open files of each process, as on a Debian server.
const OPEN_FILES: u64 = 65_536;

/// Namespaces at birth; mount and cgroup follow inside, see `plab_sandbox::view`.
const NAMESPACES: u64 = (libc::CLONE_NEWPID | libc::CLONE_NEWIPC) as u64;

/// Makes the capsule: limited, restricted, read back, its hooks begun. `known` is told the ID of its cgroup before anything is
/// in it.
///
/// # Errors
/// The first thing that could not be done or is not in force.
pub fn birth(
    machine: &Machine,
    definition: &Definition,
    uid: u32,
    configured: bool,
    known: impl FnOnce(u64),
) -> Result<Capsule, KernelError> {
    let slice = definition.name.as_str();
    let profile = machine.profile(definition.seccomp.profile.as_str()).map_err(|reason| {
        KernelError::new("use seccomp profile", &definition.seccomp.profile, std::io::Error::other(reason))
    })?;

    // Layer 1: limited before anything is in it.
    let cgroup = machine.tree.create(slice)?;
    cgroup.freeze(false)?;
    cgroup.set(&wishes::limits(definition, &machine.offered))?;
    let oom = cgroup.oom_event()?;
    machine.bandwidth.place(uid, definition.network.rate)?;
    let kept = wishes::kept(definition);
    kept.require()?;
    if kept == Kept::RawSockets {
        machine.required_untracked()?;
    }
    // Until its cgroup is known to the network's programs it could not even make a socket.
    let id = cgroup.id()?;
    known(id);
    match machine.required_guard()? {
        Some(guard) => guard.admit(id, wishes::network(definition, uid, machine))?,
        // Admission has refused it; and what has CAP_NET_RAW without the programs hears everybody.
        None if kept == Kept::RawSockets => {
            return Err(KernelError::new("hold to its raw sockets", slice, Errno::NOTSUP)
                .hint("raw sockets take the BPF programs; `plab check` shows what the kernel lacks"));
        }
        None => {}
    }

    machine.storage.create(slice, uid)?;
    let storage = machine.storage.mounts(slice)?;
    let mut extra = Vec::new();
    let mut trees = Vec::new();
    for path in &definition.view.paths {
        let under =
            machine.node.view.allow.iter().find(|allowed| path.as_absolute().is_within(allowed)).ok_or_else(
                || {
                    KernelError::new("show", path.path().display(), Errno::ACCESS)
                        .hint("it lies within no directory of the node file's [view] allow")
                },
            )?;
        trees.push(detached_tree(path.path())?);
        extra.push(ExtraTree { under: under.to_string(), at: path.path().display().to_string() });
    }
    let skel = skeleton(machine)?;
    let listener = listening_socket(machine, slice, uid)?;

    let (child, link) = start_init(machine, &cgroup, slice)?;
    let tcp_ports = wishes::landlock_ports(definition, machine);
    let setup = Setup {
        protocol: PROTOCOL,
        slice: slice.to_owned(),
        node: machine.node.name.to_string(),
        uid,
        // Half of the memory: the other half is for whoever uses what is shared.
        shm_bytes: definition.memory.max.get() / 2,
        open_files: OPEN_FILES,
        tasks: definition.tasks.max.get().into(),
        landlock_abi: machine.offered.landlock_abi.min(NEWEST_KNOWN),
        readable: machine.template.readable().to_vec(),
        birthmark: Birthmark::of(definition, &profile.digest, tcp_ports.as_deref()).to_string(),
        tcp_ports,
        raw: kept == Kept::RawSockets,
        extra,
        skel: skel.is_some(),
    };
    let mut fds: Vec<BorrowedFd<'_>> = vec![
        machine.template.namespace(),
        storage.home_parent.as_fd(),
        storage.tmp.as_fd(),
        storage.var_tmp.as_fd(),
        storage.identity.as_fd(),
        listener.as_fd(),
        profile.memfd.as_fd(),
    ];
    fds.extend(trees.iter().map(AsFd::as_fd));
    fds.extend(skel.as_ref().map(AsFd::as_fd));
    tell(&link, slice, &ToInit::Setup(Box::new(setup)), &fds)?;
    await_ready(&link, slice)?;

    // Layer 7: not what was asked for, but what is.
    let mut network = super::verify::network(machine, &cgroup, definition, uid)?;
    network.extend(machine.bandwidth.verify(uid)?);
    if let Some(row) = readback::process(child.pid, uid, kept)?.into_iter().chain(network).find(|row| !row.ok)
    {
        let message = format!("asked {}, in force {}", row.asked, row.in_force);
        return Err(KernelError::new(
            format!("hold {slice} to its {} ({})", row.layer, row.what),
            row.source,
            std::io::Error::other(message),
        ));
    }
    let go = Go {
        configured,
        resources: wishes::resources(definition, uid, &machine.node),
        times: wishes::times(definition),
    };
    tell(&link, slice, &ToInit::Go(Box::new(go)), &[])?;
    Ok(Capsule { pidfd: child.pidfd, pid: child.pid, link, oom })
}

/// A read-only mount of the directory that a new home begins with; none if the node has none.
fn skeleton(machine: &Machine) -> Result<Option<OwnedFd>, KernelError> {
    let path = &machine.paths.skel;
    if !path.is_dir() {
        return Ok(None);
    }
    let tree = detached_tree(path)?;
    // Through the mount, so that no way leads from it to what is beside the skeleton.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(&tree, ".", flags, Mode::empty())
        .map(Some)
        .map_err(|error| KernelError::new("open", path.display(), error))
}

/// Starts a capsule-init in the cgroup; it waits for its first message, and ends if none comes.
fn start_init(
    machine: &Machine,
    cgroup: &CapsuleCgroup,
    slice: &str,
) -> Result<(Child, OwnedFd), KernelError> {
    let (link, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|error| KernelError::new("make a socket pair for", slice, error))?;
    let child = spawn(&Birth {
        program: machine.init.as_fd(),
        arguments: &[c"capsule-init"],
        cgroup: cgroup.unified(),
        join: &cgroup.v1_tasks()?,
        link: theirs.as_fd(),
        namespaces: NAMESPACES,
    })?;
    // While it is still root's and waits: later its own user could keep plabd's place in the order.
    if let Err(error) = plab_sandbox::oom::make_ordinary(child.pid) {
        super::death::kill_and_reap(&child.pidfd);
        return Err(error);
    }
    Ok((child, link))
}

/// The socket by which a later plabd finds this capsule-init. Bound here, as root in root's directory; listened
/// on there, after the drop, so that its credentials are the capsule's.
fn listening_socket(machine: &Machine, slice: &str, uid: u32) -> Result<OwnedFd, KernelError> {
    let failed = |error: Errno| KernelError::new("bind the capsule socket of", slice, error);
    match unlinkat(machine.sockets(), Machine::socket_name(uid), AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(failed(error)),
    }
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(failed)?;
    let address = SocketAddrUnix::new(machine.socket_address(uid)).map_err(failed)?;
    bind(&socket, &address).map_err(failed)?;
    Ok(socket)
}

/// Empties a slice's storage as the slice, and removes it.
///
/// # Errors
/// What could not be removed; trying again goes on where this stopped.
pub fn wipe(machine: &Machine, slice: &str, uid: u32, limits: &Limits) -> Result<(), KernelError> {
    let targets = machine.storage.wipe_targets(slice)?;
    if !targets.is_empty() {
        // The slice's limits hold for the clearing away, too: a huge tree is not the neighbours' trouble.
        let cgroup = machine.tree.create(slice)?;
        cgroup.freeze(false)?;
        cgroup.set(limits)?;
        let (child, link) = start_init(machine, &cgroup, slice)?;
        let landlock_abi = machine.offered.landlock_abi.min(NEWEST_KNOWN);
        let fds: Vec<BorrowedFd<'_>> = targets.iter().map(AsFd::as_fd).collect();
        let outcome = tell(&link, slice, &ToInit::Wipe { uid, landlock_abi }, &fds)
            .and_then(|()| await_wiped(&link, slice));
        // It has nothing more to do; and on a failure it must not stay.
        super::death::kill_and_reap(&child.pidfd);
        outcome?;
    }
    machine.storage.remove(slice)
}

fn tell(link: &OwnedFd, slice: &str, message: &ToInit, fds: &[BorrowedFd<'_>]) -> Result<(), KernelError> {
    message::send(link, message, fds)
        .map_err(|error| KernelError::new("talk to capsule-init of", slice, error))
}

fn hear(link: &OwnedFd, slice: &str, timeout: Option<Duration>) -> Result<FromInit, KernelError> {
    let failed = |error: std::io::Error| KernelError::new("hear from capsule-init of", slice, error);
    sockopt::set_socket_timeout(link, sockopt::Timeout::Recv, timeout)
        .map_err(|error| failed(error.into()))?;
    let mut buffer = vec![0; MAX_DATAGRAM];
    match message::receive::<FromInit>(link, &mut buffer).map_err(failed)? {
        Some((FromInit::SetupFailed { message }, _)) => {
            Err(KernelError::new("set up", slice, std::io::Error::other(message)))
        }
        Some((heard, _)) => Ok(heard),
        None => Err(failed(std::io::Error::other(
            "it ended without a word; see the kernel's log for a seccomp or memory kill",
        ))),
    }
}

fn await_ready(link: &OwnedFd, slice: &str) -> Result<(), KernelError> {
    match hear(link, slice, Some(SETUP_TIMEOUT))? {
        FromInit::Ready { .. } => sockopt::set_socket_timeout(link, sockopt::Timeout::Recv, None)
            .map_err(|error| KernelError::new("reset the timeout of", slice, error)),
        other => Err(KernelError::new(
            "set up",
            slice,
            std::io::Error::other(format!("capsule-init said {other:?}")),
        )),
    }
}

fn await_wiped(link: &OwnedFd, slice: &str) -> Result<(), KernelError> {
    // As long as it takes: the thread waits, the node does not.
    match hear(link, slice, None)? {
        FromInit::Wiped { .. } => Ok(()),
        other => Err(KernelError::new(
            "empty the storage of",
            slice,
            std::io::Error::other(format!("capsule-init said {other:?}")),
        )),
    }
}
