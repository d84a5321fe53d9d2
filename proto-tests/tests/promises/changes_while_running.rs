//! The promise: what changes on the servers while seqshadow runs is found by it, without a restart: new tables and
//! sequences, dropped and renamed ones, other defaults.

use proto_tests::publication::{Publication, Subscription};
use proto_tests::shadow::Shadow;
use proto_tests::sidecar::start;
use proto_tests::sql::{PATIENCE, Probe, wait_until};
use proto_tests::stage::Stage;

/// `ddl` on both sides, replicated, with seqshadow beside it. Its role may see what is made later.
async fn running(ddl: &str) -> (Stage, Shadow) {
    let rights = "ALTER DEFAULT PRIVILEGES GRANT USAGE, SELECT, UPDATE ON SEQUENCES TO shadow; \
                  ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO shadow";
    let stage = Stage::replicating(17, 18, &format!("{ddl}; {rights}")).await.unwrap();
    let shadow = start(&stage.pair, &[]).unwrap();
    (stage, shadow)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_table_is_covered() {
    let (stage, shadow) = running("CREATE TABLE old (id serial PRIMARY KEY)").await;
    let ddl = "CREATE TABLE new (id bigserial PRIMARY KEY, note text); CREATE SEQUENCE alone";
    // The publisher first, and rows at once: the stream shows a table that the subscriber does not have yet.
    stage.on_publisher(ddl).await;
    stage
        .on_publisher("INSERT INTO new SELECT FROM generate_series(1, 100); INSERT INTO new VALUES (2000)")
        .await;
    stage.on_subscriber(ddl).await;
    stage.on_subscriber("ALTER SUBSCRIPTION sub REFRESH PUBLICATION").await;
    shadow.wait_for_line("a new sequence is managed sequence=public.new_id_seq", PATIENCE).unwrap();
    stage.wait_past("new_id_seq", 2000).await;
    stage.pair.wait_for_sync().await.unwrap();
    // From now on the stream shows its ids, the polls those of the other.
    stage.on_publisher("INSERT INTO new VALUES (4000); SELECT setval('alone', 700)").await;
    stage.wait_past("new_id_seq", 4000).await;
    stage.wait_past("alone", 700).await;
    stage.on_publisher("INSERT INTO old SELECT FROM generate_series(1, 300)").await;
    stage.wait_past("old_id_seq", 300).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_sequence_is_forgotten_and_one_of_the_same_name_begins_anew() {
    let ddl = "CREATE TABLE kept (id serial PRIMARY KEY); CREATE TABLE gone (id serial PRIMARY KEY)";
    let (stage, shadow) = running(ddl).await;
    stage.on_publisher("INSERT INTO gone SELECT FROM generate_series(1, 500)").await;
    stage.wait_past("gone_id_seq", 500).await;
    stage.pair.catch_up().await.unwrap();
    stage.pair.on_both("DROP TABLE gone").await.unwrap();
    shadow.wait_for_line("managed no more sequence=public.gone_id_seq", PATIENCE).unwrap();
    stage.pair.on_both("CREATE TABLE gone (id serial PRIMARY KEY)").await.unwrap();
    stage.on_subscriber("ALTER SUBSCRIPTION sub REFRESH PUBLICATION").await;
    stage.on_publisher("INSERT INTO gone SELECT FROM generate_series(1, 20)").await;
    stage.wait_past("gone_id_seq", 20).await;
    let next = stage.next("gone_id_seq").await;
    assert!(next < 500, "the ids of the old one do not count for the new one: {next}");
    stage.on_publisher("INSERT INTO kept SELECT FROM generate_series(1, 100)").await;
    stage.wait_past("kept_id_seq", 100).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renamed_sequences_tables_and_columns_are_followed() {
    let ddl = "CREATE TABLE t (id serial PRIMARY KEY); CREATE SEQUENCE alone; CREATE TABLE u (id serial PRIMARY KEY)";
    let (stage, _shadow) = running(ddl).await;
    // On the subscriber only: the column still says which sequence of the publisher it is.
    stage.on_subscriber("ALTER SEQUENCE t_id_seq RENAME TO t_numbers").await;
    stage.on_publisher("SELECT setval('t_id_seq', 300)").await;
    stage.wait_past("t_numbers", 300).await;
    stage.on_publisher("INSERT INTO t VALUES (2000)").await;
    stage.wait_past("t_numbers", 2000).await;
    // On both: a sequence without a column goes by its name.
    stage.pair.on_both("ALTER SEQUENCE alone RENAME TO lonely").await.unwrap();
    stage.on_publisher("SELECT setval('lonely', 300)").await;
    stage.wait_past("lonely", 300).await;
    stage.pair.on_both("ALTER TABLE u RENAME TO v; ALTER TABLE v RENAME id TO number").await.unwrap();
    stage.on_publisher("INSERT INTO v VALUES (3000)").await;
    stage.wait_past("u_id_seq", 3000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_that_takes_its_values_from_another_sequence_now() {
    let ddl = "CREATE TABLE t (id serial PRIMARY KEY); CREATE SEQUENCE successor; \
               CREATE FUNCTION f() RETURNS bigint LANGUAGE sql AS $$ SELECT nextval('public.successor') $$";
    let (stage, shadow) = running(ddl).await;
    stage.on_publisher("INSERT INTO t SELECT FROM generate_series(1, 100)").await;
    stage.wait_past("t_id_seq", 100).await;
    stage.pair.on_both("ALTER TABLE t ALTER id SET DEFAULT nextval('successor')").await.unwrap();
    shadow
        .wait_for_line(
            "is followed in another way now sequence=public.successor from=\"blind\" to=\"covered\"",
            PATIENCE,
        )
        .unwrap();
    stage
        .on_publisher(
            "SELECT setval('successor', 1000); INSERT INTO t DEFAULT VALUES; INSERT INTO t VALUES (3000)",
        )
        .await;
    stage.wait_past("successor", 3000).await;
    // A function's inside is not seen: it is polled again.
    stage.pair.on_both("ALTER TABLE t ALTER id SET DEFAULT f()").await.unwrap();
    shadow
        .wait_for_line(
            "is followed in another way now sequence=public.successor from=\"covered\" to=\"blind\"",
            PATIENCE,
        )
        .unwrap();
    stage.on_publisher("SELECT setval('successor', 5000); INSERT INTO t DEFAULT VALUES").await;
    stage.wait_past("successor", 5001).await;
}

/// Not published at first; then added to the publication, and to the subscription.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_published_later() {
    let ddl = "CREATE TABLE a (id serial PRIMARY KEY); CREATE TABLE b (id serial PRIMARY KEY)";
    let stage = Stage::with(15, 17, ddl).await.unwrap();
    let pair = &stage.pair;
    pair.publish(&Publication::of("pub", &["a"])).await.unwrap();
    pair.subscribe(&Subscription::to("sub", &["pub"])).await.unwrap();
    pair.wait_for_sync().await.unwrap();
    let shadow = start(pair, &[]).unwrap();
    stage.on_publisher("ALTER PUBLICATION pub ADD TABLE b").await;
    stage.on_subscriber("ALTER SUBSCRIPTION sub REFRESH PUBLICATION").await;
    shadow
        .wait_for_line("in another way now sequence=public.b_id_seq from=\"blind\" to=\"covered\"", PATIENCE)
        .unwrap();
    stage.on_publisher("INSERT INTO b VALUES (4000)").await;
    stage.wait_past("b_id_seq", 4000).await;
    wait_until("the row", PATIENCE, async || {
        let rows: i64 = stage.subscriber.query_one("SELECT count(*) FROM b", &[]).await?.get(0);
        Ok(Probe::when(rows == 1, || format!("{rows} rows")))
    })
    .await
    .unwrap();
}
