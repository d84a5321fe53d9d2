//! The promise: a table whose furthest id takes the server ages to find (an index full of dead rows) delays what must be
//! read from other tables by seconds, on either server, and takes nothing of it away.

use proto_tests::pair::{Pair, SHADOW_ROLE};
use proto_tests::sequence::wait_past;
use proto_tests::sidecar::command;
use proto_tests::sql::PATIENCE;
use tokio_postgres::Client;

const SLOW_TABLES: usize = 5;

/// Ids that no sequence gave out lie in `t` and in the slow tables.
async fn pair() -> Pair {
    let pair = Pair::new(17, 15).await.unwrap();
    pair.on_both("CREATE TABLE t (id serial PRIMARY KEY)").await.unwrap();
    for table in 0..SLOW_TABLES {
        pair.on_both(&format!("CREATE TABLE slow{table} (id serial PRIMARY KEY)")).await.unwrap();
    }
    pair.grant(&["public"]).await.unwrap();
    let publisher = pair.on_publisher().await.unwrap();
    publisher.batch_execute("INSERT INTO t VALUES (500)").await.unwrap();
    for table in 0..SLOW_TABLES {
        publisher.batch_execute(&format!("INSERT INTO slow{table} VALUES (777)")).await.unwrap();
    }
    pair.replicate_all().await.unwrap();
    pair
}

/// Comparing the one id of the slow tables with a limit takes ten minutes from now on.
async fn slow_down(client: &Client) {
    // With its statistics a table of one row is read whole, and the wait is in a filter, where it can be cancelled.
    client
        .batch_execute(
            "ANALYZE;
             CREATE FUNCTION public.patiently(int4, int8) RETURNS bool LANGUAGE plpgsql AS
                 'BEGIN IF $1 = 777 THEN PERFORM pg_sleep(600); END IF; RETURN $1::int8 <= $2; END';
             UPDATE pg_operator SET oprcode = 'public.patiently'::regproc
              WHERE oid = '<=(int4, int8)'::regoperator",
        )
        .await
        .unwrap();
    client.batch_execute("SET statement_timeout = '500ms'").await.unwrap();
    let slow = client.query_one("SELECT max(id) FROM slow0 WHERE id <= 10000::int8", &[]).await;
    assert!(slow.is_err(), "the table is not slow: {slow:?}");
    client.query_one("SELECT max(id) FROM t WHERE id <= 10000::int8", &[]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_the_publisher() {
    let pair = pair().await;
    slow_down(&pair.on_publisher().await.unwrap()).await;
    // Here it cannot be found.
    let subscriber = pair.on_subscriber().await.unwrap();
    subscriber.batch_execute("DELETE FROM t").await.unwrap();
    let shadow = command(&pair, &[]).spawn().unwrap();
    shadow.wait_for_line("the sequences are protected", PATIENCE).unwrap();
    wait_past(&subscriber, "t_id_seq", 500).await.unwrap();
    assert_eq!(shadow.complaints(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_the_subscriber() {
    let pair = pair().await;
    let publisher = pair.on_publisher().await.unwrap();
    publisher
        .batch_execute(&format!("REVOKE SELECT ON ALL TABLES IN SCHEMA public FROM {SHADOW_ROLE}"))
        .await
        .unwrap();
    let subscriber = pair.on_subscriber().await.unwrap();
    slow_down(&subscriber).await;
    let shadow = command(&pair, &[]).spawn().unwrap();
    shadow.wait_for_line("the sequences are protected", PATIENCE).unwrap();
    wait_past(&pair.on_subscriber().await.unwrap(), "t_id_seq", 500).await.unwrap();
    assert_eq!(shadow.complaints(), [""; 0]);
}
