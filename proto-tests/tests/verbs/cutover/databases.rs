//! Several databases: all or none.

use super::{at_rest, blocker, database_settings, run};
use proto_tests::sql::{PATIENCE, Probe, connect, wait_until};
use seqshadow::types::quote_literal;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_or_none() {
    let stage = at_rest(15, 17).await;
    // A second database on the same servers.
    for (cluster, client) in
        [(&stage.pair.publisher, &stage.publisher), (&stage.pair.subscriber, &stage.subscriber)]
    {
        client.batch_execute("CREATE DATABASE billing").await.unwrap();
        let billing = connect(&cluster.conninfo("billing")).await.unwrap();
        billing.batch_execute("CREATE TABLE bills (id serial PRIMARY KEY)").await.unwrap();
    }
    let there = connect(&stage.pair.publisher.conninfo("billing")).await.unwrap();
    let here = connect(&stage.pair.subscriber.conninfo("billing")).await.unwrap();
    there
        .batch_execute(
            "CREATE PUBLICATION bills FOR ALL TABLES; INSERT INTO bills SELECT FROM generate_series(1, 9)",
        )
        .await
        .unwrap();
    let connection = stage.pair.publisher.conninfo("billing");
    here.batch_execute(&format!(
        "CREATE SUBSCRIPTION bills CONNECTION {} PUBLICATION bills",
        quote_literal(&connection)
    ))
    .await
    .unwrap();
    wait_until("the copy", PATIENCE, async || {
        let sql = "SELECT count(*) FROM pg_subscription_rel WHERE srsubstate = 'r'";
        let ready: i64 = here.query_one(sql, &[]).await?.get(0);
        there.batch_execute("SELECT pg_logical_emit_message(true, 'x', '')").await?;
        Ok(Probe::when(ready == 1, || ready.to_string()))
    })
    .await
    .unwrap();

    let directory = tempfile::tempdir().unwrap();
    let also = directory.path().join("billing.toml");
    let config = format!(
        "publisher = \"{}\"\nsubscriber = \"{}\"\n",
        stage.pair.publisher.conninfo("billing"),
        stage.pair.subscriber.conninfo("billing")
    );
    std::fs::write(&also, config).unwrap();
    let also = format!("--also={}", also.display());
    let next = async |client: &tokio_postgres::Client, sequence: &str| -> (i64, bool) {
        let row =
            client.query_one(&format!("SELECT last_value, is_called FROM {sequence}"), &[]).await.unwrap();
        (row.get(0), row.get(1))
    };

    // The second one cannot: neither is touched.
    here.batch_execute("ALTER SEQUENCE bills_id_seq MAXVALUE 5").await.unwrap();
    let cut = run(&stage.pair, directory.path(), &[&also, "--stop-writes"]);
    assert_eq!((cut.code(), blocker(&cut).as_str()), (1, "sequence-held"), "{}", cut.all());
    assert!(cut.stdout.contains("database billing"), "{}", cut.all());
    assert!(database_settings(&stage.pair).await.is_empty());
    assert_eq!(next(&stage.subscriber, "orders_id_seq").await, (1, false));

    here.batch_execute("ALTER SEQUENCE bills_id_seq MAXVALUE 50000").await.unwrap();
    let cut = run(&stage.pair, directory.path(), &[&also, "--stop-writes"]);
    assert_eq!(cut.code(), 0, "{}", cut.all());
    let certificate = std::fs::read_to_string(directory.path().join("certificate.json")).unwrap();
    let certificate: serde_json::Value = serde_json::from_str(&certificate).unwrap();
    assert_eq!(certificate["databases"].as_array().unwrap().len(), 2);
    assert!(next(&stage.subscriber, "orders_id_seq").await.0 > 500);
    assert!(next(&here, "bills_id_seq").await.0 > 9);
    assert_eq!(database_settings(&stage.pair).await.len(), 2);
}
