//! The caller's terminal: its size, raw mode, and back, whatever happens.

use std::io::Write;
use std::os::fd::BorrowedFd;
use std::sync::{Mutex, Once, PoisonError};

use plab_protocol::control::WindowSize;
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr,
};

use crate::error::Error;
use crate::output::words;

/// What to put back. In a static, because the panic hook has nothing else to reach it by: with `panic = "abort"`
/// no destructor runs, and a terminal without echo outlives the program that broke it.
static SAVED: Mutex<Option<Saved>> = Mutex::new(None);

struct Saved {
    fd: BorrowedFd<'static>,
    termios: Termios,
    leave: &'static str,
}

/// While it lives the terminal is in another mode.
#[derive(Debug)]
pub struct Guard {
    fd: BorrowedFd<'static>,
    mode: Termios,
    enter: &'static str,
}

/// Alternate screen, no cursor.
const ENTER_SCREEN: &str = "\x1b[?1049h\x1b[?25l";
/// Cursor, colours as they were, the screen as it was.
const LEAVE_SCREEN: &str = "\x1b[0m\x1b[?25h\x1b[?1049l";

impl Guard {
    /// Every byte is passed on as it is typed: the terminal inside the capsule does all the rest.
    ///
    /// # Errors
    /// As tcgetattr(3) and tcsetattr(3).
    pub fn raw(fd: BorrowedFd<'static>) -> Result<Guard, Error> {
        Guard::enter(fd, "", "", Termios::make_raw)
    }

    /// Keys are read one by one and not shown; Ctrl-C still interrupts; the screen is ours until the end.
    ///
    /// # Errors
    /// As tcgetattr(3) and tcsetattr(3).
    pub fn screen(fd: BorrowedFd<'static>) -> Result<Guard, Error> {
        Guard::enter(fd, ENTER_SCREEN, LEAVE_SCREEN, |mode| {
            mode.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
            mode.special_codes[SpecialCodeIndex::VMIN] = 1;
            mode.special_codes[SpecialCodeIndex::VTIME] = 0;
        })
    }

    fn enter(
        fd: BorrowedFd<'static>,
        enter: &'static str,
        leave: &'static str,
        change: impl FnOnce(&mut Termios),
    ) -> Result<Guard, Error> {
        let termios = tcgetattr(fd).map_err(Error::system("read the terminal's mode"))?;
        let mut mode = termios.clone();
        change(&mut mode);
        *SAVED.lock().unwrap_or_else(PoisonError::into_inner) = Some(Saved { fd, termios, leave });
        restore_on_panic();
        let guard = Guard { fd, mode, enter };
        guard.apply()?;
        Ok(guard)
    }

    /// Sets the mode again, after something else (a shell, when we were stopped and continued) set its own.
    ///
    /// # Errors
    /// As tcsetattr(3).
    pub fn apply(&self) -> Result<(), Error> {
        // Now, not after output was drained: a terminal that is stopped would hold us up.
        tcsetattr(self.fd, OptionalActions::Now, &self.mode)
            .map_err(Error::system("set the terminal's mode"))?;
        if self.enter.is_empty() { Ok(()) } else { crate::output::print(self.enter) }
    }

    /// Puts the old mode back for as long as the program is stopped; [`Guard::apply`] ends that.
    pub fn suspend(&self) {
        put_back(false);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        put_back(true);
    }
}

/// Restores what was saved, and forgets it if it is for good.
fn put_back(for_good: bool) {
    // A panic may come while this thread holds the lock; a terminal left as it is beats a deadlock.
    let Ok(mut saved) = SAVED.try_lock() else { return };
    if let Some(Saved { fd, termios, leave }) = &*saved {
        // The terminal may be gone (a hangup): then there is nothing to restore and nobody to tell.
        let _ = tcsetattr(fd, OptionalActions::Now, termios);
        if !leave.is_empty() {
            let _ = rustix::io::write(rustix::stdio::stdout(), leave.as_bytes());
        }
    }
    if for_good {
        *saved = None;
    }
}

fn restore_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            put_back(true);
            previous(info);
        }));
    });
}

/// The size of the caller's terminal, by whichever of its descriptors is one.
pub fn size() -> Option<WindowSize> {
    let fds = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    let size = fds.iter().find_map(|fd| tcgetwinsize(fd).ok())?;
    // 0 is what a terminal says that does not know.
    (size.ws_row > 0 && size.ws_col > 0).then_some(WindowSize { rows: size.ws_row, cols: size.ws_col })
}

/// Whether standard input and output both are terminals: somebody sits there.
pub fn is_interactive() -> bool {
    isatty(rustix::stdio::stdin()) && isatty(rustix::stdio::stdout())
}
/// Shows what the node has to say to whoever sits here; a script's standard error is left alone. The terminal may be
/// raw, so the line brings its own ends.
pub fn notice(text: &str) {
    if isatty(rustix::stdio::stderr()) {
        // A terminal that takes no more has nobody at it.
        let _ = write!(std::io::stderr().lock(), "\r\n*** {} ***\r\n", words(text));
    }
}
