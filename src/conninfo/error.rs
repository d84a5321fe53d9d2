//! Why a connection string, its environment or one of its files cannot be used.
//!
//! No variant carries a password: where the text at fault may be part of one, its place is told instead of the text.

use std::path::PathBuf;

/// A connection setting that cannot be used; the message says what was expected and what was found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConninfoError {
    /// A keyword without `=`.
    #[error("missing \"=\" after {word} in the connection string")]
    MissingEquals { word: String },
    /// A `'` that is never closed.
    #[error("unterminated quoted string in the connection string (the value of {keyword})")]
    UnterminatedQuote { keyword: String },
    /// A keyword that libpq does not know either.
    #[error("invalid connection option {keyword}{}", hint(.nearest))]
    UnknownKeyword { keyword: String, nearest: Option<&'static str> },
    /// A URI that does not follow libpq's grammar.
    #[error("invalid connection URI: {reason}")]
    Uri { reason: String },
    /// A value outside of what its keyword allows.
    #[error("invalid {keyword} value: expected {expected}, got {got}")]
    InvalidValue { keyword: &'static str, expected: String, got: String },
    /// Lists of hosts, addresses and ports that do not fit each other.
    #[error("could not match {got} {what} to {expected} {to}")]
    ListLength { what: &'static str, got: usize, to: &'static str, expected: usize },
    /// Two settings that exclude each other.
    #[error("{0}")]
    Conflict(String),
    /// libpq knows it, we do not do it, and leaving it out would be weaker or different than asked.
    #[error("{setting} is not supported: {reason}")]
    Unsupported { setting: String, reason: &'static str },
    /// The service is in none of the service files.
    #[error("definition of service {service:?} not found (looked in {})", list(.looked_in))]
    ServiceNotFound { service: String, looked_in: Vec<PathBuf> },
    /// A line of a service file that cannot be used.
    #[error("service file {}, line {line}: {reason}", .path.display())]
    ServiceFile { path: PathBuf, line: usize, reason: String },
    /// A file that was named but cannot be read.
    #[error("could not read {what} {}: {source}", .path.display())]
    File { what: &'static str, path: PathBuf, source: std::io::Error },
    /// There is no user name to connect as.
    #[error("no user name: neither the connection string, PGUSER nor the operating system gives one")]
    NoUser,
    /// A zero byte, which no startup message can carry.
    #[error("the value of {keyword:?} contains a zero byte")]
    ZeroByte { keyword: &'static str },
}

fn hint(nearest: &Option<&'static str>) -> String {
    nearest.map(|name| format!(" (did you mean {name:?}?)")).unwrap_or_default()
}

fn list(paths: &[PathBuf]) -> String {
    if paths.is_empty() {
        return "no file: there is no home directory".to_owned();
    }
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}
