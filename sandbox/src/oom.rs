//! Whom the kernel kills first when the whole machine is out of memory (proc(5), `oom_score_adj`).
//!
//! plabd may be set to be among the last; what it starts would inherit that, and slices would outlive the node's own
//! services. The lower bound is inherited, too, so a slice could set itself back: it goes when root writes the value.

use crate::error::{KernelError, Tried};

/// What a capsule has where plabd has less.
const ORDINARY: i32 = 0;

/// Makes a child of this process as killable as any process, unless this process is even more so.
///
/// # Errors
/// The kernel refused, the child is gone, or the value did not take.
pub fn make_ordinary(pid: i32) -> Result<(), KernelError> {
    if adjustment("self")? >= ORDINARY {
        return Ok(());
    }
    let file = format!("/proc/{pid}/oom_score_adj");
    std::fs::write(&file, ORDINARY.to_string()).tried("write 0 to", &file)?;
    match adjustment(&pid.to_string())? {
        value if value >= ORDINARY => Ok(()),
        value => Err(KernelError::new(
            "make a capsule as killable as any process",
            file,
            std::io::Error::other(format!("0 was written, and it says {value}")),
        )),
    }
}

/// `oom_score_adj` of a process, -1000 to 1000.
///
/// # Errors
/// The process is gone, or the file holds no number.
pub fn adjustment(pid: &str) -> Result<i32, KernelError> {
    let file = format!("/proc/{pid}/oom_score_adj");
    let text = std::fs::read_to_string(&file).tried("read", &file)?;
    text.trim().parse().map_err(|_| {
        let message = format!("{:?} is no number", text.trim());
        KernelError::new("read", &file, std::io::Error::new(std::io::ErrorKind::InvalidData, message))
    })
}
