//! The promise: every sequence of the subscriber is accounted for: covered, blind, held or excluded. None is silently
//! missed. The log says so at the start: one line with the counts, and one for each sequence that is not covered.

use anyhow::{Context as _, Result};
use proto_tests::pair::Pair;
use proto_tests::publication::Subscription;
use proto_tests::sequence::{next_value, wait_past};
use proto_tests::shadow::Shadow;
use proto_tests::sidecar::{SLOT, command, start};
use proto_tests::sql::PATIENCE;
use std::collections::BTreeMap;

const DDL: &str = "
CREATE TABLE covered (id serial PRIMARY KEY, note text);
CREATE TABLE also_covered (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY);
CREATE SEQUENCE standalone;
CREATE SEQUENCE cycling MAXVALUE 20 CYCLE;
CREATE SEQUENCE arithmetic;
CREATE TABLE times_ten (id int DEFAULT nextval('arithmetic') * 10 PRIMARY KEY);
CREATE TABLE not_published (id serial PRIMARY KEY);
CREATE TABLE filtered (id serial PRIMARY KEY, note text);
CREATE TABLE no_ids (id serial, note text);
CREATE TABLE full_up (id smallserial PRIMARY KEY);
CREATE TABLE not_granted (id serial PRIMARY KEY);
CREATE SEQUENCE hidden_on_publisher;
CREATE TABLE audit_log (id serial PRIMARY KEY);
CREATE SCHEMA other;
CREATE TABLE other.thing (id serial PRIMARY KEY);
CREATE UNLOGGED TABLE scratch (id serial PRIMARY KEY);
CREATE UNLOGGED SEQUENCE unlogged";

/// Publisher 16: the first whose servers all know unlogged sequences, column lists and filters.
async fn zoo_of_reasons() -> Result<Pair> {
    let pair = Pair::new(16, 17).await?;
    pair.on_both(DDL).await?;
    pair.grant(&["public", "other"]).await?;
    let publisher = pair.on_publisher().await?;
    publisher
        .batch_execute(
            "CREATE PUBLICATION pub FOR TABLE covered, also_covered, times_ten, filtered WHERE (note IS NULL), \
             no_ids (note), full_up, not_granted, audit_log, other.thing WITH (publish = 'insert'); \
             INSERT INTO covered (note) SELECT 'x' FROM generate_series(1, 100); \
             SELECT setval('full_up_id_seq', 32767); INSERT INTO full_up VALUES (32767); \
             REVOKE ALL ON SEQUENCE hidden_on_publisher FROM shadow; SELECT nextval('hidden_on_publisher')",
        )
        .await?;
    let subscriber = pair.on_subscriber().await?;
    subscriber.batch_execute("REVOKE ALL ON SEQUENCE not_granted_id_seq FROM shadow").await?;
    pair.subscribe(&Subscription::to("sub", &["pub"])).await?;
    pair.wait_for_sync().await?;
    Ok(pair)
}

