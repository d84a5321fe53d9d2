//! DDL that is on one side only.

use super::Findings;
use proto_tests::stage::Stage;

const CODES: [&str; 9] = [
    "table-missing",
    "column-missing",
    "column-required",
    "column-type-differs",
    "column-type-wider",
    "column-default-missing",
    "primary-key-differs",
    "extension-missing",
    "extension-version",
];

const TABLES: &str = "
CREATE TABLE a (id serial PRIMARY KEY, note text DEFAULT 'x', made date, sum int GENERATED ALWAYS AS (1 + 1) STORED);
CREATE TABLE b (id serial PRIMARY KEY, at timestamptz, amount numeric(10, 2));
CREATE TABLE c (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, x int NOT NULL);
CREATE TABLE parts (id int, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE part_1 PARTITION OF parts FOR VALUES FROM ('2020-01-01') TO ('2030-01-01')";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_columns_and_keys_that_differ() {
    let stage = Stage::replicating(12, 17, TABLES).await.unwrap();
    Findings::of_pair(&stage.pair).unwrap().expect_none_of(&CODES);

    stage
        .on_publisher(
            "CREATE TABLE \"New\" (id int PRIMARY KEY); CREATE TABLE seen (id int PRIMARY KEY);
             ALTER TABLE a ADD price numeric; ALTER TABLE b DROP CONSTRAINT b_pkey",
        )
        .await;
    stage
        .on_subscriber(
            "CREATE VIEW seen AS SELECT 1 AS id; ALTER TABLE a ALTER note DROP DEFAULT, ADD must int NOT NULL;
             ALTER TABLE a ADD may int NOT NULL DEFAULT 1; ALTER TABLE b ALTER at TYPE timestamp, ALTER id TYPE bigint;
             ALTER TABLE c DROP CONSTRAINT c_pkey, ALTER id DROP IDENTITY",
        )
        .await;
    let findings = Findings::of_pair(&stage.pair).unwrap();
    let missing = [
        "public.\"New\": is published and not on the subscriber",
        "public.seen: is a view on the subscriber, and rows can go to a table only",
    ];
    assert_eq!(findings.of("table-missing"), missing);
    assert_eq!(findings.of("column-missing"), ["public.a.price: is published and not on the subscriber"]);
    let required = "public.a.must: is not sent by the publisher, and is NOT NULL without a default";
    assert_eq!(findings.of("column-required"), [required]);
    let differs = "public.b.at: is timestamp with time zone on the publisher and timestamp without time zone on the \
                   subscriber";
    assert_eq!(findings.of("column-type-differs"), [differs]);
    let wider = "public.b.id: is integer on the publisher and bigint on the subscriber";
    assert_eq!(findings.of("column-type-wider"), [wider]);
    let defaults = [
        "public.a.note: has a default on the publisher, and none on the subscriber",
        "public.c.id: is an identity on the publisher, and gets no value by itself on the subscriber",
    ];
    assert_eq!(findings.of("column-default-missing"), defaults);
    let keys = [
        "public.b: has the primary key (id) on the subscriber only: a row that breaks it stops the subscription",
        "public.c: has no primary key on the subscriber: UPDATE and DELETE find their rows slowly there, or not at all",
    ];
    assert_eq!(findings.of("primary-key-differs"), keys);

    let mendable = [
        "column-missing",
        "column-required",
        "column-type-differs",
        "primary-key-differs",
        "column-default-missing",
    ];
    findings.mend(&stage, &mendable).await;
    stage
        .on_subscriber(
            "DROP VIEW seen; CREATE TABLE seen (id int PRIMARY KEY); CREATE TABLE \"New\" (id int PRIMARY KEY);
             ALTER TABLE b ALTER id TYPE int",
        )
        .await;
    Findings::of_pair(&stage.pair).unwrap().expect_none_of(&CODES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_that_are_renamed_and_columns_that_are_not_published() {
    let stage = Stage::with(16, 18, "CREATE SCHEMA old; CREATE TABLE old.a (id int PRIMARY KEY, x int)")
        .await
        .unwrap();
    stage.on_publisher("CREATE PUBLICATION p FOR TABLE old.a (id); CREATE TABLE unpublished (id int)").await;
    stage
        .on_subscriber("CREATE SCHEMA new; ALTER TABLE old.a SET SCHEMA new; ALTER TABLE new.a DROP x")
        .await;
    let subscription = "CREATE SUBSCRIPTION s CONNECTION 'dbname=none' PUBLICATION p WITH (connect = false)";
    stage.on_subscriber(subscription).await;
    let findings = Findings::of_pair(&stage.pair).unwrap();
    assert_eq!(findings.of("table-missing"), ["old.a: is published and not on the subscriber"]);
    Findings::with(&stage.pair, &["--rename=old.a=new.a"]).unwrap().expect_none_of(&CODES);
    stage.on_subscriber("ALTER TABLE new.a RENAME id TO number").await;
    let renamed = Findings::with(&stage.pair, &["--rename=old.a=new.a"]).unwrap();
    assert_eq!(renamed.of("column-missing"), ["new.a.id: is published and not on the subscriber"]);
    stage.on_subscriber("ALTER TABLE new.a RENAME number TO id; ALTER TABLE new.a ADD x int NOT NULL").await;
    let renamed = Findings::with(&stage.pair, &["--rename=old.a=new.a"]).unwrap();
    let required = "new.a.x: is not sent by the publisher, and is NOT NULL without a default";
    assert_eq!(renamed.of("column-required"), [required]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tables_are_one_finding_and_without_a_publication_all_count() {
    let stage = Stage::with(18, 17, "CREATE TABLE a (id int PRIMARY KEY)").await.unwrap();
    Findings::of_pair(&stage.pair).unwrap().expect_none_of(&CODES);
    let many = "DO $$ BEGIN FOR i IN 101..112 LOOP EXECUTE format('CREATE TABLE t_%s (id int PRIMARY KEY)', i); END LOOP; END $$";
    stage.on_publisher(many).await;
    let expected = "12 tables: each is on the publisher and not on the subscriber (public.t_101, public.t_102, \
                    public.t_103, public.t_104, public.t_105 and 7 more)";
    assert_eq!(Findings::of_pair(&stage.pair).unwrap().of("table-missing"), [expected]);
}

/// What replication writes cannot be generated on the subscriber: what mends it is for afterwards, and is SQL that runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_generated_column_that_is_published() {
    let ddl = "CREATE TABLE g (id int PRIMARY KEY, a int)";
    let stage = Stage::with(18, 17, ddl).await.unwrap();
    stage.on_publisher("ALTER TABLE g ADD b int GENERATED ALWAYS AS (a * 2) STORED").await;
    stage.on_subscriber("ALTER TABLE g ADD b int").await;
    stage.on_publisher("CREATE PUBLICATION pub FOR TABLE g (id, a, b)").await;
    let subscription = proto_tests::publication::Subscription::to("sub", &["pub"]);
    stage.pair.subscribe(&subscription).await.unwrap();
    stage.pair.wait_for_sync().await.unwrap();
    let findings = Findings::of_pair(&stage.pair).unwrap();
    let generated = "public.g.b: is generated on the publisher, and a plain column on the subscriber";
    assert_eq!(findings.of("column-default-missing"), [generated]);
    stage.on_subscriber("DROP SUBSCRIPTION sub").await;
    findings.mend(&stage, &["column-default-missing"]).await;
    stage.on_subscriber("INSERT INTO g (id, a) VALUES (1, 21)").await;
    let doubled = stage.subscriber.query_one("SELECT b FROM g", &[]).await.unwrap();
    assert_eq!(doubled.get::<_, i32>(0), 42);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn extensions() {
    let stage = Stage::with(14, 15, "CREATE TABLE a (id int PRIMARY KEY)").await.unwrap();
    Findings::of_pair(&stage.pair).unwrap().expect_none_of(&CODES);
    stage.on_subscriber("DROP EXTENSION plpgsql").await;
    let findings = Findings::of_pair(&stage.pair).unwrap();
    assert_eq!(findings.of("extension-missing"), ["plpgsql: is not on the subscriber"]);
    findings.mend(&stage, &["extension-missing"]).await;
    Findings::of_pair(&stage.pair).unwrap().expect_none_of(&CODES);
    stage.on_publisher("UPDATE pg_extension SET extversion = '1.5', extname = 'plpgsql'").await;
    let version = "plpgsql: is version 1.5 on the publisher and 1.0 on the subscriber";
    assert_eq!(Findings::of_pair(&stage.pair).unwrap().of("extension-version"), [version]);
    stage.on_publisher("UPDATE pg_extension SET extname = 'elsewhere'").await;
    let missing = "elsewhere: is not on the subscriber, nor are its files on that server";
    assert_eq!(Findings::of_pair(&stage.pair).unwrap().of("extension-missing"), [missing]);
}
