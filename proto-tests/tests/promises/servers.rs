//! The throw-away servers themselves: they start, survive kills, and leave nothing behind.

use proto_tests::sql::{connect, wait_for};
use seqshadow::demo::servers::{Cluster, ClusterOptions, Installation, Mode, find, find_or_fetch};
use std::time::{Duration, Instant};

fn any_installation() -> Installation {
    find::find_all(&[])
        .into_iter()
        .find(|found| found.major() >= 12)
        .unwrap_or_else(|| find_or_fetch(&[], 17).expect("a server can be had"))
}

/// On a connection that has ended by then: a smart stop waits for all of them.
async fn query(cluster: &Cluster, sql: &str) -> String {
    let (client, connection) = tokio_postgres::connect(&cluster.conninfo("postgres"), tokio_postgres::NoTls)
        .await
        .unwrap_or_else(|error| panic!("{error}\n{}", cluster.log_tail(20)));
    let connection = tokio::spawn(connection);
    let row = client.query_one(sql, &[]).await.unwrap();
    drop(client);
    connection.await.unwrap().unwrap();
    row.get(0)
}

#[tokio::test]
async fn a_server_starts_is_killed_recovers_and_vanishes() {
    let options = ClusterOptions { fsync: true, ..Default::default() }.set("work_mem", "5MB");
    let cluster = Cluster::start(&any_installation(), &options).unwrap();
    let directory = cluster.socket_dir().to_owned();
    assert_eq!(query(&cluster, "select current_setting('wal_level')").await, "logical");
    assert_eq!(query(&cluster, "select current_setting('work_mem')").await, "5MB");

    let port = cluster.port();
    cluster.kill9();
    assert!(!cluster.is_running());
    cluster.resume().unwrap();
    assert_eq!(query(&cluster, "select pg_is_in_recovery()::text").await, "false");
    cluster.stop(Mode::Immediate).unwrap();
    cluster.restart().unwrap();
    assert_eq!(cluster.port(), port);

    cluster.configure(&[("work_mem", "7MB")]).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while query(&cluster, "select current_setting('work_mem')").await != "7MB" {
        assert!(Instant::now() < deadline, "the setting was never re-read");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.stop(Mode::Smart).unwrap();
    cluster.resume().unwrap();
    drop(cluster);
    assert!(!directory.exists());
}

#[tokio::test]
async fn families_have_different_system_identifiers() {
    let installation = any_installation();
    let mut identifiers = Vec::new();
    for family in [0, 1] {
        let cluster =
            Cluster::start(&installation, &ClusterOptions { family, ..Default::default() }).unwrap();
        identifiers.push(query(&cluster, "select system_identifier::text from pg_control_system()").await);
    }
    assert_ne!(identifiers[0], identifiers[1]);
}

#[tokio::test]
async fn a_standby_follows_its_primary() {
    let primary = Cluster::start(&any_installation(), &ClusterOptions::default()).unwrap();
    let standby = Cluster::standby_of(&primary, &ClusterOptions::default()).unwrap();
    assert_eq!(query(&standby, "select pg_is_in_recovery()::text").await, "true");
    query(&primary, "select set_config('x.y', pg_create_restore_point('here')::text, false)").await;
    let streams = "select count(*) = 1 from pg_stat_replication where state = 'streaming'";
    let streaming = wait_for(&primary.conninfo("postgres"), "the standby to stream", streams).await;
    streaming.unwrap_or_else(|error| panic!("{error:#}\n{}", standby.log_tail(20)));
    assert_ne!(primary.port(), standby.port());
}

#[tokio::test]
async fn authentication_rules_and_files_are_the_callers() {
    let options = ClusterOptions {
        hba: vec!["host all locked_out 127.0.0.1/32 reject".to_owned()],
        files: vec![("mine.txt".to_owned(), "it is there".to_owned())],
        ..Default::default()
    };
    let cluster = Cluster::start(&any_installation(), &options).unwrap();
    assert_eq!(query(&cluster, "select pg_read_file('mine.txt')").await, "it is there");
    query(&cluster, "select set_config('a.b', 'x', false)").await;
    let refused = connect(&cluster.conninfo_as("locked_out", "postgres")).await.unwrap_err();
    assert!(format!("{refused:#}").contains("pg_hba.conf rejects"), "{refused:#}");
    let socket = format!("host={} port={} user=postgres", cluster.socket_dir().display(), cluster.port());
    connect(&socket).await.unwrap();
}

#[test]
fn a_server_can_be_killed_while_somebody_waits_for_it_to_stop() {
    let cluster = Cluster::start(&any_installation(), &ClusterOptions::default()).unwrap();
    let patience = Duration::from_secs(30);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| cluster.wait_stopped(patience));
        std::thread::sleep(Duration::from_millis(100));
        cluster.kill9();
        assert!(waiting.join().unwrap());
    });
}

/// A killed server cannot give back its System V segment; on a machine that runs tests all day they would add up.
#[test]
fn a_killed_server_leaves_no_shared_memory() {
    let cluster = Cluster::start(&any_installation(), &ClusterOptions::default()).unwrap();
    let noted = std::fs::read_to_string(cluster.data_dir().join("postmaster.pid")).unwrap();
    let segment = noted.lines().nth(6).and_then(|line| line.split_whitespace().nth(1)).unwrap().to_owned();
    assert!(segment_exists(&segment));
    cluster.kill9();
    drop(cluster);
    assert!(!segment_exists(&segment), "segment {segment} is still there");
}

fn segment_exists(id: &str) -> bool {
    let list = std::process::Command::new("ipcs").arg("-m").output().unwrap();
    String::from_utf8_lossy(&list.stdout).lines().any(|line| line.split_whitespace().nth(1) == Some(id))
}

#[test]
fn what_the_server_says_is_in_the_error() {
    let options = ClusterOptions::default().set("no_such_setting", "1");
    let error = Cluster::start(&any_installation(), &options).unwrap_err().to_string();
    assert!(error.contains("unrecognized configuration parameter"), "{error}");
}

/// Starts a cluster in a process of its own, kills that process, and looks for what it left.
#[test]
fn a_killed_process_leaves_no_server_behind() {
    const ROLE: &str = "SEQSHADOW_TEST_TO_BE_KILLED";
    if std::env::var_os(ROLE).is_some() {
        let cluster = Cluster::start(&any_installation(), &ClusterOptions::default()).unwrap();
        println!("at {} {}", cluster.socket_dir().display(), cluster.pid().unwrap());
        std::thread::sleep(Duration::from_secs(600));
        return;
    }
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "servers::a_killed_process_leaves_no_server_behind", "--nocapture"])
        .env(ROLE, "1")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let output = std::io::BufReader::new(child.stdout.take().unwrap());
    let line = std::io::BufRead::lines(output)
        .map(Result::unwrap)
        .find_map(|line| line.split_once("at /").map(|(_, rest)| format!("/{rest}")))
        .unwrap();
    let (directory, pid) = line.split_once(' ').unwrap();
    child.kill().unwrap();
    child.wait().unwrap();

    let deadline = Instant::now() + Duration::from_secs(20);
    let gone = || !std::path::Path::new(directory).exists() && !process_exists(pid);
    while !gone() {
        assert!(Instant::now() < deadline, "{directory} or process {pid} is still there");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn process_exists(pid: &str) -> bool {
    std::process::Command::new("ps").args(["-o", "stat=", "-p", pid]).output().is_ok_and(|output| {
        let state = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        !state.is_empty() && !state.starts_with('Z')
    })
}
