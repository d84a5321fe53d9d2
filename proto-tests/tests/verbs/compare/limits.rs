//! Few connections, few rights, and an end in the middle.

use super::{Long, assert_equal, compare, differences, table};
use anyhow::Result;
use proto_tests::shadow::Signal;
use proto_tests::sql::{PATIENCE, connect};
use proto_tests::stage::Stage;
use proto_tests::verb;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

/// The most sessions of ours that were there at once.
async fn most(conninfo: String, stop: Arc<AtomicBool>, most: Arc<AtomicI64>) -> Result<()> {
    let client = connect(&conninfo).await?;
    // With the processes that work for a query in parallel.
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'shadow'";
    while !stop.load(Ordering::Relaxed) {
        most.fetch_max(client.query_one(sql, &[]).await?.get(0), Ordering::Relaxed);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn never_more_connections_than_jobs() {
    let ddl = "CREATE TABLE a (id int PRIMARY KEY, v text); CREATE TABLE b (id int PRIMARY KEY, v text);
               CREATE TABLE c (name text COLLATE \"en-x-icu\" PRIMARY KEY)";
    let stage = Stage::with(13, 16, ddl).await.unwrap();
    stage
        .on_publisher(
            "INSERT INTO a SELECT i, 'x' FROM generate_series(1, 100000) i; INSERT INTO b SELECT * FROM a;
             INSERT INTO c SELECT 'n' || i FROM generate_series(1, 100000) i",
        )
        .await;
    for client in [&stage.publisher, &stage.subscriber] {
        let eager = "ALTER DATABASE shop SET parallel_setup_cost = 0; ALTER DATABASE shop SET parallel_tuple_cost = 0;
                     ALTER DATABASE shop SET min_parallel_table_scan_size = 0";
        client.batch_execute(eager).await.unwrap();
    }
    stage.pair.replicate_all().await.unwrap();
    stage.on_subscriber("UPDATE a SET v = 'y' WHERE id % 5000 = 0").await;
    for jobs in [1, 3] {
        let stop = Arc::new(AtomicBool::new(false));
        let counts = [Arc::new(AtomicI64::new(0)), Arc::new(AtomicI64::new(0))];
        let servers = [stage.pair.publisher_conninfo(), stage.pair.subscriber_conninfo()];
        let watching: Vec<_> = servers
            .into_iter()
            .zip(&counts)
            .map(|(server, count)| tokio::spawn(most(server, stop.clone(), count.clone())))
            .collect();
        let mut shadow =
            verb::command(&stage.pair, "verify", &["--data", "--chunk-rows=1000", &format!("--jobs={jobs}")])
                .spawn()
                .unwrap();
        let code =
            tokio::task::spawn_blocking(move || shadow.wait_exit(PATIENCE).unwrap().code()).await.unwrap();
        assert_eq!(code, Some(1));
        stop.store(true, Ordering::Relaxed);
        for task in watching {
            task.await.unwrap().unwrap();
        }
        for count in counts {
            assert_eq!(count.load(Ordering::Relaxed), jobs, "as many as allowed, and no more");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_goes_on_where_it_was_killed() {
    let long = Long::new(13, 15).await;
    let Long { stage, file, state, .. } = &long;
    let mut shadow = long.under_way().await;
    shadow.kill9();
    let by_then = long.done();
    assert!(by_then < 3001, "it was killed in the middle");

    // What was equal is not looked at again; what was not yet, is.
    stage.on_subscriber("DELETE FROM t WHERE id IN (1, 299999)").await;
    let rest = ["--chunk-rows=100", state.as_str()];
    let resumed = compare(&stage.pair, &rest);
    assert_eq!(resumed.code(), 1, "{}", resumed.all());
    assert_eq!(table(&resumed, "public.t")["chunks_resumed"], by_then);
    assert_eq!(table(&resumed, "public.t")["publisher_rows"], 300_000);
    assert_eq!(differences(&resumed, "public.t"), [("missing".to_owned(), json!({"id": "299999"}))]);
    stage.on_subscriber("INSERT INTO t VALUES (299999, 'row 299999')").await;
    let kept = std::fs::read_to_string(file).unwrap();
    let rerun = compare(&stage.pair, &rest);
    assert_equal(&rerun);
    assert!(!file.exists(), "where all is equal, nothing is left to go on from");
    assert_eq!(table(&rerun, "public.t")["chunks_resumed"], 3000);
    assert_eq!(compare(&stage.pair, &["--chunk-rows=100"]).code(), 1, "without the file all is compared");

    std::fs::write(file, &kept).unwrap();
    // Not for another chunk size or another database, and not when it is damaged.
    let other = verb::run(&stage.pair, "verify", &["--data", "--chunk-rows=200", state]).unwrap();
    assert_eq!(other.code(), 2, "{}", other.all());
    assert!(other.stderr.contains("--chunk-rows 100"), "{}", other.all());
    let whole = kept;
    std::fs::write(file, whole.replacen("shop (", "other (", 1)).unwrap();
    let other = verb::run(&stage.pair, "verify", &["--data", "--chunk-rows=100", state]).unwrap();
    assert_eq!(other.code(), 2, "{}", other.all());
    assert!(other.stderr.contains("another publisher"), "{}", other.all());
    std::fs::write(file, &whole[..whole.len() / 2]).unwrap();
    let damaged = verb::run(&stage.pair, "verify", &["--data", "--chunk-rows=100", state]).unwrap();
    assert_eq!(damaged.code(), 2, "{}", damaged.all());
    assert!(damaged.stderr.contains("damaged"), "{}", damaged.all());
    shadow.signal(Signal::TERM);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_compared_is_named_and_the_rest_is() {
    let ddl = "CREATE TABLE fine (id int PRIMARY KEY); CREATE TABLE secret (id int PRIMARY KEY);
               CREATE TABLE hidden (id int PRIMARY KEY); CREATE TABLE short (id int PRIMARY KEY, v int);
               CREATE TABLE gone (id int PRIMARY KEY); CREATE TABLE policed (id int PRIMARY KEY)";
    let stage = Stage::with(16, 18, ddl).await.unwrap();
    stage.pair.replicate_all().await.unwrap();
    stage.on_publisher("REVOKE ALL ON secret FROM shadow; CREATE TABLE late (id int PRIMARY KEY)").await;
    stage
        .on_subscriber(
            "REVOKE ALL ON hidden FROM shadow; ALTER TABLE short DROP COLUMN v; DROP TABLE gone;
             ALTER TABLE policed ENABLE ROW LEVEL SECURITY; CREATE TABLE late (id int PRIMARY KEY);
             GRANT SELECT ON late TO shadow",
        )
        .await;
    stage.on_publisher("GRANT SELECT ON late TO shadow; INSERT INTO fine VALUES (1)").await;
    stage.pair.catch_up().await.unwrap();
    let found = compare(&stage.pair, &[]);
    assert_eq!(found.code(), 1, "{}", found.all());
    for (name, reason) in [
        ("secret", "publisher: GRANT SELECT ON public.secret TO shadow;"),
        ("hidden", "subscriber: GRANT SELECT ON public.hidden TO shadow;"),
        ("short", "v is missing on the subscriber"),
        ("gone", "no table public.gone on the subscriber"),
        ("policed", "row-level security"),
        ("late", "REFRESH PUBLICATION"),
    ] {
        let table = table(&found, &format!("public.{name}"));
        assert_eq!(table["status"], "not_compared", "{name}: {}", found.all());
        assert!(table["reason"].as_str().unwrap().contains(reason), "{name}: {}", found.all());
    }
    assert_eq!(table(&found, "public.fine")["status"], "equal");

    stage.on_subscriber("ALTER SUBSCRIPTION sub DISABLE").await;
    stage.on_publisher("INSERT INTO fine VALUES (2)").await;
    let behind = verb::run(&stage.pair, "verify", &["--data", "--table=fine", "--wait=2s"]).unwrap();
    assert_eq!(behind.code(), 1, "{}", behind.all());
    assert!(behind.stdout.contains("ENABLE"), "{}", behind.all());
    for (flags, code) in [
        (["--data", "--table=nothing*"], 2),
        (["--data", "--publication=nothing"], 2),
        (["--data", "--table=a.b.c"], 2),
        (["--data", "--sample=0"], 2),
        (["--json", "--chunk-rows=1000"], 2),
    ] {
        let finished = verb::run(&stage.pair, "verify", &flags).unwrap();
        assert_eq!(finished.code(), code, "{flags:?} {}", finished.all());
    }
}
