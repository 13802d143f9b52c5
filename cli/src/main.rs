//! `plab`, the command line of a node.

use std::process::ExitCode;

fn main() -> ExitCode {
    plab_cli::run::main()
}
