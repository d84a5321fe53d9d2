//! Where the subscriber accepts less than the publisher sends.

use super::Findings;
use proto_tests::stage::Stage;

const CODES: [&str; 4] =
    ["column-not-null", "column-generated", "check-only-on-subscriber", "enum-label-missing"];

const TABLES: &str = "
CREATE TYPE mood AS ENUM ('good', 'It''s bad');
CREATE TABLE a (id int PRIMARY KEY, \"Note\" text, b int, c int, m mood, CONSTRAINT positive CHECK (b > 0),
                twice int GENERATED ALWAYS AS (b * 2) STORED)";

async fn told(publisher: u32, subscriber: u32) {
    let stage = Stage::replicating(publisher, subscriber, TABLES).await.unwrap();
    Findings::of_pair(&stage.pair).unwrap().expect_none_of(&CODES);
    stage
        .on_subscriber(
            "ALTER TABLE a ALTER \"Note\" SET NOT NULL, ADD CONSTRAINT \"Only\" CHECK (b < 100), DROP COLUMN c;
             ALTER TABLE a ADD c int GENERATED ALWAYS AS (b + 1) STORED",
        )
        .await;
    for label in ["'fair' AFTER 'good'", "'better' BEFORE 'good'", "'best' BEFORE 'better'"] {
        stage.on_publisher(&format!("ALTER TYPE mood ADD VALUE {label}")).await;
    }
    let findings = Findings::of_pair(&stage.pair).unwrap();
    let expected = ["public.a.\"Note\": is NOT NULL on the subscriber, and not on the publisher"];
    assert_eq!(findings.of("column-not-null"), expected);
    let expected = ["public.a.c: is generated on the subscriber, and published by the publisher"];
    assert_eq!(findings.of("column-generated"), expected);
    let expected =
        ["\"Only\" on public.a: is a CHECK constraint, and the publisher's table has none of that name"];
    assert_eq!(findings.of("check-only-on-subscriber"), expected);
    let label = |label: &str| format!("public.mood: lacks the label '{label}' on the subscriber");
    assert_eq!(findings.of("enum-label-missing"), [label("best"), label("better"), label("fair")]);

    if subscriber < 13 {
        assert_eq!(findings.mends("column-generated"), [""]);
        stage.on_subscriber("ALTER TABLE a DROP COLUMN c; ALTER TABLE a ADD c int").await;
        findings
            .mend(&stage.pair, &["column-not-null", "check-only-on-subscriber", "enum-label-missing"])
            .await;
    } else {
        findings.mend(&stage.pair, &CODES).await;
    }
    Findings::of_pair(&stage.pair).unwrap().expect_none_of(&CODES);
    let labels = "SELECT string_agg(enumlabel, ', ' ORDER BY enumsortorder) FROM pg_enum";
    let labels: String = stage.subscriber.query_one(labels, &[]).await.unwrap().get(0);
    assert_eq!(labels, "best, better, good, fair, It's bad");
    // And rows come again.
    stage.on_publisher("INSERT INTO a (id, b, c, m) VALUES (1, 200, 3, 'fair'), (2, 1, NULL, 'best')").await;
    stage.pair.catch_up().await.unwrap();
    let sql = "SELECT count(*) FROM a WHERE c = 3 OR m = 'best'";
    assert_eq!(stage.subscriber.query_one(sql, &[]).await.unwrap().get::<_, i64>(0), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stops_the_subscription_on_12() {
    told(15, 12).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stops_the_subscription_on_15() {
    told(18, 15).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stops_the_subscription_on_18() {
    told(12, 18).await;
}
