//! The file `resources` in `PlanetLab-control`: what this slice has (PDN-02-002, 4.8).
//!
//! The specification leaves its format open. Ours is TOML with one key a line, so that a program
//! parses it and a shell script takes a value out with one `sed`; `docs/resources.md` documents it.
//!
//! [`ResourceDescription::render`] only makes text and can run anywhere. [`write()`] runs as the slice.

use std::fmt::Write as _;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::rand::GetRandomFlags;

use crate::control_dir::ControlDir;
use crate::outcome::errno_name;

/// The file's name.
pub const FILE_NAME: &str = "resources";

/// What the name of a half-written file begins with.
const TEMPORARY_PREFIX: &str = ".resources.";

/// What the format says about itself. `docs/resources.md` says the same at length.
const HEADER: &str = "\
# What this slice has on this node. Written by the node and replaced as a whole when something in it
# changes; what you write here is lost. TOML, one key a line. A value in a shell script:
#     sed -n 's/^memory_max = //p' resources
# Sizes are in bytes, cpu_max is in percent of one CPU, times are UTC; a limit that is not here is
# not set. node_names and node_addresses list every node of the slice in one order (\"\": not known).
";

/// One node of a slice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SliceNode {
    /// The node's name.
    pub name: String,
    /// The node's one IPv4 address (4.11), if this node has been told it.
    pub address: Option<String>,
}

/// What `resources` says. `None` for a limit means that it is not set, and the key is left out.
///
/// Plain types on purpose: whoever fills it in converts from a definition, and this crate need not
/// know what one is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ResourceDescription {
    /// The slice's name.
    pub slice: String,
    /// The name of the node that the file lies on.
    pub node: String,
    /// That node's address.
    pub address: Option<String>,
    /// The slice's UID on this node, which is its GID too.
    pub uid: u32,
    /// Who answers for the slice.
    pub contact: String,
    /// The end of the slice's lease, in seconds since 1970-01-01T00:00:00Z.
    pub expires: Option<i64>,
    /// Its share of the CPU, against 100 of an ordinary slice.
    pub cpu_weight: u32,
    /// The most CPU time it gets, in percent of one CPU.
    pub cpu_max: Option<f64>,
    /// Memory beyond which it is slowed down, in bytes.
    pub memory_high: Option<u64>,
    /// Memory beyond which it is killed, in bytes.
    pub memory_max: Option<u64>,
    /// Processes and threads.
    pub tasks_max: Option<u64>,
    /// Storage, in bytes.
    pub disk_space: Option<u64>,
    /// Files and directories.
    pub disk_inodes: Option<u64>,
    /// The ports it may bind, as in its definition: `tcp/8080`.
    pub ports: Vec<String>,
    /// The raw sockets it may open, as in its definition: `icmp`.
    pub raw: Vec<String>,
    /// The most that it sends, in bits per second.
    pub rate: Option<u64>,
    /// Its windows on this node: start and end (not included), in seconds since 1970.
    pub windows: Vec<(i64, i64)>,
    /// All nodes of the slice (4.7: the resource description lists them), in the definition's order.
    pub nodes: Vec<SliceNode>,
    /// The name of its system call profile.
    pub seccomp: String,
}

impl ResourceDescription {
    /// The version of the format, the value of the key `version`. It goes up when a key changes its
    /// meaning or is no longer written, not when one is added.
    pub const VERSION: u32 = 1;

