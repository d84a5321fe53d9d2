//! The sequences.

use super::{Findings, found};
use proto_tests::publication::Publication;
use proto_tests::stage::Stage;
use proto_tests::verb;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sequence_that_the_stream_does_not_show() {
    let stage = Stage::replicating(15, 17, "CREATE TABLE a (id serial PRIMARY KEY)").await.unwrap();
    assert!(found(&stage.pair, "sequence-not-covered", &[]).unwrap().is_empty());
    stage.pair.on_both("CREATE SEQUENCE loose").await.unwrap();
    let expected = ["public.loose: is followed by polling: no column is known to take its values"];
    assert_eq!(found(&stage.pair, "sequence-not-covered", &[]).unwrap(), expected);
    // A thousand of them are one finding.
    let many = "DO $$ BEGIN FOR i IN 1001..1999 LOOP EXECUTE 'CREATE SEQUENCE loose_' || i; END LOOP; END $$";
    stage.pair.on_both(many).await.unwrap();
    let expected = [
        "1000 sequences: each is followed by polling: no column is known to take its values (public.loose, \
                     public.loose_1001, public.loose_1002, public.loose_1003, public.loose_1004 and 995 more)",
    ];
    assert_eq!(found(&stage.pair, "sequence-not-covered", &[]).unwrap(), expected);
}

