//! Servers that go away in the middle, that only follow another one, or that have no MD5.

use super::{Long, assert_equal, compare, differences, table};
use proto_tests::sql::{PATIENCE, Probe, connect, wait_until};
use proto_tests::stage::Stage;
use seqshadow::demo::servers::{Cluster, ClusterOptions};
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_lost_is_named_and_the_run_goes_on_later() {
    let long = Long::new(14, 17).await;
    let stage = &long.stage;
    for (name, server) in [("subscriber", &stage.pair.subscriber), ("publisher", &stage.pair.publisher)] {
        let before = long.done();
        let mut run = long.under_way().await;
        server.kill9();
        let status = run.wait_exit(PATIENCE).unwrap();
        let (out, log) = (run.stdout_lines().join("\n"), run.stderr_lines().join("\n"));
        server.resume().unwrap();
        assert_eq!(status.code(), Some(3), "{name}\n{out}\n{log}");
        let json: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(json["schema"], "seqshadow.error/1", "{out}");
        assert!(json["error"].as_str().unwrap().starts_with(name), "{out}");
        assert!(long.done() > before && long.done() < 3001, "{name}: {}", long.done());
    }
    stage.pair.wait_for_sync().await.unwrap();
    stage.pair.catch_up().await.unwrap();
    let by_then = long.done();
    let resumed = compare(&stage.pair, &["--chunk-rows=100", &long.state]);
    assert_equal(&resumed);
    assert_eq!(table(&resumed, "public.t")["chunks_resumed"], by_then);
    assert_eq!(table(&resumed, "public.t")["publisher_rows"], 300_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_of_the_publisher_is_as_good() {
    let stage = Stage::replicating(16, 15, "CREATE TABLE t (id int PRIMARY KEY, v text)").await.unwrap();
    let standby = {
        let primary = &stage.pair.publisher;
        tokio::task::block_in_place(|| Cluster::standby_of(primary, &ClusterOptions::default()).unwrap())
    };
    let primary = stage.pair.on_publisher().await.unwrap();
    primary.batch_execute("INSERT INTO t SELECT i, 'x' FROM generate_series(1, 5000) i").await.unwrap();
    stage.pair.catch_up().await.unwrap();
    let there = connect(&standby.conninfo("shop")).await.unwrap();
    wait_until("the standby to have it", PATIENCE, async || {
        let rows: i64 = there.query_one("SELECT count(*) FROM t", &[]).await?.get(0);
        Ok(Probe::when(rows == 5000, || rows.to_string()))
    })
    .await
    .unwrap();
    let publisher = format!("--publisher={}", standby.conninfo_as("shadow", "shop"));
    let flags = [publisher.as_str(), "--chunk-rows=1000", "--jobs=2", "--wait=3s"];
    let equal = compare(&stage.pair, &flags);
    assert_equal(&equal);
    assert_eq!(equal.json().unwrap()["progress_known"], false, "{}", equal.all());
    stage.on_subscriber("UPDATE t SET v = 'y' WHERE id = 77").await;
    let found = compare(&stage.pair, &flags);
    assert_eq!(found.code(), 1, "{}", found.all());
    assert_eq!(differences(&found, "public.t"), [("changed".to_owned(), json!({"id": "77"}))]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_md5_it_is_sha256() {
    let stage = Stage::replicating(12, 18, "CREATE TABLE t (id int PRIMARY KEY, v text)").await.unwrap();
    stage.on_publisher("INSERT INTO t SELECT i, 'Größe ' || i FROM generate_series(1, 3000) i").await;
    stage.pair.catch_up().await.unwrap();
    // As a server that refuses to compute it: ours may not call it.
    stage.on_subscriber("REVOKE EXECUTE ON FUNCTION pg_catalog.md5(text) FROM PUBLIC").await;
    stage.on_subscriber("REVOKE EXECUTE ON FUNCTION pg_catalog.md5(bytea) FROM PUBLIC").await;
    assert_equal(&compare(&stage.pair, &["--chunk-rows=100"]));
    stage.on_subscriber("UPDATE t SET v = 'Grösse 1234' WHERE id = 1234").await;
    let found = compare(&stage.pair, &["--chunk-rows=100"]);
    assert_eq!(found.code(), 1, "{}", found.all());
    assert_eq!(differences(&found, "public.t"), [("changed".to_owned(), json!({"id": "1234"}))]);
}
