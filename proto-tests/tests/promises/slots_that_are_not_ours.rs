//! Streaming from a slot that belongs to somebody else, and confirming, would lose his rows for good.
//!
//! Tries to break: every kind of foreign slot, named by mistake in `--slot`. Each must be refused with exit code 4 and
//! the reason, and be as it was before. Only another seqshadow is waited for.

use anyhow::{Context as _, Result};
use proto_tests::majors::installation;
use proto_tests::pair::confirmed;
use proto_tests::rig::{Rig, insert};
use proto_tests::sidecar::SLOT;
use proto_tests::sql::{PATIENCE, connect, wait_for};
use seqshadow::types::quote_literal;
use std::process::{Child, Command, Stdio};

/// Exit code 4, `reason` in the message, and the slot untouched.
async fn refused(rig: &Rig, slot: &str, reason: &str) -> Result<()> {
    let publisher = rig.pair.on_publisher().await?;
    let before = confirmed(&publisher, slot).await?;
    let run = rig.run(&[&format!("--slot={slot}")])?;
    assert_eq!(run.status.code(), Some(4), "{slot}: {}", run.stderr);
    assert!(run.stderr.contains(reason), "{slot}: expected {reason:?} in\n{}", run.stderr);
    assert!(run.stderr.contains(slot), "{slot} is not named:\n{}", run.stderr);
    let there = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1";
    let there: i64 = publisher.query_one(there, &[&slot]).await?.get(0);
    assert_eq!(there, 1, "{slot} was dropped");
    assert_eq!(confirmed(&publisher, slot).await?, before, "{slot} was confirmed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_slots_are_refused_and_left_as_they_are() -> Result<()> {
    let rig = Rig::new(15, 17).await?;
    let publisher = rig.pair.on_publisher().await?;
    // The subscription is stopped, so that its slot is free and has rows to lose.
    rig.pair.on_subscriber().await?.batch_execute("ALTER SUBSCRIPTION sub DISABLE").await?;
    let free = "SELECT NOT active FROM pg_replication_slots WHERE slot_name = 'sub'";
    wait_for(&rig.pair.publisher_conninfo(), "the subscription's slot is free", free).await?;
    insert(&publisher, 100).await?;
    refused(&rig, "sub", "belongs to subscription \"sub\"").await?;

    let logical =
        |name: &str, plugin: &str| format!("SELECT pg_create_logical_replication_slot('{name}', '{plugin}')");
    publisher.batch_execute(&logical("pg_16394_sync_16385_7432", "pgoutput")).await?;
    refused(&rig, "pg_16394_sync_16385_7432", "table synchronization").await?;

    publisher.batch_execute("SELECT pg_create_physical_replication_slot('phys', true)").await?;
    refused(&rig, "phys", "is a physical slot").await?;

    publisher.batch_execute("CREATE DATABASE other").await?;
    let other = connect(&rig.pair.publisher.conninfo("other")).await?;
    other.batch_execute(&logical("elsewhere", "pgoutput")).await?;
    refused(&rig, "elsewhere", "belongs to database \"other\"").await?;

    publisher
        .batch_execute("SELECT pg_create_logical_replication_slot('two', 'pgoutput', false, true)")
        .await?;
    refused(&rig, "two", "two_phase").await?;

    match publisher.batch_execute(&logical("decoded", "test_decoding")).await {
        Ok(()) => refused(&rig, "decoded", "output plugin test_decoding").await?,
        Err(error) => eprintln!("SKIPPED the slot of another plugin: {error}"),
    }

    // pg_subscription is shared: a subscription in another database of the same subscriber has a slot to lose too.
    rig.pair.on_subscriber().await?.batch_execute("CREATE DATABASE reporting").await?;
    let reporting = connect(&rig.pair.subscriber.conninfo("reporting")).await?;
    reporting.batch_execute("CREATE TABLE orders (id bigint PRIMARY KEY, note text)").await?;
    publisher.batch_execute(&logical("reporting_slot", "pgoutput")).await?;
    let subscribe = format!(
        "CREATE SUBSCRIPTION report CONNECTION {} PUBLICATION pub
           WITH (create_slot = false, slot_name = reporting_slot, enabled = false, copy_data = false)",
        quote_literal(&rig.pair.publisher_conninfo())
    );
    reporting.batch_execute(&subscribe).await?;
    insert(&publisher, 3).await?;
    refused(&rig, "reporting_slot", "belongs to subscription \"report\"").await?;
    reporting
        .batch_execute("ALTER SUBSCRIPTION report SET (slot_name = NONE); DROP SUBSCRIPTION report")
        .await?;

    // At the end rows are there for the subscription.
    rig.pair.on_subscriber().await?.batch_execute("ALTER SUBSCRIPTION sub ENABLE").await?;
    rig.pair.catch_up().await?;
    let rows: i64 =
        rig.pair.on_subscriber().await?.query_one("SELECT count(*) FROM orders", &[]).await?.get(0);
    assert_eq!(rows, 103);
    Ok(())
}

struct Held(Child);

impl Drop for Held {
    fn drop(&mut self) {
        let _ = (self.0.kill(), self.0.wait());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_another_program_streams_from_is_refused() -> Result<()> {
    let rig = Rig::new(17, 15).await?;
    let publisher = rig.pair.on_publisher().await?;
    publisher.batch_execute("SELECT pg_create_logical_replication_slot('taken', 'pgoutput')").await?;
    let program = installation(15)?.bindir.join("pg_recvlogical");
    let child = Command::new(&program)
        .args([
            "-h",
            "127.0.0.1",
            "-p",
            &rig.pair.publisher.port().to_string(),
            "-U",
            "postgres",
            "-d",
            "shop",
        ])
        .args([
            "--slot",
            "taken",
            "--start",
            "-f",
            "/dev/null",
            "-o",
            "proto_version=1",
            "-o",
            "publication_names=pub",
        ])
        .args(["--fsync-interval=0", "--status-interval=0"])
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| program.display().to_string())?;
    let _held = Held(child);
    let active = "SELECT active FROM pg_replication_slots WHERE slot_name = 'taken'";
    wait_for(&rig.pair.publisher_conninfo(), "pg_recvlogical streams", active).await?;
    refused(&rig, "taken", "is held by \"pg_recvlogical\"").await?;
    wait_for(&rig.pair.publisher_conninfo(), "pg_recvlogical still streams", active).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_seqshadow_is_waited_for_and_relieved() -> Result<()> {
    for major in [12, 17] {
        let rig = Rig::new(major, 15).await?;
        let mut first = rig.start(&[])?;
        let second = rig.spawn(&[])?;
        second.wait_for_line("standing by until it is free", PATIENCE)?;
        second.wait_for_line("the sequences are protected", PATIENCE)?;
        rig.follows(100).await?;
        first.kill9();
        let id = rig.insert(1000).await?;
        second.wait_for_line("the slot is free", PATIENCE)?;
        rig.wait_past(id).await?;
        rig.follows(1000).await?;
        rig.wait_confirmed(rig.pair.publisher_lsn().await?).await?;
        assert_eq!(second.complaints(), Vec::<String>::new(), "standing by is nothing to complain about");
        // A third one relieves a second one that ends in order.
        let third = rig.spawn(&[])?;
        third.wait_for_line("standing by until it is free", PATIENCE)?;
        let mut second = second;
        second.signal(proto_tests::shadow::Signal::TERM);
        assert_eq!(second.wait_exit(PATIENCE)?.code(), Some(0));
        third.wait_for_line("the slot is free", PATIENCE)?;
        let active =
            format!("SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = '{SLOT}' AND active)");
        wait_for(&rig.pair.publisher_conninfo(), "the third streams", &active).await?;
    }
    Ok(())
}

/// Looking every second whether the slot is free must not cost a connection each time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn standing_by_takes_one_connection() -> Result<()> {
    let rig = Rig::new(17, 15).await?;
    let _first = rig.start(&[])?;
    let second = rig.spawn(&[])?;
    second.wait_for_line("standing by until it is free", PATIENCE)?;
    second.wait_for_line("the sequences are protected", PATIENCE)?;
    let publisher = rig.pair.on_publisher().await?;
    let sessions = "SELECT sessions FROM pg_stat_database WHERE datname = current_database()";
    let before: i64 = publisher.query_one(sessions, &[]).await?.get(0);
    tokio::time::sleep(std::time::Duration::from_secs(10)).await;
    let after: i64 = publisher.query_one(sessions, &[]).await?.get(0);
    assert!(after - before < 5, "{} sessions in ten seconds", after - before);
    Ok(())
}
