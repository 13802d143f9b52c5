//! `plab apply`: definitions from files to the node.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use plab_protocol::MAX_LINE;
use plab_protocol::control::{Reply, Request};

use crate::args::ApplyArgs;
use crate::client::{Client, Received};
use crate::error::{self, Error};
use crate::output::{complain, print, print_json, words};

/// A definition and what errors call it.
struct Definition {
    origin: String,
    text: String,
}

/// Sends every definition, in the order given, and waits for each.
///
/// All are read before the first is sent, so that a misspelt file name changes nothing. One that the node
/// refuses does not hold up the others.
///
/// # Errors
/// When a file cannot be read or `plabd` not be reached.
pub fn apply(socket: &Path, args: &ApplyArgs) -> Result<u8, Error> {
    if args.files.iter().filter(|f| f.as_os_str() == "-").count() > 1 {
        return Err(Error::Usage("standard input (-) can be read once only".into()));
    }
    let definitions = args.files.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let mut status = error::OK;
    let mut answers = Vec::new();
    for Definition { origin, text } in definitions {
        let Received { line, reply } = Client::ask(socket, Request::Apply { text, origin }, &[])?.reply()?;
        match reply {
            Reply::Done { message } if !args.json => print(&(words(&message) + "\n"))?,
            Reply::Done { .. } => {}
            Reply::Error(refusal) => {
                complain(&refusal.message);
                status = error::REFUSED;
            }
            _ => return Err(Error::Unexpected { expected: "an acknowledgement" }),
        }
        answers.push(line);
    }
    if args.json {
        print_json(&format!("[{}]", answers.join(",\n ")))?;
    }
    Ok(status)
}

fn read(path: &PathBuf) -> Result<Definition, Error> {
    let failed = |source| Error::File { what: "read", path: path.clone(), source };
    let mut bytes = Vec::new();
    // One byte more than can be sent tells a file that is too long from one that just fits; without a bound
    // `plab apply /dev/zero` would take all memory.
    let bound = MAX_LINE as u64 + 1;
    let origin = if path.as_os_str() == "-" {
        io::stdin().lock().take(bound).read_to_end(&mut bytes).map_err(failed)?;
        "-".to_owned()
    } else {
        File::open(path).and_then(|f| f.take(bound).read_to_end(&mut bytes)).map_err(failed)?;
        path.display().to_string()
    };
    if bytes.len() > MAX_LINE {
        return Err(failed(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("more than {MAX_LINE} bytes; this is no definition"),
        )));
    }
    let text = String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        failed(io::Error::new(io::ErrorKind::InvalidData, format!("not UTF-8 text (byte {at})")))
    })?;
    Ok(Definition { origin, text })
}
