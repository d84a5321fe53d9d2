//! Of a row only its first MiB is held. Tries to break: an id behind a longer value, which the stream carries and we
//! cannot see, between two polls.

use anyhow::Result;
use proto_tests::rig::Rig;
use proto_tests::sql::{PATIENCE, wait_for};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_behind_a_value_of_two_mib_is_asked_for() -> Result<()> {
    let rig = Rig::new(17, 15).await?;
    rig.pair.on_both("CREATE TABLE wide (big text, id bigserial PRIMARY KEY)").await?;
    rig.pair.on_subscriber().await?.batch_execute("ALTER SUBSCRIPTION sub REFRESH PUBLICATION").await?;
    rig.pair.grant(&["public"]).await?;
    let shadow = rig.start(&["--poll-interval=10min"])?;
    let publisher = rig.pair.on_publisher().await?;
    let insert = "INSERT INTO wide (big) SELECT repeat('x', 2097152)";
    publisher.batch_execute("SELECT nextval('wide_id_seq') FROM generate_series(1, 500)").await?;
    publisher.batch_execute(insert).await?;
    let line = shadow.wait_for_line("a value in the stream cannot be read as an id", PATIENCE)?;
    assert!(line.contains("public.wide_id_seq"), "{line}");
    let ahead = "SELECT last_value >= 501 FROM wide_id_seq";
    wait_for(&rig.pair.subscriber_conninfo(), "the sequence is past the id", ahead).await?;
    publisher.batch_execute("SELECT nextval('wide_id_seq') FROM generate_series(1, 5000)").await?;
    publisher.batch_execute(insert).await?;
    let ahead = "SELECT last_value >= 5502 FROM wide_id_seq";
    wait_for(&rig.pair.subscriber_conninfo(), "and past the next one", ahead).await
}
