//! From the commit of an id on the publisher to the moment when the subscriber's sequence is past it.
//!
//! A probe inserts a row on the publisher beside pgbench, then asks the subscriber. With the usual lead the sequence has
//! to be past the id already when the commit returns; with `--lead=0` it cannot be, and the time until it is so is what
//! is measured, beside the time until native apply shows the row.

use anyhow::{Context as _, Result, ensure};
use proto_tests::pair::{Pair, PairOptions};
use proto_tests::shadow::{Shadow, ShadowCommand};
use proto_tests::sql::PATIENCE;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};
use tokio_postgres::{Client, Statement};

use super::{LIMIT, Size, pgbench, server, value};
use crate::process::cpu;
use crate::report::Report;
use crate::statistics::Samples;
use seqshadow_benches::chart::{Chart, Series};

const MAJOR: u32 = 17;
const TABLE: &str = "CREATE TABLE orders (id bigserial PRIMARY KEY, note text)";
const INSERT: &str = "INSERT INTO orders (note) VALUES ('some note of some length')";
/// The rate at which the CPU of a steady state is judged.
const STEADY: u32 = 5000;

pub async fn run(size: &Size, report: &mut Report) -> Result<()> {
    let pair = Pair::with(MAJOR, MAJOR, PairOptions { publisher: server(), subscriber: server() }).await?;
    pair.replicate(TABLE).await?;
    pair.grant(&["public"]).await?;
    let script = tempfile::NamedTempFile::new()?;
    std::fs::write(script.path(), format!("{INSERT};\n"))?;
    with_a_lead(size, &pair, script.path(), report).await.context("with the usual lead")?;
    without(size, &pair, script.path(), report).await.context("without a lead")
}

fn start(pair: &Pair, flags: &[&str]) -> Result<Shadow> {
    let both = [
        format!("--publisher={}", pair.shadow_publisher_conninfo()),
        format!("--subscriber={}", pair.shadow_subscriber_conninfo()),
    ];
    let flags = flags.iter().map(|flag| (*flag).to_owned());
    let shadow =
        ShadowCommand::new(["--slot=delay".to_owned()].into_iter().chain(both).chain(flags)).spawn()?;
    shadow.wait_for_line("the sequences are protected", PATIENCE)?;
    shadow.wait_for_line("streaming slot=", PATIENCE)?;
    Ok(shadow)
}

/// A load that ends with this.
struct Load(Child);

impl Load {
    fn start(pair: &Pair, script: &Path, rate: u32) -> Result<Load> {
        let rate = format!("--rate={rate}");
        let mut flags = vec!["--client=4", "--jobs=1", "--time=3600"];
        if rate != "--rate=0" {
            flags.push(&rate);
        }
        pgbench(pair, script, &flags).map(Load)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = (self.0.kill(), self.0.wait());
    }
}

/// Inserts on one side, asks the other.
struct Probe {
    publisher: Client,
    subscriber: Client,
    insert: Statement,
    sequence: Statement,
    row: Statement,
}

impl Probe {
    async fn new(pair: &Pair) -> Result<Probe> {
        let (publisher, subscriber) = pair.clients().await?;
        Ok(Probe {
            insert: publisher.prepare(&format!("{INSERT} RETURNING id")).await?,
            sequence: subscriber.prepare("SELECT last_value FROM orders_id_seq").await?,
            row: subscriber.prepare("SELECT max(id) FROM orders WHERE id = $1").await?,
            publisher,
            subscriber,
        })
    }

    async fn insert(&self) -> Result<i64> {
        Ok(self.publisher.query_one(&self.insert, &[]).await?.try_get(0)?)
    }

    async fn is_past(&self, id: i64) -> Result<bool> {
        Ok(self.subscriber.query_one(&self.sequence, &[]).await?.try_get::<_, i64>(0)? >= id)
    }

    async fn is_there(&self, id: i64) -> Result<bool> {
        Ok(self.subscriber.query_one(&self.row, &[&id]).await?.try_get::<_, Option<i64>>(0)?.is_some())
    }
}

fn named(rate: u32) -> String {
    if rate == 0 { "full rate".to_owned() } else { format!("{rate}/s") }
}

