//! `verify`: says no when a single id is not covered, and burns none.

use proto_tests::sequence::state;
use proto_tests::stage::Stage;
use proto_tests::verb;

const TABLES: &str = "
CREATE TABLE orders (id bigserial PRIMARY KEY, note text);
CREATE TABLE plain (id bigserial, note text);
CREATE SEQUENCE inv;
CREATE TABLE invoices (no text PRIMARY KEY DEFAULT 'INV-' || lpad(nextval('inv')::text, 6, '0') || '/x')";
const USE: &str = "INSERT INTO orders (note) SELECT 'x' FROM generate_series(1, 50);
INSERT INTO plain (note) SELECT 'x' FROM generate_series(1, 50);
INSERT INTO invoices SELECT FROM generate_series(1, 50)";

fn verdicts(finished: &proto_tests::shadow::Finished) -> Vec<(String, String)> {
    let json = finished.json().unwrap();
    let of = |one: &serde_json::Value, key: &str| one[key].as_str().unwrap().to_owned();
    json["sequences"].as_array().unwrap().iter().map(|s| (of(s, "sequence"), of(s, "verdict"))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_finds_what_is_behind_and_what_was_not_looked_at() {
    let stage = Stage::replicating(15, 17, TABLES).await.unwrap();
    stage.on_publisher(USE).await;
    stage.pair.catch_up().await.unwrap();
    let fresh = verb::run(&stage.pair, "verify", &["--json"]).unwrap();
    assert_eq!(fresh.code(), 1, "{}", fresh.all());
    assert!(verdicts(&fresh).iter().all(|(_, verdict)| verdict == "behind"), "{}", fresh.all());
    // Nothing was used up.
    assert!(!state(&stage.subscriber, "orders_id_seq").await.unwrap().is_called);

    assert_eq!(verb::run(&stage.pair, "sync", &[]).unwrap().code(), 0);
    // Our role may read these columns on the publisher, but two cannot be read through an index.
    let synced = verb::run(&stage.pair, "verify", &["--json"]).unwrap();
    assert_eq!(synced.code(), 1, "{}", synced.all());
    let expected =
        [("public.inv", "unproven"), ("public.orders_id_seq", "past"), ("public.plain_id_seq", "unproven")];
    assert_eq!(verdicts(&synced), expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
    let full = verb::run(&stage.pair, "verify", &["--full"]).unwrap();
    assert_eq!(full.code(), 0, "{}", full.all());

    // One id by hand on the subscriber only, in each column.
    stage
        .on_subscriber(
            "INSERT INTO orders VALUES (90, 'x'); INSERT INTO plain VALUES (90, 'x');
             INSERT INTO invoices VALUES ('INV-000090/x')",
        )
        .await;
    let full = verb::run(&stage.pair, "verify", &["--full", "--json"]).unwrap();
    assert_eq!(full.code(), 1);
    assert!(verdicts(&full).iter().all(|(_, verdict)| verdict == "behind"), "{}", full.all());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_publishers_own_sequence_counts_also_without_rows() {
    let stage = Stage::replicating(17, 18, "CREATE TABLE orders (id serial PRIMARY KEY)").await.unwrap();
    assert_eq!(verb::run(&stage.pair, "verify", &[]).unwrap().code(), 0);
    stage.on_publisher("SELECT nextval('orders_id_seq')").await;
    let behind = verb::run(&stage.pair, "verify", &[]).unwrap();
    assert_eq!(behind.code(), 1, "{}", behind.all());
    assert!(behind.stdout.contains("public.orders_id_seq"), "{}", behind.all());
    // What our role may not read on the publisher cannot be proven.
    stage.on_publisher("REVOKE ALL ON SEQUENCE orders_id_seq FROM shadow").await;
    let denied = verb::run(&stage.pair, "verify", &[]).unwrap();
    assert_eq!(denied.code(), 1, "{}", denied.all());
    assert!(denied.stdout.contains("GRANT SELECT ON"), "{}", denied.all());
}

/// A sequence behind two columns, one of which cannot be read through an index on either side.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_that_was_read_does_not_speak_for_another() {
    let ddl = "CREATE TABLE orders (id bigserial PRIMARY KEY, no text);
               ALTER TABLE orders ALTER no SET DEFAULT 'R-' || nextval('orders_id_seq')";
    let stage = Stage::replicating(16, 14, ddl).await.unwrap();
    stage.on_publisher("INSERT INTO orders DEFAULT VALUES; INSERT INTO orders (no) VALUES ('R-5000')").await;
    stage.pair.catch_up().await.unwrap();
    assert_eq!(verb::run(&stage.pair, "sync", &[]).unwrap().code(), 0);
    let synced = verb::run(&stage.pair, "verify", &["--json"]).unwrap();
    assert_eq!(
        verdicts(&synced),
        [("public.orders_id_seq".to_owned(), "unproven".to_owned())],
        "{}",
        synced.all()
    );
    assert_eq!(synced.code(), 1);
    let full = verb::run(&stage.pair, "verify", &["--full", "--json"]).unwrap();
    assert_eq!(verdicts(&full), [("public.orders_id_seq".to_owned(), "behind".to_owned())], "{}", full.all());

    // A column that only the subscriber has.
    stage.on_publisher("ALTER TABLE orders DROP no").await;
    let alone = verb::run(&stage.pair, "verify", &["--json"]).unwrap();
    assert_eq!(
        verdicts(&alone),
        [("public.orders_id_seq".to_owned(), "unproven".to_owned())],
        "{}",
        alone.all()
    );
}
