//! The smallest program that writes down when it began: the hook by which a new capsule is timed.
//!
//! A script would be timed with its interpreter, and this bench's own program is large to copy into a new home.
//! So: one page of machine code in an ELF file without libraries, whose first call asks for the time.

use std::path::Path;

/// What it writes, in its working directory: seconds and nanoseconds of the real-time clock.
pub const FILE: &str = "first-hook";

std::arch::global_asm!(
    ".pushsection .rodata.plab_stamp, \"a\"",
    ".globl plab_stamp_begin",
    ".globl plab_stamp_end",
    "plab_stamp_begin:",
    "sub rsp, 16",
    "mov eax, {clock_gettime}",
    "mov edi, {realtime}",
    "mov rsi, rsp",
    "syscall",
    "mov eax, {openat}",
    "mov edi, {cwd}",
    "lea rsi, [rip + 2f]",
    "mov edx, {create}",
    "mov r10d, 0x1a4", // 0644
    "syscall",
    "mov edi, eax",
    "mov rsi, rsp",
    "mov edx, 16",
    "mov eax, {write}",
    "syscall",
    "xor edi, edi",
    "mov eax, {exit_group}",
    "syscall",
    "2:",
    ".asciz \"first-hook\"",
    "plab_stamp_end:",
    ".popsection",
    clock_gettime = const libc::SYS_clock_gettime,
    realtime = const libc::CLOCK_REALTIME,
    openat = const libc::SYS_openat,
    cwd = const libc::AT_FDCWD,
    create = const libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC,
    write = const libc::SYS_write,
    exit_group = const libc::SYS_exit_group,
);

unsafe extern "C" {
    static plab_stamp_begin: u8;
    static plab_stamp_end: u8;
}

fn code() -> &'static [u8] {
    let begin = &raw const plab_stamp_begin;
    let end = &raw const plab_stamp_end;
    // SAFETY: both symbols are of the one section above, the second after the first.
    let length = unsafe { end.offset_from(begin) };
    // SAFETY: everything between them is initialised and read-only.
    unsafe { std::slice::from_raw_parts(begin, length.unsigned_abs()) }
}

/// The program; see elf(5).
pub fn program() -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let size = HEADERS + code().len() as u64;
    let mut file = Vec::new();
    // 64 bits, little-endian, version 1, System V.
    file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    for half in [2_u16, 62] {
        // An executable, for x86-64.
        file.extend(half.to_le_bytes());
    }
    file.extend(1_u32.to_le_bytes());
    for word in [BASE + HEADERS, 64, 0] {
        // Entry; program headers; no section headers.
        file.extend(word.to_le_bytes());
    }
    file.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 1, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    // One segment, the whole file: load it, read and execute.
    for half in [1_u32, 5] {
        file.extend(half.to_le_bytes());
    }
    for word in [0, BASE, BASE, size, size, 0x1000] {
        file.extend(word.to_le_bytes());
    }
    file.extend(code());
    file
}

/// What a run has written, in nanoseconds since 1970; none before it has.
pub fn read(file: &Path) -> Option<i128> {
    let bytes = std::fs::read(file).ok()?;
    let (seconds, nanos) = bytes.split_at_checked(8)?;
    let seconds = i64::from_le_bytes(seconds.try_into().ok()?);
    let nanos = i64::from_le_bytes(nanos.try_into().ok()?);
    Some(i128::from(seconds) * 1_000_000_000 + i128::from(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn it_runs_and_tells_the_time() {
        let dir = std::env::temp_dir().join(format!("plab-stamp-{}", std::process::id()));
        std::fs::create_dir(&dir).expect("mkdir");
        let path = dir.join("stamp");
        std::fs::write(&path, program()).expect("write");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("chmod");
        let before = crate::clock::now();
        let status = std::process::Command::new(&path).current_dir(&dir).status().expect("run");
        let stamp = read(&dir.join(FILE)).expect("stamp");
        std::fs::remove_dir_all(&dir).expect("clean up");
        assert!(status.success());
        assert!((before..crate::clock::now()).contains(&stamp));
    }
}
