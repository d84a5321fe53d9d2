//! What every verb that prints a result has in common: settings, log, runtime, output, exit status.

use std::io::Write as _;
use std::process::ExitCode as ProcessExit;

use serde::Serialize;

use super::args::VerbArgs;
use super::complaint::complain;
use crate::config::{Environment as ConfigEnvironment, Settings, load};
use crate::conninfo::Environment;
use crate::exit::ExitCode;
use crate::logging;
use crate::ops::OpsError;

/// The name and version of the JSON that stands for a result that there is none.
pub const ERROR_SCHEMA: &str = "seqshadow.error/1";

/// Without a flag only what is wrong is logged: the result is what was asked for.
const LOG_LEVEL: &str = "warn";

/// Why there is no result. One line on standard output with `--json`.
#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    pub schema: &'static str,
    /// As standard error has it.
    pub error: String,
    /// The exit status.
    pub exit: u8,
    /// Of `cutover`: sequences of the subscriber had been moved by then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequences_moved: Option<bool>,
    /// Of `cutover`: the writes could not be let go on again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub writes_still_stopped: Option<bool>,
}

impl Failure {
    /// What went wrong, with the exit status that goes with it.
    #[must_use]
    pub fn new(error: impl std::fmt::Display, code: ExitCode) -> Self {
        Failure {
            schema: ERROR_SCHEMA,
            error: error.to_string(),
            exit: code.into(),
            sequences_moved: None,
            writes_still_stopped: None,
        }
    }

    /// Prints it. There is nobody to tell that this failed, too.
    pub fn print(&self) {
        if let Ok(text) = serde_json::to_string(self) {
            let _ = print(&format!("{text}\n"));
        }
    }
}

/// Reads the settings, runs `work`, and says on standard error what went wrong; with `--json` as a [`Failure`] on standard
/// output, too.
pub fn run<W, F>(args: &VerbArgs, work: W) -> ProcessExit
where
    W: FnOnce(Settings, Environment) -> F,
    F: Future<Output = Result<ExitCode, OpsError>>,
{
    let loaded = load(&args.layer(), args.sides.config(), &ConfigEnvironment::of_process());
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(error) => return fail(&error, ExitCode::Usage, args.json),
    };
    let level = args.log.level().unwrap_or(LOG_LEVEL);
    if let Err(error) = logging::init(loaded.settings.log_format, level) {
        return fail(&error, ExitCode::Usage, args.json);
    }
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error, ExitCode::NotReady, args.json),
    };
    let code = match runtime.block_on(work(loaded.settings, Environment::from_process())) {
        Ok(code) => code.into(),
        Err(error) => fail(&error, error.exit_code(), args.json),
    };
    // A name lookup or a file system that hangs must not keep us.
    runtime.shutdown_background();
    code
}

/// Says what went wrong, and gives the exit status.
pub(super) fn fail(error: &dyn std::fmt::Display, code: ExitCode, json: bool) -> ProcessExit {
    complain(error);
    if json {
        Failure::new(error, code).print();
    }
    code.into()
}

/// Prints a result. A reader that has gone (`| head`) is no failure.
///
/// # Errors
/// When it cannot be written, to a full disk for one.
pub fn print(text: &str) -> Result<(), OpsError> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(source) if source.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(OpsError::Io { what: "standard output".to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Prints a result as JSON.
///
/// # Errors
/// As [`print`].
pub fn print_json(result: &impl Serialize) -> Result<(), OpsError> {
    let text = serde_json::to_string_pretty(result)
        .map_err(|error| OpsError::Io { what: "the result as JSON".to_owned(), source: error.into() })?;
    print(&format!("{text}\n"))
}
