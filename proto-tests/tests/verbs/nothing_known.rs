//! A sequence of which nothing tells where it should stand: no verb says yes to it.

use proto_tests::sequence::state;
use proto_tests::shadow::Finished;
use proto_tests::stage::Stage;
use proto_tests::verb;

const TABLES: &str = "CREATE TABLE orders (id bigserial PRIMARY KEY, note text);
CREATE TABLE items (id bigserial PRIMARY KEY, note text)";

fn words(finished: &Finished) -> String {
    finished.stdout.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sequence_that_cannot_be_read_with_rows_that_cannot_is_held() {
    let stage = Stage::replicating(15, 18, TABLES).await.unwrap();
    stage.on_publisher("INSERT INTO orders (note) SELECT 'x' FROM generate_series(1, 500)").await;
    stage.pair.catch_up().await.unwrap();
    stage.on_publisher("REVOKE ALL ON orders_id_seq FROM shadow; REVOKE ALL ON orders FROM shadow").await;
    stage.on_subscriber("ALTER TABLE orders DROP CONSTRAINT orders_pkey").await;
    let before = state(&stage.subscriber, "orders_id_seq").await.unwrap();
    let grant = "GRANT SELECT ON SEQUENCE public.orders_id_seq";

    let plan = verb::run(&stage.pair, "plan", &[]).unwrap();
    assert_eq!(plan.code(), 1, "{}", plan.all());
    assert!(plan.stdout.contains("-- HELD public.orders_id_seq: "), "{}", plan.all());
    assert!(plan.stdout.contains(" 0 in place, 1 held"), "{}", plan.all());
    for line in plan.stdout.lines().filter(|line| line.starts_with("--")) {
        assert!(line.chars().count() <= 80, "{line}");
    }
    let dry = verb::run(&stage.pair, "sync", &["--dry-run"]).unwrap();
    assert_eq!(dry.code(), 1, "{}", dry.all());
    assert!(words(&dry).contains("1 held") && words(&dry).contains(grant), "{}", dry.all());
    let synced = verb::run(&stage.pair, "sync", &[]).unwrap();
    assert_eq!(synced.code(), 1, "{}", synced.all());
    assert!(
        words(&synced).contains("0 in place, 1 NOT") && words(&synced).contains(grant),
        "{}",
        synced.all()
    );
    let status = verb::run(&stage.pair, "status", &["--no-console", "--json"]).unwrap();
    assert_eq!(status.code(), 1, "{}", status.all());
    let json = status.json().unwrap();
    assert_eq!(json["well"], false);
    let orders = json["sequences"].as_array().unwrap();
    let orders = orders.iter().find(|one| one["sequence"] == "public.orders_id_seq").unwrap();
    assert_eq!(orders["state"], "held", "{orders}");
    assert!(orders["reason"].as_str().unwrap().contains(grant), "{orders}");
    assert_eq!(verb::run(&stage.pair, "verify", &[]).unwrap().code(), 1);
    assert_eq!(state(&stage.subscriber, "orders_id_seq").await.unwrap(), before);

    // What the rows tell is not enough either: deleted ones had ids, too. But it is done.
    stage.on_subscriber("ALTER TABLE orders ADD PRIMARY KEY (id)").await;
    let plan = verb::run(&stage.pair, "plan", &[]).unwrap();
    assert_eq!(plan.code(), 1, "{}", plan.all());
    assert!(plan.stdout.contains("1 to move, 1 in place, 1 held"), "{}", plan.all());
    let synced = verb::run(&stage.pair, "sync", &[]).unwrap();
    assert_eq!(synced.code(), 1, "{}", synced.all());
    assert!(stage.next("orders_id_seq").await > 500);

    stage.on_publisher("GRANT SELECT ON orders_id_seq TO shadow").await;
    for verb in ["plan", "sync", "verify", "status"] {
        let done = verb::run(&stage.pair, verb, &[]).unwrap();
        assert_eq!(done.code(), 0, "{verb}: {}", done.all());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_below_zero_inside_text_are_seen() {
    let ddl = "CREATE SEQUENCE d INCREMENT -1;
        CREATE TABLE t (code text PRIMARY KEY DEFAULT 'A' || nextval('d'), note text)";
    let stage = Stage::replicating(14, 17, ddl).await.unwrap();
    let rows = "INSERT INTO t (note) SELECT 'x' FROM generate_series(1, 10);
        INSERT INTO t VALUES ('A-60', 'by hand')";
    stage.on_publisher(rows).await;
    stage.pair.catch_up().await.unwrap();
    assert_eq!(verb::run(&stage.pair, "sync", &["--lead=2"]).unwrap().code(), 0);
    let verified = verb::run(&stage.pair, "verify", &["--full", "--json"]).unwrap();
    assert_eq!(verified.code(), 1, "{}", verified.all());
    let proof = verified.json().unwrap()["sequences"][0].clone();
    assert_eq!((proof["verdict"].as_str(), proof["furthest_id"].as_i64()), (Some("behind"), Some(-60)));
}
