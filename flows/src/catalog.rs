//! Which segments there are, what times they span, and which of them go first.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::error::FlowError;
use crate::seal::{remove, remove_open};
use crate::segment::{Header, beside, open_path, sealed_path};
use crate::writer::ClockReading;

/// One segment.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// What it says of itself.
    pub(crate) header: Header,
    /// Bytes on disk.
    pub(crate) bytes: u64,
    /// It is sorted and not changed any more.
    pub(crate) sealed: bool,
}

/// A segment and what a question needs of it. Times are milliseconds since 1970.
#[derive(Debug, Clone)]
pub(crate) struct Span {
    /// Its number.
    pub(crate) seq: u64,
    /// What it says of itself.
    pub(crate) entry: Entry,
    /// What to add to a `start` of its rows.
    pub(crate) zero: i64,
    /// Whether its times are those of a clock that was believed.
    pub(crate) believed: bool,
    /// The earliest record; none if there is no record.
    pub(crate) first: Option<i64>,
    /// The latest.
    pub(crate) last: Option<i64>,
}

/// All segments, by number; higher numbers are newer.
#[derive(Debug)]
pub(crate) struct Catalog {
    directory: PathBuf,
    entries: BTreeMap<u64, Entry>,
    /// The highest number ever seen: none is given twice.
    highest: u64,
    /// What time it was in each boot, as far as is known by now: a clock that was wrong when records came may have been
    /// set right later in the boot.
    boots: HashMap<String, ClockReading>,
    /// The one that is being sealed, whose file is not to go meanwhile.
    sealing: Option<u64>,
    /// Files that are no segments any more, and why.
    pub(crate) damaged: Vec<String>,
}

impl Catalog {
    /// Looks at a directory; finishes or undoes what a crash left half done.
    pub(crate) fn load(directory: &Path) -> Result<Self, FlowError> {
        let mut catalog = Self {
            directory: directory.to_owned(),
            entries: BTreeMap::new(),
            highest: 0,
            boots: HashMap::new(),
            sealing: None,
            damaged: Vec::new(),
        };
        remove(&directory.join("sealing"))?;
        let (mut sealed, mut open) = (Vec::new(), Vec::new());
        let failed = FlowError::io("read", directory);
        let files =
            fs::read_dir(directory).and_then(Iterator::collect::<Result<Vec<_>, _>>).map_err(failed)?;
        for file in files {
            let name = file.file_name();
            let number = |suffix| name.to_str()?.strip_suffix(suffix)?.parse::<u64>().ok();
            let numbered = name.to_str().and_then(|name| name.split('.').next()?.parse().ok());
            catalog.highest = catalog.highest.max(numbered.unwrap_or(0));
            match (number(".flows"), number(".open")) {
                (Some(seq), _) => sealed.push(seq),
                (_, Some(seq)) => open.push(seq),
                _ => {}
            }
        }
        for &seq in &sealed {
            catalog.enter(seq, true)?;
        }
        for seq in open {
            if catalog.entries.contains_key(&seq) {
                remove_open(directory, seq)?;
            } else {
                catalog.enter(seq, false)?;
            }
        }
        for entry in catalog.entries.values() {
            catalog.boots.insert(entry.header.boot.clone(), entry.header.clock);
        }
        Ok(catalog)
    }

