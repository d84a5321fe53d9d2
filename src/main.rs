//! The `seqshadow` program: parse, then run the verb.

use std::process::ExitCode;

use seqshadow::cli::args::{Cli, Verb};
use seqshadow::cli::{
    capture, check, cutover, demo, manual, plan, replay, reverse, run, setup, status, sync, teardown, verify,
};

fn main() -> ExitCode {
    match Cli::parse_from_args(std::env::args_os()) {
        Ok(Verb::Run(args)) => run::run(&args),
        Ok(Verb::Check(args)) => check::run(&args),
        Ok(Verb::Cutover(args)) => cutover::run(&args),
        Ok(Verb::Setup(args)) => setup::run(&args),
        Ok(Verb::Teardown(args)) => teardown::run(&args),
        Ok(Verb::Plan(args)) => plan::run(&args),
        Ok(Verb::Sync(args)) => sync::run(&args),
        Ok(Verb::Verify(args)) => verify::run(&args),
        Ok(Verb::Completions(args)) => manual::completions(&args),
        Ok(Verb::Man(args)) => manual::man(&args),
        Ok(Verb::Capture(args)) => capture::run(&args),
        Ok(Verb::Replay(args)) => replay::run(&args),
        Ok(Verb::Reverse(args)) => reverse::run(&args),
        Ok(Verb::Status(args)) => status::run(&args),
        Ok(Verb::Demo(args)) => demo::run(&args),
        Err(code) => code.into(),
    }
}