    /// The text of the file. The same description always gives the same text.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::from(HEADER);
        line(&mut text, "version", Self::VERSION);
        line(&mut text, "slice", quote(&self.slice));
        line(&mut text, "node", quote(&self.node));
        optional(&mut text, "address", self.address.as_deref().map(quote));
        line(&mut text, "uid", self.uid);
        line(&mut text, "contact", quote(&self.contact));
        optional(&mut text, "expires", self.expires.map(utc));
        line(&mut text, "cpu_weight", self.cpu_weight);
        optional(&mut text, "cpu_max", self.cpu_max.map(number));
        optional(&mut text, "memory_high", self.memory_high.map(integer));
        optional(&mut text, "memory_max", self.memory_max.map(integer));
        optional(&mut text, "tasks_max", self.tasks_max.map(integer));
        optional(&mut text, "disk_space", self.disk_space.map(integer));
        optional(&mut text, "disk_inodes", self.disk_inodes.map(integer));
        line(&mut text, "ports", array(self.ports.iter().map(String::as_str)));
        line(&mut text, "raw", array(self.raw.iter().map(String::as_str)));
        optional(&mut text, "rate", self.rate.map(integer));
        let windows: Vec<String> =
            self.windows.iter().map(|&(start, end)| format!("{}/{}", utc(start), utc(end))).collect();
        line(&mut text, "windows", array(windows.iter().map(String::as_str)));
        line(&mut text, "node_names", array(self.nodes.iter().map(|node| node.name.as_str())));
        let addresses = self.nodes.iter().map(|node| node.address.as_deref().unwrap_or(""));
        line(&mut text, "node_addresses", array(addresses));
        line(&mut text, "seccomp", quote(&self.seccomp));
        text
    }
}

fn line(text: &mut String, key: &str, value: impl std::fmt::Display) {
    // Writing to a String does not fail.
    let _ = writeln!(text, "{key} = {value}");
}

fn optional(text: &mut String, key: &str, value: Option<impl std::fmt::Display>) {
    if let Some(value) = value {
        line(text, key, value);
    }
}

/// A TOML basic string. A control character is written as an escape, so that a value is always on
/// one line and cannot end it, and so that showing the file on a terminal does nothing to it.
fn quote(value: &str) -> String {
    let mut quoted = String::with_capacity(value.len() + 2);
    quoted.push('"');
    for character in value.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            control if control.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(control));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

fn array<'a>(values: impl Iterator<Item = &'a str>) -> String {
    let quoted: Vec<String> = values.map(quote).collect();
    format!("[{}]", quoted.join(", "))
}

/// TOML's integers are signed 64-bit; what does not fit is no limit that could be reached.
fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A whole number without a fraction, for a shell's arithmetic; any other as a TOML float.
fn number(value: f64) -> String {
    if value.is_nan() {
        "nan".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "inf" } else { "-inf" }.to_owned()
    } else {
        // Display for f64 is exact and never uses an exponent: "50", "12.5".
        // Beyond 2^53 it would write a whole number that TOML's integers may not hold.
        value.clamp(-9e15, 9e15).to_string()
    }
}

/// An RFC 3339 time in UTC, which is a TOML offset date-time. Times that have no four-digit year are
/// cut to the nearest that has one.
fn utc(seconds: i64) -> String {
    const FIRST: i64 = -62_167_219_200; // 0000-01-01T00:00:00Z
    const LAST: i64 = 253_402_300_799; // 9999-12-31T23:59:59Z
    let seconds = seconds.clamp(FIRST, LAST);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days to a date of the Gregorian calendar, counting from 1 March of the year 0, so that the
    // leap day is the last of its year: 400 years are 146,097 days, 5 months from March are 153.
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let months = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * months + 2) / 5 + 1;
    let month = if months < 10 { months + 3 } else { months - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Whether a file of this name in the control directory is the node's own, so that a change of it
/// is no news from the researcher.
#[must_use]
pub fn is_own_file(name: &[u8]) -> bool {
    name == FILE_NAME.as_bytes() || name.starts_with(TEMPORARY_PREFIX.as_bytes())
}

/// Why `resources` was not replaced. What was there before is there still.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResourcesError {
    /// Something that the researcher made; the node does not remove a directory of theirs.
    #[error("PlanetLab-control/resources is a directory; remove it, and the node will write the file")]
    IsADirectory,
    /// No new file can be made: no permission, no room, or the directory has been removed.
    #[error("cannot create a file in PlanetLab-control: {}", errno_name(.0.raw_os_error()))]
    Create(Errno),
    /// The new file cannot be filled: the slice's storage is used up.
    #[error("cannot write PlanetLab-control/resources: {}", errno_name(.0.raw_os_error()))]
    Write(Errno),
    /// The new file cannot take the old one's place.
    #[error("cannot replace PlanetLab-control/resources: {}", errno_name(.0.raw_os_error()))]
    Replace(Errno),
}