    /// Takes in a segment; one that cannot be read is set aside, and said.
    fn enter(&mut self, seq: u64, sealed: bool) -> Result<(), FlowError> {
        let path = if sealed { sealed_path(&self.directory, seq) } else { open_path(&self.directory, seq) };
        match read_header(&path, sealed) {
            Ok(header) => {
                let bytes = size(&path);
                self.entries.insert(seq, Entry { header, bytes, sealed });
                Ok(())
            }
            // Of a newer release, or it cannot be read now: the store is not opened, and nothing of it is touched.
            Err(error) if !error.is_damage() => Err(error),
            Err(error) => {
                let aside = beside(&path, ".damaged");
                if !sealed {
                    // Its log goes along: it may have the newest records.
                    let log = beside(&path, "-wal");
                    match fs::rename(&log, beside(&aside, "-wal")) {
                        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                            return Err(FlowError::io("set aside", &log)(error));
                        }
                        _ => remove(&beside(&path, "-shm"))?,
                    }
                }
                fs::rename(&path, &aside).map_err(FlowError::io("set aside", &path))?;
                self.damaged.push(format!("{error}; it was renamed to {}", aside.display()));
                Ok(())
            }
        }
    }

    /// The number of the newest, or of one that was.
    pub(crate) fn newest(&self) -> u64 {
        self.highest
    }

    /// What time it was in a boot that has segments, as is known on disk.
    pub(crate) fn clock_of(&self, boot: &str) -> Option<ClockReading> {
        self.boots.get(boot).copied()
    }

    /// Whether there is still a segment with this number.
    pub(crate) fn has(&self, seq: u64) -> bool {
        self.entries.contains_key(&seq)
    }

    /// Those that are not sealed, oldest first.
    pub(crate) fn unsealed(&self) -> Vec<u64> {
        self.entries.iter().filter(|(_, entry)| !entry.sealed).map(|(&seq, _)| seq).collect()
    }

    /// Notes what a segment says of itself now.
    pub(crate) fn note(&mut self, seq: u64, header: &Header, bytes: u64) {
        self.boots.insert(header.boot.clone(), header.clock);
        self.highest = self.highest.max(seq);
        self.entries.insert(seq, Entry { header: header.clone(), bytes, sealed: false });
    }

    /// Notes that a segment is being sealed; false if it is gone.
    pub(crate) fn begin_sealing(&mut self, seq: u64) -> bool {
        self.sealing = self.has(seq).then_some(seq);
        self.sealing.is_some()
    }

    /// Notes that this is over.
    pub(crate) fn end_sealing(&mut self) {
        self.sealing = None;
    }

    /// Notes that a segment was sealed.
    pub(crate) fn sealed(&mut self, seq: u64) -> Result<(), FlowError> {
        let path = sealed_path(&self.directory, seq);
        let header = read_header(&path, true)?;
        self.entries.insert(seq, Entry { header, bytes: size(&path), sealed: true });
        Ok(())
    }

    /// Bytes of all segments.
    pub(crate) fn bytes(&self) -> u64 {
        self.entries.values().map(|entry| entry.bytes).sum()
    }

    /// All segments, oldest first.
    pub(crate) fn spans(&self) -> Vec<Span> {
        let span = |(&seq, entry): (&u64, &Entry)| {
            let header = &entry.header;
            let clock = self.boots.get(&header.boot).copied().unwrap_or(header.clock);
            let some = header.rows > 0;
            Span {
                seq,
                zero: clock.zero + header.base,
                believed: clock.believed,
                first: some.then(|| clock.zero + header.first),
                last: some.then(|| clock.zero + header.last),
                entry: entry.clone(),
            }
        };
        self.entries.iter().map(span).collect()
    }

    /// Removes the oldest segments while the store takes more than `max` bytes, and those whose newest record is
    /// from before `before`, milliseconds since 1970, if that is known. The newest stays: it may be being written.
    pub(crate) fn retain(&mut self, max: u64, before: Option<i64>) -> Result<(), FlowError> {
        loop {
            let too_much = self.bytes() > max;
            let spans = self.spans();
            let may_go = |span: &&Span| {
                span.entry.sealed || (span.seq != self.highest && Some(span.seq) != self.sealing)
            };
            let Some(oldest) = spans.iter().find(may_go) else { return Ok(()) };
            let too_old = before.is_some_and(|before| oldest.last.is_none_or(|last| last < before));
            if !too_much && !too_old {
                return Ok(());
            }
            let seq = oldest.seq;
            if oldest.entry.sealed {
                remove(&sealed_path(&self.directory, seq))?;
            }
            // Also beside a sealed one: what could not be removed after it was sealed.
            remove_open(&self.directory, seq)?;
            self.entries.remove(&seq);
        }
    }
}

fn size(path: &Path) -> u64 {
    path.metadata().map_or(0, |metadata| metadata.len())
}

/// A sealed segment does not change, so it needs no lock and no log.
pub(crate) fn connect(path: &Path, sealed: bool) -> rusqlite::Result<Connection> {
    let common = OpenFlags::SQLITE_OPEN_NO_MUTEX;
    if sealed {
        let uri = format!("file:{}?immutable=1", escape(path));
        return Connection::open_with_flags(
            uri,
            common | OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI,
        );
    }
    // SQLite wants to write its log's index, even to read.
    let connection = Connection::open_with_flags(path, common | OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    connection.pragma_update(None, "query_only", true)?;
    // Should this be the last to close it, its log stays for the writer to move: a question waits for no disk.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    Ok(connection)
}

/// A path in a URI, see RFC 3986, 2.1.
fn escape(path: &Path) -> String {
    use std::fmt::Write;
    use std::os::unix::ffi::OsStrExt;
    let mut out = String::new();
    for &byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/._-".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

fn read_header(path: &Path, sealed: bool) -> Result<Header, FlowError> {
    let connection = connect(path, sealed).map_err(FlowError::sqlite("open", path))?;
    Header::read(&connection, path)
}
