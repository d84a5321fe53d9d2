//! Promise 1: a managed sequence never moves backwards, also under concurrent `nextval`, in either direction.
//!
//! Eight connections of an application draw ids while the sequence is advanced under them, near and far. Nobody may
//! get an id that somebody else got, and `last_value` may never be seen short of where it was. The advances are chosen
//! so that `setval(s, greatest(target, last_value))` in their place does break both.

use crate::advancing::{Applications, Writer, duplicates, server, sign};
use anyhow::Result;
use proto_tests::pair::Pair;
use proto_tests::sequence::{state, wait_for_value};
use proto_tests::sidecar::start;
use proto_tests::sql::connect;
use proto_tests::watcher::Watcher;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use seqshadow::demo::servers::ClusterOptions;
use seqshadow::subscriber::advance::Outcome;
use std::time::{Duration, Instant};

/// How long the applications draw, in seconds.
const SECONDS_VARIABLE: &str = "SEQSHADOW_TEST_SECONDS";
/// Unless the variable says something else: a minute where nothing but the guard is at work, less where the servers and
/// the program take the whole machine too.
const POUNDED: u64 = 60;
const BESIDE: u64 = 20;

fn seconds(usual: u64) -> Duration {
    let Ok(text) = std::env::var(SECONDS_VARIABLE) else { return Duration::from_secs(usual) };
    Duration::from_secs(text.parse().unwrap_or_else(|_| panic!("{SECONDS_VARIABLE}: {text:?} is no number")))
}

/// What became of one sequence.
#[derive(Debug)]
struct Pounded {
    drawn: usize,
    duplicates: usize,
    setbacks: usize,
    rounds: u64,
    advances: usize,
}

/// Advances `name` under eight connections by `distances`, and counts what must not be.
async fn pound(conninfo: &str, name: &str, seed: u64) -> Result<Pounded> {
    let writer = Writer::new(conninfo).await?;
    let sequence = writer.sequence(name).await?;
    let sign = sign(&sequence);
    let watch = Watcher::of(conninfo, name, sequence.definition.increment);
    let applications = Applications::start(conninfo, name, 8, 20, Duration::from_millis(2));
    let mut random = StdRng::seed_from_u64(seed);
    let until = Instant::now() + seconds(POUNDED);
    let mut advances = 0;
    while Instant::now() < until {
        let seen = writer.state(&sequence).await?;
        // Near ones above all: there a writer that reads first is overtaken. Far ones are set.
        let distance = match random.random_range(0..10) {
            0..6 => random.random_range(1..60),
            6..9 => random.random_range(60..5_000),
            _ => random.random_range(100_000..300_000),
        };
        let to = seen.last_value + sign * distance;
        match writer.step(&sequence, seen, to).await?.0 {
            Outcome::At(at) => {
                assert!((at.last_value - seen.last_value) * sign >= 0, "{name}: from {seen:?} to {at:?}");
                advances += 1;
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    let ids = applications.stop().await?;
    let watched = watch.stop().await?;
    Ok(Pounded {
        drawn: ids.len(),
        duplicates: duplicates(ids),
        setbacks: watched.setbacks.len(),
        rounds: watched.rounds,
        advances,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn eight_connections_get_no_id_twice_while_the_sequence_is_advanced() {
    let server = server(15, ClusterOptions::default()).await.unwrap();
    let admin = connect(&server.conninfo("postgres")).await.unwrap();
    let definitions = [
        ("up", "INCREMENT 1"),
        ("up_cached", "INCREMENT 2 CACHE 20"),
        ("down", "INCREMENT -1"),
        ("down_cached", "INCREMENT -3 CACHE 20"),
    ];
    let mut pounding = Vec::new();
    for (seed, (name, definition)) in (1..).zip(definitions) {
        // The writers of one database take turns, so each sequence has a database.
        admin.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
        let conninfo = server.conninfo(name);
        let client = connect(&conninfo).await.unwrap();
        client.batch_execute(&format!("CREATE SEQUENCE {name} {definition}")).await.unwrap();
        pounding.push((name, tokio::spawn(async move { pound(&conninfo, name, seed).await })));
    }
    let mut results = Vec::new();
    for (name, task) in pounding {
        results.push((name, task.await.unwrap().unwrap()));
        eprintln!("{:?}", results.last());
    }
    for (name, result) in results {
        assert_eq!((result.duplicates, result.setbacks), (0, 0), "{name}: {result:?}");
        assert!(result.drawn > 1_000 && result.advances > 20 && result.rounds > 100, "{name}: {result:?}");
    }
}

/// The same end to end: the publisher's ids leap ahead of what the application draws on the subscriber.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn eight_connections_get_no_id_twice_beside_the_program() {
    beside(&["--slot=ours"]).await;
}

/// Two programs with a slot each, which know nothing of each other but the lock.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn eight_connections_get_no_id_twice_beside_two_programs() {
    beside(&["--slot=one", "--slot=two"]).await;
}

async fn beside(slots: &[&str]) {
    let pair = Pair::new(17, 15).await.unwrap();
    pair.replicate(
        "CREATE TABLE up (id bigserial PRIMARY KEY);
         CREATE TABLE down (id bigint PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY (INCREMENT -1 CACHE 10))",
    )
    .await
    .unwrap();
    let shadows: Vec<_> = slots.iter().map(|slot| start(&pair, &[slot]).unwrap()).collect();
    let (publisher, subscriber) = pair.clients().await.unwrap();
    let conninfo = pair.subscriber_conninfo();
    let sequences = [("up", "up_id_seq", 1), ("down", "down_id_seq", -1)];
    let applications =
        sequences.map(|(_, name, _)| Applications::start(&conninfo, name, 8, 4, Duration::from_millis(20)));
    let watches = sequences.map(|(_, name, sign)| Watcher::of(&conninfo, name, sign));

    let mut random = StdRng::seed_from_u64(5);
    let until = Instant::now() + seconds(BESIDE);
    let mut leaps = 0;
    while Instant::now() < until {
        for (table, name, sign) in sequences {
            let ahead = state(&subscriber, name).await.unwrap().last_value * sign;
            let leap = if leaps % 5 == 0 { 150_000..400_000 } else { 10..3_000 };
            let id = (ahead + random.random_range(leap)) * sign;
            publisher
                .execute(&format!("INSERT INTO {table} VALUES ($1) ON CONFLICT DO NOTHING"), &[&id])
                .await
                .unwrap();
        }
        leaps += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut furthest = Vec::new();
    for (table, name, sign) in sequences {
        let sql = format!("SELECT {}(id) FROM {table}", if sign > 0 { "max" } else { "min" });
        let id: i64 = publisher.query_one(&sql, &[]).await.unwrap().get(0);
        let what = format!("past {id}");
        wait_for_value(&subscriber, name, &what, |last| last * sign >= id * sign).await.unwrap();
        furthest.push(id);
    }
    for (application, watch) in applications.into_iter().zip(watches) {
        let ids = application.stop().await.unwrap();
        let watched = watch.stop().await.unwrap();
        eprintln!("{} ids, {} leaps, {} looks", ids.len(), leaps, watched.rounds);
        assert!(ids.len() > 500 && watched.rounds > 100 && leaps > 20);
        assert_eq!((duplicates(ids), watched.setbacks), (0, Vec::new()));
    }
    for shadow in shadows {
        let lines = shadow.stderr_lines();
        assert!(
            !lines.iter().any(|line| line.contains("went back") || line.contains("is held")),
            "{lines:#?}"
        );
    }
}