/// Replaces `resources` by a file that holds `text`, at once: a reader sees the old or the new.
///
/// Whatever has the name is replaced, not written to: a symbolic link is not followed, a FIFO is not
/// opened, and a hard link leaves the other name's file as it was.
///
/// # Errors
/// Says at which step it failed; nothing has changed then, and the temporary file is gone.
pub fn write(dir: &ControlDir, text: &str) -> Result<(), ResourcesError> {
    let temporary = Temporary::create(dir)?;
    // Not subject to the umask, which is the slice's affair.
    rustix::fs::fchmod(&temporary.file, Mode::from_raw_mode(0o644)).map_err(ResourcesError::Write)?;
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        match rustix::io::write(&temporary.file, rest) {
            Ok(0) => return Err(ResourcesError::Write(Errno::IO)),
            Ok(written) => rest = &rest[written..],
            Err(Errno::INTR) => {}
            Err(errno) => return Err(ResourcesError::Write(errno)),
        }
    }
    // No fsync: the slice's storage does not outlive a crash of the node (4.5), and the file is
    // written anew when a capsule starts.
    temporary.rename_over()
}

/// A file of our own making in the control directory, removed unless it becomes `resources`.
struct Temporary<'a> {
    dir: &'a ControlDir,
    name: String,
    file: std::os::fd::OwnedFd,
    renamed: bool,
}

