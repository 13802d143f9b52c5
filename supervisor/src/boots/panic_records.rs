//! Records that the kernel left when it panicked: pstore keeps them where the machine has a place for them.

use std::io::Read;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

/// Where they are: in the kernel's own file system, and where systemd-pstore.service(8) has put them since.
const PLACES: [&str; 2] = ["/sys/fs/pstore", "/var/lib/systemd/pstore"];

/// How deep systemd files them.
const DEPTH: u32 = 3;

/// How a record of a panic begins; an oops that the kernel survived says "Oops#".
const PANIC: &[u8] = b"Panic#";

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The file.
    pub path: PathBuf,
    /// When it was written.
    pub at: Timestamp,
}

/// Every record of a panic that is still there. A place that is not there has none.
pub fn find() -> Vec<Record> {
    let mut found = Vec::new();
    for place in PLACES {
        look(Path::new(place), DEPTH, &mut found);
    }
    found
}

fn look(directory: &Path, depth: u32, found: &mut Vec<Record>) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() && depth > 1 {
            look(&entry.path(), depth - 1, found);
        } else if kind.is_file() && entry.file_name().as_encoded_bytes().starts_with(b"dmesg") {
            found.extend(record(&entry.path()));
        }
    }
}

fn record(path: &Path) -> Option<Record> {
    let mut file = std::fs::File::open(path).ok()?;
    let at = Timestamp::try_from(file.metadata().ok()?.modified().ok()?).ok()?;
    let mut begin = [0; PANIC.len()];
    file.read_exact(&mut begin).ok()?;
    (begin == *PANIC).then(|| Record { path: path.to_owned(), at })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_told_from_an_oops() {
        let directory = std::env::temp_dir().join(format!("plab-pstore-{}", std::process::id()));
        let deep = directory.join("7316428");
        std::fs::create_dir_all(&deep).expect("mkdir");
        for (path, text) in [
            (directory.join("dmesg-erst-1"), "Oops#1 Part1\n<4>[ 1.0] x"),
            (deep.join("dmesg-erst-2"), "Panic#2 Part1\n<0>[ 2.0] Kernel panic"),
            (directory.join("console-ramoops-0"), "Panic#2"),
            (directory.join("dmesg-erst-3"), "Pa"),
        ] {
            std::fs::write(path, text).expect("write");
        }
        let mut found = Vec::new();
        look(&directory, DEPTH, &mut found);
        std::fs::remove_dir_all(&directory).expect("clean up");
        assert_eq!(found.iter().map(|record| &record.path).collect::<Vec<_>>(), [&deep.join("dmesg-erst-2")]);
    }
}
