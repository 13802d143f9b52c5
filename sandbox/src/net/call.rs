//! The few calls of bpf(2) that are needed here.
//!
//! aya attaches by links, which end with their holder unless they are pinned in a bpffs; programs attached by
//! `BPF_PROG_ATTACH` stay as long as the cgroup does, on every machine, and leave nothing behind. See bpf(2) and
//! `<linux/bpf.h>` for what each attribute means.

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use aya_obj::generated::{bpf_cmd, bpf_insn, bpf_map_info, bpf_map_type, bpf_prog_info};
use rustix::io::Errno;

use super::btf;

use crate::error::{KernelError, Tried};

/// An object's name in the kernel: 15 bytes and a NUL.
pub(super) type Name = [u8; 16];

/// Cuts a name to what the kernel keeps of it.
pub(super) fn name(text: &str) -> Name {
    let mut name = [0; 16];
    let bytes = text.as_bytes();
    let length = bytes.len().min(15);
    name[..length].copy_from_slice(&bytes[..length]);
    name
}

fn call<A>(command: bpf_cmd, attribute: &mut A) -> Result<i32, Errno> {
    // SAFETY: the attribute is a plain structure of this size, laid out as the command wants it; addresses in it are of
    // buffers that the caller keeps alive and that are as large as it says.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_int, attribute as *mut A, size_of::<A>()) };
    i32::try_from(result).ok().filter(|result| *result >= 0).ok_or_else(|| {
        let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL);
        Errno::from_raw_os_error(errno)
    })
}

fn call_for_fd<A>(command: bpf_cmd, attribute: &mut A) -> Result<OwnedFd, Errno> {
    let fd = call(command, attribute)?;
    // SAFETY: the kernel has just made it, close-on-exec, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn fd(fd: BorrowedFd<'_>) -> u32 {
    // Open descriptors are not negative.
    fd.as_raw_fd().unsigned_abs()
}

/// What a map is made as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MapShape {
    pub(super) kind: u32,
    pub(super) key: u32,
    pub(super) value: u32,
    pub(super) entries: u32,
    pub(super) flags: u32,
}

pub(super) fn map_create(map_name: &str, shape: MapShape) -> Result<OwnedFd, Errno> {
    if shape.kind == bpf_map_type::BPF_MAP_TYPE_SK_STORAGE as u32 {
        let types = btf_load(&btf::of_storage(shape.value))?;
        return create(map_name, shape, 0, Some(types.as_fd()));
    }
    create(map_name, shape, 0, None)
}

/// A map whose values are maps that are made as `inner` is.
pub(super) fn map_of_maps_create(
    map_name: &str,
    shape: MapShape,
    inner: BorrowedFd<'_>,
) -> Result<OwnedFd, Errno> {
    create(map_name, shape, fd(inner), None)
}

fn create(
    map_name: &str,
    shape: MapShape,
    inner_map_fd: u32,
    types: Option<BorrowedFd<'_>>,
) -> Result<OwnedFd, Errno> {
    #[repr(C)]
    struct Attribute {
        shape: [u32; 5],
        inner_map_fd: u32,
        numa_node: u32,
        name: Name,
        interface: u32,
        types: u32,
        key_type: u32,
        value_type: u32,
    }
    let MapShape { kind, key, value, entries, flags } = shape;
    let mut attribute = Attribute {
        shape: [kind, key, value, entries, flags],
        inner_map_fd,
        numa_node: 0,
        name: name(map_name),
        interface: 0,
        types: types.map_or(0, fd),
        key_type: types.map_or(0, |_| btf::KEY),
        value_type: types.map_or(0, |_| btf::VALUE),
    };
    call_for_fd(bpf_cmd::BPF_MAP_CREATE, &mut attribute)
}

fn btf_load(types: &[u8]) -> Result<OwnedFd, Errno> {
    #[repr(C)]
    struct Attribute {
        types: u64,
        log: u64,
        size: u32,
        log_size: u32,
        log_level: u32,
        unused: u32,
    }
    let size = u32::try_from(types.len()).unwrap_or(u32::MAX);
    let mut attribute =
        Attribute { types: types.as_ptr() as u64, log: 0, size, log_size: 0, log_level: 0, unused: 0 };
    call_for_fd(bpf_cmd::BPF_BTF_LOAD, &mut attribute)
}

