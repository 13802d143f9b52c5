//! System calls as numbers and arguments: what the C library would check or translate, an attacker does not.

use std::ffi::{CStr, CString};

/// What one attempt came to: what was gained, or the kernel's error number.
pub type Attempt = Result<String, i32>;

/// One argument of a system call.
pub enum Arg<'a> {
    /// A number, all 64 bits of it.
    Int(i64),
    /// A string.
    Text(&'a CStr),
    /// Memory that the kernel reads.
    In(&'a [u8]),
    /// Memory that the kernel may write. At least as long as the call writes.
    Out(&'a mut [u8]),
    /// A null pointer.
    Null,
}

impl Arg<'_> {
    fn word(&mut self) -> i64 {
        match self {
            Self::Int(number) => *number,
            Self::Text(text) => text.as_ptr() as i64,
            Self::In(bytes) => bytes.as_ptr() as i64,
            Self::Out(bytes) => bytes.as_mut_ptr() as i64,
            Self::Null => 0,
        }
    }
}

/// Makes a system call; its error number if it failed.
pub fn call(number: i64, args: &mut [Arg<'_>]) -> Result<i64, i32> {
    let mut words = [0; 6];
    for (word, arg) in words.iter_mut().zip(args) {
        *word = arg.word();
    }
    // SAFETY: pointers among the words come from live borrows held by `args`; `Arg::Out` is as long as the
    // call writes. Numbers are the caller's business: this program's purpose is to pass bad ones.
    let result = unsafe { libc::syscall(number, words[0], words[1], words[2], words[3], words[4], words[5]) };
    if result < 0 { Err(last()) } else { Ok(result) }
}

/// The same, for calls whose value says no more than that they worked.
pub fn attempt(number: i64, args: &mut [Arg<'_>]) -> Attempt {
    call(number, args).map(|value| value.to_string())
}

/// The last error number.
pub fn last() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

/// An error of the standard library as its number.
pub fn number(error: &std::io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

/// 64-bit words as the kernel sees a structure of them.
pub fn words(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}

/// 32-bit words as the kernel sees a structure of them.
pub fn halves(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}

/// A string for the kernel.
///
/// # Panics
/// It has a NUL inside, which no argument of a program can.
pub fn text(value: &str) -> CString {
    CString::new(value).expect("arguments have no NUL")
}

/// The argument at `index`.
///
/// # Panics
/// There is none: the judge's table is wrong.
pub fn arg(args: &[String], index: usize) -> &str {
    args.get(index).unwrap_or_else(|| panic!("argument {index} is missing"))
}

/// The argument at `index` as a number, in decimal or with `0x`.
///
/// # Panics
/// There is none, or it is no number.
pub fn int(args: &[String], index: usize) -> i64 {
    let value = arg(args, index);
    let parsed = match value.strip_prefix("0x") {
        Some(hex) => i64::from_str_radix(hex, 16),
        None => value.parse(),
    };
    parsed.unwrap_or_else(|_| panic!("argument {index} is no number: {value}"))
}

/// Runs `body` in a child and waits; the child's exit status, or 128 and the signal that ended it.
///
/// # Errors
/// fork(2) failed.
pub fn in_child(body: impl FnOnce() -> i32) -> Result<i32, i32> {
    // SAFETY: this program has one thread, so the child may do everything.
    let pid = unsafe { libc::fork() };
    match pid {
        -1 => Err(last()),
        0 => std::process::exit(body()),
        child => wait_for(child),
    }
}

/// Waits for a child to end.
///
/// # Errors
/// As waitpid(2).
pub fn wait_for(child: i32) -> Result<i32, i32> {
    let mut status = 0;
    // SAFETY: `status` lives on this stack.
    if unsafe { libc::waitpid(child, &raw mut status, libc::__WALL) } < 0 {
        return Err(last());
    }
    Ok(if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) })
}
