//! What can go wrong with throw-away servers, in words that say what to do.

use std::io;
use std::path::PathBuf;

/// Why a server could not be found, fetched, started or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ServersError {
    /// A directory that should hold a server does not.
    #[error("expected a PostgreSQL server at {}, {found}", path.display())]
    NotAServer { path: PathBuf, found: String },
    /// Nothing here has that major and no package client can get it.
    #[error("PostgreSQL {major} is not on this machine: {advice}")]
    NotAvailable { major: u32, advice: String },
    /// A program that was needed failed; its last words are kept.
    #[error("{program} failed ({status}): {output}")]
    Program { program: String, status: String, output: String },
    /// The server ended or did not get ready; the end of its log is kept.
    #[error("PostgreSQL {version} did not start: {reason}\n--- the end of its log ---\n{log}")]
    DidNotStart { version: String, reason: String, log: String },
    /// The server did not end within the deadline.
    #[error("PostgreSQL (process {pid}) did not stop within {seconds} s\n--- the end of its log ---\n{log}")]
    DidNotStop { pid: u32, seconds: u64, log: String },
    /// We are root, a server refuses to be, and there is no account to run it as.
    #[error(
        "servers refuse to run as root and there is no account {account:?} to run them as: create it, or set {variable}"
    )]
    NoAccount { account: String, variable: &'static str },
    /// A file or a process could not be handled.
    #[error("could not {doing}: {source}")]
    Io { doing: String, source: io::Error },
}

impl ServersError {
    /// For `map_err`: names what was being done.
    pub(super) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> ServersError {
        let doing = doing.into();
        move |source| ServersError::Io { doing, source }
    }
}

/// Runs `command` to its end.
///
/// # Errors
/// When it cannot be started or does not exit with 0; the last lines of its output are in the error.
pub(super) fn run(command: &mut std::process::Command) -> Result<String, ServersError> {
    let program = PathBuf::from(command.get_program())
        .file_name()
        .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let output = command
        .stdin(std::process::Stdio::null())
        .output()
        .map_err(ServersError::io(format!("run {program}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words = [output.stdout, output.stderr].concat();
    Err(ServersError::Program {
        program,
        status: output.status.to_string(),
        output: last_lines(&String::from_utf8_lossy(&words), 12),
    })
}

/// The last `count` lines of `text`.
pub(super) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines.get(lines.len().saturating_sub(count)..).unwrap_or_default().join("\n")
}
