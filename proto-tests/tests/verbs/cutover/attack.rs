//! The gate stays shut, and everything is as it was.

use super::{
    at_rest, blocker, command, confirm, cuts_over, database_settings, fingerprint, on_a_full_disk, run,
};
use proto_tests::pair::{DATABASE, PairOptions};
use proto_tests::publication::Publication;
use proto_tests::sequence::state;
use proto_tests::sql::{PATIENCE, connect, wait_for};
use proto_tests::stage::Stage;
use proto_tests::verb;
use seqshadow::demo::servers::ClusterOptions;

/// Runs a cutover that must be refused with `code`, and leave no trace.
async fn refused(stage: &Stage, code: &str, flags: &[&str]) {
    let before = fingerprint(stage).await;
    let directory = tempfile::tempdir().unwrap();
    let cut = run(&stage.pair, directory.path(), flags);
    assert_eq!(cut.code(), 1, "{}", cut.all());
    assert_eq!(blocker(&cut), code, "{}", cut.all());
    assert!(cut.stdout.contains("Nothing was changed."), "{}", cut.all());
    assert_eq!(fingerprint(stage).await, before, "{}", cut.all());
    let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_applier_that_lags_fails_or_is_disabled() {
    let stage = at_rest(15, 17).await;
    // It waits for a lock.
    let holder = stage.pair.on_subscriber().await.unwrap();
    holder.batch_execute("BEGIN; LOCK TABLE orders IN EXCLUSIVE MODE").await.unwrap();
    stage.on_publisher("INSERT INTO orders (note) VALUES ('late')").await;
    refused(&stage, "applier-lags", &["--stop-writes", "--wait=2s"]).await;
    holder.batch_execute("ROLLBACK").await.unwrap();
    stage.pair.catch_up().await.unwrap();
    // It fails, again and again.
    stage.on_subscriber("INSERT INTO items (id, note) VALUES (301, 'in the way')").await;
    stage.on_publisher("INSERT INTO items (note) VALUES ('fails')").await;
    refused(&stage, "applier-lags", &["--stop-writes", "--wait=2s"]).await;
    stage.on_subscriber("DELETE FROM items WHERE id = 301").await;
    stage.pair.catch_up().await.unwrap();
    stage.on_subscriber("ALTER SUBSCRIPTION sub DISABLE").await;
    refused(&stage, "subscription-disabled", &["--stop-writes", "--wait=2s"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_still_copied() {
    let stage = at_rest(16, 18).await;
    stage.pair.on_both("CREATE TABLE late (id serial PRIMARY KEY)").await.unwrap();
    stage.pair.grant(&["public"]).await.unwrap();
    let holder = stage.pair.on_subscriber().await.unwrap();
    holder.batch_execute("BEGIN; LOCK TABLE late IN SHARE ROW EXCLUSIVE MODE").await.unwrap();
    stage.on_subscriber("ALTER SUBSCRIPTION sub REFRESH PUBLICATION").await;
    refused(&stage, "table-not-ready", &["--stop-writes", "--wait=2s"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_that_could_still_commit() {
    let options = PairOptions {
        publisher: ClusterOptions::default().set("max_prepared_transactions", "5"),
        ..PairOptions::default()
    };
    let stage = Stage::replicating_with(12, 17, options, super::TABLES).await.unwrap();
    stage.on_publisher(super::USE).await;
    stage.pair.catch_up().await.unwrap();
    stage.on_publisher("BEGIN; INSERT INTO orders (note) VALUES ('open')").await;
    refused(&stage, "open-transaction", &["--wait=2s"]).await;
    stage.on_publisher("PREPARE TRANSACTION 'in doubt'").await;
    refused(&stage, "prepared-transaction", &["--wait=2s"]).await;
    refused(&stage, "prepared-transaction", &["--wait=2s", "--stop-writes"]).await;
    stage.on_publisher("COMMIT PREPARED 'in doubt'").await;
    let directory = tempfile::tempdir().unwrap();
    let cut = run(&stage.pair, directory.path(), &[]);
    assert_eq!(cut.code(), 0, "{}", cut.all());
    confirm(&stage.pair, &directory.path().join("certificate.json"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_is_exempt_and_a_writer_that_ignores_the_pause() {
    let stage = at_rest(17, 18).await;
    stage.on_publisher("ALTER ROLE app SET default_transaction_read_only = off").await;
    refused(&stage, "role-writes-on", &["--stop-writes"]).await;
    stage
        .on_publisher(
            "ALTER ROLE app RESET default_transaction_read_only; GRANT ALL ON orders, orders_id_seq TO app",
        )
        .await;

    let app = stage.pair.publisher.conninfo_as("app", DATABASE);
    let writer = tokio::spawn(async move {
        loop {
            let Ok(client) = connect(&app).await else { continue };
            let _ = client.batch_execute("SET default_transaction_read_only = off").await;
            while client.batch_execute("INSERT INTO orders (note) VALUES ('stubborn')").await.is_ok() {}
        }
    });
    wait_for(&stage.pair.publisher_conninfo(), "the writer", "SELECT count(*) > 600 FROM orders")
        .await
        .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let cut = run(&stage.pair, directory.path(), &["--stop-writes", "--wait=5s"]);
    writer.abort();
    assert_eq!(cut.code(), 1, "{}", cut.all());
    let code = blocker(&cut);
    let expected = ["writes-go-on", "open-transaction", "sequence-moved", "sessions-stay"];
    assert!(expected.contains(&code.as_str()), "{}", cut.all());
    assert!(database_settings(&stage.pair).await.is_empty(), "{}", cut.all());
    assert!(!directory.path().join("certificate.json").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_in_the_middle() {
    let stage = at_rest(15, 18).await;
    let holder = stage.pair.on_subscriber().await.unwrap();
    holder.batch_execute("BEGIN; LOCK TABLE orders IN EXCLUSIVE MODE").await.unwrap();
    stage.on_publisher("INSERT INTO orders (note) VALUES ('late')").await;
    let before = fingerprint(&stage).await;
    let directory = tempfile::tempdir().unwrap();
    let first = command(&stage.pair, directory.path(), &["--wait=30s"]).spawn().unwrap();
    let locked = "SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'advisory' AND classid = 1936028019";
    wait_for(&stage.pair.publisher_conninfo(), "the first cutover", locked).await.unwrap();
    // A second one at the same time.
    let second = run(&stage.pair, tempfile::tempdir().unwrap().path(), &[]);
    assert_eq!((second.code(), blocker(&second).as_str()), (4, "another-cutover"), "{}", second.all());
    // It waits for the applier, and has seen the sequences by then.
    let waits = "SELECT count(*) > 0 FROM pg_stat_activity WHERE query LIKE '%pg_logical_emit_message%' AND pid <> pg_backend_pid()";
    wait_for(&stage.pair.publisher_conninfo(), "it to wait", waits).await.unwrap();
    stage.on_subscriber("ALTER TABLE items ALTER id DROP IDENTITY").await;
    holder.batch_execute("ROLLBACK").await.unwrap();
    let mut first = first;
    let status = first.wait_exit(PATIENCE).unwrap();
    let output = first.stdout_lines().join("\n");
    assert_eq!(status.code(), Some(1), "{output}");
    assert!(output.contains("NO: sequence-gone"), "{output}");
    let after = fingerprint(&stage).await;
    assert_eq!(after.0["public.orders_id_seq"].1, before.0["public.orders_id_seq"].1);
    assert_eq!(after.1, before.1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_a_second_subscription_has_yet_to_apply() {
    let stage = super::two_subscriptions(16, 17).await;
    let holder = stage.pair.on_subscriber().await.unwrap();
    holder.batch_execute("BEGIN; LOCK TABLE items IN EXCLUSIVE MODE").await.unwrap();
    stage.on_publisher(super::USE).await;
    refused(&stage, "applier-lags", &["--subscription=a", "--stop-writes", "--wait=2s"]).await;
    holder.batch_execute("ROLLBACK").await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    cuts_over(&stage.pair, directory.path(), &["--subscription=a"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_that_our_own_publication_does_not_show() {
    let stage = at_rest(14, 18).await;
    stage
        .pair
        .publish(&Publication::of("narrow", &["orders", "items"]).only("insert, truncate"))
        .await
        .unwrap();
    let writer = stage.pair.on_publisher().await.unwrap();
    let writer = tokio::spawn(async move {
        while writer.batch_execute("UPDATE orders SET note = 'y' WHERE id = 1").await.is_ok() {}
    });
    let directory = tempfile::tempdir().unwrap();
    let cut = run(&stage.pair, directory.path(), &["--publication=narrow", "--wait=5s"]);
    writer.abort();
    assert_eq!(cut.code(), 1, "{}", cut.all());
    assert!(["writes-go-on", "open-transaction"].contains(&blocker(&cut).as_str()), "{}", cut.all());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_lock_hides_is_no_proof() {
    let stage = at_rest(15, 17).await;
    // An id by hand, which our role may read on the subscriber only, and there the table is locked.
    stage.on_publisher("INSERT INTO orders (id) VALUES (5000); REVOKE SELECT ON orders FROM shadow").await;
    stage.pair.catch_up().await.unwrap();
    let holder = stage.pair.on_subscriber().await.unwrap();
    holder.batch_execute("BEGIN; LOCK TABLE orders").await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let certificate = format!("--certificate={}", directory.path().join("certificate.json").display());
    let cut = verb::run(&stage.pair, "cutover", &[&certificate, "--wait=20s", "--writes-stopped"]).unwrap();
    assert_eq!((cut.code(), blocker(&cut).as_str()), (1, "sequence-unproven"), "{}", cut.all());
    assert_eq!(verb::run(&stage.pair, "verify", &[]).unwrap().code(), 1);
    // Nor is it known that nothing is there when the publisher is gone.
    stage.pair.publisher.kill9();
    let lost = verb::run(&stage.pair, "cutover", &["--publisher-lost"]).unwrap();
    assert_eq!(lost.code(), 1, "{}", lost.all());
    assert!(lost.stdout.contains("NOT moved: public.orders_id_seq"), "{}", lost.all());
    assert!(state(&stage.subscriber, "orders_id_seq").await.unwrap().last_value > 90_000, "{}", lost.all());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_no_subscription_knows_and_nothing_to_prove() {
    let stage = at_rest(13, 18).await;
    refused(&stage, "no-sequence", &["--schema=nosuch", "--stop-writes"]).await;
    assert_eq!(verb::run(&stage.pair, "verify", &["--schema=nosuch"]).unwrap().code(), 1);
    stage.pair.on_both("CREATE TABLE late (id serial PRIMARY KEY)").await.unwrap();
    stage.pair.grant(&["public"]).await.unwrap();
    stage.on_publisher("INSERT INTO late SELECT FROM generate_series(1, 9)").await;
    refused(&stage, "table-not-subscribed", &["--stop-writes"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_cannot_be_kept_is_none() {
    let stage = at_rest(16, 17).await;
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("certificate.json")).unwrap();
    let cut = run(&stage.pair, directory.path(), &["--stop-writes"]);
    assert_eq!(cut.code(), 2, "{}", cut.all());
    assert!(database_settings(&stage.pair).await.is_empty());
    // The disk is full.
    let directory = tempfile::tempdir().unwrap();
    let certificate = directory.path().join("certificate.json");
    let place = format!("--certificate={}", certificate.display());
    for flags in [&["--json"][..], &["--json", &place]] {
        let (code, log) = on_a_full_disk(&stage.pair, flags);
        assert_eq!(code, Some(1), "{log}");
        assert!(log.contains("go on again"), "{log}");
        assert!(database_settings(&stage.pair).await.is_empty(), "{log}");
        assert!(std::fs::read_dir(directory.path()).unwrap().next().is_none(), "{log}");
    }
    // A certificate that is kept is a yes, whether or not anybody reads of it.
    let (code, log) = on_a_full_disk(&stage.pair, &[&place]);
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("it is a YES all the same") && certificate.exists(), "{log}");
    assert!(!database_settings(&stage.pair).await.is_empty(), "{log}");
}
