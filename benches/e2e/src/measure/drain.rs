//! A backlog: how long, and with how much CPU, beside `pg_recvlogical -f /dev/null` that throws everything away.
//!
//! Ours is the daemon from its start until the slot is confirmed to the end of the backlog, that is with the sequence of
//! the subscriber advanced and durable. The peer is done when it has read the end. Rounds are interleaved.

use anyhow::{Context as _, Result, bail};
use proto_tests::pair::{DATABASE, Pair, PairOptions};
use proto_tests::publication::Publication;
use proto_tests::shadow::ShadowCommand;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

use super::{LIMIT, Size, pgbench, program, server, value};
use crate::process::{Watched, cpu, to_the_end};
use crate::report::Report;
use crate::statistics::middle;
use seqshadow_benches::chart::{Bar, Chart};

const MAJOR: u32 = 17;
/// About as wide as the row of an order: some 180 bytes of the stream.
const TABLE: &str = "CREATE TABLE orders (id bigserial PRIMARY KEY, customer int, note text, at timestamptz)";
const COLUMNS: &str = "customer, note, at";
const VALUES: &str = "4711, repeat('x', 100), now()";

/// What one contestant took.
#[derive(Clone, Copy, Debug)]
struct Took {
    wall: f64,
    client: f64,
    walsender: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contestant {
    Peer,
    Wide,
    Narrow,
}

const CONTESTANTS: [Contestant; 3] = [Contestant::Peer, Contestant::Wide, Contestant::Narrow];

impl Contestant {
    fn name(self) -> &'static str {
        match self {
            Contestant::Peer => "pg_recvlogical",
            Contestant::Wide => "seqshadow, all columns",
            Contestant::Narrow => "seqshadow, ids only",
        }
    }

    fn publication(self) -> &'static str {
        if self == Contestant::Narrow { "narrow" } else { "wide" }
    }

    fn slot(self, round: usize) -> String {
        format!("{self:?}_{round}").to_lowercase()
    }
}

pub async fn run(size: &Size, report: &mut Report) -> Result<()> {
    let section = "backlog of one transaction";
    let large = backlog(size, section, async |_, client| {
        let rows = size.backlog_rows;
        let sql = format!("INSERT INTO orders ({COLUMNS}) SELECT {VALUES} FROM generate_series(1, {rows})");
        Ok(client.batch_execute(&sql).await?)
    })
    .await?;
    let million = f64::from(size.backlog_rows) / 1e6;
    rows(report, section, &large, [(0.45, 0.06), (0.33, 0.04)]);
    for (contestant, took) in &large {
        let figure = format!("{:.2} s", took.walsender / million);
        let what = format!("walsender's CPU per 1 M rows, {}", short(*contestant));
        report.note(section, what, figure, took.walsender / million);
    }

    let section = "backlog of small commits";
    let small = backlog(size, section, async |pair, _| {
        let script = tempfile::NamedTempFile::new()?;
        std::fs::write(script.path(), format!("INSERT INTO orders ({COLUMNS}) VALUES ({VALUES});\n"))?;
        let each = format!("--transactions={}", size.backlog_commits / 4);
        let child = pgbench(pair, script.path(), &["--client=4", "--jobs=2", &each])?;
        to_the_end(child, LIMIT, || {}).map(drop).context("pgbench")
    })
    .await?;
    rows(report, section, &small, [(0.65, 0.10), (0.65, 0.10)]);
    Ok(())
}

fn short(contestant: Contestant) -> &'static str {
    match contestant {
        Contestant::Peer => "peer",
        Contestant::Wide => "all columns",
        Contestant::Narrow => "ids only",
    }
}

fn rows(report: &mut Report, section: &'static str, took: &[(Contestant, Took)], goals: [(f64, f64); 2]) {
    let Some((_, peer)) = took.first() else { return };
    report.note(section, "pg_recvlogical: wall", format!("{:.2} s", peer.wall), peer.wall);
    report.note(section, "pg_recvlogical: CPU", format!("{:.3} s", peer.client), peer.client);
    for ((contestant, took), (wall, cpu)) in took.iter().skip(1).zip(goals) {
        let ratio = took.wall / peer.wall;
        let figure = format!("{:.2} s = {ratio:.2} ×", took.wall);
        report.at_most(section, format!("{}: wall", contestant.name()), wall, " ×", ratio, figure);
        let ratio = took.client / peer.client;
        let figure = format!("{:.3} s = {ratio:.3} ×", took.client);
        report.at_most(section, format!("{}: CPU", contestant.name()), cpu, " ×", ratio, figure);
    }
    let mut bars = |figure: &str, of: fn(&Took) -> f64| {
        let bar = |(contestant, took): &(Contestant, Took)| Bar {
            name: contestant.name().to_owned(),
            length: of(took),
            ours: *contestant != Contestant::Peer,
        };
        report.chart(Chart::bars(format!("{section}: {figure}"), "seconds", took.iter().map(bar).collect()));
    };
    bars("wall", |took| took.wall);
    bars("CPU of the client", |took| took.client);
    bars("CPU of the walsender", |took| took.walsender);
}

