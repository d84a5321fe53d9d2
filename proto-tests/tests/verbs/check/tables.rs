//! Tables.

use super::Findings;
use proto_tests::sql::{PATIENCE, Probe, wait_until};
use proto_tests::stage::Stage;

const CODES: [&str; 10] = [
    "replica-identity",
    "replica-identity-needed",
    "replica-identity-full",
    "table-unlogged",
    "foreign-table",
    "materialized-view",
    "index-invalid",
    "trigger-on-apply",
    "table-not-analyzed",
    "constraint-only-on-subscriber",
];

const TABLES: &str = "
CREATE TABLE a (id int PRIMARY KEY, code int NOT NULL, UNIQUE (code));
CREATE TABLE b (id int PRIMARY KEY, x int);
CREATE TABLE c (id int PRIMARY KEY, x int)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_whose_rows_cannot_be_told_apart() {
    let stage = Stage::replicating(14, 17, TABLES).await.unwrap();
    Findings::of_pair(&stage.pair).unwrap().expect_none_of(&CODES);

    stage
        .on_publisher(
            "CREATE TABLE bare (x int); ALTER TABLE a DROP CONSTRAINT a_pkey; ALTER TABLE b REPLICA IDENTITY NOTHING;
             ALTER TABLE c REPLICA IDENTITY FULL; CREATE TABLE late (id int PRIMARY KEY DEFERRABLE);
             CREATE TABLE parts (x int) PARTITION BY LIST (x); CREATE TABLE part_1 PARTITION OF parts FOR VALUES IN (1)",
        )
        .await;
    let findings = Findings::of_pair(&stage.pair).unwrap();
    let no_key =
        "has no usable primary key to be its replica identity: UPDATE and DELETE fail on the publisher";
    let expected = [
        format!("public.a: {no_key}"),
        "public.b: has REPLICA IDENTITY NOTHING: UPDATE and DELETE fail on the publisher".to_owned(),
        format!("public.bare: {no_key}"),
        format!("public.late: {no_key}"),
        format!("public.part_1: {no_key}"),
    ];
    assert_eq!(findings.of("replica-identity"), expected);
    let full = "public.c: has REPLICA IDENTITY FULL: the whole old row is logged with each UPDATE and DELETE";
    assert_eq!(findings.of("replica-identity-full"), [full]);
    // What we say is what the server does.
    for table in ["a", "b", "bare", "late", "part_1"] {
        stage
            .on_publisher(&format!("INSERT INTO {table} SELECT {}", if table == "a" { "1, 1" } else { "1" }))
            .await;
        let refused = stage.publisher.batch_execute(&format!("DELETE FROM {table}")).await;
        assert!(refused.is_err(), "{table}");
    }
    findings.mend(&stage.pair, &["replica-identity"]).await;
    for table in ["a", "b", "bare", "late", "part_1"] {
        stage.on_publisher(&format!("DELETE FROM {table}")).await;
    }
    let mended = Findings::of_pair(&stage.pair).unwrap();
    mended.expect_none_of(&["replica-identity"]);
    let full: Vec<String> = mended.of("replica-identity-full");
    assert_eq!(full.len(), 4, "c, late, bare and the partition: {full:?}");
    assert!(
        full.iter()
            .any(|told| told.starts_with("public.bare: has REPLICA IDENTITY FULL, and no primary key"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn identities_matter_only_for_what_publishes_changes() {
    let stage = Stage::with(13, 16, "CREATE TABLE a (id int)").await.unwrap();
    let needed = "public.a: has no usable primary key to be its replica identity: UPDATE and DELETE will fail on it \
                  once they are published";
    let findings = Findings::of_pair(&stage.pair).unwrap();
    assert_eq!(findings.of("replica-identity-needed"), [needed]);
    findings.expect_none_of(&["replica-identity"]);
    findings.mend(&stage.pair, &["replica-identity-needed"]).await;
    stage.on_publisher("ALTER TABLE a REPLICA IDENTITY DEFAULT").await;
    stage.on_publisher("CREATE PUBLICATION inserts FOR ALL TABLES WITH (publish = 'insert, truncate')").await;
    Findings::with(&stage.pair, &["--publication=inserts"]).unwrap().expect_none_of(&CODES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_replicated_at_all() {
    let stage = Stage::replicating(12, 18, TABLES).await.unwrap();
    Findings::of_pair(&stage.pair).unwrap().expect_none_of(&CODES);
    stage
        .on_publisher(
            "CREATE UNLOGGED TABLE fleeting (id int PRIMARY KEY); CREATE MATERIALIZED VIEW seen AS SELECT * FROM a;
             CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w; CREATE FOREIGN TABLE far (id int) SERVER s;
             CREATE TEMPORARY TABLE passing (id int)",
        )
        .await;
    let findings = Findings::of_pair(&stage.pair).unwrap();
    assert_eq!(findings.of("table-unlogged"), ["public.fleeting: is unlogged and therefore not replicated"]);
    let foreign = "public.far: is a foreign table: the subscriber needs its server and user mapping too";
    assert_eq!(findings.of("foreign-table"), [foreign]);
    let seen =
        "public.seen: is a materialized view: it is to be refreshed on the subscriber after the cutover";
    assert_eq!(findings.of("materialized-view"), [seen]);
    findings.mend(&stage.pair, &["table-unlogged"]).await;
    stage.on_publisher("DROP MATERIALIZED VIEW seen; DROP FOREIGN TABLE far").await;
    Findings::of_pair(&stage.pair).unwrap().expect_none_of(&CODES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_of_the_publisher_that_nobody_uses() {
    let stage = Stage::replicating(16, 13, TABLES).await.unwrap();
    stage.on_publisher("INSERT INTO b VALUES (1, 1), (2, 1)").await;
    Findings::of_pair(&stage.pair).unwrap().expect_none_of(&["index-invalid"]);
    let twice = "CREATE UNIQUE INDEX CONCURRENTLY twice ON b (x)";
    assert!(stage.publisher.batch_execute(twice).await.is_err());
    let findings = Findings::of_pair(&stage.pair).unwrap();
    let invalid = "public.twice: is invalid, on public.b: the making of it failed, or has not ended";
    assert_eq!(findings.of("index-invalid"), [invalid]);
    stage.on_publisher("UPDATE b SET x = id").await;
    findings.mend(&stage.pair, &["index-invalid"]).await;
    Findings::of_pair(&stage.pair).unwrap().expect_none_of(&["index-invalid"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_slows_or_stops_the_subscriber() {
    let stage = Stage::replicating(15, 14, TABLES).await.unwrap();
    // So that nobody analyzes it but the test.
    stage.on_subscriber("ALTER TABLE b SET (autovacuum_enabled = off)").await;
    stage.on_publisher("INSERT INTO b SELECT n, 1 FROM generate_series(1, 40) n").await;
    stage.pair.catch_up().await.unwrap();
    Findings::of_pair(&stage.pair).unwrap().expect_none_of(&CODES);

    stage.on_publisher("INSERT INTO b SELECT n, 1 FROM generate_series(41, 500) n").await;
    stage.pair.catch_up().await.unwrap();
    let client = &stage.subscriber;
    wait_until("the statistics of b", PATIENCE, async || {
        let sql = "SELECT n_live_tup FROM pg_stat_user_tables WHERE relname = 'b'";
        let live: i64 = client.query_one(sql, &[]).await?.get(0);
        Ok(Probe::when(live > 50, || live.to_string()))
    })
    .await
    .unwrap();
    assert!(client.batch_execute("CREATE UNIQUE INDEX CONCURRENTLY twice ON b (x)").await.is_err());
    stage
        .on_subscriber(
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
             CREATE TRIGGER always BEFORE INSERT ON a FOR EACH ROW EXECUTE FUNCTION f();
             CREATE TRIGGER on_apply BEFORE INSERT ON a FOR EACH ROW EXECUTE FUNCTION f();
             CREATE TRIGGER usual BEFORE INSERT ON a FOR EACH ROW EXECUTE FUNCTION f();
             CREATE TABLE mine (id int); CREATE TRIGGER always BEFORE INSERT ON mine FOR EACH ROW EXECUTE FUNCTION f();
             ALTER TABLE mine ENABLE ALWAYS TRIGGER always;
             ALTER TABLE a ENABLE ALWAYS TRIGGER always, ENABLE REPLICA TRIGGER on_apply;
             ALTER TABLE c ADD CONSTRAINT strict UNIQUE (x), ADD CONSTRAINT lax UNIQUE (id, x),
                           ADD CONSTRAINT apart EXCLUDE (x WITH =)",
        )
        .await;
    let findings = Findings::of_pair(&stage.pair).unwrap();
    let analyzed = "public.b: was never analyzed, or its statistics were lost";
    assert_eq!(findings.of("table-not-analyzed"), [analyzed]);
    let invalid = "public.twice: is invalid, on public.b: the making of it failed, or has not ended";
    assert_eq!(findings.of("index-invalid"), [invalid]);
    let triggers = [
        "always on public.a: is ENABLE ALWAYS: it fires for each replicated row too",
        "on_apply on public.a: is ENABLE REPLICA: it fires for each replicated row too",
    ];
    assert_eq!(findings.of("trigger-on-apply"), triggers);
    let stricter = [
        "public.apart: is an exclusion constraint on public.c, and the publisher has no such constraint",
        "public.strict: is unique on public.c, and the publisher has no such constraint",
    ];
    let mut found = findings.of("constraint-only-on-subscriber");
    found.sort();
    assert_eq!(found, stricter);
    stage
        .on_subscriber("DROP INDEX twice; ALTER TABLE c DROP CONSTRAINT strict, DROP CONSTRAINT apart")
        .await;
    findings.mend(&stage.pair, &["table-not-analyzed", "trigger-on-apply"]).await;
    wait_until("the statistics of b", PATIENCE, async || {
        let sql = "SELECT last_analyze IS NOT NULL FROM pg_stat_user_tables WHERE relname = 'b'";
        Ok(Probe::when(client.query_one(sql, &[]).await?.get(0), || "not analyzed".to_owned()))
    })
    .await
    .unwrap();
    Findings::of_pair(&stage.pair).unwrap().expect_none_of(&CODES);
}
