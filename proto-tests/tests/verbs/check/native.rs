//! PostgreSQL 19's own replication of sequences.

use super::look;
use anyhow::Result;
use proto_tests::publication::Subscription;
use proto_tests::stage::Stage;

const NATIVE: &[&str] = &["native-sequences", "two-sequence-writers"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sequences_that_are_replicated_natively() -> Result<()> {
    let stage = Stage::replicating(19, 19, "CREATE TABLE a (id serial PRIMARY KEY)").await?;
    let pair = &stage.pair;
    let looked = look(pair, &[], &[])?;
    assert!(looked.among(NATIVE).is_empty() && looked.of("relations-not-ready").is_empty(), "{looked:?}");
    stage.on_publisher("CREATE PUBLICATION seqs FOR ALL SEQUENCES").await;
    assert_eq!(look(pair, &[], &[])?.among(NATIVE), ["native-sequences"]);

    stage.on_subscriber("ALTER SUBSCRIPTION sub ADD PUBLICATION seqs").await;
    let looked = look(pair, &[], &[])?;
    assert_eq!(
        looked.of("two-sequence-writers"),
        ["subscription sub: copies sequences (1) too: a REFRESH SEQUENCES can move them back"]
    );
    looked.mend(pair, &["two-sequence-writers"]).await;
    assert_eq!(look(pair, &[], &[])?.among(NATIVE), ["native-sequences"]);

    // One that brings tables as well has to stay.
    stage.on_publisher("CREATE PUBLICATION everything FOR ALL TABLES, ALL SEQUENCES").await;
    let second = Subscription { copy_data: Some(false), ..Subscription::to("second", &["everything"]) };
    pair.subscribe(&second).await?;
    let looked = look(pair, &["--subscription=second"], &[])?;
    let expected = "run no ALTER SUBSCRIPTION second REFRESH SEQUENCES while the sidecar runs";
    assert_eq!(looked.advice("two-sequence-writers"), [expected]);
    Ok(())
}
