//! `plab init`: a node file for this machine, with a comment for each line of it.

mod facts;
mod text;
mod uids;

use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use plab_config::NodeFile;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::Serialize;

use crate::args::InitArgs;
use crate::error::{self, Error};
use crate::output::{complain, lines, print, print_json, words};

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Outcome<'a> {
    /// The file that was written; none with `--stdout`.
    written: Option<&'a Path>,
    /// What the node will be called.
    name: &'a str,
    /// Its address, if the kernel knows one.
    address: Option<std::net::Ipv4Addr>,
    /// User IDs of slices.
    uids: String,
    /// Features for `degrade` that this machine lacks.
    lacks: Vec<&'a str>,
    /// What to look at before the node is started.
    notes: &'a [String],
    /// The file's content.
    text: &'a str,
}

/// Looks at this machine and writes its node file.
///
/// # Errors
/// The machine's name cannot be a node's, no user IDs are free, there is a node file already, or it cannot be written.
pub fn run(root: Option<&Path>, args: &InitArgs) -> Result<u8, Error> {
    let facts = facts::gather(args.name.as_deref()).map_err(Error::Session)?;
    let text = text::node_file(&facts);
    let path = root.unwrap_or(Path::new("/")).join("etc/planetlab/node.toml");
    // plabd will read it with the same parser: what it would refuse is not written.
    let node = NodeFile::parse(&text, &path).map_err(|errors| {
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        Error::Session(format!(
            "this would be no node file, which is a mistake in plab:\n{}",
            lines.join("\n")
        ))
    })?;
    if !args.stdout {
        write(&path, &text, args.force)?;
    }
    if args.json {
        let outcome = Outcome {
            written: (!args.stdout).then_some(path.as_path()),
            name: node.name.as_str(),
            address: node.address,
            uids: node.uids.to_string(),
            lacks: facts.lacks.iter().map(|lack| lack.feature.name()).collect(),
            notes: &facts.notes,
            text: &text,
        };
        print_json(&serde_json::to_string(&outcome).map_err(|e| Error::Session(e.to_string()))?)?;
        return Ok(error::OK);
    }
    if args.stdout {
        print(&text)?;
    } else {
        let address = node.address.map(|address| format!(" at {address}")).unwrap_or_default();
        print(&format!("{}: node {}{address}\n", words(&path.display().to_string()), node.name))?;
    }
    for note in &facts.notes {
        complain(&lines(note));
    }
    Ok(error::OK)
}

/// Writes the file under another name and renames it, so that nobody ever reads half of it.
fn write(path: &Path, text: &str, force: bool) -> Result<(), Error> {
    let failed = |what| {
        let path = path.to_path_buf();
        move |source: io::Error| Error::File { what, path, source }
    };
    let directory = path.parent().unwrap_or(Path::new("/"));
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(directory)
        .map_err(|source| Error::File { what: "create", path: directory.to_path_buf(), source })?;
    let temporary = Temporary(directory.join(format!(".node.toml.{}", std::process::id())));
    let mut file = std::fs::File::options()
        .write(true)
        .create_new(true)
        .open(&temporary.0)
        .map_err(failed("create a file beside"))?;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))
        .and_then(|()| file.write_all(text.as_bytes()))
        .and_then(|()| file.sync_all())
        .map_err(failed("write"))?;
    let flags = if force { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
    match renameat_with(CWD, &temporary.0, CWD, path, flags) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::EXIST) => Err(Error::Session(format!(
            "{} is there already and was left as it is; --force replaces it, --stdout shows what would be written",
            path.display()
        ))),
        Err(error) => Err(failed("write")(error.into())),
    }
}

/// A file that goes if it was not renamed.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // Not there any more, if all went well.
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_there_stays_unless_forced() {
        let root = std::env::temp_dir().join(format!("plab-init-{}", std::process::id()));
        let path = root.join("etc/planetlab/node.toml");
        write(&path, "name = \"a.org\"\n", false).expect("the first");
        let refused = write(&path, "name = \"b.org\"\n", false).expect_err("the second");
        assert!(refused.to_string().contains("--force"), "{refused}");
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "name = \"a.org\"\n");
        write(&path, "name = \"b.org\"\n", true).expect("forced");
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "name = \"b.org\"\n");
        let mode = std::fs::metadata(&path).expect("stat").permissions().mode();
        assert_eq!(mode & 0o7777, 0o644);
        let inside = std::fs::read_dir(root.join("etc/planetlab")).expect("list").count();
        assert_eq!(inside, 1, "nothing is left beside it");
        std::fs::remove_dir_all(&root).expect("clean up");
    }
}
