//! The subscriber's sequences go back by themselves: native apply of `TRUNCATE … RESTART IDENTITY`, a `setval` by hand,
//! a restore. Each is healed and counted, and after a truncate marks begin anew.

use crate::stage::Stage;
use proto_tests::pair::PairOptions;
use proto_tests::sequence::{state, wait_for_value};
use proto_tests::shadow::Shadow;
use proto_tests::sidecar::{SLOT, start};
use proto_tests::sql::PATIENCE;
use std::time::{Duration, Instant};

async fn stage(ddl: &str, flags: &[&str]) -> (Stage, Shadow) {
    // 64 kB, so that a few thousand rows are streamed before they commit.
    let mut options = PairOptions::default();
    options.publisher = options.publisher.set("logical_decoding_work_mem", "64kB");
    let stage = Stage::replicating_with(16, 15, options, ddl).await.unwrap();
    let shadow = start(&stage.pair, flags).unwrap();
    (stage, shadow)
}

const ORDERS: &str = "CREATE TABLE orders (id serial PRIMARY KEY, note text)";
const FILL: &str = "INSERT INTO orders (note) SELECT 'x' FROM generate_series(1, 5000)";

/// A line about the sequence having gone back, by whatever.
const WENT_BACK: &str = "the sequence went back on the subscriber";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replicated_restart_is_healed_and_marks_begin_anew() {
    let (stage, shadow) = stage(ORDERS, &["--lead=32"]).await;
    stage.on_publisher(FILL).await;
    stage.wait_past("orders_id_seq", 5000).await;
    stage.pair.catch_up().await.unwrap();

    stage
        .on_publisher("TRUNCATE orders RESTART IDENTITY; INSERT INTO orders (note) VALUES ('a'), ('b')")
        .await;
    stage.pair.catch_up().await.unwrap();
    let applied = Instant::now();
    // Two ids and the lead of 32.
    let anew = |last| (2..=200).contains(&last);
    wait_for_value(&stage.subscriber, "orders_id_seq", "near 2", anew).await.unwrap();
    // Two ticks of 200 ms, and what a busy machine adds.
    assert!(applied.elapsed() < Duration::from_secs(5), "{:?}", applied.elapsed());
    shadow.wait_for_line(WENT_BACK, PATIENCE).unwrap();

    // Marks go on from there, and the application's first insert is no duplicate.
    stage.on_publisher("INSERT INTO orders (note) SELECT 'c' FROM generate_series(1, 300)").await;
    stage.wait_past("orders_id_seq", 302).await;
    stage.pair.catch_up().await.unwrap();
    stage.on_subscriber("INSERT INTO orders (note) VALUES ('after the cutover')").await;
    let last = state(&stage.subscriber, "orders_id_seq").await.unwrap().last_value;
    assert!(last < 2000, "the old maximum is forgotten, got {last}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_truncate_that_is_rolled_back_changes_nothing() {
    let (stage, shadow) = stage(ORDERS, &["--lead=0"]).await;
    stage.on_publisher(FILL).await;
    // In a transaction, in a subtransaction, and streamed before it is decided.
    let streamed = "INSERT INTO orders (note) SELECT repeat('y', 200) FROM generate_series(1, 3000)";
    for sql in [
        "BEGIN; TRUNCATE orders RESTART IDENTITY; ROLLBACK".to_owned(),
        "BEGIN; SAVEPOINT s; TRUNCATE orders RESTART IDENTITY; ROLLBACK TO s; INSERT INTO orders (note) VALUES ('z'); COMMIT".to_owned(),
        format!("BEGIN; SAVEPOINT s; TRUNCATE orders RESTART IDENTITY; {streamed}; ROLLBACK TO s; {streamed}; COMMIT"),
        format!("BEGIN; TRUNCATE orders RESTART IDENTITY; {streamed}; ROLLBACK"),
    ] {
        stage.on_publisher(&sql).await;
    }
    stage.on_publisher("INSERT INTO orders (note) VALUES ('last')").await;
    let last: i32 = stage.publisher.query_one("SELECT max(id) FROM orders", &[]).await.unwrap().get(0);
    assert!(last > 8000);
    stage.wait_past("orders_id_seq", last.into()).await;
    stage.pair.catch_up().await.unwrap();
    let lines = shadow.stderr_lines();
    assert!(!lines.iter().any(|line| line.contains("restarted on the publisher")), "{lines:#?}");
    assert!(!lines.iter().any(|line| line.contains(WENT_BACK)), "{lines:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_streamed_restart_counts_from_its_commit_on() {
    let (stage, shadow) = stage(ORDERS, &["--lead=0"]).await;
    stage.on_publisher(FILL).await;
    stage.wait_past("orders_id_seq", 5000).await;
    stage
        .on_publisher(
            "BEGIN; TRUNCATE orders RESTART IDENTITY;
             INSERT INTO orders (note) SELECT repeat('y', 200) FROM generate_series(1, 3000); COMMIT",
        )
        .await;
    shadow.wait_for_line("restarted on the publisher", PATIENCE).unwrap();
    stage.pair.catch_up().await.unwrap();
    let there = |last| (3000..5000).contains(&last);
    wait_for_value(&stage.subscriber, "orders_id_seq", "at 3000 and short of 5000", there).await.unwrap();
    shadow.wait_for_line(WENT_BACK, PATIENCE).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shared_sequence_keeps_clear_of_the_table_that_was_not_truncated() {
    let ddl = "CREATE TABLE a (id serial PRIMARY KEY);
               CREATE TABLE b (id int PRIMARY KEY DEFAULT nextval('a_id_seq'))";
    // First with the publisher's tables readable, then with the subscriber's alone.
    for revoke in ["SELECT 1", "REVOKE SELECT ON a, b FROM shadow"] {
        let (stage, shadow) = stage(ddl, &[]).await;
        stage.on_publisher(revoke).await;
        stage
            .on_publisher(
                "INSERT INTO a SELECT nextval('a_id_seq') FROM generate_series(1, 2000);
                            INSERT INTO b SELECT nextval('a_id_seq') FROM generate_series(1, 2000)",
            )
            .await;
        stage.wait_past("a_id_seq", 4000).await;
        stage.pair.catch_up().await.unwrap();
        stage.on_publisher("TRUNCATE a RESTART IDENTITY").await;
        stage.pair.catch_up().await.unwrap();
        shadow.wait_for_line(WENT_BACK, PATIENCE).unwrap();
        stage.wait_past("a_id_seq", 4000).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_setval_and_a_restore_are_healed_and_counted() {
    let (stage, shadow) = stage(ORDERS, &["--summary-interval=1s"]).await;
    stage.on_publisher(FILL).await;
    stage.wait_past("orders_id_seq", 5000).await;
    stage.pair.catch_up().await.unwrap();
    let setbacks = [
        "SELECT setval('orders_id_seq', 17)",
        "ALTER SEQUENCE orders_id_seq RESTART",
        // As pg_restore --clean does it.
        "BEGIN; SELECT setval('orders_id_seq', 1, false); COMMIT",
    ];
    for (count, sql) in (1..).zip(setbacks) {
        let seen = shadow.stderr_lines().len();
        stage.on_subscriber(sql).await;
        stage.wait_past("orders_id_seq", 5000).await;
        let line = shadow.wait_for_line_after(seen, WENT_BACK, PATIENCE).unwrap();
        assert!(line.contains("WARN") && line.contains("orders_id_seq"), "{line}");
        shadow.wait_for_line(&format!("rewinds={count}"), PATIENCE).unwrap();
    }
    // A little back, still past every mark: the ids between may have been handed out here.
    let now = state(&stage.subscriber, "orders_id_seq").await.unwrap().last_value;
    assert!(now >= 5000, "{now}");

    // What is confirmed goes on after a setback.
    stage.on_publisher("INSERT INTO orders (note) VALUES ('on')").await;
    let lsn = stage.pair.publisher_lsn().await.unwrap();
    stage.pair.wait_for_catchup(SLOT, lsn).await.unwrap();
}
