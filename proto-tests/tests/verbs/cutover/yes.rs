//! The gate opens.

use super::{TABLES, at_rest, confirm, database_settings, run};
use proto_tests::pair::{DATABASE, PairOptions};
use proto_tests::sequence::state;
use proto_tests::sidecar;
use proto_tests::sql::{connect, wait_for};
use proto_tests::stage::Stage;
use proto_tests::verb;
use seqshadow::demo::servers::ClusterOptions;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Inserts until told to stop, by whatever connection it can get; gives the ids it was given.
async fn insert_until(conninfo: String, table: &'static str, stop: Arc<AtomicBool>) -> Vec<i64> {
    let mut ids = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let Ok(client) = connect(&conninfo).await else { continue };
        let sql = format!("INSERT INTO {table} (note) VALUES ('load') RETURNING id::int8");
        while let Ok(row) = client.query_one(&sql, &[]).await {
            ids.push(row.get(0));
            if stop.load(Ordering::Relaxed) {
                break;
            }
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_with_the_writes_stopped_by_us() {
    let stage = Stage::replicating(15, 18, TABLES).await.unwrap();
    stage.pair.on_both("GRANT ALL ON ALL TABLES IN SCHEMA public TO app; GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO app").await.unwrap();
    let shadow = sidecar::start(&stage.pair, &[]).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let app = stage.pair.publisher.conninfo_as("app", DATABASE);
    let load: Vec<_> = ["orders", "items", "orders", "items"]
        .into_iter()
        .map(|table| tokio::spawn(insert_until(app.clone(), table, stop.clone())))
        .collect();
    wait_for(&stage.pair.publisher_conninfo(), "rows", "SELECT count(*) > 500 FROM orders").await.unwrap();

    let directory = tempfile::tempdir().unwrap();
    let cut = run(&stage.pair, directory.path(), &["--stop-writes", "--slot=ours", "--wait=30s"]);
    assert_eq!(cut.code(), 0, "{}", cut.all());
    assert!(cut.stdout.lines().all(|line| line.chars().count() <= 80), "{}", cut.all());
    confirm(&stage.pair, &directory.path().join("certificate.json"));
    stop.store(true, Ordering::Relaxed);
    let mut given = std::collections::BTreeSet::new();
    for (table, load) in ["orders", "items", "orders", "items"].into_iter().zip(load) {
        for id in load.await.unwrap() {
            assert!(given.insert((table, id)), "{table} {id} twice");
        }
    }
    drop(shadow);
    // The application goes on at the subscriber: no id twice.
    let there = connect(&stage.pair.subscriber.conninfo_as("app", DATABASE)).await.unwrap();
    for table in ["orders", "items"] {
        let sql = format!(
            "INSERT INTO {table} (note) SELECT 'after' FROM generate_series(1, 50) RETURNING id::int8"
        );
        for row in there.query(&sql, &[]).await.unwrap() {
            assert!(given.insert((table, row.get(0))), "{table}: an id twice");
        }
        let sql = format!("SELECT count(*) FROM {table}");
        let rows: i64 = there.query_one(&sql, &[]).await.unwrap().get(0);
        assert_eq!(usize::try_from(rows).unwrap(), given.iter().filter(|(t, _)| *t == table).count());
    }
    // The publisher is read-only by default until told otherwise.
    let app = connect(&app).await.unwrap();
    let refused = app.batch_execute("INSERT INTO orders (note) VALUES ('late')").await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "25006");
    let publisher = format!("--publisher={}", stage.pair.publisher_conninfo());
    let abort = verb::run(&stage.pair, "cutover", &[&publisher, "--abort"]).unwrap();
    assert_eq!(abort.code(), 0, "{}", abort.all());
    assert!(database_settings(&stage.pair).await.is_empty());
    let app = connect(&stage.pair.publisher.conninfo_as("app", DATABASE)).await.unwrap();
    app.batch_execute("INSERT INTO orders (note) VALUES ('again')").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_writes_that_the_operator_has_stopped_and_few_rights() {
    let stage = at_rest(12, 17).await;
    let directory = tempfile::tempdir().unwrap();
    let publisher = format!("--publisher={}", stage.pair.shadow_publisher_conninfo());
    let certificate = directory.path().join("certificate.json");
    let to = format!("--certificate={}", certificate.display());
    let dry = verb::run(&stage.pair, "cutover", &[&publisher, "--dry-run", "--writes-stopped"]).unwrap();
    assert_eq!(dry.code(), 0, "{}", dry.all());
    assert!(!state(&stage.subscriber, "orders_id_seq").await.unwrap().is_called);
    let cut = verb::run(&stage.pair, "cutover", &[&publisher, &to, "--writes-stopped"]).unwrap();
    assert_eq!(cut.code(), 0, "{}", cut.all());
    confirm(&stage.pair, &certificate);
    assert!(database_settings(&stage.pair).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exact_leaves_no_gap_and_takes_nothing_back() {
    let stage = at_rest(16, 18).await;
    stage.on_subscriber("SELECT setval('items_id_seq', 5000)").await;
    let directory = tempfile::tempdir().unwrap();
    let cut = run(&stage.pair, directory.path(), &["--exact"]);
    assert_eq!(cut.code(), 0, "{}", cut.all());
    confirm(&stage.pair, &directory.path().join("certificate.json"));
    assert_eq!(state(&stage.subscriber, "orders_id_seq").await.unwrap().last_value, 500);
    assert_eq!(state(&stage.subscriber, "items_id_seq").await.unwrap().last_value, 5000);
    let text = std::fs::read_to_string(directory.path().join("certificate.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let sequences = json["databases"][0]["sequences"].as_array().unwrap();
    for (name, exact, reason) in [
        ("orders_id_seq", true, "last value 500: read on both sides"),
        ("items_id_seq", false, "already, at 5000"),
    ] {
        let one = sequences.iter().find(|one| one["sequence"] == format!("public.{name}")).unwrap();
        assert_eq!(one["exact"], exact, "{one}");
        assert!(one["exact_reason"].as_str().unwrap().contains(reason), "{one}");
    }
    assert!(cut.stdout.contains("exact: 1 of 2 sequences as on the publisher"), "{}", cut.all());
    assert!(cut.stdout.contains("NOT exact: public.items_id_seq: "), "{}", cut.all());
    // An id that the publisher's sequence has never given out.
    stage.on_publisher("INSERT INTO orders (id) VALUES (700)").await;
    stage.pair.catch_up().await.unwrap();
    let cut = run(&stage.pair, directory.path(), &["--exact"]);
    assert!(cut.stdout.contains("NOT exact: public.orders_id_seq: id 700 (from the table)"), "{}", cut.all());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_applier_is_waited_for_by_its_heartbeat_or_its_slot() {
    let ddl = format!("{TABLES}; CREATE TABLE heartbeat (id serial PRIMARY KEY, token text)");
    let stage = Stage::replicating(14, 16, &ddl).await.unwrap();
    stage.on_publisher(super::USE).await;
    stage.pair.catch_up().await.unwrap();
    for flag in ["--heartbeat=public.heartbeat", "--applier-slot=sub"] {
        let directory = tempfile::tempdir().unwrap();
        let cut = run(&stage.pair, directory.path(), &[flag]);
        assert_eq!(cut.code(), 0, "{}", cut.all());
        confirm(&stage.pair, &directory.path().join("certificate.json"));
    }
    let beats: i64 = stage.subscriber.query_one("SELECT count(*) FROM heartbeat", &[]).await.unwrap().get(0);
    assert_eq!(beats, 1);
    let holder = stage.pair.on_subscriber().await.unwrap();
    holder.batch_execute("BEGIN; LOCK TABLE heartbeat IN SHARE MODE").await.unwrap();
    stage.on_publisher("INSERT INTO heartbeat (token) VALUES ('waits for the lock')").await;
    for flag in ["--heartbeat=public.heartbeat", "--applier-slot=sub"] {
        let directory = tempfile::tempdir().unwrap();
        let cut = run(&stage.pair, directory.path(), &[flag, "--wait=1s"]);
        assert_eq!((cut.code(), super::blocker(&cut).as_str()), (1, "applier-lags"), "{}", cut.all());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_publisher_there_is_a_statement_and_no_certificate() {
    let stage = at_rest(15, 17).await;
    stage.on_publisher("SELECT nextval('orders_id_seq') FROM generate_series(1, 100)").await;
    let answers = verb::run(&stage.pair, "cutover", &["--publisher-lost"]).unwrap();
    assert_eq!(answers.code(), 4, "{}", answers.all());
    stage.pair.publisher.kill9();
    let gone = verb::run(&stage.pair, "cutover", &["--stop-writes"]).unwrap();
    assert_eq!(gone.code(), 3, "{}", gone.all());
    assert!(gone.stderr.contains("seqshadow cutover --publisher-lost"), "{}", gone.all());
    let lost = verb::run(&stage.pair, "cutover", &["--publisher-lost", "--json"]).unwrap();
    assert_eq!(lost.code(), 0, "{}", lost.all());
    assert_eq!(lost.json().unwrap()["schema"], "seqshadow.statement/1");
    assert_eq!(state(&stage.subscriber, "orders_id_seq").await.unwrap().last_value, 100_500);
    let text = verb::run(&stage.pair, "cutover", &["--publisher-lost"]).unwrap();
    assert!(text.stdout.contains("without a certificate"), "{}", text.all());
    // Nobody knows how far the publisher was: each run leaves a margin.
    assert_eq!(state(&stage.subscriber, "orders_id_seq").await.unwrap().last_value, 200_500);
}

/// What an operator pays: the pause, for 200 tables.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pause_for_200_tables_is_told() {
    let tables: String =
        (0..200).map(|i| format!("CREATE TABLE t{i} (id bigserial PRIMARY KEY, note text);")).collect();
    let options = PairOptions {
        subscriber: ClusterOptions::default().set("max_sync_workers_per_subscription", "4"),
        ..PairOptions::default()
    };
    let stage = Stage::replicating_with(17, 18, options, &tables).await.unwrap();
    let inserts: String = (0..200)
        .map(|i| format!("INSERT INTO t{i} (note) SELECT 'x' FROM generate_series(1, 20);"))
        .collect();
    stage.on_publisher(&inserts).await;
    let directory = tempfile::tempdir().unwrap();
    let cut = run(&stage.pair, directory.path(), &["--stop-writes"]);
    assert_eq!(cut.code(), 0, "{}", cut.all());
    println!("{}", cut.stdout);
    confirm(&stage.pair, &directory.path().join("certificate.json"));
}