/// `sequence -> (class, line)` of the lines that the start-up log has for what is not covered.
fn listed(shadow: &Shadow) -> BTreeMap<String, (String, String)> {
    let field = |line: &str, name: &str| {
        let (_, after) = line.split_once(&format!("{name}="))?;
        after.split(' ').next().map(|value| value.trim_matches('"').to_owned())
    };
    let lines = shadow.stderr_lines();
    let of = |line: &String| {
        let kinds = ["not covered by the stream alone", "the sequence is held"];
        kinds.iter().any(|kind| line.contains(kind)).then_some(())?;
        Some((field(line, "sequence")?, (field(line, "class")?, line.clone())))
    };
    let listed: Vec<_> = lines.iter().filter_map(of).collect();
    let map: BTreeMap<_, _> = listed.iter().cloned().collect();
    assert_eq!(map.len(), listed.len(), "one line each: {listed:#?}");
    map
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_start_is_one_line_of_counts_and_one_for_each_sequence_that_is_not_covered() {
    let pair = zoo_of_reasons().await.unwrap();
    // Temporary sequences are seen as long as their session lasts.
    let session = pair.on_subscriber().await.unwrap();
    session.batch_execute("CREATE TEMPORARY SEQUENCE of_a_session").await.unwrap();
    let shadow =
        start(&pair, &["--exclude-sequence=audit_*", "--schema=public", "--schema=pg_temp*"]).unwrap();

    let summary = shadow.wait_for_line("sequences of the subscriber", PATIENCE).unwrap();
    for count in ["sequences=16", "covered=2", "blind=6", "held=3", "excluded=5"] {
        assert!(summary.contains(count), "expected {count} in {summary}");
    }
    let expected = [
        ("public.standalone", "blind", "no column is known to take its values"),
        ("public.cycling", "blind", "CYCLE"),
        ("public.arithmetic", "blind", "public.times_ten.id: the column's default cannot be inverted"),
        ("public.not_published_id_seq", "blind", "public.not_published is not published"),
        ("public.filtered_id_seq", "blind", "row filter"),
        ("public.no_ids_id_seq", "blind", "public.no_ids.id is not in the publication's column list"),
        ("public.full_up_id_seq", "held", "32767"),
        (
            "public.not_granted_id_seq",
            "held",
            "GRANT USAGE, SELECT, UPDATE ON SEQUENCE public.not_granted_id_seq TO shadow",
        ),
        ("public.hidden_on_publisher", "held", "GRANT SELECT ON SEQUENCE public.hidden_on_publisher"),
        ("public.audit_log_id_seq", "excluded", "excluded by the configuration"),
        ("other.thing_id_seq", "excluded", "excluded by the configuration"),
        ("public.scratch_id_seq", "excluded", "unlogged"),
        ("public.unlogged", "excluded", "unlogged"),
    ];
    let listed = listed(&shadow);
    for (sequence, class, reason) in expected {
        let (found, line) =
            listed.get(sequence).with_context(|| format!("{sequence} in {listed:#?}")).unwrap();
        assert!(found == class && line.contains(reason), "expected {class} and {reason:?}, got {line}");
    }
    let temporary: Vec<_> = listed.iter().filter(|(name, _)| name.ends_with(".of_a_session")).collect();
    assert!(
        matches!(temporary[..], [(_, (class, line))] if class == "excluded" && line.contains("temporary")),
        "{temporary:?}"
    );
    assert_eq!(listed.len(), expected.len() + 1, "{listed:#?}");

    // What is said is also done: the covered one is ahead, the excluded and the held ones are where they were.
    let subscriber = pair.on_subscriber().await.unwrap();
    wait_past(&subscriber, "covered_id_seq", 100).await.unwrap();
    for untouched in [
        "audit_log_id_seq",
        "other.thing_id_seq",
        "scratch_id_seq",
        "unlogged",
        "not_granted_id_seq",
        "full_up_id_seq",
    ] {
        assert_eq!(next_value(&subscriber, untouched).await.unwrap(), 1, "{untouched}");
    }
}

/// Rights given later are found without a restart, and what was missing is made up for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_that_is_granted_later_brings_the_sequence_back() {
    let pair = zoo_of_reasons().await.unwrap();
    let shadow = start(&pair, &[]).unwrap();
    let publisher = pair.on_publisher().await.unwrap();
    let subscriber = pair.on_subscriber().await.unwrap();
    publisher
        .batch_execute(
            "SELECT setval('hidden_on_publisher', 700), setval('standalone', 700); \
             INSERT INTO not_granted SELECT nextval('not_granted_id_seq') FROM generate_series(1, 50)",
        )
        .await
        .unwrap();
    // The polls have been there since.
    wait_past(&subscriber, "standalone", 700).await.unwrap();
    assert_eq!(next_value(&subscriber, "hidden_on_publisher").await.unwrap(), 1);
    publisher.batch_execute("GRANT SELECT ON SEQUENCE hidden_on_publisher TO shadow").await.unwrap();
    subscriber
        .batch_execute("GRANT USAGE, SELECT, UPDATE ON SEQUENCE not_granted_id_seq TO shadow")
        .await
        .unwrap();
    wait_past(&subscriber, "hidden_on_publisher", 700).await.unwrap();
    wait_past(&subscriber, "not_granted_id_seq", 50).await.unwrap();
    drop(shadow);
}

/// Sessions with temporary sequences come and go; they must neither fill the log nor our memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn temporary_sequences_of_later_sessions_are_no_news() {
    let pair = Pair::new(17, 18).await.unwrap();
    pair.replicate("CREATE TABLE t (id serial PRIMARY KEY)").await.unwrap();
    let shadow = start(&pair, &[]).unwrap();
    let session = pair.on_subscriber().await.unwrap();
    session.batch_execute("CREATE TEMPORARY TABLE mine (id serial)").await.unwrap();
    pair.on_both("CREATE TABLE later (id serial PRIMARY KEY)").await.unwrap();
    pair.grant(&["public"]).await.unwrap();
    // The catalog has been read again when the permanent one is known.
    shadow.wait_for_line("a new sequence is managed sequence=public.later_id_seq", PATIENCE).unwrap();
    let lines = shadow.stderr_lines();
    assert!(!lines.iter().any(|line| line.contains("mine_id_seq")), "{lines:#?}");
}

/// Everything may be left out: then nothing is touched, and it says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_pattern_is_refused_and_no_sequence_at_all_is_said() {
    let pair = Pair::new(17, 18).await.unwrap();
    pair.replicate("CREATE TABLE t (id serial PRIMARY KEY)").await.unwrap();
    let refused = command(&pair, &["--exclude-sequence=a.b.c"]).run(PATIENCE).unwrap();
    assert_eq!(refused.status.code(), Some(2), "{}", refused.stderr);
    let shadow = start(&pair, &["--exclude-sequence=public.*"]).unwrap();
    let summary = shadow.wait_for_line("sequences of the subscriber", PATIENCE).unwrap();
    assert!(summary.contains("sequences=1") && summary.contains("excluded=1"), "{summary}");
    pair.on_publisher()
        .await
        .unwrap()
        .batch_execute("INSERT INTO t SELECT FROM generate_series(1, 9)")
        .await
        .unwrap();
    let end = pair.publisher_lsn().await.unwrap();
    pair.wait_for_catchup(SLOT, end).await.unwrap();
    assert_eq!(next_value(&pair.on_subscriber().await.unwrap(), "t_id_seq").await.unwrap(), 1);
}
