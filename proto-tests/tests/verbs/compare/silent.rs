//! Equal data is called equal, however it lies there and however each server would print it.

use super::{assert_equal, compare, differences, table};
use proto_tests::pair::SHADOW_ROLE;
use proto_tests::publication::{Publication, Subscription};
use proto_tests::sql::connect;
use proto_tests::stage::Stage;
use serde_json::json;

const TYPES: &str = "
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN positive AS int CHECK (value > 0);
CREATE TABLE types (
    id int PRIMARY KEY, small smallint, big bigint, num numeric, num2 numeric(12, 4), r real, d double precision,
    money_ numeric, t text, v varchar(40), c char(8), n name, flag boolean, bits bit varying, bin bytea, day date,
    clock time, clock_z timetz, at timestamp, at_z timestamptz, span interval, u uuid, js json, jb jsonb, m mood,
    p pair, pos positive, ints int[], texts text[], times timestamptz[], floats float8[], net inet, cid cidr,
    mac macaddr, pt point, bx box, rng int4range, trng tstzrange, vec tsvector, x xml, rel regclass, o oid);
CREATE TABLE churned (id bigserial PRIMARY KEY, v text, at timestamptz DEFAULT now())";
const ROWS: &str = "
INSERT INTO types SELECT 1, -32768, 9223372036854775807, 'NaN', 1.5000, '1e-38', '0.1'::float8 + 0.2, 1.10, 'a,b\"(\\',
    'v', 'c', 'n', true, '10110', '\\xdeadbeef00', '2024-02-29', '23:59:59.999999', '12:00:00+05:30',
    '2024-03-31 02:30:00', '2024-03-31 02:30:00+02', '1 year 2 mons -3 days 04:05:06.789', md5('u')::uuid,
    '{\"b\": 1, \"a\": 1.0}', '{\"b\": 1, \"a\": 1.00}', 'happy', ROW(1, 'x, y')::pair, 5, '{1,NULL,3}', '{\"a,b\",NULL,\"\"}',
    '{2024-01-01 00:00:00+00,infinity}', '{NaN,-0,Infinity,1e300}', '10.0.0.1/8', '10.0.0.0/8', '08:00:2b:01:02:03',
    '(1.1,2.2)', '(1,1),(0,0)', '[1,5)', '[2024-01-01 00:00:00+00,)', 'a:1 cat', '<a>b</a>', 'types', 4294967295;
INSERT INTO types (id, num, d, r, t, v, at_z, day, span, bin, texts) VALUES
    (2, 0.00, '-0', 'Infinity', '', '', 'infinity', 'infinity', '0', '', '{}'),
    (3, 1e100, '-Infinity', '-0', NULL, NULL, '-infinity', '-infinity', '-1 day +1 hour', NULL, NULL),
    (4, -0.10, '1.7976931348623157e308', '3.4028235e38', 'é€😀', 'x''y', '0044-03-15 00:00:00+00 BC',
     '4713-01-01 BC', '-00:00:01', '\\x5c', ARRAY[NULL]::text[]);
