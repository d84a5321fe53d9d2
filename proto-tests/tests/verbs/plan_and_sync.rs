//! `plan` and `sync`: the same targets, never back, and what cannot be moved is named.

use proto_tests::limited;
use proto_tests::sequence::state;
use proto_tests::sql::connect;
use proto_tests::stage::Stage;
use proto_tests::verb;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Every kind of sequence that is brought up, and some that need care.
const TABLES: &str = "
CREATE TABLE orders (id bigserial PRIMARY KEY, note text);
CREATE TABLE items (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text);
CREATE SEQUENCE down INCREMENT -3 MAXVALUE -1 MINVALUE -100000 START -1;
CREATE TABLE downs (id int PRIMARY KEY DEFAULT nextval('down'));
CREATE SEQUENCE loose START 7 INCREMENT 10;
CREATE SEQUENCE never_called;
CREATE SEQUENCE ring MAXVALUE 5 CYCLE;
CREATE SCHEMA \"Größe\";
CREATE SEQUENCE \"Größe\".\"We\"\"ird\"";
const USE: &str = "
INSERT INTO orders (note) SELECT 'x' FROM generate_series(1, 500);
INSERT INTO orders (id, note) VALUES (700, 'by hand');
INSERT INTO items (note) SELECT 'x' FROM generate_series(1, 300);
INSERT INTO downs SELECT FROM generate_series(1, 200);
SELECT nextval('loose') FROM generate_series(1, 20);
SELECT nextval('ring') FROM generate_series(1, 8);
SELECT nextval('\"Größe\".\"We\"\"ird\"') FROM generate_series(1, 40)";

const SEQUENCES: [&str; 7] =
    ["orders_id_seq", "items_id_seq", "down", "loose", "never_called", "ring", "\"Größe\".\"We\"\"ird\""];

async fn used(publisher: u32, subscriber: u32) -> Stage {
    let stage = Stage::replicating(publisher, subscriber, TABLES).await.unwrap();
    stage.pair.grant(&["Größe"]).await.unwrap();
    stage.on_publisher(USE).await;
    stage.pair.catch_up().await.unwrap();
    stage
}

