//! What the databases hold.

use super::{Findings, found};
use proto_tests::pair::PairOptions;
use proto_tests::stage::Stage;
use seqshadow::demo::servers::ClusterOptions;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prepared_transaction() {
    let allowing = || ClusterOptions::default().set("max_prepared_transactions", "5");
    let options = PairOptions { publisher: allowing(), subscriber: allowing() };
    let stage =
        Stage::replicating_with(15, 17, options, "CREATE TABLE a (id serial PRIMARY KEY)").await.unwrap();
    assert!(found(&stage.pair, "prepared-transactions", &[]).unwrap().is_empty());
    stage.on_publisher("BEGIN; INSERT INTO a DEFAULT VALUES; PREPARE TRANSACTION 'o''clock'").await;
    let expected = ["o'clock: is prepared and neither committed nor rolled back"];
    assert_eq!(found(&stage.pair, "prepared-transactions", &[]).unwrap(), expected);

    // On the subscriber, too; but what a subscription with two_phase has prepared is the publisher's.
    stage.on_publisher("ROLLBACK PREPARED 'o''clock'").await;
    stage.on_subscriber("BEGIN; CREATE TABLE x (); PREPARE TRANSACTION 'pg_gid_16400_731'").await;
    assert!(found(&stage.pair, "prepared-transactions", &[]).unwrap().is_empty());
    stage.on_subscriber("BEGIN; CREATE TABLE y (); PREPARE TRANSACTION 'mine'").await;
    let findings = Findings::of_pair(&stage.pair).unwrap();
    assert_eq!(
        findings.of("prepared-transactions"),
        ["mine: is prepared and neither committed nor rolled back"]
    );
    findings.mend(&stage.pair, &["prepared-transactions"]).await;
    assert!(found(&stage.pair, "prepared-transactions", &[]).unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_objects() {
    let stage = Stage::replicating(13, 17, "CREATE TABLE a (id serial PRIMARY KEY)").await.unwrap();
    assert!(found(&stage.pair, "large-objects", &[]).unwrap().is_empty());
    stage.on_publisher("SELECT lo_from_bytea(0, 'x'), lo_from_bytea(0, 'y')").await;
    let expected = "2 large objects: are not replicated: bring them over while nobody writes any, for instance with a \
                    dump of them alone";
    assert_eq!(found(&stage.pair, "large-objects", &[]).unwrap(), [expected]);
}
