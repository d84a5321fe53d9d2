//! `seqshadow` beside a [`Pair`], as an operator would start it: roles with few rights, a slot of its own, and polls
//! so frequent that a test need not wait for them.

use crate::pair::Pair;
use crate::shadow::{Shadow, ShadowCommand};
use crate::sql::{Probe, wait_until};
use anyhow::{Context as _, Result};
use seqshadow::types::quote_literal;
use std::time::Duration;
use tokio_postgres::Client;

/// The slot of [`start`].
pub const SLOT: &str = "shadow";
/// How long anything that must happen may take on a slow machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// `seqshadow` for this pair with more arguments, which beat ours. Every sixth poll is one of everything.
#[must_use]
pub fn command(pair: &Pair, more: &[&str]) -> ShadowCommand {
    let (publisher, subscriber) = (pair.shadow_publisher_conninfo(), pair.shadow_subscriber_conninfo());
    let fixed = ["--slot", SLOT, "--publisher", &publisher, "--subscriber", &subscriber];
    let pace = [["--poll-interval", "300ms"], ["--refresh-interval", "1s"]];
    let pace = pace.iter().filter(|[flag, _]| !more.contains(flag)).flatten();
    let all = fixed.iter().chain(pace).chain(more).map(|arg| (*arg).to_owned());
    ShadowCommand::new(all)
}

/// Starts it and waits until it says that it protects the sequences and streams.
///
/// # Errors
/// When it does neither within [`PATIENCE`].
pub fn start(pair: &Pair, more: &[&str]) -> Result<Shadow> {
    let shadow = command(pair, more).spawn()?;
    shadow.wait_for_line("the sequences are protected", PATIENCE)?;
    shadow.wait_for_line("streaming slot=", PATIENCE)?;
    Ok(shadow)
}

/// What `nextval` would give now, without calling it (bounds aside).
///
/// # Errors
/// When there is no such sequence.
pub async fn next_value(client: &Client, sequence: &str) -> Result<i64> {
    let sql = format!(
        "SELECT last_value + CASE WHEN is_called THEN seqincrement ELSE 0 END FROM {sequence}, pg_sequence \
         WHERE seqrelid = {}::regclass",
        quote_literal(sequence)
    );
    Ok(client.query_one(&sql, &[]).await.with_context(|| sequence.to_owned())?.get(0))
}

/// Waits until the next value of `sequence` is past `id`, in the direction of its increment.
///
/// # Errors
/// When it is not within [`PATIENCE`].
pub async fn wait_past(client: &Client, sequence: &str, id: i64) -> Result<()> {
    let sql = format!(
        "SELECT sign(seqincrement)::bigint FROM pg_sequence WHERE seqrelid = {}::regclass",
        quote_literal(sequence)
    );
    let direction: i64 = client.query_one(&sql, &[]).await?.get(0);
    wait_until(&format!("{sequence} past {id}"), PATIENCE, async || {
        let next = next_value(client, sequence).await?;
        Ok(Probe::when((next - id) * direction > 0, || format!("the next value is {next}")))
    })
    .await
}
