//! What became of a hook.

use std::fmt;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// What became of a hook that was due.
///
/// For `status` it says whether the service has failed. Of every other hook the node acts upon
/// nothing but whether `configure` has succeeded (PDN-02-002, 4.7); it is shown so that a
/// researcher can see what happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HookOutcome {
    /// The slice does not have this hook.
    Skipped,
    /// What stands in its place cannot be run, and why.
    Refused(String),
    /// It ended with this exit status.
    Exited(i32),
    /// It was ended by this signal.
    Signalled(i32),
    /// It was killed because its time was up.
    TimedOut,
    /// The kernel would not execute it.
    ExecFailed {
        /// The error number of the exec.
        errno: i32,
        /// What that most likely means for this script; may be empty.
        hint: String,
    },
}

impl HookOutcome {
    /// Whether the hook ran and reported success.
    #[must_use]
    pub fn is_success(&self) -> bool {
        *self == HookOutcome::Exited(0)
    }

    /// Whether the hook ran at all, however it ended.
    #[must_use]
    pub fn has_run(&self) -> bool {
        matches!(self, HookOutcome::Exited(_) | HookOutcome::Signalled(_) | HookOutcome::TimedOut)
    }

    /// The outcome of an exec that failed, with what its error number means for a script that
    /// begins with `first_line` (without its line feed), if that is known.
    #[must_use]
    pub fn exec_failed(errno: i32, first_line: Option<&[u8]>) -> HookOutcome {
        HookOutcome::ExecFailed { errno, hint: exec_hint(errno, first_line) }
    }
}

impl fmt::Display for HookOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HookOutcome::Skipped => f.write_str("skipped: not there"),
            HookOutcome::Refused(reason) => write!(f, "not run: {reason}"),
            HookOutcome::Exited(status) => write!(f, "exited {status}"),
            HookOutcome::Signalled(signal) => match signal_name(*signal) {
                Some(name) => write!(f, "killed by signal {signal} ({name})"),
                None => write!(f, "killed by signal {signal}"),
            },
            HookOutcome::TimedOut => f.write_str("timed out"),
            HookOutcome::ExecFailed { errno, hint } => {
                write!(f, "could not be executed: {}", errno_name(*errno))?;
                if hint.is_empty() { Ok(()) } else { write!(f, ": {hint}") }
            }
        }
    }
}

/// The interpreter that a `#!` line names, or `None` if the line is not one.
fn interpreter(first_line: &[u8]) -> Option<String> {
    const SHOWN: usize = 80;
    let rest = first_line.strip_prefix(b"#!")?.trim_ascii_start();
    let end = rest.iter().position(|byte| matches!(byte, b' ' | b'\t' | b'\0')).unwrap_or(rest.len());
    Some(String::from_utf8_lossy(&rest[..end]).chars().take(SHOWN).collect())
}

fn exec_hint(errno: i32, first_line: Option<&[u8]>) -> String {
    let named = first_line.and_then(interpreter).filter(|name| !name.is_empty());
    let Some(errno) = known(errno) else { return String::new() };
    match errno {
        Errno::NOENT => match named {
            // The usual cause by far: the kernel looks for a file whose name ends in CR.
            Some(name) if name.ends_with('\r') => {
                "the first line ends in CR LF; save the script with Unix line ends".to_owned()
            }
            Some(name) => format!("interpreter in the first line not found: {name:?}"),
            None if first_line.is_some() => "the loader that the program asks for was not found".to_owned(),
            None => "it or the interpreter in its first line was not found".to_owned(),
        },
        Errno::NOEXEC => match first_line {
            Some(b"") => "the file is empty, or begins with an empty line".to_owned(),
            Some(line) if line.starts_with(b"#!") => "the #! line names no interpreter".to_owned(),
            Some(line) if line.starts_with(b"\x7fELF") => "a program for another machine".to_owned(),
            _ => "no #! line and not a program".to_owned(),
        },
        Errno::ACCESS => match named {
            Some(name) => {
                format!(
                    "not allowed to execute the script, or its interpreter {name:?} is no executable file"
                )
            }
            None => "not allowed to execute it here".to_owned(),
        },
        Errno::PERM => "execution is denied by the sandbox".to_owned(),
        Errno::TXTBSY => "the file is still open for writing".to_owned(),
        Errno::LOOP => "too many symbolic links, or interpreters, one after another".to_owned(),
        Errno::NOTDIR => "the path leads through something that is not a directory".to_owned(),
        Errno::NOMEM => "out of memory".to_owned(),
        Errno::AGAIN => "the slice has as many tasks as it may".to_owned(),
        Errno::LIBBAD => "the interpreter is damaged or for another machine".to_owned(),
        _ => String::new(),
    }
}

