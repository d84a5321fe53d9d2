//! The promise: whatever kind of sequence, and whatever majors, once the load has stopped the subscriber can take over.
//! Its next values collide with nothing, repeat nothing that the publisher ever gave out, keep to their lane, and on
//! the way there no sequence ever stepped back.
//!
//! `SEQSHADOW_TEST_MAJORS=all cargo test -p proto-tests --test promises matrix -- --nocapture` goes through every pair of majors
//! and prints a line for each.

use anyhow::{Context as _, Result, ensure};
use proto_tests::binary::binary;
use proto_tests::journal::Journal;
use proto_tests::load::{Load, LoadOptions};
use proto_tests::majors;
use proto_tests::oracle::{behind, judge};
use proto_tests::pair::Pair;
use proto_tests::sidecar;
use proto_tests::sql::{PATIENCE, Probe, wait_until};
use proto_tests::watcher::Watcher;
use proto_tests::zoo::Zoo;
use std::time::{Duration, Instant};
use tokio_postgres::Client;

/// How long each of the two loads of a pair goes on.
const LOAD: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_sequence_is_ahead_on_every_pair_of_majors() {
    let _ = binary(); // built before the clock runs
    let mut failures = Vec::new();
    for (publisher_major, subscriber_major) in majors::pairs() {
        let begun = Instant::now();
        let outcome = converge(publisher_major, subscriber_major).await;
        let (publisher, subscriber) = (version(publisher_major), version(subscriber_major));
        let word = if outcome.is_ok() { "pass" } else { "FAIL" };
        eprintln!("matrix: {publisher:>8} -> {subscriber:<8} {word} {:5.1} s", begun.elapsed().as_secs_f64());
        if let Err(error) = outcome {
            failures.push(format!("{publisher_major} to {subscriber_major}: {error:#}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

fn version(major: u32) -> String {
    // Distributions add to it: `15.18 (Debian 15.18-0+deb12u1)`.
    let found = majors::installation(major).map(|found| found.version.to_string()).unwrap_or_default();
    found
        .split(' ')
        .next()
        .filter(|version| !version.is_empty())
        .map_or_else(|| major.to_string(), str::to_owned)
}

async fn converge(publisher_major: u32, subscriber_major: u32) -> Result<()> {
    let pair = Pair::new(publisher_major, subscriber_major).await?;
    let zoo = Zoo::replicated(&pair).await?;
    let (publisher, subscriber) = pair.clients().await?;
    let watcher = Watcher::start(&pair.subscriber_conninfo(), &zoo);

    // It is started under load, as it will be in production.
    let load = start_load(&pair, &zoo, 1);
    // At the pace that it has by default: only ids that no row shows have to wait for a poll.
    let mut shadow = sidecar::start(&pair, &["--poll-interval=10s"])?;
    let mut journal = load.run_for(LOAD).await?;
    taken_over(&pair, &zoo, &journal, &publisher, &subscriber).await.context("partitions as themselves")?;

    if publisher_major >= 13 {
        // The same rows now come under the names of the roots, while seqshadow goes on.
        publisher.batch_execute("ALTER PUBLICATION pub SET (publish_via_partition_root = true)").await?;
        subscriber
            .batch_execute("ALTER SUBSCRIPTION sub REFRESH PUBLICATION WITH (copy_data = false)")
            .await?;
        pair.wait_for_sync().await?;
        let second = start_load(&pair, &zoo, 2).run_for(LOAD).await?;
        for index in 0..zoo.sequences.len() {
            second.entries(index).iter().for_each(|(draw, fate)| journal.record(index, *draw, *fate));
        }
        taken_over(&pair, &zoo, &journal, &publisher, &subscriber)
            .await
            .context("partitions as their root")?;
    }
    ensure!(shadow.is_running(), "it ended: {}", shadow.stderr_lines().join("\n"));
    let mut complaints = shadow.complaints();
    complaints.retain(|line| !is_of_an_undescribed_root(line, publisher_major));
    ensure!(complaints.is_empty(), "nothing went wrong, and yet: {complaints:?}");
    let watched = watcher.stop().await?;
    ensure!(watched.rounds > 10 && watched.setbacks.is_empty(), "{watched:?}");
    Ok(())
}

/// Publishers before 15 do not describe the root when an open stream begins to name it. The native subscriber of a 14
/// ends with `no relation map entry for remote relation ID …` then and connects again, and so do we.
fn is_of_an_undescribed_root(line: &str, publisher_major: u32) -> bool {
    publisher_major < 15
        && line.contains("the stream is interrupted")
        && line.contains("not described before")
}

fn start_load(pair: &Pair, zoo: &Zoo, seed: u64) -> Load {
    let options = LoadOptions {
        seed,
        two_phase: true,
        rows_max: 300,
        connections: 2,
        pause: Duration::from_millis(3),
        ..LoadOptions::default()
    };
    Load::start(&pair.publisher_conninfo(), zoo, options)
}

/// The load is over: waits until the subscriber has everything, then does what the application will do there.
async fn taken_over(
    pair: &Pair,
    zoo: &Zoo,
    journal: &Journal,
    publisher: &Client,
    subscriber: &Client,
) -> Result<()> {
    ensure!(journal.len() > 500, "a load of {} ids proves little", journal.len());
    let wrap_around = "SELECT nextval('zoo.cycling') FROM generate_series(1, 27)";
    publisher.execute(wrap_around, &[]).await?;
    pair.catch_up().await?;
    wait_until("every sequence ahead", PATIENCE, async || {
        let faults = behind(zoo, journal, None, subscriber).await?;
        Ok(Probe::when(faults.is_empty(), || format!("{faults:?}")))
    })
    .await?;
    let cycling = zoo.states_sql((0..zoo.sequences.len()).filter(|index| zoo.sequences[*index].cycle));
    wait_until("cycling sequences alike", PATIENCE, async || {
        let there = states(publisher, &cycling).await?;
        let here = states(subscriber, &cycling).await?;
        ensure!(
            !there.is_empty() && there.iter().all(|(_, called)| *called),
            "nobody called them: {there:?}"
        );
        Ok(Probe::when(there == here, || format!("{there:?} there, {here:?} here")))
    })
    .await?;
    // As a session of the application would: one that began before would still have ids cached (CACHE).
    let faults = judge(zoo, journal, publisher, &pair.on_subscriber().await?, 5).await?;
    ensure!(faults.is_empty(), "{} promises broken: {faults:#?}", faults.len());
    Ok(())
}

async fn states(client: &Client, sql: &str) -> Result<Vec<(i64, bool)>> {
    Ok(client.query(sql, &[]).await?.iter().map(|row| (row.get(1), row.get(2))).collect())
}
