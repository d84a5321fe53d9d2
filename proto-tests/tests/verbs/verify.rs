//! `verify`: says no when a single id is not covered, and burns none. What it sets aside it names, and counts.

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

const FAR: i64 = 9_000_000_000_000_000_000;
const FAR_TABLES: &str = "CREATE TABLE few (id bigserial PRIMARY KEY);
CREATE TABLE many (id bigserial PRIMARY KEY, again bigint);
CREATE SEQUENCE down INCREMENT -1; CREATE TABLE below (id bigint PRIMARY KEY DEFAULT nextval('down'));
CREATE TABLE single (id bigserial PRIMARY KEY); CREATE TABLE free (id bigserial PRIMARY KEY);
CREATE TABLE plain (id bigserial)";

/// How many ids of each sequence are set aside, and the furthest of them, and the same in words.
async fn what_is_set_aside_is_counted(publisher: u32, subscriber: u32) {
    let stage = Stage::replicating(publisher, subscriber, FAR_TABLES).await.unwrap();
    for sql in [
        format!("INSERT INTO few SELECT {FAR} + i FROM generate_series(1, 12) i"),
        format!("INSERT INTO many SELECT {FAR} + i FROM generate_series(1, 1500) i"),
        format!("INSERT INTO below SELECT -{FAR} - i FROM generate_series(1, 11) i"),
        format!("INSERT INTO single VALUES ({FAR}); INSERT INTO plain VALUES ({FAR}), ({FAR} + 1)"),
        ["few", "many", "below", "single", "free", "plain"]
            .map(|t| format!("INSERT INTO {t} DEFAULT VALUES"))
            .join(";"),
    ] {
        stage.on_publisher(&sql).await;
    }
    stage.pair.catch_up().await.unwrap();
    let furthest = |sign: i64, last: i64| -> Vec<i64> { (0..10).map(|i| sign * (FAR + last - i)).collect() };
    let expected = [
        ("public.few_id_seq", furthest(1, 12), Some(12), " and 2 more"),
        ("public.many_id_seq", furthest(1, 1500), Some(1001), " and more than 990 more"),
        ("public.down", furthest(-1, 11), Some(11), " and 1 more"),
        ("public.single_id_seq", vec![FAR], Some(1), ""),
        ("public.free_id_seq", vec![], Some(0), ""),
        ("public.plain_id_seq", vec![FAR + 1], None, ", and there may be more"),
    ];
    let holds = |proofs: &serde_json::Value, words: &str| {
        for (sequence, ids, count, more) in &expected {
            let one = proofs.as_array().unwrap().iter().find(|one| one["sequence"] == *sequence).unwrap();
            assert_eq!(one["set_aside"], serde_json::json!(ids), "{one}");
            assert_eq!(one["set_aside_count"], serde_json::json!(count), "{one}");
            if let Some(last) = ids.last() {
                assert!(words.contains(&format!("{last}{more}")), "{sequence}: {words}");
            }
        }
    };
    let directory = tempfile::tempdir().unwrap();
    let cut = crate::cutover::run(&stage.pair, directory.path(), &["--stop-writes", "--full"]);
    assert_eq!(cut.code(), 0, "{}", cut.all());
    let words = |finished: &proto_tests::shadow::Finished| {
        finished.stdout.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let certificate = std::fs::read_to_string(directory.path().join("certificate.json")).unwrap();
    let certificate: serde_json::Value = serde_json::from_str(&certificate).unwrap();
    holds(&certificate["databases"][0]["sequences"], &words(&cut));
    let json = verb::run(&stage.pair, "verify", &["--full", "--json"]).unwrap();
    let text = verb::run(&stage.pair, "verify", &["--full"]).unwrap();
    assert_eq!((json.code(), text.code()), (0, 0), "{}", text.all());
    holds(&json.json().unwrap()["sequences"], &words(&text));
    assert!(text.stdout.lines().all(|line| line.chars().count() <= 80), "{}", text.all());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_that_are_set_aside_are_named_and_counted() {
    what_is_set_aside_is_counted(15, 17).await;
    what_is_set_aside_is_counted(18, 12).await;
}
