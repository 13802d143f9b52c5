//! Flows as an IPFIX file: messages (RFC 7011) one after the other (RFC 5655), the templates in the first.
//!
//! A flow becomes one record for what was sent and one for what came, because IPFIX's own elements count one direction
//! (RFC 5103 needs others). Only elements of IANA's registry are used, so every reader knows them.

use std::net::IpAddr;

use jiff::Timestamp;
use plab_protocol::flows::FlowRecord;

/// Template for IPv4; sets with this number have its records.
const V4: u16 = 256;
/// Template for IPv6.
const V6: u16 = 257;
/// The set that has templates.
const TEMPLATES: u16 = 2;
/// A length that stands for "the record says".
const VARIABLE: u16 = 65_535;
/// A message's length is told in 16 bits; one flow more than this must fit.
const FULL: usize = 60_000;
/// Bytes of a message's header.
const HEADER: usize = 16;

/// Elements by their number in IANA's registry, with their length, in the order of a record. Those of the addresses are 8 and
/// 12 in IPv4, 27 and 28 in IPv6.
const ELEMENTS: [(u16, u16); 9] = [
    (152, 8), // flowStartMilliseconds
    (153, 8), // flowEndMilliseconds
    (4, 1),   // protocolIdentifier
    (7, 2),   // sourceTransportPort
    (11, 2),  // destinationTransportPort
    (2, 8),   // packetDeltaCount
    (1, 8),   // octetDeltaCount
    (133, 8), // droppedPacketDeltaCount
    (61, 1),  // flowDirection: 0 in, 1 out
];
/// userName.
const USER: u16 = 371;

/// Makes messages of flows.
pub struct Exporter {
    message: Vec<u8>,
    /// Where the set that is being filled begins, and its number.
    set: Option<(usize, u16)>,
    /// Records in earlier messages, modulo 2^32.
    sequence: u32,
    /// Records in this message.
    records: u32,
    exported: u32,
}

impl Exporter {
    /// Begins with the templates; `now` becomes the export time.
    pub fn new(now: Timestamp) -> Self {
        let exported = u32::try_from(now.as_second()).unwrap_or(0);
        let mut exporter = Self { message: Vec::new(), set: None, sequence: 0, records: 0, exported };
        exporter.message.resize(HEADER, 0);
        for (template, source, destination, length) in [(V4, 8, 12, 4), (V6, 27, 28, 16)] {
            exporter.enter(TEMPLATES);
            let fields = ELEMENTS.iter().copied();
            let fields = fields.chain([(source, length), (destination, length), (USER, VARIABLE)]);
            let count = u16::try_from(ELEMENTS.len() + 3).unwrap_or(0);
            for number in
                [template, count].into_iter().chain(fields.flat_map(|(element, length)| [element, length]))
            {
                exporter.message.extend(number.to_be_bytes());
            }
        }
        exporter
    }

    /// Adds a flow; returns a message when one is full.
    pub fn add(&mut self, flow: &FlowRecord) -> Option<Vec<u8>> {
        let (local, remote) = ((flow.local, flow.local_port), (flow.remote, flow.remote_port));
        let traffic = &flow.traffic;
        if traffic.packets_out > 0 || traffic.refused > 0 || traffic.packets_in == 0 {
            self.record(flow, local, remote, [traffic.packets_out, traffic.bytes_out, traffic.refused], 1);
        }
        if traffic.packets_in > 0 {
            self.record(flow, remote, local, [traffic.packets_in, traffic.bytes_in, 0], 0);
        }
        (self.message.len() >= FULL).then(|| self.finish())
    }

    /// The last message.
    pub fn finish(&mut self) -> Vec<u8> {
        self.close_set();
        let mut message = std::mem::take(&mut self.message);
        let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
        message[0..2].copy_from_slice(&10_u16.to_be_bytes());
        message[2..4].copy_from_slice(&length.to_be_bytes());
        message[4..8].copy_from_slice(&self.exported.to_be_bytes());
        message[8..12].copy_from_slice(&self.sequence.to_be_bytes());
        // The observation domain is 1 throughout: one node.
        message[12..16].copy_from_slice(&1_u32.to_be_bytes());
        self.sequence = self.sequence.wrapping_add(std::mem::take(&mut self.records));
        self.message.resize(HEADER, 0);
        message
    }

    fn record(
        &mut self,
        flow: &FlowRecord,
        from: (IpAddr, u16),
        to: (IpAddr, u16),
        counts: [u64; 3],
        direction: u8,
    ) {
        self.enter(if from.0.is_ipv4() { V4 } else { V6 });
        for time in [&flow.since, &flow.last] {
            let millis = time.parse::<Timestamp>().map_or(0, Timestamp::as_millisecond);
            self.message.extend(millis.to_be_bytes());
        }
        self.message.push(flow.protocol);
        for port in [from.1, to.1] {
            self.message.extend(port.to_be_bytes());
        }
        for count in counts {
            self.message.extend(count.to_be_bytes());
        }
        self.message.push(direction);
        for address in [from.0, to.0] {
            match address {
                IpAddr::V4(v4) => self.message.extend(v4.octets()),
                IpAddr::V6(v6) => self.message.extend(v6.octets()),
            }
        }
        // A slice's name has at most 32 bytes; the short form of a length ends at 254.
        let user = flow.slice.as_deref().unwrap_or_default().as_bytes();
        let user = &user[..user.len().min(254)];
        self.message.push(u8::try_from(user.len()).unwrap_or(0));
        self.message.extend(user);
        self.records += 1;
    }

