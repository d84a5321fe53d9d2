//! What cannot be looked at does not end or delay the check.

use super::Findings;
use proto_tests::stage::Stage;
use std::time::{Duration, Instant};

const CODES: [&str; 2] = ["locked", "not-looked-at"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locked_tables_and_refused_catalogs_are_said() {
    let tables = "CREATE TABLE a (id serial PRIMARY KEY); CREATE TABLE b (id serial PRIMARY KEY)";
    let stage = Stage::replicating(17, 16, tables).await.unwrap();
    Findings::of_pair(&stage.pair).unwrap().expect_none_of(&CODES);

    let (on_publisher, on_subscriber) = stage.pair.clients().await.unwrap();
    for client in [&on_publisher, &on_subscriber] {
        client.batch_execute("BEGIN; LOCK TABLE a").await.unwrap();
    }
    let begun = Instant::now();
    let findings = Findings::of_pair(&stage.pair).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    let locked = "published tables: could not be listed while one of them is locked, and were not compared: run check \
                  again";
    assert_eq!(findings.of("locked"), [locked]);
    findings.expect_none_of(&["not-looked-at"]);

    for client in [&on_publisher, &on_subscriber] {
        client.batch_execute("ROLLBACK").await.unwrap();
    }
    stage.on_subscriber("REVOKE SELECT ON pg_trigger FROM PUBLIC").await;
    stage.on_publisher("REVOKE SELECT ON pg_largeobject_metadata FROM PUBLIC").await;
    let told = Findings::of_pair(&stage.pair).unwrap().of("not-looked-at");
    assert_eq!(told.len(), 3, "{told:?}");
    for (told, what) in told.iter().zip(["the sequences", "the tables", "the databases"]) {
        let begin = format!("{what}: could not be looked at: ERROR: permission denied");
        assert!(told.starts_with(&begin), "{told}");
    }
}
