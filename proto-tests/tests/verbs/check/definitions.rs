//! The sequences of both sides beside each other.

use super::{Findings, mends};
use proto_tests::stage::Stage;

const CODES: [&str; 7] = [
    "sequence-missing",
    "sequence-definition-differs",
    "sequence-cache",
    "sequence-cache-differs",
    "sequence-owner-differs",
    "sequence-column-narrower",
    "sequence-only-on-subscriber",
];

const TABLES: &str = "CREATE TABLE a (id serial PRIMARY KEY); CREATE TABLE b (id bigserial PRIMARY KEY);
CREATE TABLE c (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY); CREATE SEQUENCE loose INCREMENT 3";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sequences_that_are_on_one_side_only() {
    let stage = Stage::replicating(14, 18, TABLES).await.unwrap();
    Findings::of_pair(&stage.pair).unwrap().expect_none_of(&CODES);

    stage
        .on_subscriber(
            "DROP SEQUENCE loose; ALTER TABLE a ALTER id DROP DEFAULT; DROP SEQUENCE a_id_seq;
             ALTER SEQUENCE b_id_seq RENAME TO other; ALTER TABLE c ALTER id DROP IDENTITY; CREATE SEQUENCE mine",
        )
        .await;
    // An extension brings its own, and what is excluded is nobody's business.
    stage
        .on_publisher(
            "CREATE SEQUENCE theirs; ALTER EXTENSION plpgsql ADD SEQUENCE theirs; CREATE SEQUENCE left_out;
             CREATE TEMPORARY SEQUENCE passing; CREATE SCHEMA far; CREATE SEQUENCE far.off",
        )
        .await;
    // Whoever runs what mends it need not own the tables.
    stage
        .on_subscriber(
            "ALTER TABLE a OWNER TO app; ALTER TABLE c OWNER TO app; ALTER TABLE c ALTER id SET DEFAULT 5",
        )
        .await;
    let excluding = ["--exclude-sequence=public.left_out"];
    let findings = Findings::with(&stage.pair, &excluding).unwrap();
    let gone = "is not on the subscriber: nextval of it fails after the cutover";
    let expected = [
        format!("far.off: {gone}"),
        format!("public.a_id_seq: {gone}"),
        "public.b_id_seq: is not on the subscriber, where public.other stands behind the same column: nextval of it by \
         name fails after the cutover"
            .to_owned(),
        format!("public.c_id_seq: {gone}"),
        format!("public.loose: {gone}"),
    ];
    assert_eq!(findings.of("sequence-missing"), expected);
    let only = "public.mine: is not on the publisher: it is followed by the ids in its tables alone";
    assert_eq!(findings.of("sequence-only-on-subscriber"), [only]);
    findings.mend(&stage.pair, &["sequence-missing", "column-default-missing"]).await;
    stage.on_subscriber("DROP SEQUENCE mine").await;
    Findings::with(&stage.pair, &excluding).unwrap().expect_none_of(&CODES);
    stage.on_subscriber("INSERT INTO a DEFAULT VALUES; INSERT INTO c DEFAULT VALUES").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn definitions_that_differ() {
    let tables =
        format!("{TABLES}; CREATE SEQUENCE wide; CREATE TABLE d (id bigint DEFAULT nextval('wide'))");
    let stage = Stage::replicating(12, 16, &tables).await.unwrap();
    Findings::of_pair(&stage.pair).unwrap().expect_none_of(&CODES);

    stage
        .on_subscriber(
            "ALTER SEQUENCE a_id_seq OWNED BY NONE; ALTER SEQUENCE b_id_seq CACHE 50; ALTER TABLE d ALTER id TYPE int;
             ALTER SEQUENCE loose INCREMENT 5 MAXVALUE 1000 CYCLE; ALTER SEQUENCE c_id_seq AS integer",
        )
        .await;
    stage.on_publisher("ALTER TABLE d ALTER id TYPE int").await;
    let findings = Findings::of_pair(&stage.pair).unwrap();
    let differs = [
        "public.c_id_seq: is defined differently: type is bigint on the publisher and integer on the subscriber; \
         MAXVALUE is 9223372036854775807 on the publisher and 2147483647 on the subscriber",
        "public.loose: is defined differently: INCREMENT is 3 on the publisher and 5 on the subscriber; MAXVALUE is \
         9223372036854775807 on the publisher and 1000 on the subscriber; CYCLE is false on the publisher and true on \
         the subscriber",
    ];
    assert_eq!(findings.of("sequence-definition-differs"), differs);
    let cache = "public.b_id_seq: has CACHE 50: sessions that have called nextval on the subscriber before the cutover \
                 go on with values of before; have them reconnect then, or do without it";
    assert_eq!(findings.of("sequence-cache"), [cache]);
    let cache = "public.b_id_seq: has CACHE 1 on the publisher and 50 on the subscriber";
    assert_eq!(findings.of("sequence-cache-differs"), [cache]);
    let owner =
        "public.a_id_seq: is owned by public.a.id on the publisher and by no column on the subscriber";
    assert_eq!(findings.of("sequence-owner-differs"), [owner]);
    let narrow = "public.d.id: ends at 2147483647, and its sequence public.wide at 9223372036854775807";
    assert_eq!(findings.of("sequence-column-narrower"), [narrow, narrow], "on each side");
    let mendable = [
        "sequence-definition-differs",
        "sequence-cache",
        "sequence-owner-differs",
        "sequence-column-narrower",
    ];
    findings.mend(&stage.pair, &mendable).await;
    Findings::of_pair(&stage.pair).unwrap().expect_none_of(&CODES);
}

