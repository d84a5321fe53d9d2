//! The promise: an id counts however it came about, also where the stream of rows never shows it as an insert: deleted,
//! rolled back, prepared, filtered, left out, copied, typed in by hand, written by an update, or hidden in a text.
//!
//! Where a mark can only come from the subscriber's own tables, our role has no right to read the publisher's.

use proto_tests::publication::{Publication, Subscription};
use proto_tests::sequence::past;
use proto_tests::sidecar::{SLOT, command, start};
use proto_tests::sql::{PATIENCE, wait_until};
use proto_tests::stage::Stage;
use std::time::Duration;

/// The common table.
const TABLE: &str = "CREATE TABLE t (id serial PRIMARY KEY, note text)";
const SEQUENCE: &str = "t_id_seq";

/// An id typed in is a leap, which an automatic lead takes for pace; this one is told apart from the next id.
const FIXED_LEAD: &[&str] = &["--lead=32"];

/// Well below the minute after which the subscriber's tables are read anyway.
const SOON: Duration = Duration::from_secs(30);

async fn with(ddl: &str) -> Stage {
    Stage::with(17, 18, ddl).await.unwrap()
}

async fn replicating(ddl: &str) -> Stage {
    Stage::replicating(17, 18, ddl).await.unwrap()
}

/// What the publisher's tables hold can then only be learnt from the subscriber's.
async fn hide_the_publishers_tables(stage: &Stage) {
    stage.on_publisher("REVOKE SELECT ON ALL TABLES IN SCHEMA public FROM shadow").await;
}