#[repr(C)]
struct Element {
    map: u32,
    unused: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// One element. The caller's types are as large as the map's keys and values.
fn element(
    command: bpf_cmd,
    map: BorrowedFd<'_>,
    key: *const u8,
    value: *mut u8,
    flags: u64,
) -> Result<(), Errno> {
    let mut attribute = Element { map: fd(map), unused: 0, key: key as u64, value: value as u64, flags };
    call(command, &mut attribute).map(drop)
}

pub(super) fn update(map: BorrowedFd<'_>, key: &[u8], value: &[u8], flags: u64) -> Result<(), Errno> {
    element(bpf_cmd::BPF_MAP_UPDATE_ELEM, map, key.as_ptr(), value.as_ptr().cast_mut(), flags)
}

/// Puts a map into an array of maps. Returns when no program uses what was there before.
pub(super) fn put_map(maps: BorrowedFd<'_>, index: u32, map: BorrowedFd<'_>) -> Result<(), Errno> {
    update(maps, &index.to_ne_bytes(), &fd(map).to_ne_bytes(), 0)
}

/// How many copies there are of a value of which each processor has its own: one for each that there could be.
pub(super) fn possible_cpus() -> Result<usize, KernelError> {
    let source = "/sys/devices/system/cpu/possible";
    let text = std::fs::read_to_string(source).tried("read", source)?;
    // `0-3`, or `0`; see cpu-list in cpuset(7).
    let last = text.trim().rsplit(['-', ',']).next().and_then(|last| last.parse::<usize>().ok());
    last.map(|last| last + 1).ok_or_else(|| {
        KernelError::new("read", source, std::io::Error::other(format!("it says {:?}", text.trim())))
    })
}

/// Fills `value`; false if there is no such key.
pub(super) fn lookup(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> Result<bool, Errno> {
    match element(bpf_cmd::BPF_MAP_LOOKUP_ELEM, map, key.as_ptr(), value.as_mut_ptr(), 0) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Deletes a key; fine if it is not there.
pub(super) fn delete(map: BorrowedFd<'_>, key: &[u8]) -> Result<(), Errno> {
    match element(bpf_cmd::BPF_MAP_DELETE_ELEM, map, key.as_ptr(), std::ptr::null_mut(), 0) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Every key of a map, each `size` bytes.
pub(super) fn keys(map: BorrowedFd<'_>, size: usize) -> Result<Vec<Vec<u8>>, Errno> {
    let mut keys: Vec<Vec<u8>> = Vec::new();
    loop {
        let before = keys.last().map_or(std::ptr::null(), |key| key.as_ptr());
        let mut next = vec![0; size];
        match element(bpf_cmd::BPF_MAP_GET_NEXT_KEY, map, before, next.as_mut_ptr(), 0) {
            Ok(()) => keys.push(next),
            Err(Errno::NOENT) => return Ok(keys),
            Err(error) => return Err(error),
        }
    }
}

/// Makes a map's keys, of so many bytes, those. First what is new: what is in its place of a list of refusals is not let
/// through between. What is not wanted goes also where there is no room for what is.
pub(super) fn keep_keys(map: BorrowedFd<'_>, size: usize, wanted: &BTreeSet<Vec<u8>>) -> Result<(), Errno> {
    let added = wanted.iter().try_for_each(|key| update(map, key, &1_u32.to_ne_bytes(), 0));
    for old in keys(map, size)?.into_iter().filter(|key| !wanted.contains(key)) {
        delete(map, &old)?;
    }
    added
}

/// Loads a program. If the kernel refuses it, its reasons are told as well.
pub(super) fn program_load(
    program_name: &str,
    kind: u32,
    attach: u32,
    license: &CStr,
    instructions: &[bpf_insn],
) -> Result<OwnedFd, (Errno, String)> {
    #[repr(C)]
    struct Attribute {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
        name: Name,
        interface: u32,
        attach: u32,
    }
    let mut attribute = Attribute {
        kind,
        count: u32::try_from(instructions.len()).unwrap_or(u32::MAX),
        instructions: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name: name(program_name),
        interface: 0,
        attach,
    };
    call_for_fd(bpf_cmd::BPF_PROG_LOAD, &mut attribute).map_err(|error| {
        let mut log = vec![0_u8; 256 << 10];
        attribute.log_level = 1;
        attribute.log_size = 256 << 10;
        attribute.log = log.as_mut_ptr() as u64;
        // Only for its reasons: a program that loads now is closed again.
        drop(call_for_fd(bpf_cmd::BPF_PROG_LOAD, &mut attribute));
        let end = log.iter().position(|byte| *byte == 0).unwrap_or(0);
        let text = String::from_utf8_lossy(&log[..end]).into_owned();
        // The last lines have the reason.
        let tail: Vec<&str> = text.lines().rev().take(8).collect();
        (error, tail.into_iter().rev().collect::<Vec<_>>().join("\n"))
    })
}

/// Attaches a program to a cgroup, beside whatever others there are; `instead` of one that is there, at once.
pub(super) fn attach(
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    kind: u32,
    instead: Option<BorrowedFd<'_>>,
) -> Result<(), Errno> {
    #[repr(C)]
    struct Attribute {
        target: u32,
        program: u32,
        kind: u32,
        flags: u32,
        replaced: u32,
    }
    const ALLOW_MULTI: u32 = 1 << 1;
    const REPLACE: u32 = 1 << 2;
    let mut attribute = Attribute {
        target: fd(cgroup),
        program: fd(program),
        kind,
        flags: ALLOW_MULTI | if instead.is_some() { REPLACE } else { 0 },
        replaced: instead.map_or(0, fd),
    };
    call(bpf_cmd::BPF_PROG_ATTACH, &mut attribute).map(drop)
}

pub(super) fn detach(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>, kind: u32) -> Result<(), Errno> {
    let mut attribute = [fd(cgroup), fd(program), kind, 0];
    call(bpf_cmd::BPF_PROG_DETACH, &mut attribute).map(drop)
}

/// The IDs of the programs of a kind on a cgroup: its own, or with `effective` all that the kernel runs there.
pub(super) fn query(cgroup: BorrowedFd<'_>, kind: u32, effective: bool) -> Result<Vec<u32>, Errno> {
    /// More than the kernel lets be attached to one cgroup (`BPF_CGROUP_MAX_PROGS`).
    const MOST: usize = 128;
    #[repr(C)]
    struct Attribute {
        target: u32,
        kind: u32,
        query_flags: u32,
        attach_flags: u32,
        ids: u64,
        count: u32,
        unused: u32,
    }
    let mut ids = vec![0_u32; MOST];
    let mut attribute = Attribute {
        target: fd(cgroup),
        kind,
        query_flags: u32::from(effective),
        attach_flags: 0,
        ids: ids.as_mut_ptr() as u64,
        count: MOST as u32,
        unused: 0,
    };
    call(bpf_cmd::BPF_PROG_QUERY, &mut attribute)?;
    ids.truncate(attribute.count as usize);
    Ok(ids)
}

/// A program by its ID; none if it is gone.
pub(super) fn program_by_id(id: u32) -> Result<Option<OwnedFd>, Errno> {
    by_id(bpf_cmd::BPF_PROG_GET_FD_BY_ID, id)
}

/// A map by its ID; none if it is gone.
pub(super) fn map_by_id(id: u32) -> Result<Option<OwnedFd>, Errno> {
    by_id(bpf_cmd::BPF_MAP_GET_FD_BY_ID, id)
}

fn by_id(command: bpf_cmd, id: u32) -> Result<Option<OwnedFd>, Errno> {
    match call_for_fd(command, &mut [id, 0, 0]) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn info<I>(object: BorrowedFd<'_>, info: &mut I) -> Result<(), Errno> {
    #[repr(C)]
    struct Attribute {
        object: u32,
        length: u32,
        info: u64,
    }
    let mut attribute = Attribute {
        object: fd(object),
        length: size_of::<I>() as u32,
        info: std::ptr::from_mut(info) as u64,
    };
    call(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attribute).map(drop)
}

fn text(name: &[std::ffi::c_char; 16]) -> String {
    name.iter().take_while(|byte| **byte != 0).map(|byte| char::from(byte.cast_unsigned())).collect()
}

/// What the kernel says of a program.
pub(super) struct ProgramInfo {
    pub(super) id: u32,
    pub(super) name: String,
    /// IDs of the maps that it uses.
    pub(super) maps: Vec<u32>,
}

pub(super) fn program_info(program: BorrowedFd<'_>) -> Result<ProgramInfo, Errno> {
    const MOST: usize = 64;
    let mut maps = vec![0_u32; MOST];
    // SAFETY: numbers and arrays of numbers, for which zeros are valid.
    let mut about: bpf_prog_info = unsafe { MaybeUninit::zeroed().assume_init() };
    about.nr_map_ids = MOST as u32;
    about.map_ids = maps.as_mut_ptr() as u64;
    info(program, &mut about)?;
    maps.truncate(about.nr_map_ids as usize);
    Ok(ProgramInfo { id: about.id, name: text(&about.name), maps })
}

/// What the kernel says of a map: its name and shape.
pub(super) fn map_info(map: BorrowedFd<'_>) -> Result<(String, MapShape), Errno> {
    // SAFETY: numbers and arrays of numbers, for which zeros are valid.
    let mut about: bpf_map_info = unsafe { MaybeUninit::zeroed().assume_init() };
    info(map, &mut about)?;
    let shape = MapShape {
        kind: about.type_,
        key: about.key_size,
        value: about.value_size,
        entries: about.max_entries,
        flags: about.map_flags,
    };
    Ok((text(&about.name), shape))
}
