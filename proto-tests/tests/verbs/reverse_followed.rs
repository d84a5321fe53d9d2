//! What the subscriptions follow decides what goes back and what is compared, not the narrow publication that setup's
//! configuration names for the sidecar.

use super::reverse::{READ_ONLY, as_ours, back, backwards, refused, reverse};
use proto_tests::pair::Pair;
use proto_tests::publication::{Publication, Subscription};
use proto_tests::sql::wait_for;
use proto_tests::stage::Stage;
use proto_tests::{sidecar, verb};
use std::path::Path;

/// With ids and without, and a partitioned one.
const TABLES: &str = "
CREATE TABLE orders (id bigserial PRIMARY KEY, note text);
CREATE TABLE plain (code text PRIMARY KEY, note text);
CREATE TABLE parts (id bigserial, k int, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
CREATE TABLE part_1 PARTITION OF parts FOR VALUES IN (1)";
const ROWS: &str = "
INSERT INTO orders (note) SELECT 'old' FROM generate_series(1, 50);
INSERT INTO plain SELECT 'code ' || i, 'old' FROM generate_series(1, 50) i;
INSERT INTO parts (k) SELECT 1 FROM generate_series(1, 50)";

/// Runs setup, and writes the lines that it prints to a file.
fn set_up(stage: &Stage, file: &Path) -> String {
    let sides = [
        format!("--publisher={}", stage.pair.publisher_conninfo()),
        format!("--subscriber={}", stage.pair.subscriber_conninfo()),
    ];
    let flags = ["--slot=ours", "--role=shadow", "--grant", "--json", &sides[0], &sides[1]];
    let made = verb::run(&stage.pair, "setup", &flags).unwrap();
    assert_eq!(made.code(), 0, "{}", made.all());
    let lines = made.json().unwrap()["config"].as_str().unwrap().to_owned();
    assert!(lines.contains("seqshadow_ours"), "{lines}");
    std::fs::write(file, &lines).unwrap();
    format!("--config={}", file.display())
}

/// The statuses of the compared tables, by name.
fn compared(pair: &Pair, flags: &[&str]) -> Vec<String> {
    let flags: Vec<&str> = ["--data", "--json", "--wait=20s"].iter().chain(flags).copied().collect();
    let done = verb::run(pair, "verify", &flags).unwrap();
    let json = done.json().unwrap();
    let tables = json["tables"].as_array().unwrap_or_else(|| panic!("{}", done.all())).iter();
    let mut found: Vec<String> = tables
        .map(|table| format!("{} {}", table["table"].as_str().unwrap(), table["status"].as_str().unwrap()))
        .collect();
    found.sort();
    found
}

async fn a_new_row_goes_back(stage: &Stage) {
    stage.on_subscriber("INSERT INTO plain VALUES ('new', 'new')").await;
    back(&stage.pair).await;
    let arrived = "SELECT count(*) FROM plain WHERE code = 'new'";
    assert_eq!(stage.publisher.query_one(arrived, &[]).await.unwrap().get::<_, i64>(0), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_file_of_setup_leaves_no_table_out() {
    for (old, new) in [(15, 18), (12, 17)] {
        let mut stage = Stage::replicating(old, new, TABLES).await.unwrap();
        stage.on_publisher(ROWS).await;
        stage.pair.catch_up().await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let config = set_up(&stage, &directory.path().join("ours.toml"));

        let equal = compared(&stage.pair, &[&config]);
        assert_eq!(equal, ["public.orders equal", "public.part_1 equal", "public.plain equal"]);
        stage.on_subscriber("UPDATE plain SET note = 'other' WHERE code = 'code 7'").await;
        let differs = compared(&stage.pair, &[&config]);
        assert!(differs.contains(&"public.plain differs".to_owned()), "{differs:?}");
        stage.on_subscriber("UPDATE plain SET note = 'old' WHERE code = 'code 7'").await;

        // The file says which sidecar is meant.
        let console = format!("--console-dir={}", directory.path().join("c").display());
        let shadow = sidecar::start(&stage.pair, &[&config, &console]).unwrap();
        let status = verb::run(&stage.pair, "status", &[&config, &console, "--json"]).unwrap();
        assert!(status.json().unwrap()["sidecar"].is_object(), "{}", status.all());
        drop(shadow);
        let free = "SELECT NOT bool_or(active) FROM pg_replication_slots WHERE slot_name = 'ours'";
        wait_for(&stage.pair.publisher_conninfo(), "the sidecar's end", free).await.unwrap();

        stage.on_publisher(READ_ONLY).await;
        as_ours(&mut stage).await;
        let done = reverse(&stage.pair, &["--apply", &config]);
        assert_eq!(done.code(), 0, "{}", done.all());
        a_new_row_goes_back(&stage).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_subscription_is_not_left_leading_forwards() {
    let pair = Pair::new(14, 16).await.unwrap();
    pair.on_both(TABLES).await.unwrap();
    pair.grant(&["public"]).await.unwrap();
    for (name, table) in [("a", "orders"), ("b", "plain")] {
        pair.publish(&Publication::of(&format!("pub{name}"), &[table])).await.unwrap();
        let publication = format!("pub{name}");
        pair.subscribe(&Subscription::to(&format!("sub{name}"), &[&publication])).await.unwrap();
    }
    pair.wait_for_sync().await.unwrap();
    let (publisher, subscriber) = pair.clients().await.unwrap();
    let mut stage = Stage { pair, publisher, subscriber };
    stage.on_publisher("CREATE PUBLICATION narrow FOR TABLE orders").await;
    stage.on_publisher(READ_ONLY).await;
    as_ours(&mut stage).await;
    let equal = compared(&stage.pair, &["--publication=narrow"]);
    assert_eq!(equal, ["public.orders equal", "public.plain equal"]);

    let text = "subscription subb of the new server gets rows from the old one too";
    refused(&stage, &["--subscription=suba"], 4, text).await;
    // As it is told to.
    stage.on_subscriber("DROP SUBSCRIPTION subb").await;
    stage.on_subscriber("ALTER SUBSCRIPTION suba SET PUBLICATION puba, pubb WITH (copy_data = false)").await;
    let done = reverse(&stage.pair, &["--apply", "--subscription=suba"]);
    assert_eq!(done.code(), 0, "{}", done.all());
    a_new_row_goes_back(&stage).await;
}

/// What is left of a replication is removed or told: the other sidecar's slot, and servers that begin read-only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undo_leaves_no_slot_and_says_what_is_read_only() {
    let mut stage = Stage::replicating(13, 15, TABLES).await.unwrap();
    stage.on_publisher(READ_ONLY).await;
    as_ours(&mut stage).await;
    let done = reverse(&stage.pair, &["--apply"]);
    assert_eq!(done.code(), 0, "{}", done.all());
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let shadow = backwards(&stage.pair);
    let dry = reverse(&stage.pair, &["--undo", "--dry-run"]);
    assert!(!words(&dry.stdout).contains("drop slot ours_reverse"), "{}", dry.all());
    drop(shadow);
    let undone = reverse(&stage.pair, &["--undo"]);
    assert_eq!(undone.code(), 0, "{}", undone.all());
    assert!(
        words(&undone.stdout).contains("new: dropped slot ours_reverse of the sidecar"),
        "{}",
        undone.all()
    );
    let told = "ALTER DATABASE shop RESET default_transaction_read_only;";
    assert!(words(&undone.stdout).contains(told), "{}", undone.all());
    let left = "SELECT count(*) FROM pg_replication_slots";
    assert_eq!(stage.subscriber.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0);
    let sides = [
        format!("--publisher={}", stage.pair.publisher_conninfo()),
        format!("--subscriber={}", stage.pair.subscriber_conninfo()),
    ];
    let torn = verb::run(&stage.pair, "teardown", &["--slot=ours", &sides[0], &sides[1]]).unwrap();
    assert_eq!(torn.code(), 0, "{}", torn.all());
    assert!(words(&torn.stdout).contains(told), "{}", torn.all());
    stage.on_publisher("SET default_transaction_read_only = off; ALTER DATABASE shop RESET default_transaction_read_only").await;
    let again = reverse(&stage.pair, &["--undo"]);
    assert!(!words(&again.stdout).contains("read-only"), "{}", again.all());
}

/// There is no way back from a database to itself, and nothing to look at. Another database of one server is no obstacle.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_database_as_both_sides_is_refused() {
    let pair = Pair::new(17, 13).await.unwrap();
    pair.on_subscriber().await.unwrap().batch_execute("CREATE DATABASE other").await.unwrap();
    let run = |publisher: &str, flag: &str| {
        let sides =
            [format!("--publisher={publisher}"), format!("--subscriber={}", pair.subscriber_conninfo())];
        let flags = ["--slot=ours", sides[0].as_str(), sides[1].as_str(), "--dry-run", flag];
        let last = if flag.is_empty() { 4 } else { 5 };
        verb::run(&pair, "reverse", &flags[..last]).unwrap()
    };
    for flag in ["", "--apply", "--undo", "--status"] {
        let same = run(&pair.subscriber_conninfo(), flag);
        assert_eq!(same.code(), 2, "{flag}\n{}", same.all());
        let said = "publisher and subscriber are the same: database \"shop\"";
        assert!(same.stderr.contains(said), "{flag}\n{}", same.all());
        let other = run(&pair.subscriber.conninfo("other"), flag);
        assert!(!other.all().contains("are the same"), "{flag}\n{}", other.all());
    }
}