/// As [`Stage::wait_past`], but it must not take as long as the reading of all tables every minute.
async fn wait_past_soon(stage: &Stage, sequence: &str, id: i64) {
    let what = format!("{sequence} past {id}");
    wait_until(&what, SOON, async || past(&stage.subscriber, sequence, id).await).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleted_before_the_slot_was_there() {
    let stage = replicating(TABLE).await;
    stage.on_publisher("INSERT INTO t SELECT FROM generate_series(1, 200); DELETE FROM t").await;
    let _shadow = start(&stage.pair, &[]).unwrap();
    stage.wait_past(SEQUENCE, 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rolled_back() {
    let stage = replicating(TABLE).await;
    let _shadow = start(&stage.pair, &[]).unwrap();
    stage.on_publisher("BEGIN; INSERT INTO t SELECT FROM generate_series(1, 500); ROLLBACK").await;
    stage.wait_past(SEQUENCE, 500).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prepared_and_then_committed_or_rolled_back() {
    let stage = replicating(TABLE).await;
    let _shadow = start(&stage.pair, FIXED_LEAD).unwrap();
    stage.on_publisher("BEGIN; INSERT INTO t SELECT FROM generate_series(1, 300); INSERT INTO t VALUES (4000); PREPARE TRANSACTION 'a'").await;
    stage.on_publisher("BEGIN; INSERT INTO t SELECT FROM generate_series(1, 100); INSERT INTO t VALUES (8000); PREPARE TRANSACTION 'b'").await;
    // What the sequence gave out counts at once, whatever becomes of the transactions.
    stage.wait_past(SEQUENCE, 400).await;
    assert!(stage.next(SEQUENCE).await < 4000);
    stage.on_publisher("COMMIT PREPARED 'a'").await;
    stage.on_publisher("ROLLBACK PREPARED 'b'").await;
    stage.wait_past(SEQUENCE, 4000).await;
    let end = stage.pair.publisher_lsn().await.unwrap();
    stage.pair.wait_for_catchup(SLOT, end).await.unwrap();
    assert!(stage.next(SEQUENCE).await < 8000, "nobody has 8000");
}

/// The slot cannot be made before such a transaction is decided; meanwhile the polls protect the sequences.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prepared_before_the_slot_and_committed_while_it_waits() {
    let stage = replicating(TABLE).await;
    stage.on_publisher("BEGIN; INSERT INTO t SELECT FROM generate_series(1, 300); INSERT INTO t VALUES (4000); PREPARE TRANSACTION 'a'").await;
    let shadow = command(&stage.pair, &[]).spawn().unwrap();
    shadow.wait_for_line("the sequences are protected", PATIENCE).unwrap();
    shadow.wait_for_line("the slot cannot be created before", PATIENCE).unwrap();
    stage.wait_past(SEQUENCE, 300).await;
    assert!(stage.next(SEQUENCE).await < 4000);
    stage.on_publisher("COMMIT PREPARED 'a'").await;
    stage.wait_past(SEQUENCE, 4000).await;
    shadow.wait_for_line("streaming slot=", PATIENCE).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filtered_by_a_row_filter() {
    let stage = with(TABLE).await;
    stage.pair.publish(&Publication::of("pub", &["t WHERE (note = 'shown')"]).only("insert")).await.unwrap();
    stage.pair.subscribe(&Subscription::to("sub", &["pub"])).await.unwrap();
    stage.pair.wait_for_sync().await.unwrap();
    let _shadow = start(&stage.pair, &[]).unwrap();
    stage.on_publisher("INSERT INTO t (note) VALUES ('shown'); INSERT INTO t (note) SELECT 'hidden' FROM generate_series(1, 300)").await;
    stage.wait_past(SEQUENCE, 301).await;
}

/// The subscriber fills the column from its own sequence while applying: two hands at one sequence.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn left_out_by_a_column_list() {
    let stage = with(TABLE).await;
    stage.pair.publish(&Publication::of("pub", &["t (note)"]).only("insert")).await.unwrap();
    stage.pair.subscribe(&Subscription::to("sub", &["pub"])).await.unwrap();
    stage.pair.wait_for_sync().await.unwrap();
    let _shadow = start(&stage.pair, &[]).unwrap();
    for _ in 0..10 {
        stage.on_publisher("INSERT INTO t (note) SELECT 'x' FROM generate_series(1, 30)").await;
    }
    stage.pair.catch_up().await.unwrap();
    stage.wait_past(SEQUENCE, 300).await;
    let row = stage.subscriber.query_one("SELECT count(*), max(id)::bigint FROM t", &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 300, "every row was applied");
    assert!(stage.next(SEQUENCE).await > row.get::<_, i64>(1), "past the ids that it gave out itself");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copied_by_the_initial_synchronization() {
    let stage = with(TABLE).await;
    stage.on_publisher("INSERT INTO t SELECT FROM generate_series(1, 20); INSERT INTO t VALUES (4000)").await;
    hide_the_publishers_tables(&stage).await;
    stage.pair.replicate_all().await.unwrap();
    let _shadow = start(&stage.pair, &[]).unwrap();
    wait_past_soon(&stage, SEQUENCE, 4000).await;
}

/// It is in the publisher's table, not in its sequence, and not yet on the subscriber.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn typed_in_before_the_slot_while_the_subscription_lagged() {
    let stage = replicating(TABLE).await;
    stage.on_subscriber("ALTER SUBSCRIPTION sub DISABLE").await;
    stage.on_publisher("INSERT INTO t VALUES (4000)").await;
    let _shadow = start(&stage.pair, &[]).unwrap();
    wait_past_soon(&stage, SEQUENCE, 4000).await;
    let rows: i64 = stage.subscriber.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get(0);
    assert_eq!(rows, 0, "the sequence was there before the row");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn typed_in_before_the_slot_where_only_the_subscriber_can_tell() {
    let stage = replicating(TABLE).await;
    stage.on_subscriber("ALTER SUBSCRIPTION sub DISABLE").await;
    stage.on_publisher("INSERT INTO t VALUES (4000)").await;
    hide_the_publishers_tables(&stage).await;
    let _shadow = start(&stage.pair, &[]).unwrap();
    assert!(stage.next(SEQUENCE).await < 4000);
    stage.on_subscriber("ALTER SUBSCRIPTION sub ENABLE").await;
    stage.pair.catch_up().await.unwrap();
    wait_past_soon(&stage, SEQUENCE, 4000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_table_whose_copy_is_still_running() {
    let stage = with(TABLE).await;
    stage.on_publisher("INSERT INTO t VALUES (4000)").await;
    hide_the_publishers_tables(&stage).await;
    let lock = stage.pair.on_subscriber().await.unwrap();
    // The copy must write; to look the table up, as CREATE SUBSCRIPTION does, is allowed.
    lock.batch_execute("BEGIN; LOCK TABLE t IN SHARE MODE").await.unwrap();
    stage.pair.publish(&Publication::all("pub")).await.unwrap();
    stage.pair.subscribe(&Subscription::to("sub", &["pub"])).await.unwrap();
    // A minute between refreshes, as by default: the end of a copy is seen without one.
    let _shadow = start(&stage.pair, &["--refresh-interval=1min"]).unwrap();
    assert!(stage.next(SEQUENCE).await < 4000);
    lock.batch_execute("COMMIT").await.unwrap();
    stage.pair.wait_for_sync().await.unwrap();
    wait_past_soon(&stage, SEQUENCE, 4000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn written_by_an_update() {
    let stage = replicating(TABLE).await;
    hide_the_publishers_tables(&stage).await;
    let _shadow = start(&stage.pair, &[]).unwrap();
    stage.on_publisher("INSERT INTO t (note) VALUES ('x'); UPDATE t SET id = 4000").await;
    wait_past_soon(&stage, SEQUENCE, 4000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn texts_with_a_prefix() {
    let ddl = "CREATE SEQUENCE orders; CREATE TABLE t (id text DEFAULT 'ORD-' || lpad(nextval('orders')::text, 8, '0') PRIMARY KEY)";
    let stage = replicating(ddl).await;
    let _shadow = start(&stage.pair, FIXED_LEAD).unwrap();
    stage.on_publisher("INSERT INTO t VALUES ('ORD-00004000'), ('INV-00008000'), ('ORD-9000x'), ('')").await;
    wait_past_soon(&stage, "orders", 4000).await;
    assert!(stage.next("orders").await < 8000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn domains_and_numerics() {
    let ddl = "CREATE DOMAIN identifier AS bigint; CREATE DOMAIN narrow AS identifier CHECK (value > 0); \
               CREATE SEQUENCE d; CREATE TABLE t_domain (id narrow DEFAULT nextval('d') PRIMARY KEY); \
               CREATE SEQUENCE n; CREATE TABLE t_numeric (id numeric DEFAULT nextval('n') PRIMARY KEY)";
    let stage = with(ddl).await;
    // Before the slot: read from the tables, beside what no bigint can hold.
    stage
        .on_publisher(
            "INSERT INTO t_domain VALUES (2000); INSERT INTO t_numeric VALUES (2000.5), (1e30), ('NaN')",
        )
        .await;
    stage.pair.replicate_all().await.unwrap();
    let _shadow = start(&stage.pair, FIXED_LEAD).unwrap();
    wait_past_soon(&stage, "d", 2000).await;
    wait_past_soon(&stage, "n", 2000).await;
    // And after it: from the stream.
    stage
        .on_publisher(
            "INSERT INTO t_domain VALUES (4000); INSERT INTO t_numeric VALUES (4000.000), (-1e30), (1e31)",
        )
        .await;
    wait_past_soon(&stage, "d", 4000).await;
    wait_past_soon(&stage, "n", 4000).await;
    assert!(stage.next("n").await < 100_000);
}

/// A column that holds something else than ids must not move the sequence: every insert would move it ten times as far.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn multiples_are_no_ids() {
    let ddl = "CREATE SEQUENCE tens; CREATE TABLE t_ten (id int DEFAULT nextval('tens') * 10 PRIMARY KEY); \
               CREATE TABLE t (id serial PRIMARY KEY)";
    let stage = with(ddl).await;
    stage
        .on_publisher("INSERT INTO t_ten SELECT FROM generate_series(1, 100); INSERT INTO t VALUES (4000)")
        .await;
    hide_the_publishers_tables(&stage).await;
    stage.pair.replicate_all().await.unwrap();
    let _shadow = start(&stage.pair, FIXED_LEAD).unwrap();
    stage.wait_past("tens", 100).await;
    // The subscriber's tables have been read when this is known.
    stage.wait_past(SEQUENCE, 4000).await;
    assert!(stage.next("tens").await < 1000);
}

/// `RESTART WITH 2` is visible to SELECT only. The far target must not be reached by setting an odd number.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_that_our_role_cannot_read_is_kept() {
    let stage = with("CREATE SEQUENCE lane INCREMENT 2").await;
    stage
        .on_subscriber("ALTER SEQUENCE lane RESTART WITH 2; REVOKE SELECT ON SEQUENCE lane FROM shadow")
        .await;
    stage.on_publisher("SELECT setval('lane', 1000001)").await;
    stage.pair.replicate_all().await.unwrap();
    let _shadow = start(&stage.pair, &[]).unwrap();
    stage.wait_past("lane", 1_000_001).await;
    assert_eq!(stage.next("lane").await % 2, 0);
}
