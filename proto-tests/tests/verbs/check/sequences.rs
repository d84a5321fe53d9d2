//! The sequences.

use super::found;
use proto_tests::stage::Stage;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sequence_that_the_stream_does_not_show() {
    let stage = Stage::replicating(15, 17, "CREATE TABLE a (id serial PRIMARY KEY)").await.unwrap();
    assert!(found(&stage.pair, "sequence-not-covered", &[]).unwrap().is_empty());
    stage.pair.on_both("CREATE SEQUENCE loose").await.unwrap();
    let expected = ["public.loose: is followed by polling: no column takes its values from it"];
    assert_eq!(found(&stage.pair, "sequence-not-covered", &[]).unwrap(), expected);
}
