//! Promise 12: SIGTERM ends within the grace period whatever hangs; SIGHUP with a bad configuration keeps the old one.

use anyhow::Result;
use proto_tests::fault_proxy::Direction;
use proto_tests::rig::{Rig, SEQUENCE};
use proto_tests::sequence::next_value;
use proto_tests::shadow::{Shadow, Signal};
use proto_tests::sql::{PATIENCE, Probe, timed, wait_until};
use std::time::Duration;

const GRACE: Duration = Duration::from_secs(3);

async fn ends(mut shadow: Shadow, within: Duration, what: &str) -> Result<()> {
    shadow.signal(Signal::TERM);
    let (status, took) = timed(async { shadow.wait_exit(PATIENCE) }).await?;
    assert_eq!(status.code(), Some(0), "{what}: {}", shadow.stderr_lines().join("\n"));
    assert!(took < within, "{what}: it took {took:?}:\n{}", shadow.stderr_lines().join("\n"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_ends_within_the_grace_whatever_hangs() -> Result<()> {
    let rig = Rig::new(17, 15).await?;
    let (publisher, to_publisher) = rig.faulty_publisher().await?;
    let (subscriber, to_subscriber) = rig.faulty_subscriber().await?;
    let start = || rig.start(&[&to_publisher, &to_subscriber, "--grace=3s"]);
    let both = [Direction::ToServer, Direction::ToClient];

    // Nothing hangs: the publisher is told farewell, and what was confirmed stays confirmed.
    let shadow = start()?;
    rig.follows(100).await?;
    rig.wait_confirmed(rig.pair.publisher_lsn().await?).await?;
    ends(shadow, Duration::from_secs(2), "nothing hangs").await?;

    for (what, hanging) in [
        ("the publisher hangs", vec![&publisher]),
        ("the subscriber hangs", vec![&subscriber]),
        ("both hang", vec![&publisher, &subscriber]),
    ] {
        let shadow = start()?;
        hanging.iter().for_each(|proxy| both.iter().for_each(|way| proxy.stall(*way, true)));
        let id = rig.insert(5000).await?;
        tokio::time::sleep(Duration::from_millis(1500)).await;
        ends(shadow, GRACE + Duration::from_secs(2), what).await?;
        hanging.iter().for_each(|proxy| both.iter().for_each(|way| proxy.stall(*way, false)));
        // Nothing was lost by it.
        let shadow = start()?;
        rig.wait_past(id).await?;
        ends(shadow, GRACE + Duration::from_secs(2), "after it").await?;
    }

    // While it is away from both, between two attempts.
    let shadow = start()?;
    for proxy in [&publisher, &subscriber] {
        proxy.refuse(true);
        proxy.cut();
    }
    shadow.wait_for_line("the subscriber is away", PATIENCE)?;
    shadow.wait_for_line("interrupted", PATIENCE)?;
    ends(shadow, Duration::from_secs(3), "both are away").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_peer_is_noticed() -> Result<()> {
    let rig = Rig::new(16, 15).await?;
    let (proxy, address) = rig.faulty_publisher().await?;
    let shadow = rig.start(&[&address])?;
    rig.follows(10).await?;
    // Swallowed, with the connections left open.
    proxy.stall(Direction::ToServer, true);
    proxy.stall(Direction::ToClient, true);
    let id = rig.insert(5000).await?;
    shadow.wait_for_line("no answer within", PATIENCE)?;
    proxy.stall(Direction::ToServer, false);
    proxy.stall(Direction::ToClient, false);
    rig.wait_past(id).await?;
    shadow.wait_for_line("recovered: the stream goes on", PATIENCE)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sighup_takes_a_good_configuration_and_no_bad_one() -> Result<()> {
    let rig = Rig::new(17, 15).await?;
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), "lead = 50\n")?;
    let config = format!("--config={}", file.path().display());
    let mut shadow = rig.start(&[&config])?;
    let id = rig.follows(10).await?;
    let subscriber = rig.pair.on_subscriber().await?;

    for bad in ["lead = 'many'\n", "lead = \n", "leed = 3\n", "publication = 'other'\nlead = 9\n"] {
        let seen = shadow.stderr_lines().len();
        std::fs::write(file.path(), bad)?;
        shadow.signal(Signal::HUP);
        shadow.wait_for_line_after(seen, "the old one goes on", PATIENCE)?;
        assert!(shadow.is_running());
    }
    std::fs::write(file.path(), "lead = 7000\n")?;
    let seen = shadow.stderr_lines().len();
    shadow.signal(Signal::HUP);
    shadow.wait_for_line_after(seen, "the configuration was reloaded", PATIENCE)?;
    // At once, without another id.
    wait_until("the new lead", PATIENCE, async || {
        let next = next_value(&subscriber, SEQUENCE).await?;
        Ok(Probe::when(next > id + 6000, || format!("{next}")))
    })
    .await?;
    rig.follows(10_000).await?;
    Ok(())
}
