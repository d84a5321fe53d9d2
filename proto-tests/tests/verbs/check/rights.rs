//! What our roles may do. The findings' own SQL mends them.

use super::look;
use anyhow::Result;
use proto_tests::pair::Pair;

const RIGHTS: &[&str] = &[
    "publisher-schema-usage",
    "publisher-sequence-select",
    "publisher-blind-select",
    "publisher-column-select",
    "subscriber-schema-usage",
    "subscriber-sequence-advance",
    "subscriber-sequence-update",
    "subscriber-sequence-select",
    "subscriber-column-select",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_granted_is_found_by_schema_and_mended() -> Result<()> {
    for (publisher, subscriber) in [(12, 17), (18, 18)] {
        let pair = Pair::new(publisher, subscriber).await?;
        pair.on_both(
            "CREATE SCHEMA \"The shop\"; SET search_path = \"The shop\";
             CREATE TABLE a1 (id serial PRIMARY KEY); CREATE TABLE a2 (id serial PRIMARY KEY);
             CREATE TABLE a3 (id serial PRIMARY KEY); CREATE TABLE a4 (id serial PRIMARY KEY);
             CREATE TABLE a5 (id serial PRIMARY KEY); CREATE TABLE a6 (id serial PRIMARY KEY);
             CREATE SEQUENCE loose",
        )
        .await?;
        let client = pair.on_publisher().await?;
        client.batch_execute("CREATE PUBLICATION pub FOR ALL TABLES").await?;
        let flags = &["--publication=pub"];
        let looked = look(&pair, flags, &[])?;
        let closed = ["publisher-schema-usage", "publisher-blind-select", "subscriber-schema-usage"];
        assert_eq!(looked.among(RIGHTS), closed);
        assert_eq!(
            looked.of("subscriber-schema-usage"),
            ["schema \"The shop\": our role lacks USAGE, so that these are out of reach: \
              a1_id_seq, a2_id_seq, a3_id_seq, a4_id_seq, a5_id_seq and 2 more"]
        );
        assert_eq!(
            looked.of("publisher-blind-select"),
            ["schema \"The shop\": our role may not read what nothing else shows: loose"]
        );
        assert_eq!(
            looked.mends("publisher-schema-usage"),
            ["GRANT USAGE ON SCHEMA \"The shop\" TO shadow;\n\
              GRANT SELECT ON ALL SEQUENCES IN SCHEMA \"The shop\" TO shadow;"]
        );

        looked.mend(&pair, &closed).await;
        pair.on_both("REVOKE ALL ON ALL SEQUENCES IN SCHEMA \"The shop\" FROM shadow").await?;
        let looked = look(&pair, flags, &[])?;
        let bare = [
            "publisher-sequence-select",
            "publisher-blind-select",
            "publisher-column-select",
            "subscriber-sequence-advance",
            "subscriber-column-select",
        ];
        assert_eq!(looked.among(RIGHTS), bare);
        looked.mend(&pair, &bare).await;
        assert!(look(&pair, flags, &[])?.among(RIGHTS).is_empty());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_that_are_half_there() -> Result<()> {
    let pair = Pair::new(15, 13).await?;
    pair.on_both("CREATE TABLE a (id serial PRIMARY KEY, n serial); CREATE TABLE b (id serial PRIMARY KEY)")
        .await?;
    pair.grant(&["public"]).await?;
    let subscriber = pair.on_subscriber().await?;
    assert!(look(&pair, &[], &[])?.among(RIGHTS).is_empty());
    for (revoked, code) in [
        ("UPDATE", "subscriber-sequence-update"),
        ("SELECT", "subscriber-sequence-select"),
        ("USAGE, UPDATE", "subscriber-sequence-advance"),
        ("USAGE, SELECT", "subscriber-sequence-advance"),
    ] {
        subscriber.batch_execute(&format!("REVOKE {revoked} ON SEQUENCE a_id_seq FROM shadow")).await?;
        let looked = look(&pair, &[], &[])?;
        assert_eq!(looked.among(RIGHTS), [code], "{revoked}");
        assert!(looked.of(code)[0].ends_with(": a_id_seq"), "{looked:?}");
        looked.mend(&pair, &[code]).await;
        assert!(look(&pair, &[], &[])?.among(RIGHTS).is_empty(), "{revoked}");
    }
    subscriber.batch_execute("REVOKE SELECT ON a, b FROM shadow").await?;
    let looked = look(&pair, &[], &[])?;
    // a.n has no index: it would not be read anyway.
    assert_eq!(
        looked.of("subscriber-column-select"),
        ["schema public: our role may not read the id columns: public.a.id, public.b.id"]
    );
    looked.mend(&pair, &["subscriber-column-select"]).await;
    assert!(look(&pair, &[], &[])?.among(RIGHTS).is_empty());
    // What is excluded is nobody's business.
    subscriber.batch_execute("REVOKE ALL ON SEQUENCE b_id_seq FROM shadow").await?;
    assert!(look(&pair, &["--exclude-sequence=public.b_id_seq"], &[])?.among(RIGHTS).is_empty());
    Ok(())
}