/// The error number, if it is in the range the kernel uses. An outcome may come from a slice, as a
/// message to the node, and `Errno::from_raw_os_error` panics beyond that range.
fn known(errno: i32) -> Option<Errno> {
    (1..=4095).contains(&errno).then(|| Errno::from_raw_os_error(errno))
}

/// The name of an error number that opening, writing or executing a slice's files can give, or
/// `errno N`.
pub(crate) fn errno_name(errno: i32) -> String {
    let Some(known) = known(errno) else { return format!("errno {errno}") };
    let name = match known {
        Errno::TOOBIG => "E2BIG",
        Errno::ACCESS => "EACCES",
        Errno::AGAIN => "EAGAIN",
        Errno::BUSY => "EBUSY",
        Errno::DQUOT => "EDQUOT",
        Errno::EXIST => "EEXIST",
        Errno::FAULT => "EFAULT",
        Errno::FBIG => "EFBIG",
        Errno::INTR => "EINTR",
        Errno::INVAL => "EINVAL",
        Errno::IO => "EIO",
        Errno::ISDIR => "EISDIR",
        Errno::LIBBAD => "ELIBBAD",
        Errno::LOOP => "ELOOP",
        Errno::MFILE => "EMFILE",
        Errno::NAMETOOLONG => "ENAMETOOLONG",
        Errno::NFILE => "ENFILE",
        Errno::NODEV => "ENODEV",
        Errno::NOENT => "ENOENT",
        Errno::NOEXEC => "ENOEXEC",
        Errno::NOMEM => "ENOMEM",
        Errno::NOSPC => "ENOSPC",
        Errno::NOSYS => "ENOSYS",
        Errno::NOTDIR => "ENOTDIR",
        Errno::NXIO => "ENXIO",
        Errno::PERM => "EPERM",
        Errno::ROFS => "EROFS",
        Errno::TXTBSY => "ETXTBSY",
        Errno::XDEV => "EXDEV",
        _ => return format!("errno {errno}"),
    };
    name.to_owned()
}

