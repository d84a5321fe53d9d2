//! The `seqshadow` program: parse, then run the verb.

use std::process::ExitCode;

use seqshadow::cli::args::{Cli, Verb};
use seqshadow::cli::run;

fn main() -> ExitCode {
    match Cli::parse_from_args(std::env::args_os()) {
        Ok(Verb::Run(args)) => run::run(&args),
        Ok(Verb::Demo(_)) => ExitCode::from(1),
        Err(code) => code.into(),
    }
}
