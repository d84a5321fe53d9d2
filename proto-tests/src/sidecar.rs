//! `seqshadow` beside a [`Pair`], as an operator would start it: the roles with few rights, a slot of its own, and
//! looking so often that a test need not wait for it.

use crate::pair::Pair;
use crate::shadow::{Shadow, ShadowCommand};
use anyhow::Result;

/// Its slot, unless a test names another.
pub const SLOT: &str = "ours";

/// How often it tells the publisher where it is.
const REPORTS: &str = "--status-interval=1s";
/// How often it looks for what the stream does not show.
const LOOKS: [&str; 3] = ["--poll-interval=300ms", "--verify-interval=200ms", "--refresh-interval=1s"];

/// `seqshadow` for this pair. `flags` (each `--flag=value`) replace the usual ones; with a `--poll-interval` among them
/// it looks for nothing else more often than it does by default either, so that nothing finds what the polls shall not.
#[must_use]
pub fn command(pair: &Pair, flags: &[&str]) -> ShadowCommand {
    let whom = [
        format!("--slot={SLOT}"),
        format!("--publisher={}", pair.shadow_publisher_conninfo()),
        format!("--subscriber={}", pair.shadow_subscriber_conninfo()),
    ];
    ShadowCommand::new(complete(whom, flags))
}

/// The usual flags that `flags` leave standing, and `flags`.
fn complete(whom: [String; 3], flags: &[&str]) -> Vec<String> {
    let name = |flag: &str| flag.split('=').next().unwrap_or_default().to_owned();
    let given: Vec<String> = flags.iter().map(|flag| name(flag)).collect();
    let own_pace = given.iter().any(|name| name == "--poll-interval");
    let looks = LOOKS.into_iter().filter(|_| !own_pace);
    let pace = [REPORTS].into_iter().chain(looks).map(str::to_owned);
    let usual = whom.into_iter().chain(pace).filter(|flag| !given.contains(&name(flag)));
    usual.chain(flags.iter().map(|flag| (*flag).to_owned())).collect()
}

/// Starts it and waits until it says that it protects the sequences and streams.
///
/// # Errors
/// When it does not.
pub fn start(pair: &Pair, flags: &[&str]) -> Result<Shadow> {
    command(pair, flags).start()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(flags: &[&str]) -> String {
        complete(["--slot=ours", "--publisher=p", "--subscriber=s"].map(str::to_owned), flags).join(" ")
    }

    #[test]
    fn given_flags_replace_the_usual_ones() {
        let pace = "--status-interval=1s --poll-interval=300ms --verify-interval=200ms --refresh-interval=1s";
        assert_eq!(completed(&[]), format!("--slot=ours --publisher=p --subscriber=s {pace}"));
        assert_eq!(
            completed(&["--slot=other", "--status-interval=5s", "--poll-interval=1h"]),
            "--publisher=p --subscriber=s --slot=other --status-interval=5s --poll-interval=1h"
        );
    }
}
