//! Promise 2: what we confirm is durable on the subscriber. A walk beside somebody's open transaction writes no WAL of
//! its own, so its commit flushes nothing: after a crash the sequence is short of what was read.

use crate::advancing::{Writer, server};
use proto_tests::pair::{Pair, PairOptions, confirmed};
use proto_tests::publication::Publication;
use proto_tests::sequence::{state, wait_past};
use proto_tests::sidecar::{SLOT, start};
use proto_tests::sql::{PATIENCE, Probe, connect, wait_until};
use seqshadow::demo::servers::ClusterOptions;
use seqshadow::plan::State;
use seqshadow::subscriber::advance::{Outcome, nudge_wal_writer};
use seqshadow::subscriber::receipt::PendingReceipts;
use std::time::Duration;
use tokio_postgres::Client;

/// A server that flushes WAL only when a commit asks for it.
fn lazy() -> ClusterOptions {
    ClusterOptions { fsync: true, ..ClusterOptions::default() }
        .set("wal_writer_delay", "10s")
        .set("wal_writer_flush_after", "1GB")
        .set("checkpoint_timeout", "1h")
        .set("bgwriter_lru_maxpages", "0")
        .set("autovacuum", "off")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_walk_that_a_crash_takes_back_got_no_receipt() {
    let server = server(15, lazy()).await.unwrap();
    let conninfo = server.conninfo("postgres");
    let admin = connect(&conninfo).await.unwrap();
    admin.batch_execute("CREATE SEQUENCE s; SELECT setval('s', 100); CHECKPOINT").await.unwrap();
    let writer = Writer::new(&conninfo).await.unwrap();
    let sequence = writer.sequence("s").await.unwrap();
    let seen = writer.state(&sequence).await.unwrap();

    // The WAL record for the next 32 values is this transaction's, and it does not commit.
    let open = connect(&conninfo).await.unwrap();
    open.batch_execute("BEGIN; SELECT nextval('s')").await.unwrap();
    let (outcome, durable_at) = writer.step(&sequence, seen, 104).await.unwrap();
    let there = State { last_value: 104, is_called: true };
    assert_eq!(outcome, Outcome::At(there));

    let mut pending = PendingReceipts::default();
    pending.expect(durable_at, vec![(0, there)]);
    let flushed = writer.advancer.wal_end(writer.client()).await.unwrap().flushed;
    assert!(pending.collect(flushed).is_empty(), "no receipt before the flush: {flushed} of {durable_at}");
    server.kill9();
    server.resume().unwrap();
    let admin = connect(&conninfo).await.unwrap();
    let after = state(&admin, "s").await.unwrap();
    assert_eq!(after.last_value, 100, "the crash takes the walk back, so the receipt would have been false");

    // The same again, with the receipt waited for: then the crash takes nothing back.
    let writer = Writer::new(&conninfo).await.unwrap();
    let open = connect(&conninfo).await.unwrap();
    open.batch_execute("BEGIN; SELECT nextval('s')").await.unwrap();
    let seen = writer.state(&sequence).await.unwrap();
    let (_, durable_at) = writer.step(&sequence, seen, 104).await.unwrap();
    pending.forget();
    pending.expect(durable_at, vec![(0, there)]);
    wait_until("the receipt", PATIENCE, async || {
        let flushed = writer.advancer.wal_end(writer.client()).await?.flushed;
        let receipts = pending.collect(flushed);
        if receipts.is_empty() {
            nudge_wal_writer(writer.client()).await?;
        }
        Ok(Probe::when(!receipts.is_empty(), || format!("{flushed} of {durable_at}")))
    })
    .await
    .unwrap();
    server.kill9();
    server.resume().unwrap();
    let admin = connect(&conninfo).await.unwrap();
    assert!(state(&admin, "s").await.unwrap().last_value >= 104);
}

/// An open transaction whose WAL record covers the next 32 values, and is not flushed.
async fn draw_unflushed(subscriber: &Client, open: &Client) {
    // After a setval the next nextval writes such a record.
    subscriber.batch_execute("SELECT setval('t_id_seq', last_value) FROM t_id_seq").await.unwrap();
    open.batch_execute("BEGIN; SELECT nextval('t_id_seq')").await.unwrap();
}

/// End to end: the subscriber is killed again and again beside open transactions; whatever was confirmed is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_confirmed_survives_crashes_of_the_subscriber() {
    let options = PairOptions { subscriber: lazy(), ..PairOptions::default() };
    let pair = Pair::with(15, 15, options).await.unwrap();
    pair.on_both("CREATE TABLE t (id bigserial PRIMARY KEY)").await.unwrap();
    pair.grant(&["public"]).await.unwrap();
    // No subscription: the commits of its apply worker would have the WAL flushed.
    pair.publish(&Publication::all("pub")).await.unwrap();
    let _shadow = start(&pair, &["--lead=0", "--status-interval=100ms", "--publication=pub"]).unwrap();
    let publisher = pair.on_publisher().await.unwrap();
    let mut last = 0;
    for round in 1..=2 {
        let subscriber = pair.on_subscriber().await.unwrap();
        let open = pair.on_subscriber().await.unwrap();
        let mut ids = Vec::new();
        for _ in 0..12 {
            draw_unflushed(&subscriber, &open).await;
            let here = state(&subscriber, "t_id_seq").await.unwrap().last_value;
            let sql = "INSERT INTO t VALUES ($1) ON CONFLICT DO NOTHING";
            publisher.execute(sql, &[&(here + 3)]).await.unwrap();
            let at = pair.publisher_lsn().await.unwrap();
            ids.push((here + 3, at));
            wait_past(&subscriber, "t_id_seq", here + 3).await.unwrap();
            if ids.len() % 4 == 0 {
                // Sometimes it does commit, and sometimes there is time for a receipt.
                open.batch_execute("COMMIT").await.unwrap();
                pair.wait_for_catchup(SLOT, at).await.unwrap();
            } else {
                open.batch_execute("ROLLBACK").await.unwrap();
            }
        }
        // The last walk is nobody's WAL; there is time to confirm it, and none to flush it.
        draw_unflushed(&subscriber, &open).await;
        let here = state(&subscriber, "t_id_seq").await.unwrap().last_value;
        publisher.execute("INSERT INTO t VALUES ($1)", &[&(here + 3)]).await.unwrap();
        ids.push((here + 3, pair.publisher_lsn().await.unwrap()));
        wait_past(&subscriber, "t_id_seq", here + 3).await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        pair.subscriber.kill9();
        let confirmed = confirmed(&publisher, SLOT).await.unwrap().unwrap();
        pair.subscriber.resume().unwrap();
        let subscriber = pair.on_subscriber().await.unwrap();
        let now = state(&subscriber, "t_id_seq").await.unwrap().last_value;
        let promised = ids.iter().filter(|(_, at)| *at <= confirmed).map(|(id, _)| *id).max().unwrap_or(0);
        assert!(
            promised >= last && now >= promised,
            "round {round}: at {now}, confirmed was {promised} ({confirmed})"
        );
        last = promised;
        let furthest = ids.iter().map(|(id, _)| *id).max().unwrap();
        wait_past(&subscriber, "t_id_seq", furthest).await.unwrap();
    }
}
