//! A standby that `pg_createsubscriber` makes a subscriber: its sequences are as old as the conversion, and by us brought up.

use anyhow::{Context as _, Result, ensure};
use proto_tests::limited;
use proto_tests::pair::{DATABASE, Pair};
use proto_tests::sequence::state;
use proto_tests::stage::Stage;
use proto_tests::verb;
use seqshadow::demo::servers::{Cluster, ClusterOptions, Mode};
use std::process::Command;

use super::cutover::{TABLES, USE, confirm};

/// Runs a server's program as the account that owns its files.
fn as_server(program: &std::path::Path) -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
    command
}

fn convert(standby: &Cluster, primary: &Cluster) -> Result<()> {
    standby.stop(Mode::Fast)?;
    let program = standby.installation().program("pg_createsubscriber").context("no pg_createsubscriber")?;
    let mut command = as_server(&program);
    command
        .arg("-D")
        .arg(standby.data_dir())
        .args(["--publisher-server", &primary.conninfo(DATABASE), "--database", DATABASE])
        .args(["--subscriber-port", &standby.port().to_string(), "--subscriber-username", "postgres"])
        .arg("--socketdir")
        .arg(standby.socket_dir())
        .args(["--publication", "pub", "--subscription", "sub", "--replication-slot", "sub"])
        .current_dir(standby.socket_dir());
    let output = limited::output(&mut command)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    ensure!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    standby.resume()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sequences_of_a_converted_standby_are_brought_up() {
    // The pair's own subscriber is not needed, its roles and helpers are.
    let stage = Stage::with(19, 19, TABLES).await.unwrap();
    stage.on_publisher(USE).await;
    let pair = stage.pair;
    let standby = Cluster::standby_of(&pair.publisher, &ClusterOptions::default()).unwrap();
    convert(&standby, &pair.publisher).unwrap_or_else(|error| panic!("{error:#}\n{}", standby.log_tail(30)));
    let pair = Pair { publisher: pair.publisher, subscriber: standby };
    let (publisher, subscriber) = pair.clients().await.unwrap();
    subscriber.batch_execute("GRANT UPDATE ON ALL SEQUENCES IN SCHEMA public TO shadow").await.unwrap();
    publisher.batch_execute(USE).await.unwrap();
    pair.catch_up().await.unwrap();
    // Rows have come, and the sequence has not.
    let behind = state(&subscriber, "orders_id_seq").await.unwrap().last_value;
    assert_eq!(behind, 500);
    assert_eq!(verb::run(&pair, "verify", &[]).unwrap().code(), 1);

    let directory = tempfile::tempdir().unwrap();
    let cut = super::cutover::run(&pair, directory.path(), &["--stop-writes"]);
    assert_eq!(cut.code(), 0, "{}", cut.all());
    confirm(&pair, &directory.path().join("certificate.json"));
    subscriber
        .batch_execute("INSERT INTO orders (note) SELECT 'after' FROM generate_series(1, 100)")
        .await
        .unwrap();
}
