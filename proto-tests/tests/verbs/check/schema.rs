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
        "table-missing",
        "column-missing",
        "column-required",
        "column-type-differs",
        "primary-key-differs",
        "sequence-missing",
        "column-default-missing",
    ];
    findings.mend(&stage.pair, &mendable).await;
    stage
        .on_subscriber(
            "DROP VIEW seen; CREATE TABLE seen (id int PRIMARY KEY);
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
    findings.mend(&stage.pair, &["column-default-missing"]).await;
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
    findings.mend(&stage.pair, &["extension-missing"]).await;
    Findings::of_pair(&stage.pair).unwrap().expect_none_of(&CODES);
    stage.on_publisher("UPDATE pg_extension SET extversion = '1.5', extname = 'plpgsql'").await;
    let version = "plpgsql: is version 1.5 on the publisher and 1.0 on the subscriber";
    assert_eq!(Findings::of_pair(&stage.pair).unwrap().of("extension-version"), [version]);
    stage.on_publisher("UPDATE pg_extension SET extname = 'elsewhere'").await;
    let missing = "elsewhere: is not on the subscriber, nor are its files on that server";
    assert_eq!(Findings::of_pair(&stage.pair).unwrap().of("extension-missing"), [missing]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn columns_that_are_missing_where_rows_are() {
    let ddl =
        "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY LIST (id);
               CREATE TABLE part_1 PARTITION OF parts FOR VALUES IN (1);
               CREATE TABLE part_2 PARTITION OF parts FOR VALUES IN (2)";
    let stage = Stage::replicating(15, 13, ddl).await.unwrap();
    stage.on_subscriber("INSERT INTO t VALUES (1); INSERT INTO parts VALUES (1), (2)").await;
    stage
        .on_publisher(
            "CREATE TYPE mood AS ENUM ('good'); CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1';
             ALTER TABLE t ADD p int NOT NULL DEFAULT 3, ADD q text NOT NULL, ADD r mood, ADD s serial;
             ALTER TABLE parts ADD z int NOT NULL DEFAULT f()",
        )
        .await;
    let code = "column-missing";
    let findings = Findings::of_pair(&stage.pair).unwrap();
    // Of so many the statements are told together.
    let mends = findings.mends(code).join("\n");
    let expected = [
        "ALTER TABLE public.parts ADD COLUMN IF NOT EXISTS z integer;",
        "ALTER TABLE public.t ADD COLUMN IF NOT EXISTS p integer DEFAULT 3 NOT NULL;",
        "ALTER TABLE public.t ADD COLUMN IF NOT EXISTS q text;",
        "ALTER TABLE public.t ADD COLUMN IF NOT EXISTS s integer;",
    ];
    assert_eq!(mends.lines().collect::<Vec<_>>(), expected);
    let advice = findings.advice(code).join("\n");
    for said in [
        "its type public.mood is not on the subscriber either",
        "once no row has NULL, ALTER TABLE public.t ALTER COLUMN q SET NOT NULL",
    ] {
        assert!(advice.contains(said), "{advice}");
    }
    stage.on_subscriber("CREATE TYPE mood AS ENUM ('good')").await;
    Findings::of_pair(&stage.pair).unwrap().mend(&stage.pair, &[code]).await;
    let not_null = "SELECT attnotnull FROM pg_attribute WHERE attrelid = 't'::regclass AND attname = 'p'";
    assert!(stage.subscriber.query_one(not_null, &[]).await.unwrap().get::<_, bool>(0));

    // What their defaults use comes, or has to come first.
    let findings = Findings::of_pair(&stage.pair).unwrap();
    let advice = findings.advice("column-default-missing");
    let lacks = "public.f is not on the subscriber, and its default uses it: make that first";
    let comes = "what mends sequence-missing gives it its default, too";
    assert_eq!(advice, [lacks, lacks, comes]);
    stage.on_subscriber("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'").await;
    let findings = Findings::of_pair(&stage.pair).unwrap();
    findings.mend(&stage.pair, &["sequence-missing", "column-default-missing"]).await;
    Findings::of_pair(&stage.pair).unwrap().expect_none_of(&CODES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn types_that_nothing_assigns_to_each_other() {
    let ddl = "CREATE TABLE t (id int PRIMARY KEY, n int DEFAULT 5, d date, x numeric(5, 1), v int, w int DEFAULT 1);
               CREATE TABLE parts (id int, k int) PARTITION BY LIST (k);
               CREATE TABLE part_1 PARTITION OF parts FOR VALUES IN (1);
               CREATE TABLE part_2 PARTITION OF parts FOR VALUES IN (2)";
    let stage = Stage::replicating(14, 16, ddl).await.unwrap();
    stage
        .on_subscriber(
            "DROP TABLE parts; ALTER TABLE t ALTER n DROP DEFAULT, ALTER n TYPE text, ALTER x TYPE text, ALTER v TYPE text,
                                             ALTER w DROP DEFAULT, ALTER w TYPE boolean USING true;
             ALTER TABLE t ALTER n SET DEFAULT '7', ALTER w SET DEFAULT false, DROP d, ADD d int;
             CREATE VIEW seen AS SELECT v FROM t; INSERT INTO t VALUES (1, '12', '1.25', '3', true);
             CREATE TABLE parts (id text, k int) PARTITION BY LIST (k);
             CREATE TABLE part_1 PARTITION OF parts FOR VALUES IN (1);
             CREATE TABLE part_2 PARTITION OF parts FOR VALUES IN (2); GRANT SELECT ON parts, part_1, part_2 TO shadow",
        )
        .await;
    let code = "column-type-differs";
    let findings = Findings::of_pair(&stage.pair).unwrap();
    let viewed =
        "a view uses it, so that its type cannot be changed: drop that first, then ALTER TABLE public.t";
    assert!(findings.advice(code).join("\n").contains(viewed), "{findings:?}");
    stage.on_subscriber("DROP VIEW seen").await;
    let findings = Findings::of_pair(&stage.pair).unwrap();
    findings.mend(&stage.pair, &[code]).await;
    stage.on_subscriber("INSERT INTO t (id) VALUES (2)").await;
    let sql = "SELECT string_agg(concat_ws(' ', id, n, d, x, v, w), ', ' ORDER BY id) FROM t";
    let rows: String = stage.subscriber.query_one(sql, &[]).await.unwrap().get(0);
    assert_eq!(rows, "1 12 1.3 3 1, 2 5 1");
    Findings::of_pair(&stage.pair).unwrap().expect_none_of(&CODES);
}

/// All that a bare copy of a table lacks, mended in the order of the report.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_identity_on_a_column_that_may_be_null() {
    let stage = Stage::replicating(17, 12, "CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY, x int)")
        .await
        .unwrap();
    stage
        .on_subscriber("ALTER TABLE t ALTER id DROP IDENTITY, ALTER id DROP NOT NULL, ALTER id TYPE bigint")
        .await;
    let findings = Findings::of_pair(&stage.pair).unwrap();
    assert!(findings.mends("column-default-missing")[0].is_empty(), "{findings:?}");
    findings.mend(&stage.pair, &["sequence-missing", "column-default-missing"]).await;
    stage.on_subscriber("ALTER TABLE t ALTER id DROP IDENTITY; ALTER TABLE t ALTER id DROP NOT NULL").await;
    let excluded = Findings::with(&stage.pair, &["--exclude-sequence=public.t_id_seq"]).unwrap();
    excluded.mend(&stage.pair, &["column-default-missing"]).await;
}
