//! Rows that come from a third server: to the publisher in the pause, or to the subscriber after it.

use super::{at_rest, blocker, cuts_over, run};
use proto_tests::sql::{connect, wait_for};
use proto_tests::stage::Stage;
use tokio_postgres::Client;

/// A database of the stage's publisher that publishes a table `orders` of its own.
async fn upstream(stage: &Stage) -> (String, Client) {
    let admin = connect(&stage.pair.publisher.conninfo("postgres")).await.unwrap();
    admin.batch_execute("CREATE DATABASE upstream").await.unwrap();
    let conninfo = stage.pair.publisher.conninfo("upstream");
    let upstream = connect(&conninfo).await.unwrap();
    let sql = "CREATE TABLE orders (id bigint PRIMARY KEY, note text); CREATE PUBLICATION up FOR ALL TABLES";
    upstream.batch_execute(sql).await.unwrap();
    upstream.batch_execute("SELECT pg_create_logical_replication_slot('up', 'pgoutput')").await.unwrap();
    (conninfo, upstream)
}

fn subscription(conninfo: &str) -> String {
    format!(
        "CREATE SUBSCRIPTION up CONNECTION '{}' PUBLICATION up
           WITH (create_slot = false, slot_name = 'up', copy_data = false)",
        conninfo.replace('\'', "''")
    )
}

async fn streams(conninfo: &str) {
    let sql = "SELECT active FROM pg_replication_slots WHERE slot_name = 'up'";
    wait_for(conninfo, "the third server's stream", sql).await.unwrap();
}

/// No setting of the publisher's database binds its own apply workers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publisher_that_is_fed_itself_is_not_stopped_by_a_setting() {
    let stage = at_rest(16, 18).await;
    let (conninfo, _upstream) = upstream(&stage).await;
    stage.on_publisher(&subscription(&conninfo)).await;
    streams(&conninfo).await;
    let directory = tempfile::tempdir().unwrap();
    for flags in [&["--stop-writes"][..], &["--stop-writes", "--dry-run"]] {
        let cut = run(&stage.pair, directory.path(), flags);
        assert_eq!((cut.code(), blocker(&cut).as_str()), (1, "publisher-subscribes"), "{}", cut.all());
    }
    assert!(super::database_settings(&stage.pair).await.is_empty());
    stage.on_publisher("ALTER SUBSCRIPTION up DISABLE").await;
    cuts_over(&stage.pair, directory.path(), &["--stop-writes"]);
}

/// What another server brings to the subscriber is no part of the proof, and the certificate says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_from_another_server_is_noted() {
    let stage = at_rest(15, 17).await;
    let (conninfo, _upstream) = upstream(&stage).await;
    stage.on_subscriber(&subscription(&conninfo)).await;
    streams(&conninfo).await;
    let directory = tempfile::tempdir().unwrap();
    let cut = run(&stage.pair, directory.path(), &["--stop-writes", "--subscription=sub"]);
    assert_eq!(cut.code(), 0, "{}", cut.all());
    assert!(
        cut.stdout.contains("subscription up of the subscriber gets its rows from elsewhere"),
        "{}",
        cut.all()
    );
}
