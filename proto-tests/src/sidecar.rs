//! `seqshadow` beside a [`Pair`], as an operator would start it: the roles with few rights, a slot of its own, and
//! looking so often that a test need not wait for it.

use crate::pair::Pair;
use crate::shadow::{Shadow, ShadowCommand};
use anyhow::Result;

/// Its slot, unless a test names another.
pub const SLOT: &str = "ours";

/// How often it looks and reports.
const PACE: [&str; 4] =
    ["--poll-interval=300ms", "--verify-interval=200ms", "--refresh-interval=1s", "--status-interval=1s"];

/// `seqshadow` for this pair. `flags` (each `--flag=value`) replace the usual ones; with a `--poll-interval` among them
/// it looks for nothing else more often than it does by default either, so that nothing finds what the polls shall not.
#[must_use]
pub fn command(pair: &Pair, flags: &[&str]) -> ShadowCommand {
    let name = |flag: &str| flag.split('=').next().unwrap_or_default().to_owned();
    let given: Vec<String> = flags.iter().map(|flag| name(flag)).collect();
    let own_pace = given.iter().any(|name| name == "--poll-interval");
    let looks = |flag: &str| !flag.starts_with("--status-interval");
    let whom = [
        format!("--slot={SLOT}"),
        format!("--publisher={}", pair.shadow_publisher_conninfo()),
        format!("--subscriber={}", pair.shadow_subscriber_conninfo()),
    ];
    let pace = PACE.into_iter().filter(|flag| !(own_pace && looks(flag))).map(str::to_owned);
    let usual = whom.into_iter().chain(pace).filter(|flag| !given.contains(&name(flag)));
    ShadowCommand::new(usual.chain(flags.iter().map(|flag| (*flag).to_owned())))
}

/// Starts it and waits until it says that it protects the sequences and streams.
///
/// # Errors
/// When it does not.
pub fn start(pair: &Pair, flags: &[&str]) -> Result<Shadow> {
    command(pair, flags).start()
}
