//! The promise: a table that has another name on the subscriber (`--rename FROM=TO`, for appliers that can map names)
//! is followed like any other: its rows in the stream, its sequence and its ids on the publisher.

use proto_tests::pair::Pair;
use proto_tests::publication::Publication;
use proto_tests::sequence::{next_value, wait_past};
use proto_tests::sidecar::{command, start};
use proto_tests::sql::PATIENCE;

const PUBLISHER: &str =
    "CREATE TABLE orders (id serial PRIMARY KEY); CREATE TABLE plain (id serial PRIMARY KEY)";
const SUBSCRIBER: &str = "CREATE SCHEMA shop; CREATE TABLE shop.\"Bestellungen\" (id serial PRIMARY KEY); \
                          CREATE TABLE plain (id serial PRIMARY KEY)";
const SEQUENCE: &str = "shop.\"Bestellungen_id_seq\"";

async fn pair() -> Pair {
    let pair = Pair::new(17, 18).await.unwrap();
    let publisher = pair.on_publisher().await.unwrap();
    publisher.batch_execute(PUBLISHER).await.unwrap();
    pair.on_subscriber().await.unwrap().batch_execute(SUBSCRIBER).await.unwrap();
    pair.on_both("CREATE SCHEMA IF NOT EXISTS shop").await.unwrap();
    pair.grant(&["public", "shop"]).await.unwrap();
    pair.publish(&Publication::all("pub")).await.unwrap();
    pair
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renamed_table_is_followed_from_all_three_sources() {
    let pair = pair().await;
    let (publisher, subscriber) = pair.clients().await.unwrap();
    publisher.batch_execute("INSERT INTO orders VALUES (1000)").await.unwrap();
    let more = ["--publication=pub", "--rename=public.orders=shop.\"Bestellungen\""];
    let shadow = start(&pair, &more).unwrap();
    // The publisher's table, from before the slot; the stream; the publisher's sequence, drawn without a row.
    wait_past(&subscriber, SEQUENCE, 1000).await.unwrap();
    publisher.batch_execute("INSERT INTO orders VALUES (3000)").await.unwrap();
    wait_past(&subscriber, SEQUENCE, 3000).await.unwrap();
    publisher.batch_execute("SELECT setval('orders_id_seq', 6000)").await.unwrap();
    wait_past(&subscriber, SEQUENCE, 6000).await.unwrap();
    publisher.batch_execute("INSERT INTO plain VALUES (3000)").await.unwrap();
    wait_past(&subscriber, "plain_id_seq", 3000).await.unwrap();
    let summary = shadow.wait_for_line("sequences of the subscriber", PATIENCE).unwrap();
    assert!(summary.contains("covered=2") && summary.contains("blind=0"), "{summary}");
    assert!(shadow.complaints().is_empty(), "{:?}", shadow.complaints());
}

/// The same without the map, so that the test above proves something: it is blind, and nothing is found.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_map_it_is_not_published_and_said_to_be_so() {
    let pair = pair().await;
    let (publisher, subscriber) = pair.clients().await.unwrap();
    let shadow = start(&pair, &["--publication=pub"]).unwrap();
    publisher
        .batch_execute("INSERT INTO orders VALUES (3000); INSERT INTO plain VALUES (3000)")
        .await
        .unwrap();
    wait_past(&subscriber, "plain_id_seq", 3000).await.unwrap();
    assert_eq!(next_value(&subscriber, SEQUENCE).await.unwrap(), 1);
    let lines = shadow.stderr_lines();
    let line = lines.iter().find(|line| line.contains("not covered") && line.contains("Bestellungen_id_seq"));
    let line = line.unwrap_or_else(|| panic!("{lines:#?}"));
    assert!(
        line.contains("is not published") && line.contains("there is no such sequence on the publisher"),
        "{line}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_rename_is_a_usage_error() {
    let pair = pair().await;
    for bad in ["orders", "public.orders=", "orders=shop.orders=x"] {
        let flags = ["--publication=pub", &format!("--rename={bad}")];
        let run = command(&pair, &flags).run(PATIENCE).unwrap();
        assert_eq!(run.status.code(), Some(2), "{bad}: {}", run.stderr);
    }
}
