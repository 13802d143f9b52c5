//! A terminal for `plab` to be started in, as a person's would be.

use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::node::{TestNode, binary};
use crate::wait::{eventually, eventually_or};

/// `plab`, or another program, in a terminal of its own, and all that it showed there.
pub struct Pty {
    master: std::fs::File,
    child: Child,
    seen: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Pty {
    /// Starts `plab` with these arguments in a terminal of so many lines and columns.
    ///
    /// # Panics
    /// There is no terminal to be had, or `plab` cannot be started.
    pub fn start(node: &TestNode, args: &[&str], (rows, cols): (u16, u16)) -> Self {
        let mut command = Command::new(binary("plab"));
        command.arg("--root").arg(node.root()).args(args);
        Self::of(command, (rows, cols))
    }

    /// Starts this command in a terminal of so many lines and columns.
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn of(mut command: Command, (rows, cols): (u16, u16)) -> Self {
        let master =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("open a terminal");
        grantpt(&master).expect("grantpt");
        unlockpt(&master).expect("unlockpt");
        let name = ptsname(&master, Vec::new()).expect("ptsname");
        let slave = openat(CWD, name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())
            .expect("open its slave");
        resize(&master, rows, cols);
        let copy = || slave.try_clone().expect("dup");
        command.env("TERM", "xterm").stdin(copy()).stdout(copy()).stderr(copy());
        // SAFETY: between fork and exec only two system calls are made, of which neither allocates or locks.
        unsafe {
            command.pre_exec(|| {
                rustix::process::setsid()?;
                rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
                Ok(())
            });
        }
        let child = command.spawn().expect("start it");
        // With the command its copies: else the end of the session would never be seen here.
        drop(command);
        drop(slave);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let master = std::fs::File::from(master);
        let (mut from, into) = (master.try_clone().expect("dup"), Arc::clone(&seen));
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // A terminal whose other side is gone answers with EIO.
            while let Ok(n @ 1..) = from.read(&mut buffer) {
                into.lock().expect("no panic while held").extend_from_slice(&buffer[..n]);
            }
        });
        Self { master, child, seen, reader }
    }

    /// PID of `plab`.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Types this.
    ///
    /// # Panics
    /// The terminal is gone.
    pub fn type_in(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).expect("type");
    }

    /// Everything shown so far.
    ///
    /// # Panics
    /// The reader panicked.
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().expect("no panic while held")).into_owned()
    }

    /// Waits until this is shown.
    ///
    /// # Panics
    /// It never is.
    pub fn await_shown(&self, text: &str) {
        eventually_or(
            || self.shown().contains(text).then_some(()),
            || format!("the terminal shows {text:?}; it shows {:?}", self.shown()),
        );
    }

    /// Changes the window's size; the kernel tells `plab`.
    ///
    /// # Panics
    /// The terminal is gone.
    pub fn resize(&self, rows: u16, cols: u16) {
        resize(&self.master, rows, cols);
    }

    /// Has the shell in it run a program that tells of each change of size, changes the size, and interrupts the program.
    ///
    /// # Panics
    /// The new size is not told, or Ctrl-C ends nothing.
    pub fn expect_size_and_interrupt(&mut self) {
        // One process, so that Ctrl-C has one to end. Not print() in the handler: the signal may come while print() is at work.
        self.type_in(
            "python3 -c \"import os, signal, time; signal.signal(28, lambda *a: os.write(1, \
             ('now %d %d ' % os.get_terminal_size()).encode())); print('liste' + 'ning', flush=True); \
             time.sleep(1000)\"\n",
        );
        self.await_shown("listening");
        self.resize(40, 120);
        self.await_shown("now 120 40");
        self.type_in("\u{3}");
        self.type_in("echo in''terrupted\n");
        self.await_shown("interrupted");
    }

    /// Waits for `plab` to end; returns its exit status (128 and the signal's number if one ended it) and all that
    /// was shown.
    ///
    /// # Panics
    /// It never ends.
    pub fn wait(mut self) -> (i32, String) {
        let status = eventually("plab ends", || self.child.try_wait().expect("wait"));
        self.reader.join().expect("reader");
        let shown = String::from_utf8_lossy(&self.seen.lock().expect("no panic while held")).into_owned();
        (status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)), shown)
    }
}

fn resize(master: impl std::os::fd::AsFd, rows: u16, cols: u16) {
    tcsetwinsize(master, Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 })
        .expect("set the window's size");
}
