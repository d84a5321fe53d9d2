//! Tables that replication leaves where they are.

use super::{Findings, found};
use proto_tests::stage::Stage;

const CODES: [&str; 2] = ["rows-not-published", "table-only-on-subscriber"];

const TABLES: &str = "
CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (code text PRIMARY KEY); CREATE TABLE c (x int);
CREATE UNLOGGED TABLE fleeting (x int); CREATE SCHEMA other; CREATE TABLE other.d (x int);
CREATE TABLE parts (x int) PARTITION BY LIST (x); CREATE TABLE part_1 PARTITION OF parts FOR VALUES IN (1);
CREATE TABLE part_2 PARTITION OF parts FOR VALUES IN (2)";

fn subscription(name: &str, publications: &str) -> String {
    format!(
        "CREATE SUBSCRIPTION {name} CONNECTION 'dbname=none' PUBLICATION {publications} WITH (connect = false)"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_whose_rows_no_publication_brings() {
    let stage = Stage::with(13, 16, TABLES).await.unwrap();
    stage
        .on_publisher(
            "CREATE PUBLICATION pub FOR TABLE a, b, c, other.d, parts WITH (publish_via_partition_root);
             CREATE PUBLICATION more FOR TABLE b",
        )
        .await;
    stage.on_subscriber(&subscription("s", "pub")).await;
    Findings::of_pair(&stage.pair).unwrap().expect_none_of(&CODES);

    stage
        .on_publisher(
            "ALTER PUBLICATION pub DROP TABLE b, other.d, parts; ALTER PUBLICATION pub ADD TABLE part_1;
             CREATE TABLE \"New\" (x int)",
        )
        .await;
    let findings = Findings::of_pair(&stage.pair).unwrap();
    let left = |table: &str| format!("{table}: is in no publication that brings rows");
    let new = format!("{}, and is not on the subscriber", left("public.\"New\""));
    let expected = [left("other.d"), new, left("public.b"), left("public.part_2")];
    assert_eq!(findings.of("rows-not-published"), expected);
    // What our own stream follows brings no rows, and a schema that is left alone is left alone.
    stage.on_publisher("CREATE PUBLICATION narrow FOR ALL TABLES WITH (publish = 'insert, truncate')").await;
    let flags = ["--publication=narrow", "--exclude-schema=other"];
    let without = Findings::with(&stage.pair, &flags).unwrap();
    assert_eq!(without.of("rows-not-published"), &expected[1..]);
    // Another subscription brings one of them.
    stage.on_subscriber(&subscription("t", "more")).await;
    let both = Findings::with(&stage.pair, &["--subscription=s"]).unwrap();
    assert_eq!(both.of("rows-not-published").len(), 3, "{both:?}");
    assert!(!both.of("rows-not-published").contains(&left("public.b")), "{both:?}");
    stage.on_subscriber("ALTER SUBSCRIPTION t SET (slot_name = NONE)").await;
    stage.on_subscriber("DROP SUBSCRIPTION t").await;

    findings.mend(&stage.pair, &["rows-not-published"]).await;
    stage.on_publisher("DROP TABLE \"New\"").await;
    Findings::of_pair(&stage.pair).unwrap().expect_none_of(&CODES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_applier_may_bring_more_than_our_publication_shows() {
    let stage = Stage::with(12, 18, TABLES).await.unwrap();
    stage.on_publisher("CREATE PUBLICATION narrow FOR TABLE a WITH (publish = 'insert')").await;
    stage.on_publisher("CREATE PUBLICATION rows FOR TABLE a").await;
    let told = |flags: &[&str]| found(&stage.pair, "rows-not-published", flags).unwrap().len();
    assert_eq!(told(&[]), 0, "no publication is known");
    assert_eq!(told(&["--publication=narrow"]), 0, "it brings no rows");
    assert_eq!(told(&["--publication=rows"]), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_that_only_the_subscriber_has() {
    let stage = Stage::with(17, 15, TABLES).await.unwrap();
    // Other partitions, and another name.
    stage
        .on_subscriber(
            "CREATE TABLE part_3 PARTITION OF parts FOR VALUES IN (3); ALTER TABLE a RENAME TO renamed;
             CREATE TEMPORARY TABLE passing (x int)",
        )
        .await;
    let renamed = ["--rename=public.a=public.renamed"];
    Findings::with(&stage.pair, &renamed).unwrap().expect_none_of(&CODES);
    stage
        .on_subscriber(
            "CREATE TABLE mine (x int); CREATE SCHEMA away; CREATE TABLE away.it (x int);
             CREATE TABLE ours (x int) PARTITION BY LIST (x); CREATE TABLE ours_1 PARTITION OF ours DEFAULT",
        )
        .await;
    let only = |table: &str| format!("{table}: is not on the publisher: no row comes to it");
    let findings = Findings::with(&stage.pair, &[renamed[0], "--exclude-schema=away"]).unwrap();
    assert_eq!(findings.of("table-only-on-subscriber"), [only("public.mine"), only("public.ours")]);
    let findings = Findings::of_pair(&stage.pair).unwrap();
    assert_eq!(findings.of("table-only-on-subscriber").len(), 4, "{findings:?}");
}
