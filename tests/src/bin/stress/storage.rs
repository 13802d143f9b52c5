//! A file system of the node's own, as docs/operations.md asks for: slices have no quota yet, and some stressors write
//! until there is no space left. On the machine's own disk that would hit everybody.
//!
//! It is an image on a loop device, mounted in a mount namespace of this program's own. Nobody else sees the mount, and
//! mount, device and image go with the last process in the namespace.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use plab_tests::measure::Failure;

/// Set once the program runs inside.
const INSIDE: &str = "PLAB_STRESS_INSIDE";

/// Where it is mounted: a directory that every Debian system has for this, and that is used here by nobody else.
const AT: &str = "/mnt";

/// What the image may grow to, in MiB.
pub const SIZE_MIB: u64 = 4096;

/// `mount` gives the loop device back with the mount, and the image has no name any more from then on.
const ENTER: &str = "mount -o loop,nosuid,nodev -- \"$1\" \"$2\" && rm -- \"$1\" && shift 2 && exec \"$@\"";

/// Goes on inside; there, it does nothing. Other threads must not have been started yet.
pub fn enter() -> Result<(), Failure> {
    if std::env::var_os(INSIDE).is_some() {
        return Ok(());
    }
    let image = std::env::temp_dir().join(format!("plab-stress-{}.ext4", std::process::id()));
    let made = make(&image).and_then(|()| Err(go(&image)));
    // Only reached if something failed.
    std::fs::remove_file(&image).ok();
    made
}

fn make(image: &Path) -> Result<(), Failure> {
    let disk = rustix::fs::statvfs(std::env::temp_dir())?;
    let free = (disk.f_bavail * disk.f_frsize) >> 20;
    if free < SIZE_MIB {
        return Err(format!(
            "the node's storage takes up to {SIZE_MIB} MiB in {}, which has {free}; free some, or set TMPDIR",
            std::env::temp_dir().display()
        )
        .into());
    }
    std::fs::File::create_new(image)?.set_len(SIZE_MIB << 20)?;
    let made = Command::new("mkfs.ext4").arg("-q").arg(image).status()?;
    if made.success() { Ok(()) } else { Err(format!("mkfs.ext4 {}: {made}", image.display()).into()) }
}

/// Becomes this program inside. Returns only what kept it from that.
fn go(image: &Path) -> Failure {
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return error.into(),
    };
    Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", ENTER, "sh"])
        .arg(image)
        .arg(AT)
        .arg(program)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .env("TMPDIR", AT)
        .exec()
        .into()
}
