//! What `reverse` prints: half of it done by hand, names that would be SQL, passwords; and what it says while another one is
//! at work.

use super::reverse::{back, catalogs, contents, reverse, switched};
use proto_tests::limited;
use proto_tests::pair::Pair;
use proto_tests::sql::{PATIENCE, Probe, connect, wait_until};
use proto_tests::verb;
use seqshadow::types::{quote_identifier, quote_literal};
use std::process::{Command, Output};

/// Runs a script as its head says.
fn psql(script: &str, conninfo: &str) -> Output {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), script).unwrap();
    limited::output(Command::new("psql").args(["-X", "-f"]).arg(file.path()).arg(conninfo)).unwrap()
}

/// The script up to its step `last`, and whether there are more.
fn up_to(script: &str, last: usize) -> (String, bool) {
    let next = format!("\n-- {}. On the ", last + 1);
    match script.split_once(&next) {
        Some((head, _)) => (head.to_owned() + "\n", true),
        None => (script.to_owned(), false),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_of_the_printed_script_is_completed() {
    let expected = {
        let stage = switched(13, 16).await;
        assert_eq!(reverse(&stage.pair, &["--apply"]).code(), 0);
        catalogs(&stage.pair).await
    };
    // By hand, one step at a time: what is printed next is what is left.
    let by_hand = switched(13, 16).await;
    let mut visits = 0;
    loop {
        let printed = reverse(&by_hand.pair, &[]);
        assert_eq!(printed.code(), 0, "{}", printed.all());
        if !printed.stdout.contains("\n-- 1. On the ") {
            break;
        }
        // Steps that only look come each time.
        let changes = |step: usize| {
            let (so_far, before) = (up_to(&printed.stdout, step).0, up_to(&printed.stdout, step - 1).0);
            let sql = so_far[before.len().min(so_far.len())..].to_owned();
            ["CREATE ", "ALTER ", "DROP ", "pg_create_", "pg_drop_"].iter().any(|word| sql.contains(word))
        };
        let (script, _) = up_to(&printed.stdout, (1..20).find(|step| changes(*step)).unwrap());
        let done = psql(&script, &by_hand.pair.publisher_conninfo());
        assert!(done.status.success(), "{}\n{script}", String::from_utf8_lossy(&done.stderr));
        visits += 1;
        assert!(visits < 10, "{}", printed.stdout);
    }
    assert!(visits > 2, "{visits}");
    assert_eq!(catalogs(&by_hand.pair).await, expected);
    by_hand.on_subscriber("INSERT INTO orders (note) VALUES ('new')").await;
    back(&by_hand.pair).await;
    assert_eq!(contents(&by_hand.publisher).await, contents(&by_hand.subscriber).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn apply_completes_what_psql_has_begun() {
    let stage = switched(15, 17).await;
    let printed = reverse(&stage.pair, &[]);
    // A command for a shell is not broken.
    let is_prose = |line: &&str| line.starts_with("--") && !line.contains("host=");
    let wide: Vec<&str> =
        printed.stdout.lines().filter(is_prose).filter(|line| line.chars().count() > 80).collect();
    assert!(wide.is_empty(), "{wide:#?}");
    let (script, is_half) = up_to(&printed.stdout, 4);
    assert!(is_half, "{}", printed.stdout);
    let done = psql(&script, &stage.pair.publisher_conninfo());
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let status = reverse(&stage.pair, &["--status", "--observe=1s"]);
    assert_eq!(status.code(), 1, "{}", status.all());
    let said = status.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(said.contains("run seqshadow reverse --apply again"), "{}", status.all());
    let applied = reverse(&stage.pair, &["--apply"]);
    assert_eq!(applied.code(), 0, "{}", applied.all());
    stage.on_subscriber("INSERT INTO orders (note) VALUES ('new')").await;
    back(&stage.pair).await;
    assert_eq!(contents(&stage.publisher).await, contents(&stage.subscriber).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_status_waits_for_nobody() {
    let stage = switched(14, 18).await;
    // As another reverse holds it.
    for client in [&stage.publisher, &stage.subscriber] {
        client.batch_execute("SELECT pg_advisory_lock(1936028019, 1919252069)").await.unwrap();
    }
    let before = catalogs(&stage.pair).await;
    let other = reverse(&stage.pair, &["--apply", "--wait=1s"]);
    assert_eq!(other.code(), 4, "{}", other.all());
    assert!(other.stdout.contains("another seqshadow reverse is at work"), "{}", other.all());
    let status = reverse(&stage.pair, &["--status", "--observe=1s"]);
    assert_eq!(status.code(), 1, "{}", status.all());
    assert!(status.stdout.contains("the way back is not made"), "{}", status.all());
    assert_eq!(reverse(&stage.pair, &[]).code(), 0, "nor does printing");
    assert_eq!(catalogs(&stage.pair).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_is_never_printed() {
    let stage = switched(16, 17).await;
    let connection = format!("--connection={} password=hush-hush", stage.pair.subscriber_conninfo());
    let broken = "--connection=host=x password=hush-hush nonsense=1";
    for (code, flags) in [
        (0, vec![connection.as_str()]),
        (0, vec![connection.as_str(), "--json"]),
        (0, vec![connection.as_str(), "--apply", "--dry-run"]),
        (0, vec![connection.as_str(), "--apply", "--dry-run", "--json"]),
        (2, vec![broken, "--json"]),
        (0, vec![connection.as_str(), "--apply", "--log-level=debug"]),
        (1, vec!["--status", "--observe=1s", "--json"]),
    ] {
        let done = reverse(&stage.pair, &flags);
        assert_eq!(done.code(), code, "{flags:?} {}", done.all());
        assert!(!done.all().contains("hush-hush"), "{flags:?} {}", done.all());
    }
    let there: String =
        stage.publisher.query_one("SELECT subconninfo FROM pg_subscription", &[]).await.unwrap().get(0);
    assert!(there.contains("hush-hush"), "it is in the subscription");
}

/// Names whose second line is SQL.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_break_in_a_name_ends_no_comment() {
    let evil = "CREATE TABLE public.evil (); --";
    let database = format!("shop\n{evil}");
    let table = format!("orders\n{evil} $wait$ $proof$");
    let pair = Pair::new(15, 17).await.unwrap();
    for cluster in [&pair.publisher, &pair.subscriber] {
        let admin = connect(&cluster.conninfo("postgres")).await.unwrap();
        admin.batch_execute(&format!("CREATE DATABASE {}", quote_identifier(&database))).await.unwrap();
        let client = connect(&cluster.conninfo(&database)).await.unwrap();
        client
            .batch_execute(&format!("CREATE TABLE {} (id serial PRIMARY KEY)", quote_identifier(&table)))
            .await
            .unwrap();
    }
    let old = connect(&pair.publisher.conninfo(&database)).await.unwrap();
    let new = connect(&pair.subscriber.conninfo(&database)).await.unwrap();
    old.batch_execute("CREATE PUBLICATION pub FOR ALL TABLES").await.unwrap();
    let subscription = quote_identifier(&format!("sub\n{evil} $wait$"));
    new.batch_execute(&format!(
        "CREATE SUBSCRIPTION {subscription} CONNECTION {} PUBLICATION pub WITH (slot_name = 'sub')",
        quote_literal(&pair.publisher.conninfo(&database))
    ))
    .await
    .unwrap();
    wait_until("the copy", PATIENCE, async || {
        let sql = "SELECT count(*) FROM pg_subscription_rel WHERE srsubstate = 'r'";
        old.batch_execute("SELECT pg_logical_emit_message(true, 'x', '')").await?;
        let ready: i64 = new.query_one(sql, &[]).await?.get(0);
        Ok(Probe::when(ready == 1, || ready.to_string()))
    })
    .await
    .unwrap();

    let sides = [
        "--slot=ours".to_owned(),
        format!("--publisher={}", pair.publisher.conninfo(&database)),
        format!("--subscriber={}", pair.subscriber.conninfo(&database)),
    ];
    let run = |verb: &str, flags: &[&str]| {
        let all: Vec<&str> = sides.iter().map(String::as_str).chain(flags.iter().copied()).collect();
        verb::run(&pair, verb, &all).unwrap()
    };
    // The rights of a role of such a name, too.
    let role = format!("--role=shadow\n{evil}");
    let grants = run("setup", &["--print-grants", &role]);
    assert_eq!(grants.code(), 0, "{}", grants.all());
    assert!(grants.stdout.contains("-- On the publisher"), "{}", grants.all());
    for (cluster, side) in [(&pair.publisher, "publisher"), (&pair.subscriber, "subscriber")] {
        let from = grants.stdout.find(&format!("-- On the {side}")).unwrap();
        let part = grants.stdout[from..].split("\n\n").next().unwrap();
        psql(part, &cluster.conninfo(&database));
    }
    let printed = run("reverse", &["--writes-stopped"]);
    assert_eq!(printed.code(), 0, "{}", printed.all());
    let done = psql(&printed.stdout, &pair.publisher.conninfo("postgres"));
    assert!(done.status.success(), "{}\n{}", String::from_utf8_lossy(&done.stderr), printed.stdout);
    for cluster in [&pair.publisher, &pair.subscriber] {
        for database in ["postgres", "shop", &database] {
            let client = connect(&cluster.conninfo(database)).await.unwrap();
            let evil: i64 = client
                .query_one("SELECT count(*) FROM pg_class WHERE relname = 'evil'", &[])
                .await
                .unwrap()
                .get(0);
            assert_eq!(evil, 0, "{database:?}\n{}\n{}", printed.stdout, grants.stdout);
        }
    }
    let rest = run("reverse", &["--apply", "--writes-stopped"]);
    assert!(rest.stdout.contains("in place already"), "{}", rest.all());
}
