//! Our publication is another than the subscription's, as the cheap one of inserts and truncates is. Tries to break: what
//! only one of the two publishes is taken for what both do, and what neither shows for covered.

use anyhow::Result;
use proto_tests::publication::{Publication, Subscription};
use proto_tests::sidecar::start;
use proto_tests::sql::PATIENCE;
use proto_tests::stage::Stage;
use std::time::Duration;

const ORDERS: &str = "CREATE TABLE orders (id serial PRIMARY KEY, note text)";
const SEQUENCE: &str = "orders_id_seq";

/// Subscribed to `theirs`, all tables but only these operations, beside our narrow publication.
async fn narrow_beside(theirs: &str) -> Result<Stage> {
    let stage = Stage::with(17, 15, ORDERS).await?;
    stage.on_publisher("REVOKE SELECT ON orders FROM shadow").await;
    stage.pair.publish(&Publication::all("pub").only(theirs)).await?;
    stage.pair.publish(&Publication::of("narrow", &["orders"]).only("insert, truncate")).await?;
    stage.pair.subscribe(&Subscription::to("sub", &["pub"])).await?;
    stage.pair.wait_for_sync().await?;
    Ok(stage)
}

/// The rows stay on the subscriber, and so must what was known of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_truncate_that_the_subscription_does_not_replicate_restarts_nothing() -> Result<()> {
    let stage = narrow_beside("insert, update, delete").await?;
    stage.on_subscriber("REVOKE SELECT ON orders FROM shadow").await;
    let shadow = start(&stage.pair, &["--publication=narrow", "--lead=10"])?;
    stage
        .on_publisher(
            "BEGIN; INSERT INTO orders (note) SELECT 'x' FROM generate_series(1, 300);
             TRUNCATE orders RESTART IDENTITY; COMMIT",
        )
        .await;
    stage.wait_past(SEQUENCE, 300).await;
    stage.pair.catch_up().await?;
    stage.on_subscriber("INSERT INTO orders (note) VALUES ('after the cutover')").await;
    assert!(!shadow.stderr_lines().iter().any(|line| line.contains("restarted on the publisher")));

    // As soon as it does, it is one.
    stage.on_publisher("ALTER PUBLICATION pub SET (publish = 'insert, update, delete, truncate')").await;
    let mut restarted = false;
    for _ in 0..60 {
        stage.on_publisher("TRUNCATE orders RESTART IDENTITY").await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        restarted = shadow.stderr_lines().iter().any(|line| line.contains("restarted on the publisher"));
        if restarted {
            break;
        }
    }
    assert!(restarted, "{:#?}", shadow.stderr_lines());
    Ok(())
}

/// In the table, where that may be read on one of the servers; where not, the sequence's reason says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_updated_id_is_found_or_its_absence_is_said() -> Result<()> {
    for readable_on in ["publisher", "subscriber", "neither"] {
        let stage = narrow_beside("insert, update, delete, truncate").await?;
        if readable_on == "publisher" {
            stage.on_publisher("GRANT SELECT (id) ON orders TO shadow").await;
        }
        if readable_on != "subscriber" {
            stage.on_subscriber("REVOKE SELECT ON orders FROM shadow").await;
        }
        let shadow = start(&stage.pair, &["--publication=narrow", "--lead=10"])?;
        // Until the stream has caught up, all tables are looked at anyway.
        tokio::time::sleep(Duration::from_secs(5)).await;
        stage
            .on_publisher("INSERT INTO orders (note) VALUES ('a'), ('b'); UPDATE orders SET id = 300 + id")
            .await;
        let line = "UPDATEs of public.orders are not published in full";
        if readable_on == "neither" {
            let said = shadow.wait_for_line(line, PATIENCE)?;
            assert!(said.contains("GRANT SELECT (id) ON public.orders TO"), "{said}");
            continue;
        }
        if readable_on == "subscriber" {
            // The tables are read once a minute, which the patience of one wait alone may not cover.
            stage.pair.catch_up().await?;
            tokio::time::sleep(Duration::from_secs(20)).await;
        }
        stage.wait_past(SEQUENCE, 302).await;
        assert!(!shadow.stderr_lines().iter().any(|said| said.contains(line)));
    }
    Ok(())
}

/// Inserts are filtered in one publication; that another one shows all updates makes none of them visible.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_of_inserts_is_not_undone_by_a_publication_of_updates() -> Result<()> {
    let stage = Stage::with(17, 15, ORDERS).await?;
    stage.pair.publish(&Publication::of("ins", &["orders WHERE (note = 'shown')"]).only("insert")).await?;
    stage.pair.publish(&Publication::of("upd", &["orders"]).only("update, delete")).await?;
    stage.pair.subscribe(&Subscription::to("sub", &["ins", "upd"])).await?;
    stage.pair.wait_for_sync().await?;
    let shadow = start(&stage.pair, &[])?;
    shadow.wait_for_line("is published with a row filter", PATIENCE)?;
    stage.on_publisher("INSERT INTO orders (note) SELECT 'hidden' FROM generate_series(1, 5000)").await;
    stage.wait_past(SEQUENCE, 5000).await;
    Ok(())
}
