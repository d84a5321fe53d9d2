//! A partition that only the subscriber has: what it holds is on the subscriber only, and is said to be.

use super::{assert_equal, compare, differences, table};
use proto_tests::publication::{Publication, Subscription};
use proto_tests::stage::Stage;
use proto_tests::verb;
use serde_json::json;

const PARTS: &str = "CREATE TABLE parts (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (100)";

/// Published as `publication` says: equal, also with a partition that is empty, and not with one that is not.
async fn rows_in_it_are_extra(publisher: u32, subscriber: u32, publication: Publication) {
    let stage = Stage::with(publisher, subscriber, PARTS).await.unwrap();
    stage.on_publisher("INSERT INTO parts SELECT i, 'x' FROM generate_series(1, 50) i").await;
    stage.pair.publish(&publication).await.unwrap();
    stage.pair.subscribe(&Subscription::to("sub", &[&publication.name])).await.unwrap();
    stage.pair.wait_for_sync().await.unwrap();
    stage.on_subscriber("CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (100) TO (1000)").await;
    stage.pair.grant(&["public"]).await.unwrap();
    let empty = compare(&stage.pair, &[]);
    assert_equal(&empty);
    assert_eq!(table(&empty, "public.parts_2")["status"], "equal");

    stage.on_subscriber("INSERT INTO parts SELECT i, 'own' FROM generate_series(300, 304) i").await;
    let found = compare(&stage.pair, &["--limit=3"]);
    assert_eq!(found.code(), 1, "{}", found.all());
    let leaf = table(&found, "public.parts_2");
    assert_eq!(leaf["status"], "differs", "{}", found.all());
    assert_eq!((&leaf["publisher_rows"], &leaf["subscriber_rows"]), (&json!(0), &json!(5)));
    assert_eq!(leaf["more"], true);
    let extra = [300, 301, 302].map(|id| ("extra".to_owned(), json!({"id": id.to_string()})));
    assert_eq!(differences(&found, "public.parts_2"), extra);
    assert_eq!(table(&found, "public.parts_1")["status"], "equal", "{}", found.all());
    let text = verb::run(&stage.pair, "verify", &["--data"]).unwrap();
    let said = text.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(said.contains("only the subscriber has this partition of public.parts, with 5 rows"), "{said}");
    assert!(said.contains("id = 304 is on the subscriber only"), "{said}");
    assert!(text.stdout.lines().all(|line| line.chars().count() <= 80), "{}", text.all());
    assert_equal(&compare(&stage.pair, &["--exclude-table=parts_2"]));

    // What may not be read is not called equal.
    stage.on_subscriber("REVOKE SELECT ON parts_2 FROM shadow").await;
    let denied = compare(&stage.pair, &[]);
    let leaf = table(&denied, "public.parts_2");
    assert_eq!((denied.code(), &leaf["status"]), (1, &json!("not_compared")), "{}", denied.all());
    let grant = "GRANT SELECT ON public.parts_2 TO shadow;";
    assert!(leaf["reason"].as_str().unwrap().contains(grant), "{leaf}");
    stage.on_subscriber(grant).await;
    stage.on_subscriber("DELETE FROM parts_2").await;
    assert_equal(&compare(&stage.pair, &[]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_all_tables() {
    rows_in_it_are_extra(15, 17, Publication::all("pub")).await;
    rows_in_it_are_extra(12, 16, Publication::all("pub")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_the_table_above_and_of_each_partition_by_name() {
    rows_in_it_are_extra(13, 14, Publication::of("pub", &["parts"])).await;
    rows_in_it_are_extra(18, 12, Publication::of("pub", &["parts_1"])).await;
}

/// Partitions of partitions, one that is cut into others there, and one whose name is another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_a_counterpart_is_not_called_alone() {
    let there = "CREATE SCHEMA s; CREATE TABLE s.p (id int PRIMARY KEY) PARTITION BY RANGE (id);
        CREATE TABLE s.a PARTITION OF s.p FOR VALUES FROM (0) TO (100);
        CREATE TABLE s.b PARTITION OF s.p FOR VALUES FROM (100) TO (200) PARTITION BY RANGE (id);
        CREATE TABLE s.b1 PARTITION OF s.b FOR VALUES FROM (100) TO (150);
        CREATE TABLE s.c PARTITION OF s.p FOR VALUES FROM (200) TO (300);
        CREATE TABLE s.left_out (id int PRIMARY KEY) PARTITION BY RANGE (id);
        CREATE TABLE s.left_out_1 PARTITION OF s.left_out FOR VALUES FROM (0) TO (100)";
    let stage = Stage::with(16, 18, there).await.unwrap();
    stage.on_publisher("INSERT INTO s.p VALUES (1), (120), (220); INSERT INTO s.left_out VALUES (1)").await;
    stage
        .on_subscriber(
            "DROP TABLE s.a; CREATE TABLE s.a PARTITION OF s.p FOR VALUES FROM (0) TO (100) PARTITION BY RANGE (id);
             CREATE TABLE s.a1 PARTITION OF s.a FOR VALUES FROM (0) TO (100);
             CREATE TABLE s.b2 PARTITION OF s.b FOR VALUES FROM (150) TO (200);
             CREATE TABLE s.left_out_2 PARTITION OF s.left_out FOR VALUES FROM (100) TO (200);
             INSERT INTO s.b2 VALUES (151); INSERT INTO s.left_out VALUES (101)",
        )
        .await;
    stage.pair.publish(&Publication::of("pub", &["s.p"])).await.unwrap();
    stage.pair.subscribe(&Subscription::to("sub", &["pub"])).await.unwrap();
    stage.pair.wait_for_sync().await.unwrap();
    stage.on_subscriber("ALTER TABLE s.c RENAME TO renamed").await;
    stage.pair.grant(&["s"]).await.unwrap();
    let found = compare(&stage.pair, &["--rename=s.c=s.renamed"]);
    let json = found.json().unwrap();
    let told: Vec<(&str, &str)> = json["tables"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["table"].as_str().unwrap(), one["status"].as_str().unwrap()))
        .collect();
    let expected = [("s.a", "equal"), ("s.b1", "equal"), ("s.b2", "differs"), ("s.c", "equal")];
    assert_eq!(told, expected, "{}", found.all());
}

/// Nothing is published by name yet, and still there are rows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_table_that_has_no_partition_on_the_publisher() {
    let ddl = "CREATE TABLE bare (id int) PARTITION BY RANGE (id)";
    let stage = Stage::with(14, 15, ddl).await.unwrap();
    stage
        .on_subscriber("CREATE TABLE only_here PARTITION OF bare DEFAULT; INSERT INTO bare VALUES (7), (8)")
        .await;
    stage.pair.grant(&["public"]).await.unwrap();
    stage.pair.publish(&Publication::of("pub", &["bare"])).await.unwrap();
    let flags = ["--publication=pub"];
    let found = compare(&stage.pair, &flags);
    assert_eq!(found.code(), 1, "{}", found.all());
    assert_eq!(table(&found, "public.only_here")["subscriber_rows"], 2, "{}", found.all());
    assert_eq!(
        differences(&found, "public.only_here"),
        [("extra".to_owned(), json!(null)), ("extra".to_owned(), json!(null))]
    );
    // Published as one it is compared as one.
    stage.on_publisher("ALTER PUBLICATION pub SET (publish_via_partition_root = true)").await;
    let found = compare(&stage.pair, &[flags[0], "--wait=1s"]);
    assert_eq!(found.json().unwrap()["tables"].as_array().unwrap().len(), 1, "{}", found.all());
    assert_eq!(table(&found, "public.bare")["status"], "differs", "{}", found.all());
}