INSERT INTO churned (v) SELECT repeat('x', i % 50) FROM generate_series(1, 5000) i";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn types_physical_order_and_settings_do_not_matter() {
    for (publisher, subscriber) in [(12, 18), (15, 17)] {
        let stage = Stage::with(publisher, subscriber, TYPES).await.unwrap();
        stage.on_publisher(ROWS).await;
        stage.pair.replicate_all().await.unwrap();
        // Other pages, other places, other defaults.
        stage
            .on_publisher(
                "UPDATE churned SET v = v || 'y' WHERE id % 3 = 0; DELETE FROM churned WHERE id % 7 = 0",
            )
            .await;
        stage.on_publisher("VACUUM FULL churned").await;
        stage.pair.catch_up().await.unwrap();
        stage
            .on_subscriber(
                "CREATE INDEX by_v ON churned (v); CLUSTER churned USING by_v;
                 ALTER DATABASE shop SET TimeZone = 'Asia/Kathmandu';
                 ALTER DATABASE shop SET DateStyle = 'SQL, DMY';
                 ALTER DATABASE shop SET IntervalStyle = 'iso_8601';
                 ALTER DATABASE shop SET bytea_output = 'escape';
                 ALTER DATABASE shop SET extra_float_digits = -5;
                 ALTER ROLE shadow SET default_transaction_isolation = 'serializable';
                 ALTER ROLE shadow SET statement_timeout = '250ms'",
            )
            .await;
        stage
            .on_publisher(
                "ALTER ROLE shadow SET TimeZone = 'America/New_York';
                 ALTER ROLE shadow SET DateStyle = 'German';
                 ALTER ROLE shadow SET extra_float_digits = 0;
                 ALTER ROLE shadow SET search_path = public",
            )
            .await;
        let equal = compare(&stage.pair, &["--chunk-rows=500", "--wait=60s"]);
        assert_equal(&equal);
        assert!(table(&equal, "public.churned")["chunks"].as_u64().unwrap() > 5);
        assert_eq!(table(&equal, "public.types")["publisher_rows"], 4);

        // Each column counts: NULL and '' are not the same, nor are 0 and -0.
        for (change, back) in [
            ("t = NULL WHERE id = 2", "t = '' WHERE id = 2"),
            ("d = 0 WHERE id = 2", "d = '-0' WHERE id = 2"),
            ("num = 0.0 WHERE id = 2", "num = 0.00 WHERE id = 2"),
            ("bin = '\\x5d' WHERE id = 4", "bin = '\\x5c' WHERE id = 4"),
            ("texts = '{\"a\",\"b\",NULL,\"\"}' WHERE id = 1", "texts = '{\"a,b\",NULL,\"\"}' WHERE id = 1"),
            ("t = 'xy', v = '' WHERE id = 2", "t = '', v = '' WHERE id = 2"),
            ("at_z = at_z + '1us' WHERE id = 1", "at_z = at_z - '1us'::interval WHERE id = 1"),
        ] {
            stage.on_subscriber(&format!("UPDATE types SET {change}")).await;
            let differs = compare(&stage.pair, &["--table=types"]);
            assert_eq!(table(&differs, "public.types")["status"], "differs", "{change}: {}", differs.all());
            stage.on_subscriber(&format!("UPDATE types SET {back}")).await;
        }
        assert_equal(&compare(&stage.pair, &[]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sample_is_the_same_each_time_and_smaller_than_all() {
    let stage = Stage::with(19, 18, "CREATE TABLE t (id int PRIMARY KEY, v int)").await.unwrap();
    stage.on_publisher("INSERT INTO t SELECT i, i FROM generate_series(1, 10000) i").await;
    stage.pair.replicate_all().await.unwrap();
    let rows = |seed: &str| {
        let finished = compare(&stage.pair, &["--chunk-rows=100", "--sample=20", seed]);
        assert_equal(&finished);
        let table = table(&finished, "public.t");
        assert_eq!(table["chunks"], 101);
        let compared = table["chunks_compared"].as_u64().unwrap();
        assert!((5..60).contains(&compared), "{compared}");
        // Which rows those are is seen from what of a change in every tenth is found.
        (compared, table["publisher_rows"].as_u64().unwrap())
    };
    let first = rows("--seed=1");
    assert_eq!(rows("--seed=1"), first);
    let others: Vec<_> = ["--seed=2", "--seed=3", "--seed=4"].map(rows).into();
    assert!(others.iter().any(|other| *other != first), "{first:?} {others:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_encoding_is_no_difference() {
    let ddl = "CREATE TABLE words (word text PRIMARY KEY, v text); GRANT SELECT ON words TO shadow";
    let stage = Stage::with(15, 16, ddl).await.unwrap();
    stage
        .on_publisher(
            "INSERT INTO words SELECT chr(192 + i % 60) || i, 'é' || i FROM generate_series(1, 2000) i",
        )
        .await;
    stage
        .on_subscriber(
            "CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'",
        )
        .await;
    let latin = connect(&stage.pair.subscriber.conninfo("latin")).await.unwrap();
    latin.batch_execute(ddl).await.unwrap();
    stage.pair.publish(&Publication::all("pub")).await.unwrap();
    let subscription = Subscription::to("sub", &["pub"]).sql(&stage.pair.publisher_conninfo());
    latin.batch_execute(&subscription).await.unwrap();
    let copied = "SELECT NOT EXISTS (SELECT FROM pg_subscription_rel WHERE srsubstate <> 'r')";
    proto_tests::sql::wait_for(&stage.pair.subscriber.conninfo("latin"), "the copy", copied).await.unwrap();
    let there = format!("--subscriber={}", stage.pair.subscriber.conninfo_as(SHADOW_ROLE, "latin"));
    assert_equal(&compare(&stage.pair, &[&there, "--chunk-rows=300"]));
    latin.batch_execute("UPDATE words SET v = 'è' WHERE word = chr(192 + 11) || 71").await.unwrap();
    let found = compare(&stage.pair, &[&there]);
    assert_eq!(differences(&found, "public.words"), [("changed".to_owned(), json!({"word": "Ë71"}))]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_subscription_only_time_tells() {
    let ddl = "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT i, i FROM generate_series(1, 500) i";
    let stage = Stage::with(18, 14, ddl).await.unwrap();
    stage.pair.publish(&Publication::all("pub")).await.unwrap();
    let equal = compare(&stage.pair, &["--publication=pub"]);
    assert_equal(&equal);
    assert_eq!(equal.json().unwrap()["progress_known"], false);
    stage.on_subscriber("UPDATE t SET v = 0 WHERE id = 7").await;
    let found = compare(&stage.pair, &["--publication=pub", "--wait=2s"]);
    assert_eq!(differences(&found, "public.t"), [("changed".to_owned(), json!({"id": "7"}))]);
}
