//! Promise 9: we cannot take the publisher down.
//!
//! Tries to break: a fast shutdown of the publisher while confirmations are impossible, `synchronous_standby_names`
//! that matches everybody, and a subscriber that hangs for longer than `wal_sender_timeout`.

use anyhow::Result;
use proto_tests::fault_proxy::Direction;
use proto_tests::pair::PairOptions;
use proto_tests::rig::{Rig, insert};
use proto_tests::sidecar::SLOT;
use proto_tests::sql::{PATIENCE, timed, wait_for};
use seqshadow::demo::servers::{ClusterOptions, Mode};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fast_shutdown_ends_while_the_subscriber_is_down() -> Result<()> {
    for major in [13, 17] {
        let rig = Rig::new(major, 15).await?;
        let shadow = rig.start(&[])?;
        rig.follows(100).await?;
        rig.pair.subscriber.kill9();
        // Far enough that no lead covers it: these ids cannot be confirmed.
        let id = rig.insert(20_000).await?;
        rig.pair.publisher.begin_stop(Mode::Fast);
        assert!(
            rig.pair.publisher.wait_stopped(Duration::from_secs(15)),
            "{major} does not stop:\n{}\n{}",
            rig.pair.publisher.log_tail(5),
            shadow.stderr_lines().join("\n")
        );
        rig.pair.publisher.resume()?;
        rig.pair.subscriber.resume()?;
        rig.wait_past(id).await?;
        rig.wait_confirmed(rig.pair.publisher_lsn().await?).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fast_shutdown_ends_and_the_stream_lives_while_the_subscriber_hangs() -> Result<()> {
    let options = PairOptions {
        publisher: ClusterOptions::default().set("wal_sender_timeout", "3s"),
        ..PairOptions::default()
    };
    let rig = Rig::with(17, 15, options).await?;
    let (proxy, address) = rig.faulty_subscriber().await?;
    let shadow = rig.start(&[&address])?;
    rig.follows(100).await?;
    let publisher = rig.pair.on_publisher().await?;
    let walsender = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1";
    let before: Option<i32> = publisher.query_one(walsender, &[&SLOT]).await?.get(0);
    proxy.stall(Direction::ToServer, true);
    let id = insert(&publisher, 20_000).await?;
    let past_them = rig.pair.publisher_lsn().await?;
    // Three times the publisher's patience with a client that says nothing.
    tokio::time::sleep(Duration::from_secs(9)).await;
    let after: Option<i32> = publisher.query_one(walsender, &[&SLOT]).await?.get(0);
    assert_eq!(before, after, "the walsender did not live:\n{}", rig.pair.publisher.log_tail(10));
    let now = rig.confirmed().await?;
    let without_them = now.is_some_and(|now| now < past_them);
    assert!(without_them, "confirmed {now:?}, with ids up to {past_them}, without receipts");
    rig.pair.publisher.begin_stop(Mode::Fast);
    assert!(
        rig.pair.publisher.wait_stopped(Duration::from_secs(15)),
        "it does not stop:\n{}\n{}",
        rig.pair.publisher.log_tail(5),
        shadow.stderr_lines().join("\n")
    );
    rig.pair.publisher.resume()?;
    proxy.stall(Direction::ToServer, false);
    rig.wait_past(id).await?;
    rig.wait_confirmed(rig.pair.publisher_lsn().await?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_never_wait_for_us() -> Result<()> {
    let rig = Rig::new(17, 15).await?;
    let (proxy, address) = rig.faulty_subscriber().await?;
    let shadow = rig.start(&[&address])?;
    // While it runs, and then from the start.
    rig.pair.publisher.configure(&[("synchronous_standby_names", "seqshadow")])?;
    shadow.wait_for_line("synchronous_standby_names of the publisher matches", PATIENCE)?;
    let publisher = rig.pair.on_publisher().await?;
    let shown = "SELECT sync_state = 'sync' FROM pg_stat_replication WHERE application_name = 'seqshadow'";
    wait_for(&rig.pair.publisher_conninfo(), "we are taken for a standby", shown).await?;
    // Nothing can be proven on the subscriber now, and still no commit waits.
    proxy.stall(Direction::ToServer, true);
    let id = commit_promptly(&publisher).await?;
    assert!(
        shadow
            .stderr_lines()
            .iter()
            .any(|line| line.contains("ERROR") && line.contains("commits would wait"))
    );
    // What was confirmed too early is made good by the running process itself.
    proxy.stall(Direction::ToServer, false);
    rig.wait_past(id).await?;
    rig.pair.publisher.configure(&[("synchronous_standby_names", "")])?;
    Ok(())
}

/// With `*` and nobody else connected, every commit waits for whoever comes: that is us.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_never_wait_for_us_with_a_star_from_the_start() -> Result<()> {
    let rig = Rig::new(15, 17).await?;
    let first = rig.start(&[])?;
    rig.pair.on_subscriber().await?.batch_execute("ALTER SUBSCRIPTION sub DISABLE").await?;
    let alone = "SELECT count(*) = 1 FROM pg_stat_replication";
    wait_for(&rig.pair.publisher_conninfo(), "only we are connected", alone).await?;
    rig.pair.publisher.configure(&[("synchronous_standby_names", "*")])?;
    drop(first);
    // From the start of this one the setting is there.
    let shadow = rig.start(&[])?;
    shadow.wait_for_line("commits would wait", PATIENCE)?;
    let publisher = rig.pair.on_publisher().await?;
    let id = commit_promptly(&publisher).await?;
    rig.wait_past(id).await?;
    rig.pair.publisher.configure(&[("synchronous_standby_names", "")])?;
    Ok(())
}

/// 200 commits, which must not be kept waiting; gives the last id.
async fn commit_promptly(publisher: &tokio_postgres::Client) -> Result<i64> {
    let commits = async {
        let mut id = 0;
        for _ in 0..200 {
            id = insert(publisher, 5).await?;
        }
        Ok(id)
    };
    let (id, took) = tokio::time::timeout(PATIENCE, timed(commits)).await??;
    eprintln!("200 commits took {took:?}");
    assert!(took < Duration::from_secs(10), "200 commits took {took:?}");
    Ok(id)
}
