//! One sequence, asked by its name: where it stands, what it would give next, and the wait for it to be ahead.

use crate::sql::{PATIENCE, Probe, wait_until};
use anyhow::{Context as _, Result};
use seqshadow::plan::State;
use seqshadow::types::quote_literal;
use tokio_postgres::{Client, Row};

/// SQL for `last_value bigint, is_called bool`, to select from the sequence. Of one that was called `last_value` comes
/// from the function, which locks the page: `nextval` has the value that it logs ahead in the tuple for a moment, and a
/// plain SELECT may see it.
#[must_use]
pub fn state_columns(sequence: &str) -> String {
    format!("coalesce(pg_sequence_last_value({}::regclass), last_value), is_called", quote_literal(sequence))
}

/// Its state and its increment.
async fn read(client: &Client, sequence: &str) -> Result<(State, i64)> {
    let sql = format!(
        "SELECT {}, seqincrement FROM {sequence}, pg_sequence WHERE seqrelid = {}::regclass",
        state_columns(sequence),
        quote_literal(sequence)
    );
    let row: Row = client.query_one(&sql, &[]).await.with_context(|| sequence.to_owned())?;
    Ok((State { last_value: row.get(0), is_called: row.get(1) }, row.get(2)))
}

/// What `nextval` would give in this state (bounds aside).
#[must_use]
pub fn next_of(state: State, increment: i64) -> i64 {
    if state.is_called { state.last_value.saturating_add(increment) } else { state.last_value }
}

/// `last_value` and `is_called`.
///
/// # Errors
/// When there is no such sequence.
pub async fn state(client: &Client, sequence: &str) -> Result<State> {
    Ok(read(client, sequence).await?.0)
}

/// What `nextval` would give now, without calling it (bounds aside).
///
/// # Errors
/// When there is no such sequence.
pub async fn next_value(client: &Client, sequence: &str) -> Result<i64> {
    let (state, increment) = read(client, sequence).await?;
    Ok(next_of(state, increment))
}

/// Waits until the next value is past `id`, in the direction of the increment.
///
/// # Errors
/// When it is not within [`PATIENCE`].
pub async fn wait_past(client: &Client, sequence: &str, id: i64) -> Result<()> {
    wait_until(&format!("{sequence} past {id}"), PATIENCE, async || past(client, sequence, id).await).await
}

/// Whether the next value is past `id`, for a [`wait_until`] of one's own.
///
/// # Errors
/// When there is no such sequence.
pub async fn past(client: &Client, sequence: &str, id: i64) -> Result<Probe> {
    let (state, increment) = read(client, sequence).await?;
    let next = next_of(state, increment);
    Ok(Probe::when((next - id) * increment.signum() > 0, || format!("the next value is {next}")))
}

/// Waits until `last_value` fulfils `condition`, which `what` describes, and gives it.
///
/// # Errors
/// When it does not within [`PATIENCE`].
pub async fn wait_for_value(
    client: &Client,
    sequence: &str,
    what: &str,
    condition: impl Fn(i64) -> bool,
) -> Result<i64> {
    let mut found = 0;
    wait_until(&format!("{sequence} {what}"), PATIENCE, async || {
        found = state(client, sequence).await?.last_value;
        Ok(Probe::when(condition(found), || found.to_string()))
    })
    .await?;
    Ok(found)
}
