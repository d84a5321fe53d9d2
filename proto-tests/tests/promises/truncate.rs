//! The subscriber's sequences go back by themselves: native apply of `TRUNCATE … RESTART IDENTITY`, a `setval` by hand,
//! a restore. Each is healed and counted, and after a truncate marks begin anew.

use proto_tests::pair::PairOptions;
use proto_tests::sequence::{next_value, state, wait_for_value};
use proto_tests::shadow::Shadow;
use proto_tests::sidecar::{SLOT, start};
use proto_tests::sql::{PATIENCE, wait_for};
use proto_tests::stage::Stage;
use std::time::{Duration, Instant};
use tokio_postgres::Client;

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

/// The interval of the verify tick, as by default, and what a busy machine may add to two of them.
const TICK: Duration = Duration::from_secs(1);
const SLACK: Duration = Duration::from_secs(3);

/// How long a sequence is short of `id` after a truncate that is still to come: from the last time that it was seen where
/// it is `before` to the first time that it is past `id` again.
async fn time_behind(client: &Client, sequence: &str, before: i64, id: i64) -> Duration {
    let deadline = Instant::now() + PATIENCE;
    let mut last_seen = Instant::now();
    loop {
        let asked = Instant::now();
        match next_value(client, sequence).await.unwrap() {
            next if next >= before => last_seen = asked,
            next if next > id => return last_seen.elapsed(),
            next => assert!(asked < deadline, "it was at {before}, and now at {next}"),
        }
        assert!(asked < deadline, "nothing has set it back");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replicated_restart_is_healed_within_two_ticks_and_marks_begin_anew() {
    let tick = format!("--verify-interval={}s", TICK.as_secs());
    // Neither polls nor a look at the catalog shall find it.
    let flags = ["--lead=32", "--poll-interval=1h", "--refresh-interval=1h", "--summary-interval=1s", &tick];
    let (stage, shadow) = stage(ORDERS, &flags).await;
    for count in 1..=3 {
        stage.on_publisher(FILL).await;
        stage.wait_past("orders_id_seq", 5000).await;
        stage.pair.catch_up().await.unwrap();

        let seen = shadow.stderr_lines().len();
        let before = stage.next("orders_id_seq").await;
        let truncate = "TRUNCATE orders RESTART IDENTITY; INSERT INTO orders (note) VALUES ('a'), ('b')";
        let behind = time_behind(&stage.subscriber, "orders_id_seq", before, 2);
        let ((), behind) = tokio::join!(stage.on_publisher(truncate), behind);
        eprintln!("behind for {behind:?}");
        assert!(behind < 2 * TICK + SLACK, "{behind:?} are more than two ticks of {TICK:?}");
        // Two ids and the lead of 32.
        let anew = |last| (2..=200).contains(&last);
        wait_for_value(&stage.subscriber, "orders_id_seq", "near 2", anew).await.unwrap();
        shadow.wait_for_line_after(seen, WENT_BACK, PATIENCE).unwrap();
        shadow.wait_for_line_after(seen, &format!("rewinds={count}"), PATIENCE).unwrap();
    }

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
    // Applied only once we know of it: until then a sequence that went back is put where it was.
    stage.pair.catch_up().await.unwrap();
    stage.on_subscriber("ALTER SUBSCRIPTION sub DISABLE").await;
    let stopped = "SELECT count(pid) = 0 FROM pg_stat_subscription";
    wait_for(&stage.pair.subscriber_conninfo(), "the end of the apply worker", stopped).await.unwrap();
    stage
        .on_publisher(
            "BEGIN; TRUNCATE orders RESTART IDENTITY;
             INSERT INTO orders (note) SELECT repeat('y', 200) FROM generate_series(1, 3000); COMMIT",
        )
        .await;
    shadow.wait_for_line("restarted on the publisher", PATIENCE).unwrap();
    stage.on_subscriber("ALTER SUBSCRIPTION sub ENABLE").await;
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
