//! One verb of the program under test, run to its end: what it printed and how it ended.

use crate::pair::Pair;
use crate::shadow::{Finished, ShadowCommand};
use crate::sql::PATIENCE;
use anyhow::{Context as _, Result};

/// A verb beside a pair: both servers are named, by the roles with few rights.
#[must_use]
pub fn command(pair: &Pair, verb: &str, flags: &[&str]) -> ShadowCommand {
    let mut args = vec![verb.to_owned()];
    let usual = [
        ("--publisher", pair.shadow_publisher_conninfo()),
        ("--subscriber", pair.shadow_subscriber_conninfo()),
    ];
    let is_given = |name: &str| flags.iter().any(|flag| flag.split('=').next() == Some(name));
    args.extend(
        usual.iter().filter(|(name, _)| !is_given(name)).map(|(name, value)| format!("{name}={value}")),
    );
    args.extend(flags.iter().map(|flag| (*flag).to_owned()));
    ShadowCommand::new(args)
}

/// Runs it to its end.
///
/// # Errors
/// When it cannot be started or does not end.
pub fn run(pair: &Pair, verb: &str, flags: &[&str]) -> Result<Finished> {
    command(pair, verb, flags).run(PATIENCE)
}

impl Finished {
    /// The exit status; -1 where a signal ended it.
    #[must_use]
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    /// What it printed, as JSON.
    ///
    /// # Errors
    /// When it is none.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.stdout)
            .with_context(|| format!("stdout: {}\nstderr: {}", self.stdout, self.stderr))
    }

    /// All it printed and logged, for the message of a failed assertion.
    #[must_use]
    pub fn all(&self) -> String {
        format!("exit {}\n{}\n{}", self.code(), self.stdout, self.stderr)
    }
}
