//! Promise 4: a lost, dropped, invalidated or temporary slot costs a re-seed, never an id; it is reported, counted and
//! healed. And promise 9: the WAL that our slot holds back has a ceiling, and an idle database's slot moves.
//!
//! Tries to break: ids that are committed while there is no slot at all, so that no stream will ever show them.

use anyhow::Result;
use proto_tests::fake_publisher::{FakePublisherOptions, Step};
use proto_tests::pair::{DATABASE, PairOptions};
use proto_tests::rig::{Rig, insert};
use proto_tests::shadow::Shadow;
use proto_tests::sidecar::SLOT;
use proto_tests::split::{Replication, Split};
use proto_tests::sql::{PATIENCE, Probe, connect, wait_for, wait_until};

const SUMMARY: &str = "--summary-interval=1s";

/// How many logged lines contain `text`.
fn count(shadow: &Shadow, text: &str) -> usize {
    shadow.stderr_lines().iter().filter(|line| line.contains(text)).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_somebody_drops_is_made_again() -> Result<()> {
    let rig = Rig::new(17, 18).await?;
    let shadow = rig.start(&[SUMMARY])?;
    rig.follows(10).await?;
    let publisher = rig.pair.on_publisher().await?;
    // The walsender is thrown out and the slot dropped before it can be back.
    wait_until("the drop", PATIENCE, async || {
        let end = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1 AND active";
        publisher.execute(end, &[&SLOT]).await?;
        let dropped = publisher.execute("SELECT pg_drop_replication_slot($1)", &[&SLOT]).await;
        Ok(Probe::when(dropped.is_ok(), || format!("{dropped:?}")))
    })
    .await?;
    let id = insert(&publisher, 500).await?;
    rig.wait_past(id).await?;
    shadow.wait_for_line("was dropped by somebody else", PATIENCE)?;
    shadow.wait_for_line("recovered: the stream goes on", PATIENCE)?;
    shadow.wait_for_line("slots_lost=1", PATIENCE)?;
    assert_eq!(count(&shadow, "was dropped by somebody else"), 1);
    // The new slot is followed like the old one.
    let id = insert(&publisher, 1000).await?;
    rig.wait_past(id).await?;
    rig.wait_confirmed(rig.pair.publisher_lsn().await?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalidated_slot_is_made_again() -> Result<()> {
    for major in [13, 17] {
        let options = PairOptions {
            publisher: seqshadow::demo::servers::ClusterOptions::default()
                .set("max_slot_wal_keep_size", "1MB")
                .set("min_wal_size", "32MB")
                .set("max_wal_size", "48MB"),
            ..PairOptions::default()
        };
        let rig = Rig::with(major, 15, options).await?;
        let (proxy, address) = rig.faulty_publisher().await?;
        let shadow = rig.start(&[&address, SUMMARY])?;
        rig.follows(10).await?;
        // The publisher cannot be reached, and removes what our slot needs.
        proxy.refuse(true);
        proxy.cut();
        let publisher = rig.pair.on_publisher().await?;
        publisher.batch_execute("CREATE TABLE bulk (filler text)").await?;
        wait_until("the invalidation", PATIENCE, async || {
            publisher
                .batch_execute("INSERT INTO bulk SELECT repeat('x', 1000) FROM generate_series(1, 8000)")
                .await?;
            publisher.batch_execute("SELECT pg_switch_wal(); CHECKPOINT").await?;
            let sql = "SELECT wal_status FROM pg_replication_slots WHERE slot_name = $1";
            let status: Option<String> = publisher.query_one(sql, &[&SLOT]).await?.get(0);
            Ok(Probe::when(status.as_deref() == Some("lost"), || format!("{status:?}")))
        })
        .await?;
        let id = insert(&publisher, 5000).await?;
        proxy.refuse(false);
        rig.wait_past(id).await?;
        shadow.wait_for_line("the slot was lost", PATIENCE)?;
        shadow.wait_for_line("recovered: the stream goes on", PATIENCE)?;
        shadow.wait_for_line("slots_lost=1", PATIENCE)?;
        assert_eq!(count(&shadow, "the slot was lost"), 1);
        let id = insert(&publisher, 1000).await?;
        rig.wait_past(id).await?;
        let good = "SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = 'ours' AND active AND wal_status <> 'lost')";
        wait_for(&rig.pair.publisher_conninfo(), "the slot is well", good).await?;
    }
    Ok(())
}

/// Up to 17 a slot never sees a publication that was made after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publication_that_is_dropped_and_made_again_is_followed() -> Result<()> {
    let rig = Rig::new(17, 15).await?;
    let shadow = rig.start(&[])?;
    let publisher = rig.pair.on_publisher().await?;
    publisher.batch_execute("DROP PUBLICATION pub").await?;
    // The stream hears of it with the next row, and the sequence is followed all the same.
    let id = insert(&publisher, 1000).await?;
    rig.wait_past(id).await?;
    let line = shadow.wait_for_line("is not created before its publications", PATIENCE)?;
    assert!(line.contains("CREATE PUBLICATION pub"), "{line}");
    let gone = "SELECT NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = 'ours')";
    wait_for(&rig.pair.publisher_conninfo(), "no slot that holds WAL back", gone).await?;
    publisher.batch_execute("CREATE PUBLICATION pub FOR ALL TABLES").await?;
    shadow.wait_for_line("recovered: the stream goes on", PATIENCE)?;
    let id = insert(&publisher, 10_000).await?;
    rig.wait_past(id).await?;
    rig.wait_confirmed(rig.pair.publisher_lsn().await?).await
}

/// What a publisher says depends on its `lc_messages`; what it means does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publisher_that_speaks_german_is_understood() -> Result<()> {
    let rig = Rig::new(17, 15).await?;
    let publisher = rig.pair.on_publisher().await?;
    publisher.execute("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", &[&SLOT]).await?;
    let fake = FakePublisherOptions::default()
        .on_stream(|stream, _| match stream {
            0 => vec![Step::Error { code: "42704", message: "Publikation »pub« existiert nicht" }],
            _ => vec![Step::Hold],
        })
        .start()
        .await?;
    let split = Split::start(rig.pair.publisher.port(), Replication::To(fake.port())).await?;
    let address = format!("--publisher={}", split.conninfo(&rig.pair.shadow_publisher_conninfo()));
    let shadow = rig.start(&[&address])?;
    shadow.wait_for_line("the slot was lost", PATIENCE)?;
    shadow.wait_for_line("recovered: the stream goes on", PATIENCE)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_temporary_slot_goes_with_its_connection_and_comes_again() -> Result<()> {
    let rig = Rig::new(14, 16).await?;
    let (proxy, address) = rig.faulty_publisher().await?;
    let shadow = rig.start(&["--temporary-slot", &address, SUMMARY])?;
    rig.follows(10).await?;
    proxy.refuse(true);
    proxy.cut();
    let gone = "SELECT NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = 'ours')";
    wait_for(&rig.pair.publisher_conninfo(), "the slot is gone", gone).await?;
    let id = rig.insert(5000).await?;
    proxy.refuse(false);
    rig.wait_past(id).await?;
    shadow.wait_for_line("recovered: the stream goes on", PATIENCE)?;
    shadow.wait_for_line("slots_lost=1", PATIENCE)?;
    assert_eq!(count(&shadow, "the temporary slot went with its connection"), 1);
    let there =
        "SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = 'ours' AND temporary AND active)";
    wait_for(&rig.pair.publisher_conninfo(), "a temporary slot", there).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wal_held_for_a_subscriber_that_is_away_has_a_ceiling() -> Result<()> {
    let rig = Rig::new(16, 15).await?;
    let shadow = rig.start(&["--max-retained-wal=64MB", SUMMARY])?;
    rig.follows(10).await?;
    rig.pair.subscriber.kill9();
    let publisher = rig.pair.on_publisher().await?;
    publisher.batch_execute("CREATE TABLE bulk (filler text)").await?;
    wait_until("our slot is dropped", PATIENCE, async || {
        publisher
            .batch_execute("INSERT INTO bulk SELECT repeat('x', 1000) FROM generate_series(1, 8000)")
            .await?;
        let sql = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1";
        let left: i64 = publisher.query_one(sql, &[&SLOT]).await?.get(0);
        Ok(Probe::when(left == 0, || format!("{left} slots")))
    })
    .await?;
    shadow.wait_for_line("held back more WAL than allowed while the subscriber is away", PATIENCE)?;
    let id = insert(&publisher, 50_000).await?;
    rig.pair.subscriber.resume()?;
    rig.wait_past(id).await?;
    shadow.wait_for_line("replication slot created", PATIENCE)?;
    let there = "SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = 'ours' AND active)";
    wait_for(&rig.pair.publisher_conninfo(), "a new slot", there).await?;
    shadow.wait_for_line("slots_lost=1", PATIENCE)?;
    assert_eq!(count(&shadow, "held back more WAL than allowed"), 1);
    Ok(())
}

/// An open transaction pins `restart_lsn`, so confirming alone releases nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wal_that_an_open_transaction_pins_is_released_too() -> Result<()> {
    let rig = Rig::new(17, 15).await?;
    let shadow = rig.start(&["--max-retained-wal=64MB", SUMMARY])?;
    let blocker = rig.pair.on_publisher().await?;
    blocker.batch_execute("BEGIN; INSERT INTO orders (note) VALUES ('open')").await?;
    let publisher = rig.pair.on_publisher().await?;
    publisher.batch_execute("CREATE TABLE bulk (filler text)").await?;
    wait_until("our slot is dropped", PATIENCE, async || {
        let sql = "SELECT count(*), coalesce(sum(pg_current_wal_lsn() - restart_lsn), 0)::bigint \
                   FROM pg_replication_slots WHERE slot_name = $1 AND confirmed_flush_lsn IS NOT NULL";
        let row = publisher.query_one(sql, &[&SLOT]).await?;
        let (slots, retained): (i64, i64) = (row.get(0), row.get(1));
        if retained < 120_000_000 {
            publisher
                .batch_execute("INSERT INTO bulk SELECT repeat('x', 1000) FROM generate_series(1, 8000)")
                .await?;
        }
        Ok(Probe::when(slots == 0, || {
            format!("{retained} bytes are held back\n{}", shadow.stderr_lines().join("\n"))
        }))
    })
    .await?;
    shadow.wait_for_line("confirming did not release the WAL", PATIENCE)?;
    // The slot cannot be made while the transaction is open, and the sequence follows all the same. Nor may the one in
    // the making hold back more than allowed.
    for _ in 0..10 {
        publisher
            .batch_execute("INSERT INTO bulk SELECT repeat('x', 1000) FROM generate_series(1, 8000)")
            .await?;
    }
    shadow.wait_for_line("its creation is given up for now", PATIENCE)?;
    let id = insert(&publisher, 10_000).await?;
    rig.wait_past(id).await?;
    blocker.batch_execute("COMMIT").await?;
    let there = "SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = 'ours' AND confirmed_flush_lsn IS NOT NULL)";
    wait_for(&rig.pair.publisher_conninfo(), "a new slot", there).await?;
    let id = insert(&publisher, 10_000).await?;
    rig.wait_past(id).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_slot_of_an_idle_database_moves() -> Result<()> {
    for major in [12, 17] {
        let rig = Rig::new(major, 15).await?;
        let _shadow = rig.start(&[])?;
        let publisher = rig.pair.on_publisher().await?;
        publisher.batch_execute("CREATE DATABASE busy").await?;
        let busy = connect(&rig.pair.publisher.conninfo("busy")).await?;
        busy.batch_execute(
            "CREATE TABLE t (filler text); INSERT INTO t SELECT repeat('x', 1000) FROM generate_series(1, 5000)",
        )
        .await?;
        let lsn = rig.pair.publisher_lsn().await?;
        // A little WAL on the way: a publisher tells idle clients of what came last only with what comes next.
        wait_until("our slot to move", PATIENCE, async || {
            busy.batch_execute("INSERT INTO t VALUES ('x')").await?;
            let now = rig.confirmed().await?;
            Ok(Probe::when(now.is_some_and(|now| now >= lsn), || {
                format!("{now:?} of {lsn}, {DATABASE} idle")
            }))
        })
        .await?;
    }
    Ok(())
}
