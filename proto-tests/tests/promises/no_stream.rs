//! The promise: the sequences are kept ahead also while no stream flows, and the WAL ceiling holds then too.
//!
//! Tries to break: the settings are the program's own, so that nothing but the promise makes it look often; the load
//! goes on; and what keeps the stream away lasts.

use anyhow::Result;
use proto_tests::pair::Pair;
use proto_tests::rig::{Rig, SEQUENCE, insert};
use proto_tests::sequence::{next_value, past};
use proto_tests::shadow::ShadowCommand;
use proto_tests::sidecar::SLOT;
use proto_tests::sql::{PATIENCE, connect, wait_until};
use std::time::{Duration, Instant};
use tokio::time::{MissedTickBehavior, interval, sleep};

/// `seqshadow` as it is without any setting.
fn with_defaults(pair: &Pair) -> ShadowCommand {
    ShadowCommand::new([
        format!("--slot={SLOT}"),
        format!("--publisher={}", pair.shadow_publisher_conninfo()),
        format!("--subscriber={}", pair.shadow_subscriber_conninfo()),
    ])
}

/// How long a pace takes to be known: some polls, and the advance after them.
const SETTLING: Duration = Duration::from_secs(5);

/// Longer than a busy machine keeps one of the processes from running, much shorter than the poll interval.
const MOMENT: Duration = Duration::from_secs(1);

/// 200 ids a second for `lasting`. Gives the longest time for which the subscriber's sequence was behind its rows, the
/// settling at the start left out.
async fn longest_behind_under_load(rig: &Rig, lasting: Duration) -> Result<Duration> {
    let (publisher, subscriber) = rig.pair.clients().await?;
    let load = tokio::spawn(async move {
        let until = Instant::now() + lasting;
        let mut tick = interval(Duration::from_millis(100));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while Instant::now() < until {
            tick.tick().await;
            insert(&publisher, 20).await?;
        }
        anyhow::Ok(())
    });
    sleep(SETTLING).await;
    let mut longest = Duration::ZERO;
    let mut behind_since: Option<Instant> = None;
    while !load.is_finished() {
        // The rows first: what the sequence does after that is in its favour.
        let row = subscriber.query_one("SELECT coalesce(max(id), 0) FROM orders", &[]).await?;
        let (max, next): (i64, i64) = (row.get(0), next_value(&subscriber, SEQUENCE).await?);
        behind_since = (next <= max).then(|| behind_since.unwrap_or_else(Instant::now));
        longest = longest.max(behind_since.map_or(Duration::ZERO, |since| since.elapsed()));
        sleep(Duration::from_millis(20)).await;
    }
    load.await??;
    Ok(longest)
}

/// The cutover: the load has ended, its rows are here, and the application inserts.
async fn the_subscriber_takes_over(rig: &Rig) -> Result<()> {
    rig.pair.catch_up().await?;
    let subscriber = rig.pair.on_subscriber().await?;
    Ok(subscriber.batch_execute("INSERT INTO orders (note) VALUES ('after the cutover')").await?)
}

/// A writing transaction in another database keeps the slot from being made, for as long as it likes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_is_followed_while_the_slot_waits() -> Result<()> {
    let rig = Rig::new(17, 15).await?;
    let writer = connect(&rig.pair.publisher.conninfo("postgres")).await?;
    writer.batch_execute("BEGIN; SELECT txid_current()").await?;
    let shadow = with_defaults(&rig.pair).spawn()?;
    shadow.wait_for_line("the sequences are protected", PATIENCE)?;
    let behind = longest_behind_under_load(&rig, Duration::from_secs(20)).await?;
    eprintln!("behind for {behind:?} at most");
    assert!(behind < MOMENT, "behind for {behind:?}");
    the_subscriber_takes_over(&rig).await?;

    // An id typed in is in no sequence: the tables are looked at too.
    rig.pair.on_publisher().await?.batch_execute("INSERT INTO orders (id) VALUES (1000000)").await?;
    let subscriber = rig.pair.on_subscriber().await?;
    let soon = Duration::from_secs(30);
    wait_until("an id typed in", soon, async || past(&subscriber, SEQUENCE, 1_000_000).await).await?;
    let lines = shadow.stderr_lines();
    assert!(!lines.iter().any(|line| line.contains("streaming slot=")), "{lines:#?}");
    Ok(())
}