    /// Goes on with a set of this number, or begins one.
    fn enter(&mut self, number: u16) {
        if self.set.is_some_and(|(_, now)| now == number) {
            return;
        }
        self.close_set();
        self.set = Some((self.message.len(), number));
        self.message.extend(number.to_be_bytes());
        self.message.extend([0, 0]);
    }

    fn close_set(&mut self) {
        if let Some((begin, _)) = self.set.take() {
            let length = u16::try_from(self.message.len() - begin).unwrap_or(u16::MAX);
            self.message[begin + 2..begin + 4].copy_from_slice(&length.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow_csv::tests::example;
    use std::collections::HashMap;

    /// A reader that knows nothing but RFC 7011: values by element, one map a record, and each message's sequence.
    struct Reader {
        templates: HashMap<u16, Vec<(u16, u16)>>,
        records: Vec<HashMap<u16, Vec<u8>>>,
        sequences: Vec<(u32, usize)>,
    }

    fn read(mut file: &[u8]) -> Reader {
        let mut reader = Reader { templates: HashMap::new(), records: Vec::new(), sequences: Vec::new() };
        let number = |bytes: &[u8], at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        while !file.is_empty() {
            assert_eq!(number(file, 0), 10, "version");
            let (message, rest) = file.split_at(number(file, 2).into());
            file = rest;
            let sequence = u32::from_be_bytes(message[8..12].try_into().expect("4 bytes"));
            reader.sequences.push((sequence, reader.records.len()));
            let mut sets = &message[16..];
            while !sets.is_empty() {
                let (set, rest) = sets.split_at(number(sets, 2).into());
                sets = rest;
                let (id, mut body) = (number(set, 0), &set[4..]);
                while !body.is_empty() {
                    if id == 2 {
                        let fields = usize::from(number(body, 2));
                        let list =
                            (0..fields).map(|i| (number(body, 4 + 4 * i), number(body, 6 + 4 * i))).collect();
                        reader.templates.insert(number(body, 0), list);
                        body = &body[4 + 4 * fields..];
                        continue;
                    }
                    let mut record = HashMap::new();
                    for &(element, length) in &reader.templates[&id] {
                        assert_eq!(element & 0x8000, 0, "no enterprise's element");
                        let length = if length == 65_535 {
                            let length = usize::from(body[0]);
                            body = &body[1..];
                            length
                        } else {
                            length.into()
                        };
                        record.insert(element, body[..length].to_vec());
                        body = &body[length..];
                    }
                    reader.records.push(record);
                }
            }
        }
        reader
    }

    fn export(flows: &[FlowRecord]) -> Vec<u8> {
        let mut exporter = Exporter::new("2036-03-01T04:00:00Z".parse().expect("time"));
        let mut file: Vec<u8> = flows.iter().filter_map(|flow| exporter.add(flow)).flatten().collect();
        file.extend(exporter.finish());
        file
    }

    #[test]
    fn a_reader_of_the_standard_finds_both_directions() {
        let v6 = FlowRecord {
            slice: None,
            local: "2001:db8::1".parse().expect("address"),
            remote: "2001:db8::7".parse().expect("address"),
            ..example()
        };
        let reader = read(&export(&[example(), v6]));
        assert_eq!(reader.records.len(), 4);
        let (out, back) = (&reader.records[0], &reader.records[1]);
        assert_eq!((&out[&8][..], &out[&12][..]), (&[198, 51, 100, 1][..], &[192, 0, 2, 7][..]));
        assert_eq!((&back[&8][..], &back[&12][..]), (&[192, 0, 2, 7][..], &[198, 51, 100, 1][..]));
        let value = |bytes: &[u8]| bytes.iter().fold(0_u64, |value, &byte| value << 8 | u64::from(byte));
        let of = |record: &HashMap<u16, Vec<u8>>, elements: [u16; 6]| {
            elements.map(|element| value(&record[&element]))
        };
        assert_eq!(of(out, [2, 1, 133, 61, 7, 11]), [3, 180, 1, 1, 40_000, 443]);
        assert_eq!(of(back, [2, 1, 133, 61, 7, 11]), [2, 2800, 0, 0, 443, 40_000]);
        assert_eq!(value(&out[&4]), 6);
        let start: Timestamp = example().first.parse().expect("time");
        assert_eq!(value(&out[&152]), start.as_millisecond().unsigned_abs());
        assert_eq!(value(&out[&153]) - value(&out[&152]), 1000);
        assert_eq!(out[&371], b"princeton4");
        assert_eq!((reader.records[2][&27].len(), &reader.records[2][&371][..]), (16, &b""[..]));
    }

    #[test]
    fn many_flows_become_several_messages_in_sequence() {
        let flows = vec![example(); 5000];
        let reader = read(&export(&flows));
        assert_eq!(reader.records.len(), 10_000);
        assert!(reader.sequences.len() > 5, "{:?}", reader.sequences);
        for &(sequence, before) in &reader.sequences {
            assert_eq!(sequence as usize, before);
        }
        assert_eq!(read(&export(&[])).templates.len(), 2);
    }
}
