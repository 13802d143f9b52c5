//! Questions: who sent something, and which flows there were.
//!
//! A question looks at one segment after the other, on connections of its own, while records go on being written. What it
//! keeps in memory is one row a slice (who sent), or what one segment's sorting takes (flows).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::types::Value;
use rusqlite::{Connection, Row, params_from_iter};

use crate::catalog::{Span, connect};
use crate::error::FlowError;
use crate::owner::Owner;
use crate::record::Counts;
use crate::segment::{Lost, octets, open_path, sealed_path};
use crate::writer::Shared;

/// The longest time for [`FlowReader::who_sent`].
const PATIENCE: Duration = Duration::from_secs(20);

/// Addresses that have their first `bits` bits in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    first: IpAddr,
    last: IpAddr,
}

impl Prefix {
    /// The addresses whose first `bits` bits are those of `address`; none if there are not so many bits. An IPv4-mapped
    /// address is its IPv4 address.
    pub fn new(address: IpAddr, bits: u8) -> Option<Self> {
        let (address, bits) = match (address, address.to_canonical()) {
            (IpAddr::V6(_), v4 @ IpAddr::V4(_)) => (v4, bits.checked_sub(96)?),
            (_, same) => (same, bits),
        };
        let bits = u32::from(bits);
        Some(match address {
            IpAddr::V4(v4) => {
                let rest = u32::MAX.checked_shr(bits).unwrap_or(0);
                let (first, last) = (v4.to_bits() & !rest, v4.to_bits() | rest);
                (bits <= 32)
                    .then(|| Self { first: IpAddr::V4(first.into()), last: IpAddr::V4(last.into()) })?
            }
            IpAddr::V6(v6) => {
                let rest = u128::MAX.checked_shr(bits).unwrap_or(0);
                let (first, last) = (v6.to_bits() & !rest, v6.to_bits() | rest);
                (bits <= 128)
                    .then(|| Self { first: IpAddr::V6(first.into()), last: IpAddr::V6(last.into()) })?
            }
        })
    }
}

/// Which flows a question is about; all of what is given has to be so. Times are in milliseconds since 1970.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of the slice with this name.
    pub slice: Option<String>,
    /// Of the slice with this UID.
    pub uid: Option<u32>,
    /// To one of these addresses.
    pub to: Option<Prefix>,
    /// To this port.
    pub to_port: Option<u16>,
    /// From this port of the node's.
    pub from_port: Option<u16>,
    /// IP protocol number.
    pub protocol: Option<u8>,
    /// Going on at this time or later.
    pub since: Option<i64>,
    /// Going on at this time or earlier.
    pub until: Option<i64>,
}

/// One slice's part in an answer. Times are in milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    /// Who answered for it at the time; none if the store was not told, or not in time.
    pub owner: Option<Owner>,
    /// Flows, at least 1; one that lasted while several segments were written, and began before what was asked about,
    /// does not count.
    pub flows: u64,
    /// What they moved.
    pub counts: Counts,
    /// The earliest beginning of a flow.
    pub first: i64,
    /// The latest packet.
    pub last: i64,
}

/// An answer to "who sent".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Senders {
    /// Most packets first.
    pub senders: Vec<Sender>,
    /// What the store has.
    pub kept: Kept,
}

/// One flow, or the part of it that one segment has. Times are in milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowRow {
    /// Who answered for it at the time.
    pub owner: Option<Owner>,
    /// ID of the capsule's cgroup: another for each time the capsule came up.
    pub cgroup: u64,
    /// IP protocol number.
    pub protocol: u8,
    /// The capsule's address.
    pub local: IpAddr,
    /// The capsule's port.
    pub local_port: u16,
    /// The other's address.
    pub remote: IpAddr,
    /// The other's port.
    pub remote_port: u16,
    /// When the flow began.
    pub first: i64,
    /// When this part of it began.
    pub since: i64,
    /// This part's last packet.
    pub last: i64,
    /// Whether the flow began in this part.
    pub began: bool,
    /// Whether the flow ended in this part.
    pub ended: bool,
    /// What this part moved.
    pub counts: Counts,
}

/// What the store has, and what it has not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Kept {
    /// The earliest record, in milliseconds since 1970; none if there is none.
    pub first: Option<i64>,
    /// The latest.
    pub last: Option<i64>,
    /// Records.
    pub records: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Records that were lost in the kernel's ring in the time that was asked about.
    pub lost_kernel: u64,
    /// On the way to disk.
    pub lost_store: u64,
    /// Records that were not understood.
    pub unread: u64,
    /// How often writing ended without order: each time some seconds' records may be missing.
    pub torn: u64,
    /// Whether some of the times are those of a clock that was not believed.
    pub clock_doubted: bool,
    /// Segments that could not be read.
    pub damaged: Vec<String>,
    /// Why nothing can be written at present.
    pub trouble: Option<String>,
}