async fn states(stage: &Stage) -> Vec<(i64, bool)> {
    let mut found = Vec::new();
    for sequence in SEQUENCES {
        let state = state(&stage.subscriber, sequence).await.unwrap();
        found.push((state.last_value, state.is_called));
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_plans_script_run_by_psql_does_what_sync_does() {
    let by_psql = used(12, 17).await;
    let planned = verb::run(&by_psql.pair, "plan", &["--lead=50"]).unwrap();
    assert_eq!(planned.code(), 0, "{}", planned.all());
    let ring = "-- public.ring: CYCLE, to the publisher's state; next was 1\n";
    assert!(planned.stdout.contains(ring), "{}", planned.stdout);
    assert!(planned.stdout.contains("but for a CYCLE sequence"), "{}", planned.stdout);
    let script = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(script.path(), &planned.stdout).unwrap();
    let psql = || {
        let mut psql = std::process::Command::new("psql");
        psql.args(["-X", "-v", "ON_ERROR_STOP=1", "-f"]).arg(script.path());
        let output = limited::output(psql.arg(by_psql.pair.shadow_subscriber_conninfo())).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    psql();
    let after = states(&by_psql).await;
    psql();
    assert_eq!(states(&by_psql).await, after, "a second run moves nothing");

    let by_sync = used(12, 17).await;
    let synced = verb::run(&by_sync.pair, "sync", &["--lead=50"]).unwrap();
    assert_eq!(synced.code(), 0, "{}", synced.all());
    assert_eq!(states(&by_sync).await, after);
    assert_eq!(after[0], (750, true), "past the id that was inserted by hand, with its lead");
    assert_eq!(after[5], (3, true), "a ring has the publisher's state");
    for stage in [&by_psql, &by_sync] {
        let verified = verb::run(&stage.pair, "verify", &[]).unwrap();
        assert_eq!(verified.code(), 0, "{}", verified.all());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sync_moves_nothing_back_and_a_dry_run_moves_nothing() {
    let stage = used(15, 18).await;
    stage.on_subscriber("SELECT setval('orders_id_seq', 90000), setval('down', -9001)").await;
    let before = states(&stage).await;
    let dry = verb::run(&stage.pair, "sync", &["--dry-run"]).unwrap();
    assert_eq!(dry.code(), 0, "{}", dry.all());
    assert!(dry.stdout.contains("nothing was changed"), "{}", dry.all());
    assert_eq!(states(&stage).await, before);

    let synced = verb::run(&stage.pair, "sync", &["--json"]).unwrap().json().unwrap();
    let after = states(&stage).await;
    assert_eq!((after[0], after[2]), (before[0], before[2]));
    assert!(after[1].0 >= 300 + 32, "{after:?}");
    let moved: Vec<&str> =
        synced["moved"].as_array().unwrap().iter().map(|m| m["sequence"].as_str().unwrap()).collect();
    let expected = [
        "\"Größe\".\"We\"\"ird\"",
        "public.items_id_seq",
        "public.loose",
        "public.never_called",
        "public.ring",
    ];
    assert_eq!(moved, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_moved_is_named_with_the_sql_and_the_others_are_moved() {
    let stage = used(15, 17).await;
    stage.on_subscriber("REVOKE ALL ON SEQUENCE loose FROM shadow; ALTER SEQUENCE down MINVALUE -300").await;
    let synced = verb::run(&stage.pair, "sync", &[]).unwrap();
    assert_eq!(synced.code(), 1, "{}", synced.all());
    assert!(synced.stdout.contains("ON SEQUENCE public.loose TO shadow"), "{}", synced.all());
    assert!(synced.stdout.contains("public.down"), "{}", synced.all());
    assert!(synced.stdout.lines().all(|line| line.chars().count() <= 80), "{}", synced.all());
    assert!(stage.next("orders_id_seq").await > 700);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_cannot_become_a_statement_of_the_script() {
    let evil = "CREATE TABLE kept (id int); CREATE SEQUENCE \"ev\nDROP TABLE kept; --\"";
    let stage = Stage::replicating(14, 15, evil).await.unwrap();
    stage.pair.grant(&["public"]).await.unwrap();
    stage.on_publisher("SELECT setval('\"ev\nDROP TABLE kept; --\"', 700)").await;
    let planned = verb::run(&stage.pair, "plan", &[]).unwrap();
    stage.on_subscriber(&planned.stdout).await;
    stage.on_subscriber("SELECT id FROM kept").await;
    assert_eq!(verb::run(&stage.pair, "verify", &[]).unwrap().code(), 0, "{}", planned.all());
}

/// The owner's sync locks many at once; whoever calls `nextval` meanwhile waits, and never gets an id a second time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_are_set_at_once_under_locks_beside_those_who_call_nextval() {
    let ddl = "DO $$ BEGIN FOR i IN 1..1200 LOOP EXECUTE 'CREATE SEQUENCE s' || i; END LOOP; END $$";
    let stage = Stage::with(13, 16, ddl).await.unwrap();
    stage.pair.replicate_all().await.unwrap();
    stage.on_subscriber("ALTER SEQUENCE s3 OWNER TO app; ALTER SEQUENCE s4 INCREMENT -1 MINVALUE -1000000 MAXVALUE -1 START -1 RESTART").await;
    stage.on_publisher("ALTER SEQUENCE s4 INCREMENT -1 MINVALUE -1000000 MAXVALUE -1 START -1 RESTART").await;
    let (stop, conninfo) = (Arc::new(AtomicBool::new(false)), stage.pair.subscriber_conninfo());
    let (stopped, drawing) = (stop.clone(), connect(&conninfo).await.unwrap());
    let drawn = tokio::spawn(async move {
        let mut ids = Vec::new();
        while !stopped.load(Ordering::Relaxed) {
            let row = drawing.query_one("SELECT nextval('s1'), nextval('s2')", &[]).await.unwrap();
            ids.push((row.get::<_, i64>(0), row.get::<_, i64>(1)));
        }
        ids
    });
    // A transaction that has called nextval keeps its lock: nobody waits for it for long.
    let mut holding = connect(&conninfo).await.unwrap();
    let held = holding.transaction().await.unwrap();
    held.query_one("SELECT nextval('s7')", &[]).await.unwrap();
    let as_owner = format!("--subscriber={conninfo}");
    for round in 1..=3_i64 {
        let ahead =
            "SELECT setval(c.oid::regclass, CASE relname WHEN 's4' THEN -1000 ELSE 1000 END * $1::int8)
                       FROM pg_class c WHERE relname ~ '^s[0-9]+$'";
        stage.publisher.query(ahead, &[&round]).await.unwrap();
        let synced = verb::run(&stage.pair, "sync", &["--lead=0", &as_owner]).unwrap();
        assert_eq!(synced.code(), 0, "{}", synced.all());
        let behind = "SELECT count(*) FROM pg_class WHERE relname ~ '^s[0-9]+$'
                         AND coalesce(abs(pg_sequence_last_value(oid)), 0) < 1000 * $1::int8";
        assert_eq!(stage.subscriber.query_one(behind, &[&round]).await.unwrap().get::<_, i64>(0), 0);
    }
    held.rollback().await.unwrap();
    stop.store(true, Ordering::Relaxed);
    let ids = drawn.await.unwrap();
    assert!(ids.windows(2).all(|two| two[0].0 < two[1].0 && two[0].1 < two[1].1), "an id was drawn twice");
    let owners = "SELECT count(*) FROM pg_class WHERE relname ~ '^s[0-9]+$' AND relowner = 'app'::regrole";
    assert_eq!(stage.subscriber.query_one(owners, &[]).await.unwrap().get::<_, i64>(0), 1);
}
