//! `seqshadow demo`: seqshadow at work on two throw-away servers. See [`crate::demo`].

use std::process::ExitCode as ProcessExit;
use std::time::Duration;

use super::args::DemoArgs;
use super::complaint::complain;
use crate::config::LogFormat;
use crate::demo::{self, DemoError, Interrupt, Options};
use crate::exit::ExitCode;

/// Shows it; the exit status says whether everything happened as promised.
#[must_use]
pub fn run(args: &DemoArgs) -> ProcessExit {
    let options = match options(args) {
        Ok(options) => options,
        Err(error) => {
            complain(&error);
            return ExitCode::Usage.into();
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("the runtime cannot start: {error}"));
            return ExitCode::NotReady.into();
        }
    };
    let result = runtime.block_on(async { demo::run(&options, Interrupt::listen()?).await });
    // A package client that still works must not keep us.
    runtime.shutdown_background();
    match result {
        Ok(()) => ProcessExit::SUCCESS,
        Err(error) => {
            if !matches!(error, DemoError::Interrupted(_)) {
                complain(&error);
            }
            ProcessExit::from(error.exit_status())
        }
    }
}

fn options(args: &DemoArgs) -> Result<Options, crate::config::ValueError> {
    Ok(Options {
        length: Duration::from_secs(args.seconds.into()),
        rate: args.rate,
        keep: args.keep,
        bindirs: args.pg_bindir.clone(),
        log_format: args.log.format().map(str::parse).transpose()?.unwrap_or(LogFormat::Human),
        log_level: args.log.level().unwrap_or("info").to_owned(),
    })
}
