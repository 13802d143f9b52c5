//! `plab ports`: whose ports are whose, and who listens there.

use std::path::Path;

use plab_protocol::control::{Listener, PortStatus, Reply, Request};

use crate::args::PortsArgs;
use crate::client::{self, Received};
use crate::error::{self, Error};
use crate::output::{Screen, print, print_json};
use crate::table::{Cell, Kind, Table};

/// Asks and shows.
///
/// # Errors
/// When `plabd` cannot be reached or refuses.
pub fn run(socket: &Path, args: PortsArgs, screen: Screen) -> Result<u8, Error> {
    let Received { line, reply } = client::ask(socket, Request::Ports { slice: args.slice })?;
    let Reply::Ports { ports } = reply else {
        return Err(Error::Unexpected { expected: "ports" });
    };
    if args.json {
        print_json(&line)?
    } else {
        print(&table(&ports, screen))?
    }
    Ok(error::OK)
}

fn table(ports: &[PortStatus], screen: Screen) -> String {
    if ports.is_empty() {
        return "No ports\n".to_owned();
    }
    let mut table = Table::new(&[("OWNER", Kind::Key), ("PORTS", Kind::Key), ("LISTENS", Kind::Words)]);
    for row in ports {
        let listeners: Vec<String> = row.listeners.iter().map(shown).collect();
        table.push(vec![
            Cell::new(row.slice.as_deref().unwrap_or("(node)")),
            Cell::new(&row.ports),
            Cell::new(if listeners.is_empty() { "-".to_owned() } else { listeners.join(", ") }),
        ]);
    }
    table.render(screen)
}

fn shown(listener: &Listener) -> String {
    let Listener { address, port, pid, command, .. } = listener;
    let address =
        if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") };
    match (pid, command) {
        (Some(pid), Some(command)) => format!("{address} by {command} ({pid})"),
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_who_listens_and_never_moves_the_terminal() {
        let row = |slice: Option<&str>, ports: &str, listeners| PortStatus {
            slice: slice.map(str::to_owned),
            ports: ports.into(),
            listeners,
        };
        let listener = Listener {
            address: "::".into(),
            port: 8080,
            uid: 70_001,
            pid: Some(12),
            command: Some("x\u{1b}[2J".into()),
        };
        let rows = [row(None, "tcp/22", vec![]), row(Some("site_a"), "tcp/8080", vec![listener])];
        let text = table(&rows, Screen { width: 100, colour: false });
        for part in ["(node)", "tcp/22", "site_a", "[::]:8080 by x\\u{1b}[2J (12)"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains('\u{1b}'));
        assert_eq!(table(&[], Screen { width: 100, colour: false }), "No ports\n");
    }
}
