//! Flows as comma-separated values (RFC 4180); the columns are named as the fields of the JSON answer.

use plab_protocol::flows::FlowRecord;

use crate::output::words;

/// The first line.
pub const HEADING: &str = "slice,uid,contact,cgroup,protocol,local,local_port,remote,remote_port,first,since,last,ended,\
packets_out,bytes_out,packets_in,bytes_in,refused\r\n";

/// One flow, with the end of its line.
pub fn line(flow: &FlowRecord) -> String {
    let text = |text: Option<&String>| text.map(|text| field(text)).unwrap_or_default();
    let traffic = &flow.traffic;
    format!(
        "{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{}\r\n",
        text(flow.slice.as_ref()),
        flow.uid.map(|uid| uid.to_string()).unwrap_or_default(),
        text(flow.contact.as_ref()),
        flow.cgroup,
        flow.protocol,
        flow.local,
        flow.local_port,
        flow.remote,
        flow.remote_port,
        field(&flow.first),
        field(&flow.since),
        field(&flow.last),
        flow.ended,
        traffic.packets_out,
        traffic.bytes_out,
        traffic.packets_in,
        traffic.bytes_in,
        traffic.refused,
    )
}

/// A field, quoted if that is needed, with nothing that moves a terminal.
fn field(text: &str) -> String {
    let text = words(text);
    if text.contains([',', '"']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use plab_protocol::flows::Traffic;

    /// A flow of a second with 3 packets out and 2 in.
    pub(crate) fn example() -> FlowRecord {
        FlowRecord {
            slice: Some("princeton4".into()),
            uid: Some(70_000),
            contact: Some("pi@cs.princeton.edu".into()),
            cgroup: 4711,
            protocol: 6,
            local: [198, 51, 100, 1].into(),
            local_port: 40_000,
            remote: [192, 0, 2, 7].into(),
            remote_port: 443,
            first: "2036-03-01T04:00:00.25Z".into(),
            since: "2036-03-01T04:00:00.25Z".into(),
            last: "2036-03-01T04:00:01.25Z".into(),
            ended: true,
            traffic: Traffic { packets_out: 3, bytes_out: 180, packets_in: 2, bytes_in: 2800, refused: 1 },
        }
    }

    #[test]
    fn there_are_as_many_values_as_columns() {
        let text = line(&example());
        assert_eq!(text.split(',').count(), HEADING.split(',').count());
        assert_eq!(
            text,
            "princeton4,70000,pi@cs.princeton.edu,4711,6,198.51.100.1,40000,192.0.2.7,443,2036-03-01T04:00:00.25Z,\
             2036-03-01T04:00:00.25Z,2036-03-01T04:00:01.25Z,true,3,180,2,2800,1\r\n"
        );
        let unknown = FlowRecord { slice: None, uid: None, contact: None, ..example() };
        assert!(line(&unknown).starts_with(",,,4711,"));
        assert_eq!(field("a\",\nb"), "\"a\"\",\\u{a}b\"");
    }
}
