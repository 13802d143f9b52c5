//! The BPF object: its programs loaded, its maps made or found again.

use std::collections::{BTreeMap, HashSet};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use aya_obj::generated::{bpf_attach_type, bpf_prog_type};
use aya_obj::programs::{CgroupSockAddrAttachType, CgroupSockAttachType, CgroupSockoptAttachType};
use aya_obj::{Object, ProgramSection};

use super::call::{self, MapShape};
use crate::error::KernelError;

/// The compiled object. ELF's structures want their alignment.
#[repr(C, align(8))]
struct Aligned<B: ?Sized>(B);

static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/capsule.bpf.o")));

/// What the names of this release's programs begin with.
pub(super) const PROGRAMS: &str = "plab_";

/// Every kind of program that this or a former release attaches.
pub(super) const ATTACH_KINDS: [bpf_attach_type; 11] = [
    bpf_attach_type::BPF_CGROUP_INET_SOCK_CREATE,
    bpf_attach_type::BPF_CGROUP_INET_SOCK_RELEASE,
    bpf_attach_type::BPF_CGROUP_INET4_BIND,
    bpf_attach_type::BPF_CGROUP_INET6_BIND,
    bpf_attach_type::BPF_CGROUP_INET4_POST_BIND,
    bpf_attach_type::BPF_CGROUP_INET6_POST_BIND,
    bpf_attach_type::BPF_CGROUP_INET4_CONNECT,
    bpf_attach_type::BPF_CGROUP_INET6_CONNECT,
    bpf_attach_type::BPF_CGROUP_SETSOCKOPT,
    bpf_attach_type::BPF_CGROUP_INET_EGRESS,
    bpf_attach_type::BPF_CGROUP_INET_INGRESS,
];

/// A program of the object, loaded.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) name: String,
    pub(super) attach: u32,
    pub(super) fd: OwnedFd,
}

/// The maps by their names. A name has the layout's number in it, so maps of another layout have other names.
#[derive(Debug)]
pub(super) struct Maps(BTreeMap<String, OwnedFd>);

impl Maps {
    /// The map of that name, without what all names begin with.
    pub(super) fn get(&self, name: &str) -> Result<BorrowedFd<'_>, KernelError> {
        let found =
            self.0.iter().find(|(full, _)| full.split_once('_').is_some_and(|(_, rest)| rest == name));
        found
            .map(|(_, fd)| fd.as_fd())
            .ok_or_else(|| KernelError::new("find", format!("the BPF map {name}"), rustix::io::Errno::NOENT))
    }
}

/// The kernel's numbers for what a section is a program of.
fn kinds(section: &ProgramSection) -> Option<(bpf_prog_type, bpf_attach_type)> {
    use bpf_attach_type as at;
    use bpf_prog_type as pt;
    Some(match section {
        ProgramSection::CgroupSkbEgress => (pt::BPF_PROG_TYPE_CGROUP_SKB, at::BPF_CGROUP_INET_EGRESS),
        ProgramSection::CgroupSkbIngress => (pt::BPF_PROG_TYPE_CGROUP_SKB, at::BPF_CGROUP_INET_INGRESS),
        ProgramSection::CgroupSock { attach_type } => (
            pt::BPF_PROG_TYPE_CGROUP_SOCK,
            match attach_type {
                CgroupSockAttachType::SockCreate => at::BPF_CGROUP_INET_SOCK_CREATE,
                CgroupSockAttachType::PostBind4 => at::BPF_CGROUP_INET4_POST_BIND,
                CgroupSockAttachType::PostBind6 => at::BPF_CGROUP_INET6_POST_BIND,
                CgroupSockAttachType::SockRelease => at::BPF_CGROUP_INET_SOCK_RELEASE,
            },
        ),
        ProgramSection::CgroupSockAddr { attach_type } => (
            pt::BPF_PROG_TYPE_CGROUP_SOCK_ADDR,
            match attach_type {
                CgroupSockAddrAttachType::Bind4 => at::BPF_CGROUP_INET4_BIND,
                CgroupSockAddrAttachType::Bind6 => at::BPF_CGROUP_INET6_BIND,
                CgroupSockAddrAttachType::Connect4 => at::BPF_CGROUP_INET4_CONNECT,
                CgroupSockAddrAttachType::Connect6 => at::BPF_CGROUP_INET6_CONNECT,
                _ => return None,
            },
        ),
        ProgramSection::CgroupSockopt { attach_type: CgroupSockoptAttachType::Set } => {
            (pt::BPF_PROG_TYPE_CGROUP_SOCKOPT, at::BPF_CGROUP_SETSOCKOPT)
        }
        _ => return None,
    })
}

fn broken(error: &dyn std::fmt::Display) -> KernelError {
    KernelError::new("read", "the BPF object", std::io::Error::other(error.to_string()))
}

/// The object's maps, by name.
fn shapes_of(object: &Object) -> impl Iterator<Item = (&String, MapShape)> {
    object.maps.iter().map(|(name, map)| {
        let shape = MapShape {
            kind: map.map_type(),
            key: map.key_size(),
            value: map.value_size(),
            entries: map.max_entries(),
            flags: map.map_flags(),
        };
        (name, shape)
    })
}

/// What the object's maps are made as, for a comparison with what is read from them.
#[cfg(test)]
pub(super) fn shapes() -> Result<Vec<(String, MapShape)>, KernelError> {
    let object = Object::parse(&OBJECT.0).map_err(|error| broken(&error))?;
    Ok(shapes_of(&object).map(|(name, shape)| (name.clone(), shape)).collect())
}

/// Loads every program. A map of the same name and shape that is in `former` is used again, with what is in it.
pub(super) fn load(former: BTreeMap<String, OwnedFd>) -> Result<(Maps, Vec<Program>), KernelError> {
    let mut object = Object::parse(&OBJECT.0).map_err(|error| broken(&error))?;
    let mut former = former;
    let mut maps = BTreeMap::new();
    for (name, shape) in shapes_of(&object) {
        let old =
            former.remove(name).filter(|old| call::map_info(old.as_fd()).is_ok_and(|(_, is)| is == shape));
        let fd = match old {
            Some(old) => old,
            None => call::map_create(name, shape).map_err(|error| {
                KernelError::new("make", format!("the BPF map {name}"), error)
                    .hint("plabd needs CAP_BPF and CAP_NET_ADMIN; `plab check` shows what the kernel has")
            })?,
        };
        maps.insert(name.clone(), fd);
    }
    let copies = object.maps.clone();
    let descriptors: Vec<_> = copies
        .iter()
        .filter_map(|(name, map)| Some((name.as_str(), maps.get(name)?.as_raw_fd(), map)))
        .collect();
    object.relocate_maps(descriptors.into_iter(), &HashSet::new()).map_err(|error| broken(&error))?;
    let mut programs = Vec::new();
    for (name, program) in &object.programs {
        let function = object.functions.get(&program.function_key());
        let (Some(function), Some((kind, attach))) = (function, kinds(&program.section)) else {
            return Err(broken(&format_args!("the program {name} is of a kind that is not known here")));
        };
        let fd =
            call::program_load(name, kind as u32, attach as u32, &program.license, &function.instructions)
                .map_err(|(error, log)| {
                    let said = if log.is_empty() {
                        error.to_string()
                    } else {
                        format!("{error}; the kernel says:\n{log}")
                    };
                    let source = std::io::Error::new(std::io::Error::from(error).kind(), said);
                    KernelError::new("load", format!("the BPF program {name}"), source)
                })?;
        programs.push(Program { name: name.clone(), attach: attach as u32, fd });
    }
    Ok((Maps(maps), programs))
}
