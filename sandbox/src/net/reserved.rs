//! The ports that the kernel never takes by itself: `net.ipv4.ip_local_reserved_ports`, of which a part is plabd's.
//!
//! It is one list for the whole network namespace and for all protocols. An administrator may have written into it, and so
//! may another node on the machine; so a file says what plabd has added, and only that is ever taken out again. The file
//! is in the run directory: it goes with the boot, as the list does.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use plab_config::PortRange;

use crate::error::{KernelError, Tried};

const LIST: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// What is locked while the list is changed, as other nodes on the machine change it, too: a file of the same network
/// namespace that only root can open. Everybody can open the list, and so could hold a lock on it for ever.
const LOCK: &str = "/proc/sys/net/ipv4/tcp_fastopen_key";

/// The kernel reads at most this much of one write; a write at another place than the beginning adds to the list.
const MOST_AT_ONCE: usize = 4000;

/// Every second port with its comma is shorter than that.
const LONGEST: usize = 256 << 10;

/// The kernel's list.
#[derive(Debug)]
pub struct ReservedPorts {
    ours: PathBuf,
}

/// One bit a port.
#[derive(Clone, PartialEq, Eq)]
struct Bits(Vec<bool>);

impl Bits {
    fn none() -> Self {
        Self(vec![false; 1 << 16])
    }

    fn of(ports: &[PortRange]) -> Self {
        let mut bits = Self::none();
        for range in ports {
            bits.0[usize::from(range.first())..=usize::from(range.last())].fill(true);
        }
        bits
    }

    /// Reads the kernel's notation, `80,8000-8099`.
    fn parse(text: &str) -> Option<Self> {
        let mut bits = Self::none();
        for part in text.trim().split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
            bits.0.get_mut(usize::from(first)..=usize::from(last))?.fill(true);
        }
        Some(bits)
    }

    fn is_empty(&self) -> bool {
        !self.0.contains(&true)
    }

    fn ranges(&self) -> Vec<String> {
        let mut ranges = Vec::new();
        let mut port = 0;
        while port < self.0.len() {
            let length = self.0[port..].iter().take_while(|set| **set).count();
            match length {
                0 => {}
                1 => ranges.push(port.to_string()),
                _ => ranges.push(format!("{port}-{}", port + length - 1)),
            }
            port += length.max(1);
        }
        ranges
    }

    fn with(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(a, b)| *a || *b).collect())
    }

    fn without(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(a, b)| *a && !*b).collect())
    }
}

impl ReservedPorts {
    /// The list, with `ours` the file that says what plabd has added.
    pub fn new(ours: PathBuf) -> Self {
        Self { ours }
    }

    /// Makes plabd's part of the list these ports, and reads the list back. What others have reserved stays.
    ///
    /// # Errors
    /// The list or the file cannot be read or written, or the kernel does not show what was written.
    pub fn set(&self, ports: &[PortRange]) -> Result<(), KernelError> {
        let list = File::options().read(true).write(true).open(LIST).tried("open", LIST)?;
        let lock = File::open(LOCK).tried("open", LOCK)?;
        lock.lock().tried("lock", LOCK)?;
        let there = read_list()?;
        let added = self.added()?;
        let others = there.without(&added);
        let wanted = Bits::of(ports);
        let ours = wanted.without(&others);
        // First what may be ours after a crash, then the list, then what is.
        self.note(&added.with(&ours))?;
        let all = others.with(&wanted);
        if all != there {
            // Ports that are only added leave no moment in which others are missing.
            match there.without(&all).is_empty() {
                true => write_list(&list, &all.without(&there), Place::Beside)?,
                false => write_list(&list, &all, Place::InPlace)?,
            }
            if read_list()? != all {
                return Err(KernelError::new(
                    "reserve ports",
                    LIST,
                    std::io::Error::other("the kernel does not show what was written"),
                ));
            }
        }
        self.note(&ours)
    }

    fn added(&self) -> Result<Bits, KernelError> {
        match std::fs::read_to_string(&self.ours) {
            // A file that is cut was being written at a crash; what it does not say stays reserved, and no harm is done.
            Ok(text) => Ok(Bits::parse(&text).unwrap_or_else(Bits::none)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Bits::none()),
            Err(error) => Err(KernelError::new("read", self.ours.display(), error)),
        }
    }

    fn note(&self, ours: &Bits) -> Result<(), KernelError> {
        let temporary = self.ours.with_extension("new");
        let written = File::create(&temporary)
            .and_then(|mut file| file.write_all(ours.ranges().join(",").as_bytes()))
            .and_then(|()| std::fs::rename(&temporary, &self.ours));
        written.tried("write", self.ours.display())
    }
}

fn read_list() -> Result<Bits, KernelError> {
    // In one call: the kernel answers the first only, and cuts what does not fit.
    let mut text = vec![0; LONGEST];
    let length = File::open(LIST).and_then(|list| list.read_at(&mut text, 0)).tried("read", LIST)?;
    std::str::from_utf8(&text[..length])
        .ok()
        .and_then(Bits::parse)
        .ok_or_else(|| KernelError::new("read", LIST, std::io::Error::other("it is no list of ports")))
}

/// Where ports are written, as to those in the list.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// They are added.
    Beside,
    /// They are all, once everything is written; it may take several writes.
    InPlace,
}

fn write_list(list: &File, bits: &Bits, place: Place) -> Result<(), KernelError> {
    let mut parts = vec![String::new()];
    for range in bits.ranges() {
        if parts.last().is_none_or(|part| part.len() + range.len() >= MOST_AT_ONCE) {
            parts.push(String::new());
        }
        if let Some(part) = parts.last_mut() {
            if !part.is_empty() {
                part.push(',');
            }
            part.push_str(&range);
        }
    }
    for (index, part) in parts.iter().enumerate() {
        let at = u64::from(index > 0 || place == Place::Beside);
        list.write_at(format!("{part}\n").as_bytes(), at).tried("write", LIST).map_err(|error| {
            error.hint("plabd needs CAP_NET_ADMIN, and /proc/sys writable (ProtectKernelTunables=no)")
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_notation_is_read_and_written() {
        for text in ["", "80", "80,90-99", "0-65535", "1,3,5"] {
            assert_eq!(Bits::parse(text).expect("a list").ranges().join(","), text);
        }
        assert!(
            Bits::parse("80-").is_none() && Bits::parse("65536").is_none() && Bits::parse("9-1").is_none()
        );
    }

    #[test]
    fn sets() {
        let bits = |text: &str| Bits::parse(text).expect("a list");
        assert!(bits("1-5").without(&bits("2-3")) == bits("1,4-5"));
        assert!(bits("1").with(&bits("2")) == bits("1-2"));
        assert!(
            Bits::of(&["tcp/7-8".parse().expect("a range"), "udp/8-9".parse().expect("a range")])
                == bits("7-9")
        );
    }
}
