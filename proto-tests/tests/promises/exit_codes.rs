//! How `seqshadow` ends when something is wrong from the start: exit code, and a message that says what happened, to
//! what, and what to do.
//!
//! Tries to break: promise 11, no password in any of these messages, and codes that scripts rely on.

use anyhow::Result;
use proto_tests::pair::{DATABASE, PairOptions, SHADOW_ROLE};
use proto_tests::rig::Rig;
use proto_tests::shadow::{Finished, ShadowCommand, Signal};
use proto_tests::split::{Replication, Split};
use proto_tests::sql::{PATIENCE, wait_for};
use seqshadow::demo::servers::ClusterOptions;
use std::net::{Ipv4Addr, TcpListener};

/// In every connection string of this file; and the wrong ones have it too.
const SECRET: &str = "Gr3atS3cret";

#[track_caller]
fn ends(run: &Finished, code: i32, words: &[&str]) {
    assert_eq!(run.status.code(), Some(code), "{}", run.stderr);
    for word in words {
        assert!(run.stderr.contains(word), "expected {word:?} in\n{}", run.stderr);
    }
    assert!(!run.stderr.contains(SECRET) && !run.stdout.contains(SECRET), "a password:\n{}", run.stderr);
    assert!(!run.stderr.contains("panicked"), "{}", run.stderr);
}

fn alone(args: &[&str]) -> Result<Finished> {
    ShadowCommand::new(args.iter().map(|arg| (*arg).to_owned())).run(PATIENCE)
}

/// A port on which nobody listens.
fn nobody() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

