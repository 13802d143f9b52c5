//! `plab flows`: what a slice sent to whom, as a table, JSON, CSV or IPFIX.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use plab_protocol::control::{Reply, Request};
use plab_protocol::flows::{FlowRecord, FlowsKept};

use crate::args::FlowsArgs;
use crate::client::{Client, Received};
use crate::error::{self, ClientError, Error};
use crate::flow_csv;
use crate::flow_filter::{self, endpoint, has_ports, lost, protocol_name, reach};
use crate::flow_ipfix::Exporter;
use crate::output::{Screen, Style, complain, print, print_json, words};
use crate::table::{Cell, Kind, Table};
use crate::units;

/// Flows that are shown unless said otherwise.
const SHOWN: u32 = 1000;

/// What flows are written as to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Csv,
    Ipfix,
}

/// Asks and shows, or writes.
///
/// # Errors
/// When `plabd` cannot be reached or refuses, or the file cannot be written.
pub fn run(socket: &Path, args: &FlowsArgs, screen: Screen) -> Result<u8, Error> {
    let filter =
        flow_filter::filter(args.slice.as_deref(), args.to, None, &args.filter).map_err(Error::Usage)?;
    let export = destination(args)?;
    let last = args.last.or(export.is_none().then_some(SHOWN));
    let mut client = Client::ask(socket, Request::Flows { filter, last }, &[])?;
    match export {
        Some((format, path)) => write(&mut client, format, &path)?,
        None => show(&mut client, args, last, screen)?,
    }
    Ok(error::OK)
}

/// Where the flows go, if to a file; `-` is standard output.
fn destination(args: &FlowsArgs) -> Result<Option<(Format, PathBuf)>, Error> {
    if args.csv {
        return Ok(Some((Format::Csv, "-".into())));
    }
    let Some([format, file]) = args.export.as_deref() else { return Ok(None) };
    let format = match format.to_str() {
        Some("csv") => Format::Csv,
        Some("ipfix") => Format::Ipfix,
        _ => {
            return Err(Error::Usage(format!(
                "--export writes ipfix or csv, not {}",
                words(&format.to_string_lossy())
            )));
        }
    };
    Ok(Some((format, file.into())))
}

/// Hands page after page to `each`; returns what is kept, and the line that said so.
fn pages(
    client: &mut Client,
    mut each: impl FnMut(Vec<FlowRecord>, &str) -> Result<(), Error>,
) -> Result<(FlowsKept, String), Error> {
    loop {
        let Received { line, reply } = client.reply()?;
        match reply {
            Reply::Flows(page) => each(page.flows, &line)?,
            Reply::FlowsKept(kept) => return Ok((kept, line)),
            Reply::Error(refusal) => return Err(Error::Refused(refusal)),
            _ => return Err(Error::Unexpected { expected: "flows" }),
        }
    }
}

fn write(client: &mut Client, format: Format, path: &Path) -> Result<(), Error> {
    let failed = |what| move |source| Error::File { what, path: path.to_owned(), source };
    let out: Box<dyn Write> = if path == Path::new("-") {
        Box::new(io::stdout().lock())
    } else {
        Box::new(File::create(path).map_err(failed("create"))?)
    };
    let mut out = BufWriter::new(out);
    let mut exporter = Exporter::new(Timestamp::now());
    if format == Format::Csv {
        out.write_all(flow_csv::HEADING.as_bytes()).map_err(failed("write"))?;
    }
    let (kept, _) = pages(client, |flows, _| {
        for flow in &flows {
            match format {
                Format::Csv => out.write_all(flow_csv::line(flow).as_bytes()),
                Format::Ipfix => exporter.add(flow).map_or(Ok(()), |message| out.write_all(&message)),
            }
            .map_err(failed("write"))?;
        }
        Ok(())
    })?;
    if format == Format::Ipfix {
        out.write_all(&exporter.finish()).map_err(failed("write"))?;
    }
    out.flush().map_err(failed("write"))?;
    for warning in warnings(&kept) {
        complain(&warning);
    }
    Ok(())
}

/// What may be missing from an answer.
fn warnings(kept: &FlowsKept) -> impl Iterator<Item = String> {
    lost(kept).into_iter().chain(kept.problems.iter().map(|problem| words(problem)))
}