/// Answers questions; clones share the store. Every method blocks.
#[derive(Clone)]
pub struct FlowReader {
    shared: Arc<Shared>,
}

impl FlowReader {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// What the store has, and what was lost in the time that `filter` asks about. Looks at no segment.
    pub fn kept(&self, filter: &Filter) -> Kept {
        let (spans, damaged) = {
            let catalog = self.shared.catalog();
            (catalog.spans(), catalog.damaged.clone())
        };
        // What is not in a segment yet was lost just now.
        let mut lost = self.shared.lost();
        let mut kept = Kept { damaged, ..Kept::default() };
        kept.trouble = self.shared.trouble().clone().or_else(|| self.shared.not_sealed().clone());
        for span in &spans {
            kept.first = [kept.first, span.first].into_iter().flatten().min();
            kept.last = [kept.last, span.last].into_iter().flatten().max();
            kept.records += span.entry.header.rows;
            kept.bytes += span.entry.bytes;
            if overlaps(span, filter) {
                lost = lost.plus(span.entry.header.lost);
                kept.torn += span.entry.header.torn;
                kept.clock_doubted |= !span.believed;
            }
        }
        let Lost { kernel, store, unread } = lost;
        (kept.lost_kernel, kept.lost_store, kept.unread) = (kernel, store, unread);
        kept
    }

    /// Who sent what `filter` says, one row for each slice and contact.
    ///
    /// # Errors
    /// It takes too long. A segment that cannot be read is named in the answer.
    pub fn who_sent(&self, filter: &Filter) -> Result<Senders, FlowError> {
        let begun = Instant::now();
        let spans = self.spans(filter);
        let mut found: BTreeMap<Option<Owner>, Sender> = BTreeMap::new();
        let mut damaged = Vec::new();
        for (looked, span) in spans.iter().enumerate() {
            if begun.elapsed() > PATIENCE {
                let (seconds, segments) = (PATIENCE.as_secs(), spans.len());
                return Err(FlowError::TooLong { seconds, looked, segments });
            }
            let senders = self.read(span, |connection| senders_in(connection, span, filter));
            match senders {
                Ok(senders) => senders.into_iter().flatten().for_each(|sender| join(&mut found, sender)),
                Err(error) => damaged.push(error.to_string()),
            }
        }
        let mut senders: Vec<Sender> = found.into_values().collect();
        senders.iter_mut().for_each(|sender| sender.flows = sender.flows.max(1));
        senders.sort_by_key(|sender| {
            std::cmp::Reverse(sender.counts.packets_out.saturating_add(sender.counts.refused))
        });
        let mut kept = self.kept(filter);
        kept.damaged.append(&mut damaged);
        Ok(Senders { senders, kept })
    }

    /// Hands the flows that `filter` says to `each`, segment by segment from the oldest, within a segment by their
    /// beginning, until it breaks off; with `newest` only so many, those with the latest packets. Returns what could not be
    /// read.
    pub fn flows(
        &self,
        filter: &Filter,
        newest: Option<u32>,
        mut each: impl FnMut(FlowRow) -> ControlFlow<()>,
    ) -> Vec<String> {
        let spans = self.spans(filter);
        let mut damaged = Vec::new();
        let Some(newest) = newest else {
            for span in &spans {
                match self.read(span, |connection| flows_in(connection, span, filter, None, &mut each)) {
                    Ok(None | Some(ControlFlow::Continue(()))) => {}
                    Ok(Some(ControlFlow::Break(()))) => break,
                    Err(error) => damaged.push(error.to_string()),
                }
            }
            return damaged;
        };
        let mut found = Vec::new();
        for span in spans.iter().rev() {
            let left = (newest as usize).saturating_sub(found.len());
            if left == 0 {
                break;
            }
            let keep = |row| {
                found.push(row);
                ControlFlow::Continue(())
            };
            if let Err(error) =
                self.read(span, |connection| flows_in(connection, span, filter, Some(left), keep))
            {
                damaged.push(error.to_string());
            }
        }
        for row in found.into_iter().rev() {
            if each(row).is_break() {
                break;
            }
        }
        damaged
    }