const CODES: [&str; 7] = [
    "sequence-held",
    "sequence-covered-in-part",
    "sequence-cycles",
    "sequence-not-managed",
    "sequence-unread",
    "ids-not-looked-at",
    "ids-set-aside",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_keeps_a_sequence_from_being_followed_simply() {
    let tables = "CREATE TABLE a (id serial PRIMARY KEY); CREATE TABLE b (id serial PRIMARY KEY);
                  CREATE TABLE c (id serial PRIMARY KEY); CREATE TABLE d (id serial PRIMARY KEY)";
    let stage = Stage::replicating(13, 16, tables).await.unwrap();
    Findings::of_pair(&stage.pair).unwrap().expect_none_of(&CODES);

    stage.on_publisher("SELECT setval('a_id_seq', 150); INSERT INTO b VALUES (2000000000)").await;
    stage.on_subscriber("ALTER SEQUENCE a_id_seq MAXVALUE 100").await;
    stage.on_subscriber("CREATE UNLOGGED SEQUENCE fleeting; CREATE TEMPORARY SEQUENCE passing").await;
    stage
        .pair
        .on_both("CREATE SEQUENCE ring MAXVALUE 5 CYCLE; CREATE TABLE plain (id bigserial, note text)")
        .await
        .unwrap();
    stage.pair.grant(&["public"]).await.unwrap();
    stage.pair.publish(&Publication::of("narrow", &["plain"]).only("insert")).await.unwrap();
    let (on_publisher, on_subscriber) = stage.pair.clients().await.unwrap();
    on_publisher.batch_execute("BEGIN; ALTER SEQUENCE c_id_seq OWNER TO CURRENT_USER").await.unwrap();
    on_subscriber.batch_execute("BEGIN; ALTER SEQUENCE d_id_seq OWNER TO CURRENT_USER").await.unwrap();

    let findings = Findings::of_pair(&stage.pair).unwrap();
    let held = "public.a_id_seq: cannot be put past the furthest id: id 150 is in use on the publisher, but the \
                subscriber's sequence ends at MAXVALUE 100";
    assert_eq!(findings.of("sequence-held"), [held]);
    let aside = "public.b_id_seq: does not follow 2000000000, which lies far past it; --outliers=follow does";
    assert_eq!(findings.of("ids-set-aside"), [aside]);
    let unread = [
        "public.c_id_seq: could not be read: it is locked on the publisher",
        "public.d_id_seq: is locked on the subscriber: run check again",
    ];
    assert_eq!(findings.of("sequence-unread"), unread);
    assert_eq!(
        findings.of("sequence-cycles"),
        ["public.ring: may CYCLE: it is given the publisher's exact state"]
    );
    let not_managed = findings.of("sequence-not-managed");
    assert_eq!(not_managed.len(), 2, "{not_managed:?}");
    assert!(not_managed[0].ends_with(".passing: is temporary, and left alone"), "{not_managed:?}");
    assert_eq!(not_managed[1], "public.fleeting: is unlogged, and left alone");
    let gap =
        "public.plain_id_seq: public.plain.id was not looked at: the column has no index; --full scans it";
    assert_eq!(findings.of("ids-not-looked-at"), [gap]);
    findings.mend(&stage.pair, &["sequence-held"]).await;

    for client in [&on_publisher, &on_subscriber] {
        client.batch_execute("ROLLBACK").await.unwrap();
    }
    stage.on_publisher("DELETE FROM b").await;
    stage.pair.catch_up().await.unwrap();
    let narrow = Findings::with(&stage.pair, &["--publication=narrow"]).unwrap();
    let but = "public.plain_id_seq: is covered, but UPDATEs of public.plain are not published in full, ids that they \
               set are not seen; id has no index to read it by";
    assert_eq!(narrow.of("sequence-covered-in-part"), [but]);
    narrow.expect_none_of(&["sequence-held", "ids-set-aside", "sequence-unread"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_inside_text_are_told_once_whatever_setup_publishes() {
    let tables = "CREATE SEQUENCE numbers; CREATE TABLE bills (no text PRIMARY KEY DEFAULT 'B-' || nextval('numbers'));
                  CREATE TABLE plain (id bigserial, note text)";
    let stage = Stage::replicating(16, 17, tables).await.unwrap();
    let codes = ["sequence-covered-in-part", "ids-not-looked-at"];
    let whole = Findings::of_pair(&stage.pair).unwrap();
    assert_eq!(whole.among(&codes), ["ids-not-looked-at"], "the stream shows UPDATEs");
    let superuser = [
        format!("--publisher={}", stage.pair.publisher_conninfo()),
        format!("--subscriber={}", stage.pair.subscriber_conninfo()),
    ];
    let flags = ["--slot=ours", "--role=shadow", "--grant", &superuser[0], &superuser[1]];
    let made = verb::run(&stage.pair, "setup", &flags).unwrap();
    assert_eq!(made.code(), 0, "{}", made.all());

    let narrow = Findings::with(&stage.pair, &["--slot=ours", "--publication=seqshadow_ours"]).unwrap();
    let gaps = [
        "public.numbers: public.bills.no was not looked at: its ids are inside text; --full scans it",
        "public.plain_id_seq: public.plain.id was not looked at: the column has no index; --full scans it",
    ];
    assert_eq!(narrow.of("ids-not-looked-at"), gaps);
    assert!(narrow.advice("ids-not-looked-at").iter().all(|advice| advice.contains("--full")));
    // Of these an index mends it.
    let but = "public.plain_id_seq: is covered, but UPDATEs of public.plain are not published in full, ids that they \
               set are not seen; id has no index to read it by";
    assert_eq!(narrow.of("sequence-covered-in-part"), [but]);
    stage.pair.on_both("CREATE INDEX ON plain (id)").await.unwrap();
    let indexed = Findings::with(&stage.pair, &["--slot=ours", "--publication=seqshadow_ours"]).unwrap();
    assert_eq!(indexed.of("ids-not-looked-at"), &gaps[..1]);
    indexed.expect_none_of(&["sequence-covered-in-part"]);
    // As the gate does.
    let slot = ["--slot=ours", "--publication=seqshadow_ours"];
    assert_eq!(verb::run(&stage.pair, "verify", &slot).unwrap().code(), 1);
    let full = verb::run(&stage.pair, "verify", &[slot[0], slot[1], "--full"]).unwrap();
    assert!(!full.all().contains("inside text"), "{}", full.all());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sequence_that_is_unlogged_on_the_subscriber_alone() {
    let ddl = "CREATE TABLE a (id serial PRIMARY KEY); CREATE SEQUENCE loose;
               CREATE TABLE b (id int PRIMARY KEY DEFAULT nextval('loose'))";
    let stage = Stage::replicating(12, 16, ddl).await.unwrap();
    assert!(found(&stage.pair, "sequence-unlogged", &[]).unwrap().is_empty());
    stage.on_subscriber("ALTER TABLE a SET UNLOGGED; ALTER SEQUENCE loose SET UNLOGGED").await;
    let findings = Findings::of_pair(&stage.pair).unwrap();
    assert_eq!(findings.of("sequence-unlogged").len(), 2, "{findings:?}");
    findings.mend(&stage.pair, &["sequence-unlogged"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_to_look_at_ids_is_given_as_it_says() {
    let ddl = "CREATE SEQUENCE no; CREATE TABLE a (id int PRIMARY KEY DEFAULT nextval('no'), n bigint DEFAULT nextval('no'))";
    let stage = Stage::replicating(18, 14, ddl).await.unwrap();
    stage.pair.on_both("REVOKE SELECT ON a FROM shadow").await.unwrap();
    stage.on_publisher("CREATE PUBLICATION narrow FOR TABLE a WITH (publish = 'insert')").await;
    let findings = Findings::with(&stage.pair, &["--publication=narrow"]).unwrap();
    let text = findings.of("ids-not-looked-at").join("\n");
    assert!(!text.contains(";;"), "{text}");
    assert!(text.contains("public.a.id was not looked at: our role may not read it"), "{findings:?}");
    for sql in findings.mends("ids-not-looked-at") {
        stage.on_subscriber(&sql).await;
    }
    let left =
        Findings::with(&stage.pair, &["--publication=narrow"]).unwrap().of("ids-not-looked-at").join("\n");
    assert!(!left.contains("our role may not read it"), "{left}");
}