fn show(client: &mut Client, args: &FlowsArgs, last: Option<u32>, screen: Screen) -> Result<(), Error> {
    let mut flows = Vec::new();
    let mut values = Vec::new();
    let parse = |line: &str| {
        serde_json::from_str::<serde_json::Value>(line)
            .map_err(|e| ClientError::Malformed(words(&e.to_string())))
    };
    let (kept, end) = pages(client, |mut page, line| {
        if args.json {
            let mut page = parse(line)?;
            let list = page.get_mut("flows").and_then(serde_json::Value::as_array_mut);
            values.append(list.unwrap_or(&mut Vec::new()));
        } else {
            flows.append(&mut page);
        }
        Ok(())
    })?;
    if args.json {
        let mut kept = parse(&end)?;
        // Only the outer document says what it answers.
        kept.as_object_mut().map(|fields| fields.remove("reply"));
        return print_json(
            &serde_json::json!({ "reply": "flows", "flows": values, "kept": kept }).to_string(),
        );
    }
    let mut out = table(&flows, args.slice.is_none(), screen);
    let count = match (flows.len(), last) {
        (0, _) => "No flows".to_owned(),
        (n, Some(last)) if n == last as usize => format!("The newest {n}; -n shows more"),
        (1, _) => "1 flow".to_owned(),
        (n, _) => format!("{n} flows"),
    };
    // Writing to a String cannot fail.
    let _ =
        writeln!(out, "{}", screen.paint(Style::Dim, &format!("{count}; looked through {}", reach(&kept))));
    for warning in warnings(&kept) {
        let _ = writeln!(out, "{}", screen.paint(Style::Warn, &warning));
    }
    print(&out)
}

fn table(flows: &[FlowRecord], with_slice: bool, screen: Screen) -> String {
    let refusals = flows.iter().any(|flow| flow.traffic.refused > 0);
    let mut columns = vec![
        ("BEGAN", Kind::Key),
        ("LASTED", Kind::Number),
        ("FROM", Kind::Key),
        ("TO", Kind::Words),
        ("SENT", Kind::Number),
        ("CAME", Kind::Number),
    ];
    if refusals {
        columns.push(("REFUSED", Kind::Number));
    }
    if with_slice {
        // There is room for one of the two on a terminal of 80 columns.
        columns[1] = ("SLICE", Kind::Key);
        columns.swap(0, 1);
    }
    let mut table = Table::new(&columns);
    for flow in flows {
        let began = flow.first.parse::<Timestamp>();
        let last = flow.last.parse::<Timestamp>();
        let lasted = match (&began, &last) {
            (Ok(began), Ok(last)) => {
                units::span(Duration::try_from(last.duration_since(*began)).unwrap_or(Duration::ZERO))
            }
            _ => "-".to_owned(),
        };
        let began =
            began.map_or_else(|_| flow.first.clone(), |time| time.strftime("%m-%d %H:%M:%SZ").to_string());
        let protocol = protocol_name(flow.protocol);
        let from =
            if has_ports(flow.protocol) { format!("{protocol}/{}", flow.local_port) } else { protocol };
        let mut cells = vec![
            Cell::new(began),
            Cell::new(lasted),
            Cell::new(from),
            Cell::new(endpoint(flow.protocol, flow.remote, flow.remote_port)),
            Cell::new(units::bytes(flow.traffic.bytes_out)),
            Cell::new(units::bytes(flow.traffic.bytes_in)),
        ];
        if refusals {
            cells.push(Cell::new(flow.traffic.refused.to_string()));
        }
        if with_slice {
            cells[1] = Cell::new(flow.slice.as_deref().unwrap_or("unknown"));
            cells.swap(0, 1);
        }
        table.push(cells);
    }
    if table.is_empty() { String::new() } else { table.render(screen) + "\n" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow_csv::tests::example;

    #[test]
    fn a_table_fits() {
        let screen = Screen { width: 80, colour: false };
        let ping = FlowRecord { protocol: 1, ..example() };
        assert_eq!(
            table(std::slice::from_ref(&ping), false, screen),
            "BEGAN            LASTED  FROM  TO          SENT     CAME  REFUSED\n\
             03-01 04:00:00Z      1s  icmp  192.0.2.7  180 B  2.7 KiB        1\n\n"
        );
        let text = table(&[ping, example()], true, screen);
        assert!(
            text.starts_with("SLICE ") && text.contains("REFUSED") && text.contains("192.0.2.7:443"),
            "{text}"
        );
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert_eq!(table(&[], true, screen), "");
    }
}
