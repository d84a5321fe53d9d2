//! A CYCLE sequence has no furthest id: it gets the publisher's state. Tries to break: one that the application draws
//! from on the subscriber is taken back again and again, which gives ids twice.

use anyhow::Result;
use proto_tests::rig::Rig;
use proto_tests::sql::{PATIENCE, wait_for};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cycle_sequence_equals_the_publishers_and_is_left_alone_when_the_subscriber_draws() -> Result<()> {
    let rig = Rig::new(15, 17).await?;
    rig.pair.on_both("CREATE SEQUENCE ring MINVALUE 1 MAXVALUE 1000 CYCLE").await?;
    rig.pair.grant(&["public"]).await?;
    let publisher = rig.pair.on_publisher().await?;
    publisher.batch_execute("SELECT nextval('ring') FROM generate_series(1, 1005)").await?;
    let _shadow = rig.start(&["--verify-interval=100ms"])?;
    let on_subscriber = rig.pair.subscriber_conninfo();
    let equals = "SELECT last_value = 5 AND is_called FROM ring";
    wait_for(&on_subscriber, "the publisher's state", equals).await?;

    let subscriber = rig.pair.on_subscriber().await?;
    let begun = std::time::Instant::now();
    let mut last: i64 = 5;
    // Over many verify ticks and polls.
    while begun.elapsed() < std::time::Duration::from_secs(5) {
        let id: i64 = subscriber.query_one("SELECT nextval('ring')", &[]).await?.get(0);
        assert_eq!(id, last + 1, "an id was given out twice, or skipped");
        last = id;
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    // When the publisher moves on, its state counts again.
    publisher.batch_execute("SELECT setval('ring', 700)").await?;
    let equals = "SELECT last_value = 700 AND is_called FROM ring";
    wait_for(&on_subscriber, "the publisher's new state", equals).await
}

/// After a cutover the application draws here, and our connection is cut: that is no reason to copy again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reconnect_gives_no_id_twice() -> Result<()> {
    let rig = Rig::new(16, 15).await?;
    rig.pair.on_both("CREATE SEQUENCE ring MAXVALUE 1000000 CYCLE").await?;
    rig.pair.grant(&["public"]).await?;
    rig.pair.on_publisher().await?.batch_execute("SELECT setval('ring', 500)").await?;
    let shadow = rig.start(&["--verify-interval=100ms"])?;
    let equals = "SELECT last_value = 500 AND is_called FROM ring";
    wait_for(&rig.pair.subscriber_conninfo(), "the publisher's state", equals).await?;
    let subscriber = rig.pair.on_subscriber().await?;
    let mut drawn = Vec::new();
    for _ in 0..3 {
        for _ in 0..20 {
            drawn.push(subscriber.query_one("SELECT nextval('ring')", &[]).await?.get::<_, i64>(0));
        }
        let seen = shadow.stderr_lines().len();
        let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'shadow'";
        subscriber.batch_execute(cut).await?;
        shadow.wait_for_line_after(seen, "the subscriber is back", PATIENCE)?;
    }
    // Another poll and some ticks.
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    drawn.push(subscriber.query_one("SELECT nextval('ring')", &[]).await?.get(0));
    let expected: Vec<i64> = (501..=561).collect();
    assert_eq!(drawn, expected);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_the_subscriber_cannot_hold_is_said_and_the_sql_mends_it() -> Result<()> {
    let rig = Rig::new(16, 15).await?;
    rig.pair.on_both("CREATE SEQUENCE ring MINVALUE 1 MAXVALUE 1000 CYCLE").await?;
    rig.pair.grant(&["public"]).await?;
    let (publisher, subscriber) = (rig.pair.on_publisher().await?, rig.pair.on_subscriber().await?);
    subscriber.batch_execute("ALTER SEQUENCE ring MAXVALUE 100").await?;
    publisher.batch_execute("SELECT setval('ring', 500)").await?;
    let shadow = rig.start(&["--verify-interval=100ms"])?;
    let line = shadow.wait_for_line("stands at 500 on the publisher", PATIENCE)?;
    let sql = line.split_once("on the subscriber: ").expect("the SQL that mends it").1;
    subscriber.batch_execute(sql).await?;
    let equals = "SELECT last_value = 500 AND is_called FROM ring";
    wait_for(&rig.pair.subscriber_conninfo(), "the publisher's state", equals).await
}