/// The name of a signal, for the numbers that x86-64 and arm64 share.
fn signal_name(signal: i32) -> Option<&'static str> {
    const NAMES: [&str; 31] = [
        "SIGHUP",
        "SIGINT",
        "SIGQUIT",
        "SIGILL",
        "SIGTRAP",
        "SIGABRT",
        "SIGBUS",
        "SIGFPE",
        "SIGKILL",
        "SIGUSR1",
        "SIGSEGV",
        "SIGUSR2",
        "SIGPIPE",
        "SIGALRM",
        "SIGTERM",
        "SIGSTKFLT",
        "SIGCHLD",
        "SIGCONT",
        "SIGSTOP",
        "SIGTSTP",
        "SIGTTIN",
        "SIGTTOU",
        "SIGURG",
        "SIGXCPU",
        "SIGXFSZ",
        "SIGVTALRM",
        "SIGPROF",
        "SIGWINCH",
        "SIGIO",
        "SIGPWR",
        "SIGSYS",
    ];
    let index = usize::try_from(signal).ok()?.checked_sub(1)?;
    NAMES.get(index).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENOENT: i32 = 2;
    const ENOEXEC: i32 = 8;
    const EACCES: i32 = 13;
    const ETXTBSY: i32 = 26;

    #[test]
    fn reads_well() {
        let exec = |errno, line: Option<&[u8]>| HookOutcome::exec_failed(errno, line).to_string();
        for (shown, expected) in [
            (HookOutcome::Skipped.to_string(), "skipped: not there"),
            (
                HookOutcome::Refused("is a FIFO, not a regular file".into()).to_string(),
                "not run: is a FIFO, not a regular file",
            ),
            (HookOutcome::Exited(0).to_string(), "exited 0"),
            (HookOutcome::Exited(3).to_string(), "exited 3"),
            (HookOutcome::Signalled(9).to_string(), "killed by signal 9 (SIGKILL)"),
            (HookOutcome::Signalled(31).to_string(), "killed by signal 31 (SIGSYS)"),
            (HookOutcome::Signalled(40).to_string(), "killed by signal 40"),
            (HookOutcome::Signalled(0).to_string(), "killed by signal 0"),
            (HookOutcome::TimedOut.to_string(), "timed out"),
            (
                exec(ENOENT, Some(b"#!/usr/bin/pyhton3 -u")),
                "could not be executed: ENOENT: interpreter in the first line not found: \"/usr/bin/pyhton3\"",
            ),
            (
                exec(ENOENT, Some(b"#! /bin/sh\r")),
                "could not be executed: ENOENT: the first line ends in CR LF; save the script with Unix line ends",
            ),
            (
                exec(ENOENT, Some(b"\x7fELF")),
                "could not be executed: ENOENT: the loader that the program asks for was not found",
            ),
            (
                exec(ENOENT, None),
                "could not be executed: ENOENT: it or the interpreter in its first line was not found",
            ),
            (
                exec(ENOEXEC, Some(b"echo hello")),
                "could not be executed: ENOEXEC: no #! line and not a program",
            ),
            (exec(ENOEXEC, None), "could not be executed: ENOEXEC: no #! line and not a program"),
            (
                exec(ENOEXEC, Some(b"#!  ")),
                "could not be executed: ENOEXEC: the #! line names no interpreter",
            ),
            (
                exec(ENOEXEC, Some(b"\x7fELF\x02")),
                "could not be executed: ENOEXEC: a program for another machine",
            ),
            (
                exec(EACCES, Some(b"#!/etc/passwd")),
                "could not be executed: EACCES: not allowed to execute the script, \
                 or its interpreter \"/etc/passwd\" is no executable file",
            ),
            (exec(EACCES, None), "could not be executed: EACCES: not allowed to execute it here"),
            (exec(ETXTBSY, None), "could not be executed: ETXTBSY: the file is still open for writing"),
            (exec(77, None), "could not be executed: errno 77"),
        ] {
            assert_eq!(shown, expected);
        }
    }

    #[test]
    fn numbers_no_kernel_gives_are_shown_all_the_same() {
        for errno in [i32::MIN, -1, 0, 4096, 65_535, 65_536, i32::MAX] {
            let outcome = HookOutcome::exec_failed(errno, Some(b"#!/bin/sh"));
            assert_eq!(outcome.to_string(), format!("could not be executed: errno {errno}"));
            assert_eq!(HookOutcome::Signalled(errno).to_string(), format!("killed by signal {errno}"));
        }
    }

    #[test]
    fn a_script_cannot_make_the_hint_long() {
        let mut line = b"#!".to_vec();
        line.extend([b'x'; 10_000]);
        assert!(HookOutcome::exec_failed(ENOENT, Some(&line)).to_string().len() < 200);
    }

    #[test]
    fn only_exit_status_zero_is_success() {
        assert!(HookOutcome::Exited(0).is_success());
        for outcome in [
            HookOutcome::Skipped,
            HookOutcome::Refused(String::new()),
            HookOutcome::Exited(1),
            HookOutcome::Signalled(15),
            HookOutcome::TimedOut,
            HookOutcome::exec_failed(ENOENT, None),
        ] {
            assert!(!outcome.is_success(), "{outcome}");
        }
    }

    #[test]
    fn survives_json() {
        for (outcome, json) in [
            (HookOutcome::Skipped, r#""skipped""#),
            (HookOutcome::Refused("no".into()), r#"{"refused":"no"}"#),
            (HookOutcome::Exited(3), r#"{"exited":3}"#),
            (HookOutcome::Signalled(9), r#"{"signalled":9}"#),
            (HookOutcome::TimedOut, r#""timed-out""#),
            (
                HookOutcome::ExecFailed { errno: 2, hint: "h".into() },
                r#"{"exec-failed":{"errno":2,"hint":"h"}}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&outcome).unwrap(), json);
            assert_eq!(serde_json::from_str::<HookOutcome>(json).unwrap(), outcome);
        }
    }
}