#[test]
fn usage_and_configuration_end_with_2() -> Result<()> {
    ends(&alone(&["--no-such-flag"])?, 2, &["--no-such-flag"]);
    ends(&alone(&[])?, 2, &["slot"]);
    ends(&alone(&["--slot=Not A Slot"])?, 2, &["--slot"]);
    ends(&alone(&["--slot=s", "--lead=many"])?, 2, &["--lead", "many"]);
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), "slot = 's'\npoll_intervall = '5s'\n")?;
    let path = file.path().display().to_string();
    ends(&alone(&["--config", &path])?, 2, &[&path, ":2", "unknown key \"poll_intervall\"", "poll_interval"]);
    ends(&alone(&["--config=/nonexistent/seqshadow.toml"])?, 2, &["/nonexistent/seqshadow.toml"]);
    for bad in [
        format!("host=127.0.0.1 pasword={SECRET}"),
        format!("postgres://u:{SECRET}@[::1"),
        format!("host=127.0.0.1 password='{SECRET}"),
        format!("sslmode=perhaps password={SECRET}"),
    ] {
        ends(&alone(&["--slot=s", "--subscriber", &bad])?, 2, &["subscriber connection string"]);
    }
    ends(&alone(&["--help"])?, 0, &[]);
    ends(&alone(&["--version"])?, 0, &[]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_cannot_be_reached_end_with_3() -> Result<()> {
    // Passwords are wanted of the shadow's role, on both sides.
    let server = ClusterOptions {
        hba: vec![format!("host all {SHADOW_ROLE} 127.0.0.1/32 scram-sha-256")],
        ..ClusterOptions::default()
    }
    .set("password_encryption", "scram-sha-256");
    let options = PairOptions { publisher: server.clone(), subscriber: server };
    let rig = Rig::with(17, 15, options).await?;
    rig.pair.on_both(&format!("ALTER ROLE {SHADOW_ROLE} PASSWORD '{SECRET}'")).await?;
    let publisher = format!("{} password={SECRET}", rig.pair.shadow_publisher_conninfo());
    let subscriber = format!("{} password={SECRET}", rig.pair.shadow_subscriber_conninfo());
    let run = |publisher: &str, subscriber: &str| {
        rig.run(&[&format!("--publisher={publisher}"), &format!("--subscriber={subscriber}")])
    };

    let port = nobody()?;
    let (closed, text) =
        (format!("host=127.0.0.1 port={port} password={SECRET}"), format!("127.0.0.1:{port}"));
    ends(&run(&closed, &subscriber)?, 3, &["publisher", &text, "--publisher", "runs"]);
    ends(&run(&publisher, &closed)?, 3, &["subscriber", &text, "--subscriber", "runs"]);

    let unresolvable = "host=no-such-host.invalid";
    ends(&run(unresolvable, &subscriber)?, 3, &["publisher", "no-such-host.invalid"]);

    let wrong = |conninfo: &str| conninfo.replace(SECRET, "wrong");
    ends(&run(&wrong(&publisher), &subscriber)?, 3, &["publisher", "28P01", "password", "pg_hba.conf"]);
    ends(&run(&publisher, &wrong(&subscriber))?, 3, &["subscriber", "28P01", "password", "pg_hba.conf"]);
    let without = rig.pair.shadow_publisher_conninfo();
    ends(&run(&without, &subscriber)?, 3, &["publisher", "password"]);

    let nowhere = publisher.replace(DATABASE, "nowhere");
    ends(&run(&nowhere, &subscriber)?, 3, &["publisher", "nowhere", "dbname"]);

    // With the right ones it works, and says nothing of them either.
    let good = [&format!("--publisher={publisher}"), &format!("--subscriber={subscriber}"), "-vv"];
    let mut shadow = rig.start(&good.map(AsRef::as_ref))?;
    rig.follows(10).await?;
    shadow.signal(Signal::TERM);
    assert_eq!(shadow.wait_exit(PATIENCE)?.code(), Some(0));
    let logged = shadow.stderr_lines().join("\n");
    assert!(!logged.contains(SECRET), "a password:\n{logged}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_person_must_set_up_ends_with_2() -> Result<()> {
    let rig = Rig::new(15, 17).await?;
    let subscriber = rig.pair.on_subscriber().await?;

    ends(&rig.run(&["--publication=nothing"])?, 2, &["publication \"nothing\"", "create it"]);
    ends(&rig.run(&["--subscription=nothing"])?, 2, &["subscription \"nothing\"", "\"sub\""]);
    ends(&rig.run(&["--no-create-slot"])?, 2, &["ours", "pg_create_logical_replication_slot"]);

    // A pooler serves SQL, and refuses what it does not know of a startup.
    let message = "unsupported startup parameter: replication";
    let refused = Replication::Refused { code: "08P01", message };
    let pooler = Split::start(rig.pair.publisher.port(), refused).await?;
    let address =
        format!("--publisher={} password={SECRET}", pooler.conninfo(&rig.pair.shadow_publisher_conninfo()));
    ends(&rig.run(&[&address])?, 2, &["pooler", message, "--publisher"]);

    rig.pair.on_publisher().await?.batch_execute(&format!("ALTER ROLE {SHADOW_ROLE} NOREPLICATION")).await?;
    ends(&rig.run(&[])?, 2, &["42501", &format!("ALTER ROLE {SHADOW_ROLE} REPLICATION")]);
    rig.pair.on_publisher().await?.batch_execute(&format!("ALTER ROLE {SHADOW_ROLE} REPLICATION")).await?;

    let second = rig.pair.publisher_conninfo().replace('\'', "''");
    subscriber
        .batch_execute(&format!(
            "CREATE SUBSCRIPTION second CONNECTION '{second}' PUBLICATION pub WITH (enabled = false, connect = false)"
        ))
        .await?;
    ends(&rig.run(&[])?, 2, &["several subscriptions", "\"second\"", "\"sub\"", "--subscription"]);

    let elsewhere = rig.pair.subscriber.conninfo_as(SHADOW_ROLE, "postgres");
    ends(
        &rig.run(&[&format!("--subscriber={elsewhere}")])?,
        2,
        &["no subscription", "\"postgres\"", "--publication"],
    );

    // The publisher cannot decode any more; its slots have to go first.
    subscriber.batch_execute("ALTER SUBSCRIPTION second SET (slot_name = NONE)").await?;
    subscriber.batch_execute("DROP SUBSCRIPTION second").await?;
    subscriber.batch_execute("ALTER SUBSCRIPTION sub DISABLE").await?;
    let publisher = rig.pair.on_publisher().await?;
    wait_for(
        &rig.pair.publisher_conninfo(),
        "no slot in use",
        "SELECT NOT EXISTS (SELECT FROM pg_replication_slots WHERE active)",
    )
    .await?;
    publisher.batch_execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots").await?;
    drop(publisher);
    rig.pair.publisher.configure(&[("wal_level", "replica")])?;
    rig.pair.publisher.restart()?;
    ends(&rig.run(&[])?, 2, &["wal_level", "replica", "ALTER SYSTEM SET wal_level = logical"]);
    Ok(())
}
