//! Promise 2: what we confirm is never past ids that are not durable on the subscriber.
//!
//! Tries to break: the moments at which a confirmation without proof would be wrong for long enough to be caught. A
//! sequence that cannot be moved because somebody has locked it, a sequence that somebody else had moved far enough, but
//! whose WAL is not flushed when the subscriber is killed, and one that a truncate on its way will set back.

use anyhow::Result;
use proto_tests::pair::PairOptions;
use proto_tests::publication::{Publication, Subscription};
use proto_tests::rig::{Rig, SEQUENCE, insert};
use proto_tests::sequence::next_value;
use proto_tests::shadow::Signal;
use proto_tests::sql::PATIENCE;
use seqshadow::demo::servers::ClusterOptions;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_sequence_holds_the_confirmation() -> Result<()> {
    let rig = Rig::new(17, 15).await?;
    let shadow = rig.start(&["--lead=32"])?;
    rig.follows(10).await?;
    let locker = rig.pair.on_subscriber().await?;
    locker.batch_execute("BEGIN; ALTER SEQUENCE orders_id_seq OWNER TO postgres").await?;
    let before = rig.pair.publisher_lsn().await?;
    let id = rig.insert(5000).await?;
    let after = rig.pair.publisher_lsn().await?;
    shadow.wait_for_line("the sequence is held", PATIENCE)?;
    // Several status intervals, with more WAL and more commits of other tables to be tempted by.
    let publisher = rig.pair.on_publisher().await?;
    for round in 0..8 {
        publisher.batch_execute(&format!("CREATE TABLE other_{round} (n int)")).await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let confirmed = rig.confirmed().await?;
        let short = confirmed.is_some_and(|confirmed| confirmed < after);
        assert!(short, "confirmed {confirmed:?}, past {after} (before the ids: {before})");
    }
    locker.batch_execute("ROLLBACK").await?;
    rig.wait_past(id).await?;
    rig.wait_confirmed(after).await
}

/// The sequence stands far past the new ids, but the truncate will take it back when it is applied.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_a_sequence_stands_before_a_truncate_proves_nothing_for_after_it() -> Result<()> {
    let rig = Rig::new(17, 15).await?;
    let shadow = rig.start(&["--lead=32"])?;
    rig.follows(5000).await?;
    rig.pair.catch_up().await?;
    let locker = rig.pair.on_subscriber().await?;
    locker.batch_execute("BEGIN; LOCK TABLE orders").await?;
    let publisher = rig.pair.on_publisher().await?;
    publisher.batch_execute("TRUNCATE orders RESTART IDENTITY").await?;
    let truncated = rig.pair.publisher_lsn().await?;
    let id = rig.insert(200).await?;
    let after = rig.pair.publisher_lsn().await?;
    shadow.wait_for_line("restarted on the publisher", PATIENCE)?;
    for round in 0..8 {
        publisher.batch_execute(&format!("CREATE TABLE other_{round} (n int)")).await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let confirmed = rig.confirmed().await?;
        let short = confirmed.is_some_and(|confirmed| confirmed < truncated);
        assert!(short, "confirmed {confirmed:?}, past the truncate at {truncated}, which is not applied");
    }
    locker.batch_execute("ROLLBACK").await?;
    rig.wait_confirmed(after).await?;
    let next = next_value(&rig.pair.on_subscriber().await?, SEQUENCE).await?;
    assert!(next > id, "confirmed {after}, but the next value is {next}, with ids up to {id}");
    Ok(())
}

/// Nobody ever called it, for there is nothing to move: it is past every id all the same, and must hold nothing back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sequence_put_far_ahead_by_hand_holds_nothing_back() -> Result<()> {
    let rig = Rig::new(17, 15).await?;
    let subscriber = rig.pair.on_subscriber().await?;
    subscriber.batch_execute("ALTER SEQUENCE orders_id_seq RESTART WITH 1000000").await?;
    let _shadow = rig.start(&["--lead=32"])?;
    rig.insert(200).await?;
    rig.wait_confirmed(rig.pair.publisher_lsn().await?).await?;
    assert_eq!(next_value(&subscriber, SEQUENCE).await?, 1_000_000);
    Ok(())
}

/// A subscription that was left behind, with its slot, applies nothing: it is not what a truncate waits for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_truncate_waits_for_no_dead_subscription() -> Result<()> {
    let rig = Rig::new(16, 15).await?;
    rig.pair.publish(&Publication::of("old", &["orders"])).await?;
    rig.pair.subscribe(&Subscription::to("dead", &["old"])).await?;
    rig.pair.wait_for_sync().await?;
    rig.pair.on_subscriber().await?.batch_execute("ALTER SUBSCRIPTION dead DISABLE").await?;
    let shadow = rig.start(&["--subscription=sub"])?;
    rig.follows(1000).await?;
    rig.pair.on_publisher().await?.batch_execute("TRUNCATE orders RESTART IDENTITY").await?;
    let id = rig.insert(200).await?;
    let after = rig.pair.publisher_lsn().await?;
    rig.wait_confirmed(after).await?;
    shadow.wait_for_line("restarted on the publisher", PATIENCE)?;
    assert!(next_value(&rig.pair.on_subscriber().await?, SEQUENCE).await? > id);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_moved_counts_only_once_it_is_flushed() -> Result<()> {
    // The WAL writer is slow, so that what was committed asynchronously stays in memory for long. Less than a page of
    // it: a whole page wakes the WAL writer up, and what it has written survives the kill of a process.
    let options = PairOptions {
        subscriber: ClusterOptions::default().set("wal_writer_delay", "3s").set("autovacuum", "off"),
        ..PairOptions::default()
    };
    let rig = Rig::with(17, 15, options).await?;
    rig.pair.on_subscriber().await?.batch_execute("ALTER SUBSCRIPTION sub DISABLE").await?;
    let mut shadow = rig.start(&["--lead=32"])?;
    for round in 1..=4 {
        let other = rig.pair.on_subscriber().await?;
        other
            .batch_execute(
                "SET synchronous_commit = off; SELECT count(nextval('orders_id_seq')) FROM generate_series(1, 600)",
            )
            .await?;
        let publisher = rig.pair.on_publisher().await?;
        let id = insert(&publisher, 300).await?;
        let lsn = rig.pair.publisher_lsn().await?;
        rig.wait_confirmed(lsn).await?;
        rig.pair.subscriber.kill9();
        shadow.signal(Signal::STOP);
        rig.pair.subscriber.resume()?;
        let next = next_value(&rig.pair.on_subscriber().await?, SEQUENCE).await?;
        shadow.signal(Signal::CONT);
        assert!(next > id, "round {round}: {id} was confirmed, and after the crash the next value is {next}");
        rig.wait_past(id).await?;
        shadow.wait_for_line("the subscriber is back", PATIENCE)?;
    }
    Ok(())
}
