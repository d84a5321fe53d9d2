//! What the databases hold.

use super::found;
use proto_tests::pair::PairOptions;
use proto_tests::stage::Stage;
use seqshadow::demo::servers::ClusterOptions;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prepared_transaction() {
    let options = PairOptions {
        publisher: ClusterOptions::default().set("max_prepared_transactions", "5"),
        ..PairOptions::default()
    };
    let stage =
        Stage::replicating_with(15, 17, options, "CREATE TABLE a (id serial PRIMARY KEY)").await.unwrap();
    assert!(found(&stage.pair, "prepared-transactions", &[]).unwrap().is_empty());
    stage.on_publisher("BEGIN; INSERT INTO a DEFAULT VALUES; PREPARE TRANSACTION 'o''clock'").await;
    let expected = ["o'clock: is prepared and neither committed nor rolled back"];
    assert_eq!(found(&stage.pair, "prepared-transactions", &[]).unwrap(), expected);
}