async fn with_a_lead(size: &Size, pair: &Pair, script: &Path, report: &mut Report) -> Result<()> {
    let section = "commit to sequence ahead, lead auto";
    let shadow = start(pair, &[])?;
    let probe = Probe::new(pair).await?;
    let (mut all, mut behind) = (0, 0);
    for rate in &size.rates {
        let load = Load::start(pair, script, *rate)?;
        let (begun, used) = (Instant::now(), cpu(shadow.pid()).context("CPU of seqshadow")?);
        let first = probe.insert().await?;
        let (mut samples, mut late, mut last) = (0, 0, first);
        // The step up of the rate itself is in it.
        while samples < size.samples / size.rates.len()
            || begun.elapsed() < Duration::from_secs(size.load_seconds.into())
        {
            last = probe.insert().await?;
            samples += 1;
            late += usize::from(!probe.is_past(last).await?);
        }
        let seconds = begun.elapsed().as_secs_f64();
        let used = cpu(shadow.pid()).context("CPU of seqshadow")?.saturating_sub(used).as_secs_f64();
        drop(load);
        #[allow(clippy::cast_precision_loss)]
        let commits = (last - first) as f64 / seconds;
        let share = 100.0 * used / seconds;
        let what = format!("pgbench at {}: behind", named(*rate));
        report.note(section, what, format!("{late} of {samples}"), f64::from(u32::try_from(late)?));
        let what = format!("CPU of a core at {commits:.0} commits/s");
        let figure = format!("{share:.1} %");
        if *rate == STEADY {
            report.at_most(section, what, 3.0, " %", share, figure);
        } else {
            report.note(section, what, figure, share);
        }
        (all, behind) = (all + samples, behind + late);
    }
    let figure = format!("{behind} of {all}");
    report.at_most(section, "behind, over all", 0.0, "", f64::from(u32::try_from(behind)?), figure);
    Ok(())
}

async fn without(size: &Size, pair: &Pair, script: &Path, report: &mut Report) -> Result<()> {
    let section = "commit to sequence ahead, --lead=0";
    let shadow = start(pair, &["--lead=0"])?;
    let probe = Probe::new(pair).await?;
    let title = "commit to ahead without a lead: share of samples";
    let x = "milliseconds after the commit has returned";
    let mut chart = Chart::lines(title, x, "share", Vec::new()).over_powers_of_ten();
    // What the wide lead of before has put ahead has to be used up first.
    let begun = Instant::now();
    let load = Load::start(pair, script, 0)?;
    while probe.is_past(probe.insert().await? + 1).await? {
        ensure!(begun.elapsed() < LIMIT, "the sequence is still ahead of what is inserted");
    }
    drop(load);
    for rate in &size.rates {
        let load = Load::start(pair, script, *rate)?;
        let (mut ours, mut native) = (Vec::new(), Vec::new());
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(size.load_seconds.into()) {
            let id = probe.insert().await?;
            let commit = Instant::now();
            while !probe.is_past(id).await? {
                ensure!(
                    commit.elapsed() < LIMIT,
                    "{id} is not passed:\n{}",
                    shadow.stderr_lines().join("\n")
                );
            }
            ours.push(commit.elapsed());
            let id = probe.insert().await?;
            let commit = Instant::now();
            while !probe.is_there(id).await? {
                ensure!(commit.elapsed() < LIMIT, "the row {id} does not come");
            }
            native.push(commit.elapsed());
        }
        drop(load);
        let (ours, native) = (Samples::new(ours), Samples::new(native));
        for (share, name, most) in [(0.5, "p50", 1.0), (0.99, "p99", 3.0)] {
            let what = format!("pgbench at {}: {name} of {}", named(*rate), ours.count());
            let took = ours.percentile(share);
            report.at_most(section, what, most, " ms", took, format!("{took:.2} ms"));
            let took = native.percentile(share);
            let what = format!("  native apply shows the row: {name}");
            report.note(section, what, format!("{took:.2} ms"), took);
        }
        let positive = |samples: &Samples| samples.curve().into_iter().filter(|(x, _)| *x > 0.0).collect();
        if *rate != 100 {
            chart.series.push(Series { name: format!("ours, {}", named(*rate)), points: positive(&ours) });
        }
        if *rate == 1000 || size.rates.len() < 3 {
            chart
                .series
                .push(Series { name: format!("native row, {}", named(*rate)), points: positive(&native) });
        }
    }
    let lag: i64 = value(&probe.publisher, "SELECT count(*) FROM orders").await?;
    eprintln!("{lag} rows were written in all");
    report.chart(chart);
    Ok(())
}