/// A sequence that stands outside the publisher's bounds goes on to them, or keeps its own: never back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bounds_that_leave_out_where_the_subscriber_stands() {
    let ddl = "CREATE SEQUENCE raised; CREATE SEQUENCE lowered AS integer; CREATE SEQUENCE down INCREMENT -1";
    let stage = Stage::replicating(13, 17, ddl).await.unwrap();
    stage
        .on_publisher(
            "ALTER SEQUENCE raised MINVALUE 100 START 100 RESTART 100; ALTER SEQUENCE lowered AS smallint MAXVALUE 1000;
             ALTER SEQUENCE down MAXVALUE -100 START -100 RESTART -100",
        )
        .await;
    stage.on_subscriber("SELECT setval('raised', 50), setval('lowered', 100000), setval('down', -50)").await;
    let findings = Findings::of_pair(&stage.pair).unwrap();
    let code = "sequence-definition-differs";
    assert_eq!(findings.of(code).len(), 3, "{findings:?}");
    let advice = findings.advice(code);
    assert!(
        advice[0].starts_with("it stands at -50, before the publisher's first value, and goes on at -100")
    );
    assert!(advice[1].starts_with("it stands at 100000, past the publisher's end, and is not moved back"));
    for finding in findings.with_code(code) {
        assert!(mends::run(&stage.pair, finding));
    }
    assert_eq!(stage.next("raised").await, 100);
    assert_eq!(stage.next("lowered").await, 100_001);
    assert_eq!(stage.next("down").await, -100);
    let left = Findings::of_pair(&stage.pair).unwrap().of(code);
    assert!(left.len() == 1 && left[0].starts_with("public.lowered: "), "{left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_that_the_subscriber_lacks() {
    let ddl = "CREATE SEQUENCE one; CREATE SEQUENCE two; CREATE TABLE here (id int PRIMARY KEY DEFAULT nextval('one'))";
    let stage = Stage::replicating(16, 14, ddl).await.unwrap();
    stage
        .on_publisher(
            "ALTER SEQUENCE one OWNED BY here.id; CREATE TABLE gone (id int PRIMARY KEY); ALTER SEQUENCE two OWNED BY gone.id",
        )
        .await;
    stage.on_subscriber("ALTER TABLE here OWNER TO app").await;
    let findings = Findings::of_pair(&stage.pair).unwrap();
    let code = "sequence-owner-differs";
    assert_eq!(findings.of(code).len(), 2, "{findings:?}");
    assert_eq!(findings.mends(code)[1], "");
    assert_eq!(findings.advice(code)[1], "public.gone.id is not on the subscriber: make it first");
    findings.mend(&stage.pair, &[code]).await;
}
