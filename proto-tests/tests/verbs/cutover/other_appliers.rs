//! Whoever else is named as applier: the database's own subscriptions have to be through as well.

use super::{TABLES, at_rest, blocker, run};
use proto_tests::stage::Stage;
use std::time::Duration;

/// Copying a table is not what a heartbeat waits for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_heartbeat_does_not_overtake_a_table_that_is_copied() {
    let ddl = format!("{TABLES}; CREATE TABLE heartbeat (id serial PRIMARY KEY, token text)");
    let stage = Stage::replicating(16, 18, &ddl).await.unwrap();
    stage.pair.catch_up().await.unwrap();
    stage.pair.on_both("CREATE TABLE late (id serial PRIMARY KEY, note text)").await.unwrap();
    stage.pair.grant(&["public"]).await.unwrap();
    stage.on_publisher("INSERT INTO late (note) SELECT 'x' FROM generate_series(1, 50)").await;
    let holder = stage.pair.on_subscriber().await.unwrap();
    holder.batch_execute("BEGIN; LOCK TABLE late IN SHARE ROW EXCLUSIVE MODE").await.unwrap();
    stage.on_subscriber("ALTER SUBSCRIPTION sub REFRESH PUBLICATION").await;
    let directory = tempfile::tempdir().unwrap();
    let flags = ["--stop-writes", "--heartbeat=public.heartbeat", "--wait=5s"];
    let cut = run(&stage.pair, directory.path(), &flags);
    assert_eq!((cut.code(), blocker(&cut).as_str()), (1, "table-not-ready"), "{}", cut.all());
    holder.batch_execute("ROLLBACK").await.unwrap();
    stage.pair.wait_for_sync().await.unwrap();
    super::cuts_over(&stage.pair, directory.path(), &["--stop-writes", "--heartbeat=public.heartbeat"]);
}

/// What somebody else has confirmed says nothing of a subscription that is disabled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_slot_of_a_stranger_proves_nothing_for_a_disabled_subscription() {
    let stage = at_rest(15, 17).await;
    stage.on_publisher("SELECT pg_create_logical_replication_slot('cdc', 'pgoutput')").await;
    stage.on_subscriber("ALTER SUBSCRIPTION sub DISABLE").await;
    stage.on_publisher("INSERT INTO orders (note) SELECT 'not there' FROM generate_series(1, 5)").await;
    let cdc = stage.pair.on_publisher().await.unwrap();
    let cdc = tokio::spawn(async move {
        let sql = "SELECT pg_replication_slot_advance('cdc', pg_current_wal_flush_lsn())";
        while cdc.query(sql, &[]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let directory = tempfile::tempdir().unwrap();
    let cut = run(&stage.pair, directory.path(), &["--applier-slot=cdc", "--wait=10s"]);
    cdc.abort();
    assert_eq!((cut.code(), blocker(&cut).as_str()), (1, "subscription-disabled"), "{}", cut.all());
}
