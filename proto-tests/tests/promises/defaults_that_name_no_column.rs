//! The promise: a sequence is followed by the ids in its column also where the column's own default does not lead to it: a
//! domain has the default, or the default has the sequence's name as text.

use proto_tests::sidecar::start;
use proto_tests::stage::Stage;

const TABLES: &str = "
CREATE SEQUENCE of_domain; CREATE DOMAIN number AS bigint DEFAULT nextval('of_domain');
CREATE SEQUENCE of_nested; CREATE DOMAIN base AS text DEFAULT 'N-' || nextval('of_nested'); CREATE DOMAIN nested AS base;
CREATE SEQUENCE of_text; CREATE SEQUENCE of_plain_text;
CREATE TABLE by_domain (id number PRIMARY KEY, note text);
CREATE TABLE by_nested (id nested PRIMARY KEY, note text);
CREATE TABLE by_text (id bigint PRIMARY KEY DEFAULT nextval(('public.of_text'::text)::regclass), note text);
CREATE TABLE by_plain_text (id int PRIMARY KEY DEFAULT nextval('of_plain_text'::text), note text)";

/// Each sequence, its table, and an id that somebody types in: only a look at the column tells of it.
const BY: [(&str, &str, &str); 4] = [
    ("of_domain", "by_domain", "4000"),
    ("of_nested", "by_nested", "'N-4000'"),
    ("of_text", "by_text", "4000"),
    ("of_plain_text", "by_plain_text", "4000"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_domains_default_and_a_name_as_text_are_followed() {
    let stage = Stage::replicating(13, 17, TABLES).await.unwrap();
    let shadow = start(&stage.pair, &["--lead=32"]).unwrap();
    for (_, table, typed) in BY {
        stage
            .on_publisher(&format!("INSERT INTO {table} (note) SELECT 'x' FROM generate_series(1, 50)"))
            .await;
        stage.on_publisher(&format!("INSERT INTO {table} (id) VALUES ({typed})")).await;
    }
    for (sequence, ..) in BY {
        stage.wait_past(sequence, 4000).await;
    }
    stage.pair.catch_up().await.unwrap();
    for (_, table, _) in BY {
        let sql = format!("INSERT INTO {table} DEFAULT VALUES RETURNING ltrim(id::text, 'N-')::bigint");
        let id: i64 = stage.subscriber.query_one(&sql, &[]).await.unwrap().get(0);
        assert!(id > 4000, "{table}: {id}");
    }
    let lines = shadow.stderr_lines();
    assert!(!lines.iter().any(|line| line.contains("not covered by the stream alone")), "{lines:#?}");
}
