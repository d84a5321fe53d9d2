//! Each kind of difference is found, and named by its key.

use super::{assert_equal, compare, differences, table};
use proto_tests::publication::{Publication, Subscription};
use proto_tests::stage::Stage;
use proto_tests::verb;
use serde_json::json;
use std::time::Instant;

fn of(kind: &str, key: serde_json::Value) -> (String, serde_json::Value) {
    (kind.to_owned(), key)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_byte_a_missing_and_an_extra_row_among_a_million() {
    let stage = Stage::with(12, 18, "CREATE TABLE t (id int PRIMARY KEY, v text)").await.unwrap();
    stage.on_publisher("INSERT INTO t SELECT i, 'row ' || i FROM generate_series(1, 1000000) i").await;
    stage.pair.replicate_all().await.unwrap();
    let begun = Instant::now();
    let equal = compare(&stage.pair, &[]);
    eprintln!("1,000,000 equal rows: {:?}", begun.elapsed());
    assert_equal(&equal);
    let all = table(&equal, "public.t");
    assert_eq!((&all["publisher_rows"], &all["subscriber_rows"]), (&json!(1_000_000), &json!(1_000_000)));

    stage.on_subscriber("UPDATE t SET v = 'row 777778' WHERE id = 777777").await;
    let changed = compare(&stage.pair, &[]);
    assert_eq!(changed.code(), 1, "{}", changed.all());
    assert_eq!(differences(&changed, "public.t"), [of("changed", json!({"id": "777777"}))]);

    stage.on_subscriber("DELETE FROM t WHERE id = 123456; INSERT INTO t VALUES (2000000, 'x')").await;
    let begun = Instant::now();
    let all_three = compare(&stage.pair, &[]);
    eprintln!("the same with three differences: {:?}", begun.elapsed());
    let expected = [
        of("missing", json!({"id": "123456"})),
        of("changed", json!({"id": "777777"})),
        of("extra", json!({"id": "2000000"})),
    ];
    assert_eq!(differences(&all_three, "public.t"), expected);
    let text = verb::run(&stage.pair, "verify", &["--data", "--limit=2"]).unwrap();
    assert_eq!(text.code(), 1);
    for part in ["id = 123456 is missing on the subscriber", "and more", "NOT proven equal"] {
        assert!(text.stdout.contains(part), "{part}: {}", text.all());
    }
    assert!(text.stdout.lines().all(|line| line.chars().count() <= 80), "{}", text.all());
}

/// Keys that cannot be read by range on both sides, or only in part.
const KEYS: &str = "
CREATE TABLE composite (tenant int, code text, v text, PRIMARY KEY (tenant, code));
CREATE TABLE by_text (name text PRIMARY KEY, v int);
CREATE TABLE by_index (a int NOT NULL, b uuid NOT NULL, v int);
CREATE UNIQUE INDEX by_index_key ON by_index (b, a);
ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_key;
CREATE TABLE by_numeric (n numeric PRIMARY KEY, at timestamptz);
CREATE TABLE without (a int, b text);
ALTER TABLE without REPLICA IDENTITY FULL";
const ROWS: &str = "
INSERT INTO composite SELECT i % 7, chr(65 + i % 50) || i, 'x' FROM generate_series(1, 3000) i;
INSERT INTO by_text SELECT chr(65 + i % 60) || '''\\ \"' || i, i FROM generate_series(1, 3000) i;
INSERT INTO by_index SELECT i, md5(i::text)::uuid, i FROM generate_series(1, 3000) i;
INSERT INTO by_numeric SELECT i / 4.0 - 100, now() FROM generate_series(1, 3000) i;
INSERT INTO by_numeric VALUES ('NaN', 'infinity');
INSERT INTO without SELECT i % 100, 'x' FROM generate_series(1, 3000) i";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_key() {
    let stage = Stage::with(13, 17, KEYS).await.unwrap();
    // Another order of texts on the subscriber.
    stage
        .on_subscriber(
            "ALTER TABLE by_text ALTER name TYPE text COLLATE \"en-x-icu\";
             ALTER TABLE composite ALTER code TYPE text COLLATE \"en-x-icu\"",
        )
        .await;
    stage.on_publisher(ROWS).await;
    stage.pair.replicate_all().await.unwrap();
    for rows in ["--chunk-rows=100", "--chunk-rows=1000000"] {
        assert_equal(&compare(&stage.pair, &[rows]));
    }
    stage
        .on_subscriber(
            "DELETE FROM composite WHERE code = 'T2019';
             UPDATE composite SET v = 'X' WHERE code = 'U2020';
             UPDATE by_text SET v = 0 WHERE v = 1500;
             DELETE FROM by_index WHERE a = 77;
             INSERT INTO by_numeric VALUES (-5000.50, now());
             UPDATE by_numeric SET at = '-infinity' WHERE n = 'NaN';
             DELETE FROM without WHERE ctid = '(0,1)';
             INSERT INTO without VALUES (5, 'X')",
        )
        .await;
    for rows in ["--chunk-rows=100", "--chunk-rows=1000000"] {
        let found = compare(&stage.pair, &[rows]);
        assert_eq!(found.code(), 1, "{}", found.all());
        let expected = [
            of("missing", json!({"tenant": (2019 % 7).to_string(), "code": "T2019"})),
            of("changed", json!({"tenant": (2020 % 7).to_string(), "code": "U2020"})),
        ];
        assert_eq!(differences(&found, "public.composite"), expected);
        assert_eq!(
            differences(&found, "public.by_text"),
            [of("changed", json!({"name": "A'\\ \"1500"}))],
            "{}",
            found.all()
        );
        let uuid: String =
            stage.publisher.query_one("SELECT md5('77')::uuid::text", &[]).await.unwrap().get(0);
        assert_eq!(differences(&found, "public.by_index"), [of("missing", json!({"a": "77", "b": uuid}))]);
        let expected = [of("extra", json!({"n": "-5000.50"})), of("changed", json!({"n": "NaN"}))];
        assert_eq!(differences(&found, "public.by_numeric"), expected);
        let mut kinds: Vec<String> =
            differences(&found, "public.without").into_iter().map(|(kind, _)| kind).collect();
        kinds.sort();
        assert_eq!(kinds, ["extra", "missing"], "{}", found.all());
    }
    let text = verb::run(&stage.pair, "verify", &["--data"]).unwrap();
    assert!(text.stdout.contains("no key"), "{}", text.all());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_published_is_compared_and_nothing_else() {
    let ddl = "
        CREATE TABLE narrow (id int PRIMARY KEY, shown text, hidden text);
        CREATE TABLE filtered (id int PRIMARY KEY, kind text, v int);
        CREATE TABLE unknowable (id int PRIMARY KEY, kind text, v int);
        CREATE TABLE generated (id int PRIMARY KEY, v int, twice int GENERATED ALWAYS AS (v * 2) STORED);
        CREATE TABLE parts (id int PRIMARY KEY, v int) PARTITION BY RANGE (id);
        CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (500);
        CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (500) TO (9000);
        CREATE TABLE parent (id int PRIMARY KEY, v int);
        CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent);
        CREATE TABLE here (id int PRIMARY KEY, v int);
        CREATE TABLE unpublished (id int PRIMARY KEY)";
    let stage = Stage::with(15, 18, ddl).await.unwrap();
    stage
        .on_publisher(
            "INSERT INTO narrow SELECT i, 'x', 'here' FROM generate_series(1, 1000) i;
             INSERT INTO filtered SELECT i, CASE i % 2 WHEN 0 THEN 'a' ELSE 'b' END, i FROM generate_series(1, 1000) i;
             INSERT INTO unknowable SELECT * FROM filtered;
             INSERT INTO generated SELECT i, i FROM generate_series(1, 1000) i;
             INSERT INTO parts SELECT i, i FROM generate_series(1, 1000) i;
             INSERT INTO parent SELECT i, i FROM generate_series(1, 100) i;
             INSERT INTO child SELECT i, i FROM generate_series(1, 100) i;
             INSERT INTO unpublished VALUES (1)",
        )
        .await;
    // The subscriber has other partitions, another name, and rows of its own.
    stage
        .on_subscriber(
            "DROP TABLE parts_2; CREATE TABLE parts_x PARTITION OF parts DEFAULT;
             INSERT INTO filtered VALUES (5001, 'b', 1);
             ALTER TABLE unknowable DROP COLUMN kind",
        )
        .await;
    stage
        .pair
        .publish(
            &Publication::of(
                "pub",
                &[
                    "narrow (id, shown)",
                    "filtered WHERE (kind = 'a')",
                    "generated",
                    "parts",
                    "ONLY parent",
                    "child",
                ],
            )
            .via_partition_root(),
        )
        .await
        .unwrap();
    let inserts = Publication::of("pub_insert", &["unknowable (id, v) WHERE (kind = 'a')"]).only("insert");
    stage.pair.publish(&inserts).await.unwrap();
    let subscription = Subscription::to("sub", &["pub", "pub_insert"]);
    stage.pair.subscribe(&subscription).await.unwrap();
    stage.pair.wait_for_sync().await.unwrap();
    stage.on_subscriber("UPDATE narrow SET hidden = 'there'").await;

    let found = compare(&stage.pair, &["--chunk-rows=300"]);
    let status = |name: &str| table(&found, name)["status"].as_str().unwrap().to_owned();
    for name in ["narrow", "filtered", "generated", "parts", "parent", "child"] {
        assert_eq!(status(&format!("public.{name}")), "equal", "{}", found.all());
    }
    assert_eq!(table(&found, "public.filtered")["publisher_rows"], 500);
    assert_eq!(table(&found, "public.parent")["publisher_rows"], 100);
    assert_eq!(table(&found, "public.parts")["publisher_rows"], 1000);
    assert_eq!(status("public.unknowable"), "not_compared");
    assert_eq!(found.json().unwrap()["tables"].as_array().unwrap().len(), 7);

    stage
        .on_subscriber(
            "UPDATE narrow SET shown = 'X' WHERE id = 5; UPDATE filtered SET kind = 'b' WHERE id = 6;
             DELETE FROM parts WHERE id = 700; DELETE FROM child WHERE id = 8",
        )
        .await;
    let found = compare(&stage.pair, &["--exclude-table=unknowable", "--exclude-table=public.gen*"]);
    assert_eq!(differences(&found, "public.narrow"), [of("changed", json!({"id": "5"}))]);
    assert_eq!(differences(&found, "public.filtered"), [of("missing", json!({"id": "6"}))]);
    assert_eq!(differences(&found, "public.parts"), [of("missing", json!({"id": "700"}))]);
    assert_eq!(differences(&found, "public.child"), [of("missing", json!({"id": "8"}))]);
    assert_equal(&compare(&stage.pair, &["--table=parent", "--table=generated"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_empty_on_one_side_costs_little_and_a_renamed_one_is_found() {
    let stage = Stage::with(14, 16, "CREATE TABLE t (id bigint PRIMARY KEY, v int)").await.unwrap();
    stage.pair.replicate_all().await.unwrap();
    stage.on_subscriber("ALTER TABLE t RENAME TO u").await;
    stage.on_subscriber("INSERT INTO u SELECT i, i FROM generate_series(1, 30000) i").await;
    let unnamed = compare(&stage.pair, &["--wait=1s"]);
    assert_eq!(table(&unnamed, "public.t")["status"], "not_compared", "{}", unnamed.all());
    let found = compare(&stage.pair, &["--rename=public.t=public.u", "--chunk-rows=100", "--limit=3"]);
    assert_eq!(found.code(), 1, "{}", found.all());
    let expected = [1, 2, 3].map(|id| of("extra", json!({"id": id.to_string()})));
    let differences = differences(&found, "public.t");
    assert_eq!(differences.len(), expected.len(), "{differences:?}");
    assert!(differences.iter().all(|(kind, _)| kind == "extra"));
    assert_eq!(table(&found, "public.t")["more"], true);
}
