//! Completions and man pages, made from [`crate::args`].

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use crate::args::Cli;
use crate::error::{self, Error};
use crate::output::print;

/// Prints the completions of `shell`.
///
/// # Errors
/// When standard output takes no more.
pub fn completions(shell: Shell) -> Result<u8, Error> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "plab", &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(error::OK)
}

/// Writes `plab.1` and one page a subcommand, `plab-exec.1`, `plab-node-reboot.1` and so on, into `directory`.
///
/// # Errors
/// When a file cannot be written.
pub fn man_pages(directory: &Path) -> Result<u8, Error> {
    fs::create_dir_all(directory).map_err(|source| Error::File {
        what: "create",
        path: directory.to_path_buf(),
        source,
    })?;
    let mut cli = Cli::command().disable_help_subcommand(true);
    cli.build();
    let names: Vec<String> = cli.get_subcommands().map(|c| page_name(c).to_owned()).collect();
    let deeper = cli.get_subcommands().flat_map(Command::get_subcommands);
    for command in std::iter::once(&cli).chain(cli.get_subcommands()).chain(deeper) {
        let path = directory.join(format!("{}.1", page_name(command)));
        let mut others: Vec<&str> = std::iter::once("plab")
            .chain(names.iter().map(String::as_str))
            .filter(|&n| n != page_name(command))
            .collect();
        if command.get_name() != "plab" {
            others.truncate(1);
        }
        page(command, &others).and_then(|text| fs::write(&path, text)).map_err(|source| Error::File {
            what: "write",
            path,
            source,
        })?;
    }
    Ok(error::OK)
}

fn page_name(command: &Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

/// One page. clap_mangen puts all of the text after the options under a heading EXTRA; here each part of it
/// gets the heading that man(7) wants, and keeps its lines.
fn page(command: &Command, see_also: &[&str]) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    let man =
        Man::new(command.clone()).manual("PlanetLab").source(concat!("plab ", env!("CARGO_PKG_VERSION")));
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    man.render_description_section(&mut out)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut out)?;
    }
    man.render_options_section(&mut out)?;
    let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    for (title, lines) in sections(&help) {
        let mut roff = Roff::new();
        roff.control("SH", [title.to_uppercase().as_str()]);
        roff.control("nf", []);
        for line in lines {
            roff.text([roman(line)]);
        }
        roff.control("fi", []);
        roff.to_writer(&mut out)?;
    }
    let mut roff = Roff::new();
    roff.control("SH", ["SEE ALSO"]);
    let list = see_also.iter().map(|n| format!("{n}(1)")).collect::<Vec<_>>().join(", ");
    roff.text([roman(list)]);
    roff.to_writer(&mut out)?;
    out.flush()?;
    Ok(out)
}

/// Splits the text after the options into titled parts: a line in the first column that ends in a colon
/// begins one.
fn sections(help: &str) -> Vec<(&str, Vec<&str>)> {
    let mut sections: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in help.lines() {
        match (line.strip_suffix(':'), sections.last_mut()) {
            (Some(title), _) if !line.starts_with(' ') => sections.push((title, Vec::new())),
            (_, Some((_, lines))) if !line.is_empty() => lines.push(line.strip_prefix("  ").unwrap_or(line)),
            _ => {}
        }
    }
    sections
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_becomes_sections() {
        let help = "Examples:\n  plab status   # x\n\nExit status:\n  0  done";
        assert_eq!(
            sections(help),
            [("Examples", vec!["plab status   # x"]), ("Exit status", vec!["0  done"])]
        );
    }

    #[test]
    fn every_command_has_a_page_with_examples_and_statuses() {
        let mut cli = Cli::command().disable_help_subcommand(true);
        cli.build();
        for command in std::iter::once(&cli).chain(cli.get_subcommands()) {
            let text = String::from_utf8(page(command, &["plab"]).expect("page")).expect("utf-8");
            for heading in ["NAME", "SYNOPSIS", "EXAMPLES", "\"EXIT STATUS\"", "\"SEE ALSO\""] {
                assert!(
                    text.contains(&format!(".SH {heading}")),
                    "{}: {heading}\n{text}",
                    page_name(command)
                );
            }
        }
    }

    #[test]
    fn completions_for_every_shell() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "plab", &mut script);
            assert!(String::from_utf8_lossy(&script).contains("freeze"), "{shell}");
        }
    }
}
