//! The `seqshadow` program: parse, then run the verb.

use std::process::ExitCode;

use seqshadow::cli::args::{Cli, Verb};
use seqshadow::cli::{demo, run};

fn main() -> ExitCode {
    match Cli::parse_from_args(std::env::args_os()) {
        Ok(Verb::Run(args)) => run::run(&args),
        Ok(Verb::Demo(args)) => demo::run(&args),
        Err(code) => code.into(),
    }
}
