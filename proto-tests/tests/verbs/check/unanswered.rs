//! A server that refuses part of what is asked: the rest of the report is there all the same.

use super::look;
use anyhow::Result;
use proto_tests::stage::Stage;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_server_refuses_to_answer_is_said_and_the_rest_too() -> Result<()> {
    let stage = Stage::replicating(16, 13, "CREATE TABLE a (id serial PRIMARY KEY)").await?;
    let pair = &stage.pair;
    assert!(look(pair, &[], &[])?.of("not-looked-at").is_empty());
    stage.on_publisher("REVOKE SELECT ON pg_prepared_xacts FROM PUBLIC").await;
    stage.on_subscriber("ALTER SUBSCRIPTION sub DISABLE").await;
    let looked = look(pair, &[], &[])?;
    let [only] = &looked.of("not-looked-at")[..] else { panic!("{looked:?}") };
    assert!(only.starts_with("the databases: could not be looked at: ERROR: permission denied"), "{only}");
    assert_eq!(looked.of("subscription-disabled").len(), 1);

    stage
        .on_publisher("GRANT SELECT ON pg_prepared_xacts TO PUBLIC; REVOKE SELECT ON pg_sequence FROM PUBLIC")
        .await;
    let looked = look(pair, &[], &[])?;
    assert!(looked.of("not-looked-at")[0].starts_with("the sequences: could not be looked at"), "{looked:?}");
    let others = ["slot-wal-unlimited", "subscription-disabled"];
    assert_eq!(looked.among(&others), others, "{looked:?}");
    looked.expect_none_of(&["sequence-missing"]);

    // One connection to the publisher is all there is.
    stage.on_publisher("GRANT SELECT ON pg_sequence TO PUBLIC; ALTER ROLE shadow CONNECTION LIMIT 1").await;
    let looked = look(pair, &[], &[])?;
    let found = looked.of("not-looked-at");
    assert!(found.len() == 1 && found[0].contains("too many connections"), "{looked:?}");
    assert_eq!(looked.among(&others), others, "{looked:?}");
    Ok(())
}
