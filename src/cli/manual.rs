//! `seqshadow completions` and `seqshadow man`: made from the same definitions as `--help`.

use std::path::{Path, PathBuf};
use std::process::ExitCode as ProcessExit;

use clap::{Args, Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::args::Cli;
use super::complaint::complain;
use super::{check, verb};
use crate::exit::ExitCode;
use crate::ops::OpsError;
use crate::ops::check::codes;

/// Flags of `completions`.
#[derive(Args, Clone, Debug)]
pub struct CompletionsArgs {
    /// Which shell
    shell: Shell,
}

/// Flags of `man`.
#[derive(Args, Clone, Debug)]
pub struct ManArgs {
    /// Write seqshadow.1 and a page for each verb into this directory
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Print the page of this verb
    #[arg(conflicts_with = "dir")]
    verb: Option<String>,
}

/// Prints the completions of one shell.
#[must_use]
pub fn completions(args: &CompletionsArgs) -> ProcessExit {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "seqshadow", &mut text);
    ended(verb::print(&String::from_utf8_lossy(&text)))
}

/// Prints one manual page, or writes all of them.
#[must_use]
pub fn man(args: &ManArgs) -> ProcessExit {
    let pages = pages();
    if let Some(directory) = &args.dir {
        return ended(write(&pages, directory));
    }
    let wanted =
        args.verb.as_ref().map_or_else(|| "seqshadow".to_owned(), |verb| format!("seqshadow-{verb}"));
    let Some(page) = pages.into_iter().find(|page| page.get_name() == wanted) else {
        eprintln!(
            "seqshadow: there is no verb {:?}; see seqshadow --help",
            args.verb.clone().unwrap_or_default()
        );
        return ExitCode::Usage.into();
    };
    ended(text(page).and_then(|text| verb::print(&text)))
}

/// The program, and each verb under the name of its page.
fn pages() -> Vec<Command> {
    let mut whole = Cli::command();
    whole.build();
    let verbs = whole.get_subcommands().filter(|verb| verb.get_name() != "help").cloned();
    let named: Vec<Command> = verbs
        .map(|verb| {
            let name = format!("seqshadow-{}", verb.get_name());
            verb.name(name.clone()).display_name(name)
        })
        .collect();
    std::iter::once(whole).chain(named).collect()
}

fn text(page: Command) -> Result<String, OpsError> {
    let mut text = Vec::new();
    let is_check = page.get_name() == "seqshadow-check";
    let mut made = Man::new(page).render(&mut text);
    if is_check {
        made = made.and_then(|()| findings().to_writer(&mut text));
    }
    made.map_err(|source| OpsError::Io { what: "the manual page".to_owned(), source })?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Every code of `check`, as `check --list` has them.
fn findings() -> Roff {
    let mut section = Roff::new();
    section.control("SH", ["FINDINGS"]);
    for code in codes() {
        let severity = format!(" ({})", check::severity(code.severity));
        section.control("TP", []).text([bold(code.code), roman(severity)]).text([roman(code.meaning)]);
    }
    section
}

fn write(pages: &[Command], directory: &Path) -> Result<(), OpsError> {
    std::fs::create_dir_all(directory)
        .map_err(|source| OpsError::Io { what: directory.display().to_string(), source })?;
    for page in pages {
        let path = directory.join(format!("{}.1", page.get_name()));
        let text = text(page.clone())?;
        std::fs::write(&path, text)
            .map_err(|source| OpsError::Io { what: path.display().to_string(), source })?;
    }
    Ok(())
}

fn ended(outcome: Result<(), OpsError>) -> ProcessExit {
    match outcome {
        Ok(()) => ExitCode::Success.into(),
        Err(error) => {
            complain(&error);
            error.exit_code().into()
        }
    }
}