    fn spans(&self, filter: &Filter) -> Vec<Span> {
        let mut spans = self.shared.catalog().spans();
        spans.retain(|span| overlaps(span, filter));
        spans
    }

    /// Asks a segment; none if it was removed since the question began, for its age.
    fn read<T>(
        &self,
        span: &Span,
        ask: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, FlowError> {
        match self.try_read(span, ask) {
            Err(_) if !self.shared.catalog().has(span.seq) => Ok(None),
            answer => answer.map(Some),
        }
    }

    /// One that was open when the question began may be sealed by now.
    fn try_read<T>(
        &self,
        span: &Span,
        ask: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, FlowError> {
        let directory = &self.shared.directory;
        let (sealed, open) = (sealed_path(directory, span.seq), open_path(directory, span.seq));
        let unsealed = if span.entry.sealed { None } else { Some(snapshot(&open, false)) };
        let (connection, path) = match unsealed {
            Some(Ok(connection)) => (connection, open),
            Some(Err(error)) if !sealed.exists() => return Err(FlowError::sqlite("open", &open)(error)),
            _ => (snapshot(&sealed, true).map_err(FlowError::sqlite("open", &sealed))?, sealed),
        };
        ask(&connection).map_err(FlowError::sqlite("read", &path))
    }
}

/// A connection that has everything of the segment open: from here on its files may go.
fn snapshot(path: &Path, sealed: bool) -> rusqlite::Result<Connection> {
    let connection = connect(path, sealed)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.execute_batch("BEGIN")?;
    connection.query_row("SELECT rows FROM segment", [], |_| Ok(()))?;
    Ok(connection)
}

/// Whether a segment has anything to say about the time that is asked about. One without records may say what was lost.
fn overlaps(span: &Span, filter: &Filter) -> bool {
    let after = filter.since.is_none_or(|since| span.last.is_none_or(|last| last >= since));
    let before = filter.until.is_none_or(|until| span.first.is_none_or(|first| first <= until));
    after && before
}

/// The condition for SQLite, and its values.
fn condition(span: &Span, filter: &Filter) -> (String, Vec<Value>) {
    let mut words = vec!["1"];
    let mut values = Vec::new();
    if let Some(Prefix { first, last }) = filter.to {
        let (first, last) = (octets(first).as_slice().to_vec(), octets(last).as_slice().to_vec());
        if first == last {
            words.push("remote = ?");
            values.push(Value::Blob(first));
        } else {
            // An IPv6 address may lie between two IPv4 addresses.
            words.push("remote BETWEEN ? AND ? AND length(remote) = ?");
            let length = i64::from(first.len() == 16) * 12 + 4;
            values.extend([Value::Blob(first), Value::Blob(last), Value::Integer(length)]);
        }
    }
    let mut number = |word, value: Option<i64>| {
        if let Some(value) = value {
            words.push(word);
            values.push(Value::Integer(value));
        }
    };
    number("remote_port = ?", filter.to_port.map(i64::from));
    number("protocol = ?", filter.protocol.map(i64::from));
    number("local_port = ?", filter.from_port.map(i64::from));
    number("start + last >= ?", filter.since.map(|since| since.saturating_sub(span.zero)));
    number("start + since <= ?", filter.until.map(|until| until.saturating_sub(span.zero)));
    number("owner IN (SELECT id FROM owner WHERE uid = ?)", filter.uid.map(i64::from));
    if let Some(slice) = &filter.slice {
        words.push("owner IN (SELECT id FROM owner WHERE slice = ?)");
        values.push(Value::Text(slice.clone()));
    }
    (words.join(" AND "), values)
}

fn owner(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<Owner>> {
    Ok(match (row.get(at)?, row.get(at + 1)?, row.get(at + 2)?) {
        (Some(slice), Some(uid), Some(contact)) => Some(Owner { slice, uid, contact }),
        _ => None,
    })
}

fn counts(row: &Row<'_>, at: usize) -> rusqlite::Result<Counts> {
    let count = |i: usize| row.get::<_, i64>(at + i).map(|n| u64::try_from(n).unwrap_or(0));
    Ok(Counts {
        packets_out: count(0)?,
        bytes_out: count(1)?,
        packets_in: count(2)?,
        bytes_in: count(3)?,
        refused: count(4)?,
    })
}

fn senders_in(connection: &Connection, span: &Span, filter: &Filter) -> rusqlite::Result<Vec<Sender>> {
    let (condition, values) = condition(span, filter);
    let mut statement = connection.prepare(&format!(
        "SELECT slice, uid, contact, flows, packets_out, bytes_out, packets_in, bytes_in, refused, first, last
         FROM (SELECT owner, sum(flags & 1) AS flows, sum(packets_out) AS packets_out, sum(bytes_out) AS bytes_out,
                      sum(packets_in) AS packets_in, sum(bytes_in) AS bytes_in, sum(refused) AS refused,
                      min(start) AS first, max(start + last) AS last
               FROM flow WHERE {condition} GROUP BY owner)
         JOIN owner ON owner.id = owner"
    ))?;
    let rows = statement.query_map(params_from_iter(values), |row| {
        Ok(Sender {
            owner: owner(row, 0)?,
            flows: u64::try_from(row.get::<_, i64>(3)?).unwrap_or(0),
            counts: counts(row, 4)?,
            first: row.get::<_, i64>(9)? + span.zero,
            last: row.get::<_, i64>(10)? + span.zero,
        })
    })?;
    rows.collect()
}

fn join(found: &mut BTreeMap<Option<Owner>, Sender>, more: Sender) {
    let Some(sender) = found.get_mut(&more.owner) else {
        found.insert(more.owner.clone(), more);
        return;
    };
    let (sum, add) = (&mut sender.counts, more.counts);
    sum.packets_out = sum.packets_out.saturating_add(add.packets_out);
    sum.bytes_out = sum.bytes_out.saturating_add(add.bytes_out);
    sum.packets_in = sum.packets_in.saturating_add(add.packets_in);
    sum.bytes_in = sum.bytes_in.saturating_add(add.bytes_in);
    sum.refused = sum.refused.saturating_add(add.refused);
    sender.flows += more.flows;
    sender.first = sender.first.min(more.first);
    sender.last = sender.last.max(more.last);
}

fn flows_in(
    connection: &Connection,
    span: &Span,
    filter: &Filter,
    newest: Option<usize>,
    mut each: impl FnMut(FlowRow) -> ControlFlow<()>,
) -> rusqlite::Result<ControlFlow<()>> {
    let (condition, values) = condition(span, filter);
    let order = match newest {
        Some(newest) => format!("start + last DESC, start DESC LIMIT {newest}"),
        None => "start, start + last".to_owned(),
    };
    // An open segment has the records of one flow apart, a sealed one has them added up.
    let rows = if span.entry.sealed {
        format!("SELECT * FROM flow WHERE {condition}")
    } else {
        format!(
            "SELECT remote, remote_port, protocol, owner, local, local_port, start, min(since) AS since,
                    max(last) AS last, max(flags & 1) | max(flags & 2) AS flags, sum(packets_out) AS packets_out,
                    sum(bytes_out) AS bytes_out, sum(packets_in) AS packets_in, sum(bytes_in) AS bytes_in,
                    sum(refused) AS refused
             FROM flow WHERE {condition}
             GROUP BY remote, remote_port, protocol, owner, local, local_port, start"
        )
    };
    let mut statement = connection.prepare(&format!(
        "SELECT slice, uid, contact, packets_out, bytes_out, packets_in, bytes_in, refused, cgroup, protocol, local,
                local_port, remote, remote_port, start, since, last, flags
         FROM ({rows}) JOIN owner ON owner.id = owner ORDER BY {order}"
    ))?;
    let mut rows = statement.query(params_from_iter(values))?;
    while let Some(row) = rows.next()? {
        let start = row.get::<_, i64>(14)? + span.zero;
        let flags: u8 = row.get(17)?;
        let flow = FlowRow {
            owner: owner(row, 0)?,
            counts: counts(row, 3)?,
            cgroup: row.get::<_, i64>(8)?.cast_unsigned(),
            protocol: row.get(9)?,
            local: address(row, 10)?,
            local_port: row.get(11)?,
            remote: address(row, 12)?,
            remote_port: row.get(13)?,
            first: start,
            since: start + row.get::<_, i64>(15)?,
            last: start + row.get::<_, i64>(16)?,
            began: flags & 1 != 0,
            ended: flags & 2 != 0,
        };
        if each(flow).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

fn address(row: &Row<'_>, at: usize) -> rusqlite::Result<IpAddr> {
    let bytes: Vec<u8> = row.get(at)?;
    if let Ok(octets) = <[u8; 4]>::try_from(&bytes[..]) {
        return Ok(octets.into());
    }
    <[u8; 16]>::try_from(&bytes[..]).map(IpAddr::from).map_err(|_| {
        rusqlite::Error::FromSqlConversionFailure(at, rusqlite::types::Type::Blob, "no IP address".into())
    })
}
