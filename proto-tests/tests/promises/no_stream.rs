//! The promise: the sequences are kept ahead also while no stream flows, and the WAL ceiling holds then too.
//!
//! Tries to break: the settings are the program's own, so that nothing but the promise makes it look often; the load
//! goes on; and what keeps the stream away lasts.

use anyhow::Result;
use proto_tests::pair::{Pair, PairOptions};
use proto_tests::rig::{Rig, SEQUENCE, insert};
use proto_tests::sequence::{next_value, past};
use proto_tests::shadow::{Shadow, ShadowCommand};
use proto_tests::sidecar::SLOT;
use proto_tests::sql::{PATIENCE, Probe, connect, wait_for, wait_until};
use seqshadow::conninfo::{Conninfo, Environment};
use seqshadow::publisher::connection::ReplicationConnection;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
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

/// Takes every walsender of the publisher that is free, until it is aborted, and lets go of them then.
fn others_take_every_walsender(rig: &Rig) -> Result<JoinHandle<()>> {
    let conninfo = Conninfo::parse(&rig.pair.publisher_conninfo(), &Environment::default())?;
    Ok(tokio::spawn(async move {
        let mut held = Vec::new();
        loop {
            match ReplicationConnection::open(&conninfo).await {
                Ok(connection) => held.push(connection),
                Err(_) => sleep(Duration::from_millis(30)).await,
            }
        }
    }))
}

const OURS_IS_IDLE: &str =
    "SELECT count(*) = 1 FROM pg_replication_slots WHERE slot_name = 'ours' AND NOT active";
const OURS_IS_GONE: &str = "SELECT count(*) = 0 FROM pg_replication_slots WHERE slot_name = 'ours'";

/// The stream was cut, and others use all of `max_wal_senders`: it cannot be opened again, while the slot goes on
/// holding back WAL. The ceiling counts all the same, and the sequences are followed all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ceiling_counts_where_the_stream_cannot_be_opened() -> Result<()> {
    let mut options = PairOptions::default();
    options.publisher = options.publisher.set("max_wal_senders", "4");
    let rig = Rig::with(17, 15, options).await?;
    let shadow = with_defaults(&rig.pair).arg("--max-retained-wal=64MB").start()?;
    rig.follows(100).await?;
    let publisher = rig.pair.on_publisher().await?;
    let others = others_take_every_walsender(&rig)?;
    let cut = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = 'ours' AND active";
    wait_until("the stream cut, and all walsenders taken", PATIENCE, async || {
        publisher.batch_execute(cut).await?;
        sleep(Duration::from_secs(1)).await;
        let idle: bool = publisher.query_one(OURS_IS_IDLE, &[]).await?.get(0);
        Ok(Probe::when(idle, || "it came back".to_owned()))
    })
    .await?;

    // Below the ceiling the slot stays.
    let behind = longest_behind_under_load(&rig, Duration::from_secs(10)).await?;
    assert!(behind < MOMENT, "behind for {behind:?}");
    assert!(publisher.query_one(OURS_IS_IDLE, &[]).await?.get::<_, bool>(0));

    let bulk =
        "SELECT pg_logical_emit_message(false, 'bulk', repeat('x', 1000)) FROM generate_series(1, 90000)";
    publisher.batch_execute(bulk).await?;
    wait_for(&rig.pair.publisher_conninfo(), "the slot to be given up", OURS_IS_GONE).await?;
    shadow.wait_for_line("its stream cannot be opened", PATIENCE)?;

    others.abort();
    shadow.wait_for_line("recovered: the stream goes on", PATIENCE)?;
    rig.follows(10_000).await?;
    let lines = shadow.stderr_lines();
    let count = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
    assert_eq!(count("its stream cannot be opened"), 1, "{lines:#?}");
    assert_eq!(count("replication slot created"), 2, "{lines:#?}");
    Ok(())
}

/// What was said more than `often` times, whatever the numbers in it.
fn repeated(shadow: &Shadow, often: usize) -> Vec<String> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for line in shadow.stderr_lines() {
        let said = line.chars().filter(|c| !c.is_ascii_digit()).collect();
        *counts.entry(said).or_default() += 1;
    }
    counts.into_iter().filter(|(_, count)| *count > often).map(|(said, _)| said).collect()
}

/// Each retry failed with a warning of its own: those of an hour are a thousand, and say what one does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_told_once_and_its_end_too() -> Result<()> {
    let rig = Rig::new(17, 15).await?;
    let (proxy, address) = rig.faulty_publisher().await?;
    let shadow = rig.start(&[&address])?;
    let before = proxy.counts().accepted;
    proxy.refuse(true);
    proxy.cut();
    let retries = || proxy.counts().accepted - before;
    wait_until("ten attempts of stream and polls", PATIENCE, async || {
        Ok(Probe::when(retries() >= 10, || format!("{}", retries())))
    })
    .await?;
    proxy.refuse(false);
    shadow.wait_for_line("recovered: the stream goes on", PATIENCE)?;
    shadow.wait_for_line("the publisher is polled again", PATIENCE)?;
    assert_eq!(repeated(&shadow, 1), Vec::<String>::new());
    Ok(())
}

/// A stream that ends soon after it begins, each time, has recovered only when one lasts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_comes_and_goes_is_told_so_few_times() -> Result<()> {
    let rig = Rig::new(17, 15).await?;
    let shadow = rig.start(&["--log-level=debug"])?;
    let cut = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = 'ours' AND active";
    let publisher = rig.pair.on_publisher().await?;
    let ends = || shadow.stderr_lines().iter().filter(|line| line.contains("the interruption lasts")).count();
    wait_until("six streams cut", PATIENCE, async || {
        publisher.batch_execute(cut).await?;
        Ok(Probe::when(ends() >= 6, || format!("{}", ends())))
    })
    .await?;
    let seen = shadow.stderr_lines().len();
    shadow.wait_for_line_after(seen, "recovered: the stream goes on", PATIENCE)?;
    let often = repeated(&shadow, 2).into_iter().filter(|line| !line.contains("DEBUG"));
    assert_eq!(often.collect::<Vec<_>>(), Vec::<String>::new());
    Ok(())
}