impl<'a> Temporary<'a> {
    fn create(dir: &'a ControlDir) -> Result<Temporary<'a>, ResourcesError> {
        // A slice can occupy a name it has guessed; it does not guess several of these.
        const TRIES: u32 = 8;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for _ in 0..TRIES {
            let mut random = [0_u8; 8];
            rustix::rand::getrandom(&mut random, GetRandomFlags::empty()).map_err(ResourcesError::Create)?;
            let name = format!("{TEMPORARY_PREFIX}{:016x}", u64::from_ne_bytes(random));
            match rustix::fs::openat(dir, &name, flags, Mode::from_raw_mode(0o600)) {
                Ok(file) => return Ok(Temporary { dir, name, file, renamed: false }),
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(ResourcesError::Create(errno)),
            }
        }
        Err(ResourcesError::Create(Errno::EXIST))
    }

    fn rename_over(mut self) -> Result<(), ResourcesError> {
        match rustix::fs::renameat(self.dir, &self.name, self.dir, FILE_NAME) {
            Ok(()) => {
                self.renamed = true;
                Ok(())
            }
            Err(Errno::ISDIR) => Err(ResourcesError::IsADirectory),
            Err(errno) => Err(ResourcesError::Replace(errno)),
        }
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.renamed {
            // The error that led here is the one to report.
            let _ = rustix::fs::unlinkat(self.dir, &self.name, AtFlags::empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;
    use crate::testing::{Home, chmod, mkfifo};

    fn example() -> ResourceDescription {
        ResourceDescription {
            slice: "princeton_kv".into(),
            node: "planetlab1.princeton.planet-lab.org".into(),
            address: Some("192.0.2.1".into()),
            uid: 70_000,
            contact: "pi@cs.princeton.edu".into(),
            expires: Some(1_801_353_600),
            cpu_weight: 100,
            cpu_max: Some(50.0),
            memory_high: Some(192 << 20),
            memory_max: Some(256 << 20),
            tasks_max: Some(128),
            disk_space: None,
            disk_inodes: None,
            ports: vec!["tcp/7070".into(), "udp/33434".into()],
            raw: vec![],
            rate: Some(10_000_000),
            windows: vec![(1_800_000_000, 1_800_003_600)],
            nodes: vec![
                SliceNode {
                    name: "planetlab1.princeton.planet-lab.org".into(),
                    address: Some("192.0.2.1".into()),
                },
                SliceNode { name: "planetlab2.irb.example".into(), address: None },
            ],
            seccomp: "default".into(),
        }
    }

    fn without_comments(text: &str) -> String {
        text.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect()
    }

    #[test]
    fn is_as_documented() {
        let expected = r#"version = 1
slice = "princeton_kv"
node = "planetlab1.princeton.planet-lab.org"
address = "192.0.2.1"
uid = 70000
contact = "pi@cs.princeton.edu"
expires = 2027-01-31T00:00:00Z
cpu_weight = 100
cpu_max = 50
memory_high = 201326592
memory_max = 268435456
tasks_max = 128
ports = ["tcp/7070", "udp/33434"]
raw = []
rate = 10000000
windows = ["2027-01-15T08:00:00Z/2027-01-15T09:00:00Z"]
node_names = ["planetlab1.princeton.planet-lab.org", "planetlab2.irb.example"]
node_addresses = ["192.0.2.1", ""]
seccomp = "default"
"#;
        assert_eq!(without_comments(&example().render()), expected);
        let page = include_str!("../../docs/resources.md");
        assert!(page.contains(expected), "docs/resources.md shows another example");
        for key in
            expected.lines().filter_map(|line| line.split(" = ").next()).chain(["disk_space", "disk_inodes"])
        {
            assert!(page.contains(&format!("`{key}`")), "docs/resources.md does not explain {key}");
        }
    }

    #[test]
    fn the_examples_in_the_documentation_work() {
        let (home, dir) = Home::with_control();
        write(&dir, &example().render()).unwrap();
        let page = include_str!("../../docs/resources.md");
        for (language, program, flag, expected) in [
            ("sh", "sh", "-c", "268435456\nplanetlab1.princeton.planet-lab.org\n192.0.2.1\n"),
            (
                "python",
                "python3",
                "-c",
                "268435456 ['tcp/7070', 'udp/33434']\n\
                planetlab1.princeton.planet-lab.org 192.0.2.1\nplanetlab2.irb.example unknown\n",
            ),
        ] {
            let fence = format!("```{language}\n");
            let (_, rest) = page.split_once(&fence).unwrap();
            let (code, _) = rest.split_once("```").unwrap();
            let output = Command::new(program).arg(flag).arg(code).env("HOME", home.path()).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{program}");
            assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{program}");
        }
    }

    #[test]
    fn numbers_a_shell_can_use() {
        for (value, expected) in [
            (50.0, "50"),
            (12.5, "12.5"),
            (0.0, "0"),
            (400.0, "400"),
            (f64::INFINITY, "inf"),
            (f64::NAN, "nan"),
        ] {
            assert_eq!(number(value), expected);
        }
    }

    #[test]
    fn times() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (1_030_000_000, "2002-08-22T07:06:40Z"),
            (i64::MIN, "0000-01-01T00:00:00Z"),
            (i64::MAX, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(utc(seconds), expected);
        }
    }

    /// Every day of four hundred years, against a calendar counted day by day.
    #[test]
    fn dates_agree_with_counting() {
        let leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let mut day = 0;
        for year in 1970..2370 {
            let february = if leap(year) { 29 } else { 28 };
            for (month, length) in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31].iter().enumerate() {
                for date in 1..=*length {
                    assert_eq!(utc(day * 86_400), format!("{year}-{:02}-{date:02}T00:00:00Z", month + 1));
                    day += 1;
                }
            }
        }
    }

    prop_compose! {
        fn any_node()(name in any::<String>(), address in any::<Option<String>>()) -> SliceNode {
            SliceNode { name, address }
        }
    }

    prop_compose! {
        fn any_description()(
            (slice, node, contact, seccomp) in any::<(String, String, String, String)>(),
            address in any::<Option<String>>(),
            uid in any::<u32>(),
            expires in any::<Option<i64>>(),
            cpu_weight in any::<u32>(),
            cpu_max in any::<Option<f64>>(),
            (memory_high, memory_max, tasks_max) in any::<(Option<u64>, Option<u64>, Option<u64>)>(),
            (disk_space, disk_inodes, rate) in any::<(Option<u64>, Option<u64>, Option<u64>)>(),
            (ports, raw) in any::<(Vec<String>, Vec<String>)>(),
            windows in proptest::collection::vec(any::<(i64, i64)>(), 0..4),
            nodes in proptest::collection::vec(any_node(), 0..5),
        ) -> ResourceDescription {
            ResourceDescription {
                slice, node, address, uid, contact, expires, cpu_weight, cpu_max, memory_high, memory_max,
                tasks_max, disk_space, disk_inodes, ports, raw, rate, windows, nodes, seccomp,
            }
        }
    }

    fn strings(table: &toml::Table, key: &str) -> Vec<String> {
        let array = table[key].as_array().unwrap();
        array.iter().map(|value| value.as_str().unwrap().to_owned()).collect()
    }

    proptest! {
        /// Whatever a definition says, the file is TOML that says the same, one key a line.
        #[test]
        fn reads_back_as_it_was(description in any_description()) {
            let text = description.render();
            let table: toml::Table = text.parse().unwrap();
            let data = without_comments(&text);
            prop_assert_eq!(data.lines().count(), table.len());
            for line in data.lines() {
                let (key, value) = line.split_once(" = ").unwrap();
                let alone: toml::Table = line.parse().unwrap();
                prop_assert_eq!(alone.len(), 1);
                prop_assert!(!value.contains(|c: char| c.is_control()));
                if key != "cpu_max" || description.cpu_max.is_some_and(|max| !max.is_nan()) {
                    prop_assert_eq!(&alone[key], &table[key]);
                }
            }
            prop_assert_eq!(table["version"].as_integer(), Some(1));
            prop_assert_eq!(table["slice"].as_str(), Some(description.slice.as_str()));
            prop_assert_eq!(table["node"].as_str(), Some(description.node.as_str()));
            prop_assert_eq!(table["contact"].as_str(), Some(description.contact.as_str()));
            prop_assert_eq!(table["seccomp"].as_str(), Some(description.seccomp.as_str()));
            prop_assert_eq!(table.get("address").and_then(|v| v.as_str()), description.address.as_deref());
            prop_assert_eq!(table["uid"].as_integer(), Some(i64::from(description.uid)));
            prop_assert_eq!(table["cpu_weight"].as_integer(), Some(i64::from(description.cpu_weight)));
            prop_assert_eq!(table.get("expires").is_some_and(|v| v.as_datetime().is_some()), description.expires.is_some());
            for (key, value) in [
                ("memory_high", description.memory_high), ("memory_max", description.memory_max),
                ("tasks_max", description.tasks_max), ("disk_space", description.disk_space),
                ("disk_inodes", description.disk_inodes), ("rate", description.rate),
            ] {
                prop_assert_eq!(table.get(key).map(|v| v.as_integer().unwrap()), value.map(integer));
            }
            prop_assert_eq!(table.contains_key("cpu_max"), description.cpu_max.is_some());
            prop_assert_eq!(strings(&table, "ports"), description.ports);
            prop_assert_eq!(strings(&table, "raw"), description.raw);
            prop_assert_eq!(strings(&table, "windows").len(), description.windows.len());
            let names: Vec<String> = description.nodes.iter().map(|node| node.name.clone()).collect();
            prop_assert_eq!(strings(&table, "node_names"), names);
            let addresses: Vec<String> =
                description.nodes.iter().map(|node| node.address.clone().unwrap_or_default()).collect();
            prop_assert_eq!(strings(&table, "node_addresses"), addresses);
        }

        /// A CPU limit is read back to the last digit.
        #[test]
        fn percentages_read_back(percent in 0.0..1e6_f64) {
            let text = ResourceDescription { cpu_max: Some(percent), ..Default::default() }.render();
            let table: toml::Table = text.parse().unwrap();
            let read = table["cpu_max"].as_float().or(table["cpu_max"].as_integer().map(|whole| whole as f64));
            prop_assert_eq!(read, Some(percent));
        }
    }

    #[test]
    fn is_made_and_replaced_at_once() {
        let (home, dir) = Home::with_control();
        write(&dir, "first\n").unwrap();
        let path = home.control(FILE_NAME);
        let reader = fs::File::open(&path).unwrap();
        let before = fs::metadata(&path).unwrap();
        assert_eq!(before.permissions().mode() & 0o7777, 0o644);
        write(&dir, "second\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "second\n");
        assert_ne!(before.ino(), fs::metadata(&path).unwrap().ino());
        assert_eq!(std::io::read_to_string(reader).unwrap(), "first\n", "a reader keeps what it opened");
        assert_eq!(home.listing(), [FILE_NAME]);
    }

    #[test]
    fn no_reader_ever_sees_half_of_it() {
        let (home, dir) = Home::with_control();
        let texts = ["a".repeat(20_000), "b".repeat(30_000)];
        write(&dir, &texts[0]).unwrap();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for round in 0..500 {
                    write(&dir, &texts[round % 2]).unwrap();
                }
            });
            while !writer.is_finished() {
                let read = fs::read_to_string(home.control(FILE_NAME)).unwrap();
                assert!(texts.contains(&read), "{} bytes", read.len());
            }
        });
    }

    #[test]
    fn a_symlink_is_replaced_and_not_followed() {
        let (home, dir) = Home::with_control();
        let victim = home.path().join("victim");
        fs::write(&victim, "untouched").unwrap();
        for target in [victim.to_str().unwrap(), "/nowhere/at/all", FILE_NAME, "."] {
            let _ = fs::remove_file(home.control(FILE_NAME));
            symlink(target, home.control(FILE_NAME)).unwrap();
            write(&dir, "text").unwrap();
            assert!(!home.control(FILE_NAME).is_symlink());
            assert_eq!(fs::read_to_string(home.control(FILE_NAME)).unwrap(), "text");
        }
        assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
    }

    #[test]
    fn neither_a_fifo_nor_a_hard_link_is_written_to() {
        let (home, dir) = Home::with_control();
        mkfifo(&home.control(FILE_NAME));
        write(&dir, "text").unwrap(); // and does not wait for a reader
        assert_eq!(fs::read_to_string(home.control(FILE_NAME)).unwrap(), "text");
        let other = home.path().join("other");
        fs::remove_file(home.control(FILE_NAME)).unwrap();
        fs::write(&other, "untouched").unwrap();
        fs::hard_link(&other, home.control(FILE_NAME)).unwrap();
        write(&dir, "text").unwrap();
        assert_eq!(fs::read_to_string(&other).unwrap(), "untouched");
    }

    #[test]
    fn a_directory_of_that_name_stays_and_is_reported() {
        let (home, dir) = Home::with_control();
        fs::create_dir(home.control(FILE_NAME)).unwrap();
        for content in [false, true] {
            if content {
                fs::write(home.control(FILE_NAME).join("mine"), "mine").unwrap();
            }
            assert_eq!(write(&dir, "text"), Err(ResourcesError::IsADirectory));
            assert_eq!(home.listing(), [FILE_NAME], "no temporary file stays");
        }
        assert!(home.control(FILE_NAME).join("mine").exists());
    }

    #[test]
    fn a_directory_that_cannot_be_written_or_is_gone() {
        let home = Home::new();
        home.as_nobody(|| {
            let dir = ControlDir::create_and_open(home.fd()).unwrap();
            write(&dir, "old").unwrap();
            chmod(&home.control(""), 0o555);
            let error = write(&dir, "new").unwrap_err();
            assert_eq!(error, ResourcesError::Create(Errno::ACCESS));
            assert_eq!(error.to_string(), "cannot create a file in PlanetLab-control: EACCES");
            assert_eq!(fs::read_to_string(home.control(FILE_NAME)).unwrap(), "old");
            chmod(&home.control(""), 0o755);
            fs::remove_dir_all(home.control("")).unwrap();
            assert_eq!(write(&dir, "new"), Err(ResourcesError::Create(Errno::NOENT)));
        });
    }

    #[test]
    fn storage_that_is_full_leaves_the_old_file() {
        // A file size limit stands in for a quota: both make write(2) fail part of the way. It is a
        // process's, so a child has it: this very test, told by its environment.
        const CHILD: &str = "PLAB_TEST_FILE_SIZE";
        let (home, dir) = Home::with_control();
        if std::env::var_os(CHILD).is_some() {
            write(&dir, "old").unwrap();
            let error = write(&dir, &"x".repeat(100_000)).unwrap_err();
            assert_eq!(error, ResourcesError::Write(Errno::FBIG));
            assert_eq!(fs::read_to_string(home.control(FILE_NAME)).unwrap(), "old");
            assert_eq!(home.listing(), [FILE_NAME]);
            return;
        }
        let this = std::env::current_exe().unwrap();
        // `trap`: an ignored SIGXFSZ is inherited, and the write fails instead of killing.
        let script = "trap '' XFSZ; ulimit -f 64; exec \"$0\" --exact --test-threads=1 \
            resources::tests::storage_that_is_full_leaves_the_old_file";
        let output = Command::new("sh").arg("-c").arg(script).arg(this).env(CHILD, "1").output().unwrap();
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && stdout.contains("1 passed"), "{output:?}");
    }
}
