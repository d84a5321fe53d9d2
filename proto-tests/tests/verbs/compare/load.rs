//! While the publisher is written to all the time: no false difference, and the real one is found.

use super::{compare, differences, table};
use proto_tests::sql::connect;
use proto_tests::stage::Stage;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;

const TABLES: &str = "
CREATE TABLE busy (id bigserial PRIMARY KEY, v int);
CREATE TABLE keyless (a int, b text);
ALTER TABLE keyless REPLICA IDENTITY FULL;
CREATE TABLE texts (name text PRIMARY KEY, v int);
CREATE TABLE calm (id int PRIMARY KEY, v int)";

/// Inserts, updates, deletes, moves keys and puts keys back, all the time.
struct Writers {
    stop: Arc<AtomicBool>,
    commits: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<()>>,
}

impl Writers {
    fn start(conninfo: &str) -> Self {
        let (stop, commits) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let tasks = (0..2)
            .map(|number: i64| {
                let (stop, commits, conninfo) = (stop.clone(), commits.clone(), conninfo.to_owned());
                tokio::spawn(async move {
                    let client = connect(&conninfo).await.unwrap();
                    let mut round = number;
                    // A client whose server is gone answers at once, for ever: a test that fails would never end.
                    while !stop.load(Ordering::Relaxed) && !client.is_closed() {
                        round += 7;
                        let id = round % 5000 + 1;
                        // Two writers lock rows of the same tables: a deadlock is no failure.
                        let _ = client
                            .batch_execute(&format!(
                                "INSERT INTO busy (v) VALUES ({round}), ({round});
                                 UPDATE busy SET v = v + 1 WHERE id = {id};
                                 DELETE FROM busy WHERE id = {id} + 1;
                                 INSERT INTO busy VALUES ({id} + 1, 0) ON CONFLICT DO NOTHING;
                                 DELETE FROM busy WHERE id = (SELECT max(id) FROM busy);
                                 UPDATE keyless SET b = b || 'x' WHERE a = {id} % 97 AND length(b) < 9;
                                 INSERT INTO keyless VALUES ({id} % 97, 'n');
                                 DELETE FROM keyless WHERE a = {id} % 89;
                                 UPDATE texts SET v = v + 1 WHERE name = 'n{id}';
                                 DELETE FROM texts WHERE name = 'n{round}';
                                 INSERT INTO texts VALUES ('n{round}', 1) ON CONFLICT DO NOTHING"
                            ))
                            .await;
                        commits.fetch_add(1, Ordering::Relaxed);
                        // A load, not all that two cores can bear: the comparison has to keep up with it.
                        tokio::time::sleep(Duration::from_millis(3)).await;
                    }
                })
            })
            .collect();
        Writers { stop, commits, tasks }
    }

    async fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        self.commits.load(Ordering::Relaxed)
    }
}

async fn under_load(publisher: u32, subscriber: u32) {
    let stage = Stage::with(publisher, subscriber, TABLES).await.unwrap();
    stage
        .on_publisher(
            "INSERT INTO busy (v) SELECT i FROM generate_series(1, 20000) i;
             INSERT INTO keyless SELECT i % 97, 'x' FROM generate_series(1, 500) i;
             INSERT INTO texts SELECT 'n' || i, i FROM generate_series(1, 5000) i;
             INSERT INTO calm SELECT i, i FROM generate_series(1, 5000) i",
        )
        .await;
    stage.on_subscriber("ALTER TABLE texts ALTER name TYPE text COLLATE \"en-x-icu\"").await;
    stage.pair.replicate_all().await.unwrap();
    let writers = Writers::start(&stage.pair.publisher_conninfo());
    let (mut equal, mut rounds) = (0, 0);
    // On a busy machine all may be in motion for once.
    while rounds < 3 || (equal == 0 && rounds < 15) {
        rounds += 1;
        let finished = compare(&stage.pair, &["--chunk-rows=1000", "--jobs=3"]);
        for name in ["busy", "keyless", "texts", "calm"] {
            let status = &table(&finished, &format!("public.{name}"))["status"];
            assert_ne!(status, "differs", "a false difference: {}", finished.all());
        }
        equal += usize::from(finished.code() == 0);
    }
    assert!(equal >= 1, "it never said equal");

    // One row that the load touches all the time is left alone; these are not touched by it.
    stage
        .on_subscriber(
            "UPDATE busy SET v = -1 WHERE id = 15000; DELETE FROM busy WHERE id = 15001;
             INSERT INTO busy VALUES (-5, 0); INSERT INTO keyless VALUES (-1, 'only here');
             UPDATE calm SET v = 0 WHERE id = 77",
        )
        .await;
    let finished = compare(&stage.pair, &["--chunk-rows=1000"]);
    assert_eq!(finished.code(), 1);
    let of = |kind: &str, id: &str| (kind.to_owned(), json!({"id": id}));
    let expected = [of("extra", "-5"), of("changed", "15000"), of("missing", "15001")];
    assert_eq!(differences(&finished, "public.busy"), expected, "{}", finished.all());
    assert_eq!(differences(&finished, "public.calm"), [of("changed", "77")]);
    assert_eq!(differences(&finished, "public.keyless"), [("extra".to_owned(), json!(null))]);
    assert_ne!(table(&finished, "public.texts")["status"], "differs", "{}", finished.all());
    let commits = writers.end().await;
    assert!(commits > 100, "there was hardly any load: {commits}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_from_14_to_16() {
    under_load(14, 16).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_from_17_to_18() {
    under_load(17, 18).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_never_hold_still_are_never_called_different() {
    let ddl = "CREATE TABLE hot (id int PRIMARY KEY, v int); CREATE TABLE queue (id int)";
    let stage = Stage::with(12, 17, ddl).await.unwrap();
    stage.on_publisher("INSERT INTO hot SELECT i, 0 FROM generate_series(1, 500) i").await;
    stage.pair.replicate_all().await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let client = connect(&stage.pair.publisher_conninfo()).await.unwrap();
    let is_over = stop.clone();
    let writer = tokio::spawn(async move {
        let mut round = 0;
        // One row gets a new value all the time, one changes to and fro, one comes and goes, some are added.
        while !is_over.load(Ordering::Relaxed) {
            round += 1;
            tokio::time::sleep(Duration::from_millis(1)).await;
            for sql in [
                "UPDATE hot SET v = v + 1 WHERE id = 1; UPDATE hot SET v = 1 - v WHERE id = 2",
                "DELETE FROM hot WHERE id = 3",
                "INSERT INTO hot VALUES (3, 0)",
            ] {
                client.batch_execute(sql).await.unwrap();
            }
            client.batch_execute(&format!("INSERT INTO queue VALUES ({round} % 9)")).await.unwrap();
        }
    });
    for _ in 0..3 {
        let finished = compare(&stage.pair, &["--wait=4s"]);
        for name in ["public.hot", "public.queue"] {
            assert_ne!(table(&finished, name)["status"], "differs", "{}", finished.all());
        }
    }
    stage.on_subscriber("UPDATE hot SET v = 7 WHERE id = 400").await;
    let finished = compare(&stage.pair, &["--wait=4s"]);
    assert_eq!(differences(&finished, "public.hot"), [("changed".to_owned(), json!({"id": "400"}))]);
    stop.store(true, Ordering::Relaxed);
    writer.await.unwrap();
}