/// Makes a backlog and has it drained by each contestant, `size.rounds` times; the middle of each.
async fn backlog(
    size: &Size,
    what: &str,
    load: impl AsyncFn(&Pair, &Client) -> Result<()>,
) -> Result<Vec<(Contestant, Took)>> {
    let pair = Pair::with(MAJOR, MAJOR, PairOptions { publisher: server(), subscriber: server() }).await?;
    pair.on_both(TABLE).await?;
    pair.grant(&["public"]).await?;
    let client = pair.on_publisher().await?;
    pair.publish(&Publication::of("wide", &["orders"])).await?;
    client.batch_execute("CREATE PUBLICATION narrow FOR TABLE orders (id)").await?;
    for round in 0..size.rounds {
        for contestant in CONTESTANTS {
            let slot = contestant.slot(round);
            client.execute("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", &[&slot]).await?;
        }
    }
    eprintln!("{what}: writing it");
    client.batch_execute("SET synchronous_commit = off").await?;
    load(&pair, &client).await?;
    let end: String = value(&client, "SELECT pg_current_wal_insert_lsn()::text").await?;
    // Something behind it, so that nobody waits at its very end; and all of it on disk and in memory.
    client.batch_execute(&format!("INSERT INTO orders ({COLUMNS}) VALUES ({VALUES}); CHECKPOINT")).await?;

    let mut all: Vec<(Contestant, Vec<Took>)> = CONTESTANTS.map(|one| (one, Vec::new())).to_vec();
    for round in 0..size.rounds {
        for (contestant, rounds) in &mut all {
            let slot = contestant.slot(round);
            let took = if *contestant == Contestant::Peer {
                peer(&pair, &client, &slot, &end).await?
            } else {
                ours(&pair, &client, &slot, contestant.publication(), &end).await?
            };
            eprintln!(
                "{what}: {}: {:.2} s, CPU {:.3} s, walsender {:.2} s",
                contestant.name(),
                took.wall,
                took.client,
                took.walsender
            );
            rounds.push(took);
        }
    }
    let of = |rounds: &[Took], what: fn(&Took) -> f64| middle(rounds.iter().map(what).collect());
    let in_the_middle = |rounds: &[Took]| Took {
        wall: of(rounds, |took| took.wall),
        client: of(rounds, |took| took.client),
        walsender: of(rounds, |took| took.walsender),
    };
    Ok(all.into_iter().map(|(contestant, rounds)| (contestant, in_the_middle(&rounds))).collect())
}

async fn walsender(client: &Client, slot: &str) -> Result<Option<u32>> {
    let sql = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1";
    let pid: Option<i32> = client.query_one(sql, &[&slot]).await?.try_get(0)?;
    Ok(pid.and_then(|pid| u32::try_from(pid).ok()))
}

async fn peer(pair: &Pair, client: &Client, slot: &str, end: &str) -> Result<Took> {
    let child = Command::new(program("pg_recvlogical")?)
        .args(["--username=postgres", "--host=127.0.0.1", "--start", "--no-loop", "--file=/dev/null"])
        .args([format!("--port={}", pair.publisher.port()), format!("--dbname={DATABASE}")])
        .args([format!("--slot={slot}"), format!("--endpos={end}")])
        .args(["--option=proto_version=1", "--option=publication_names=wide"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .context("start pg_recvlogical")?;
    let ending = tokio::task::spawn_blocking(move || to_the_end(child, LIMIT, || {}));
    let mut sender = Watched::default();
    let mut pid = None;
    while !ending.is_finished() {
        if pid.is_none() {
            pid = walsender(client, slot).await?;
        }
        sender.look(pid);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (wall, used) = ending.await?.context("pg_recvlogical")?;
    Ok(Took { wall: wall.as_secs_f64(), client: used.as_secs_f64(), walsender: sender.cpu.as_secs_f64() })
}

async fn ours(pair: &Pair, client: &Client, slot: &str, publication: &str, end: &str) -> Result<Took> {
    let begun = Instant::now();
    let mut shadow = ShadowCommand::new([
        format!("--slot={slot}"),
        format!("--publisher={}", pair.shadow_publisher_conninfo()),
        format!("--subscriber={}", pair.shadow_subscriber_conninfo()),
        format!("--publication={publication}"),
    ])
    .spawn()?;
    let sql = "SELECT confirmed_flush_lsn >= $2::text::pg_lsn FROM pg_replication_slots WHERE slot_name = $1";
    let mut sender = Watched::default();
    let mut pid = None;
    loop {
        if client.query_one(sql, &[&slot, &end]).await?.try_get(0)? {
            break;
        }
        if !shadow.is_running() || begun.elapsed() > LIMIT {
            bail!("the backlog was not drained:\n{}", shadow.stderr_lines().join("\n"));
        }
        if pid.is_none() {
            pid = walsender(client, slot).await?;
        }
        sender.look(pid);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let wall = begun.elapsed();
    let used = cpu(shadow.pid()).context("the CPU time of seqshadow")?;
    sender.look(pid);
    Ok(Took { wall: wall.as_secs_f64(), client: used.as_secs_f64(), walsender: sender.cpu.as_secs_f64() })
}
