//! Start-up, memory and the look at all sequences, over their number.

use anyhow::{Context as _, Result};
use proto_tests::pair::{Pair, PairOptions};
use proto_tests::shadow::ShadowCommand;
use std::time::Instant;

use super::{LIMIT, Size, server};
use crate::process::{cpu, resident};
use crate::report::Report;
use seqshadow_benches::chart::{Chart, Series};

const MAJOR: u32 = 17;
/// Sequences of one table, each behind a column of it.
const COLUMNS: u32 = 1000;
/// The number of sequences that the goals are for.
const JUDGED: u32 = 100_000;

pub async fn run(size: &Size, report: &mut Report) -> Result<()> {
    let section = "start and memory with n sequences";
    let pair = Pair::with(MAJOR, MAJOR, PairOptions { publisher: server(), subscriber: server() }).await?;
    let publisher = pair.on_publisher().await?;
    publisher.batch_execute("CREATE PUBLICATION pub FOR ALL TABLES").await?;
    let (mut tables, mut starts, mut memory) = (0, Vec::new(), Vec::new());
    for n in size.sequences.iter().filter(|n| **n >= COLUMNS) {
        eprintln!("many: making {n} sequences");
        while tables < n / COLUMNS {
            let columns: Vec<String> = (0..COLUMNS).map(|column| format!("c{column} bigserial")).collect();
            pair.on_both(&format!("CREATE TABLE t{tables} ({})", columns.join(", "))).await?;
            tables += 1;
        }
        pair.grant(&["public"]).await?;
        pair.on_both("ANALYZE").await?;
        let begun = Instant::now();
        let shadow = ShadowCommand::new([
            format!("--slot=many_{n}"),
            "--publication=pub".to_owned(),
            format!("--publisher={}", pair.shadow_publisher_conninfo()),
            format!("--subscriber={}", pair.shadow_subscriber_conninfo()),
        ])
        .spawn()?;
        shadow.wait_for_line("streaming slot=", LIMIT)?;
        let streaming = begun.elapsed().as_secs_f64();
        shadow.wait_for_line("the sequences are protected", LIMIT)?;
        let protected = begun.elapsed().as_secs_f64();
        let (since, used) = (Instant::now(), cpu(shadow.pid()).context("CPU of seqshadow")?);
        tokio::time::sleep(size.looks).await;
        let used = cpu(shadow.pid()).context("CPU of seqshadow")?.saturating_sub(used).as_secs_f64();
        let share = 100.0 * used / since.elapsed().as_secs_f64();
        #[allow(clippy::cast_precision_loss)]
        let mebibytes = resident(shadow.pid()).context("memory of seqshadow")? as f64 / 1_048_576.0;
        for (what, most, unit, measured) in [
            ("start to streaming", 5.0, " s", streaming),
            ("resident memory", 64.0, " MiB", mebibytes),
            ("CPU of a core, no load", 5.0, " %", share),
        ] {
            let (what, figure) = (format!("{n}: {what}"), format!("{measured:.1}{unit}"));
            if *n == JUDGED {
                report.at_most(section, what, most, unit, measured, figure);
            } else {
                report.note(section, what, figure, measured);
            }
        }
        report.note(section, format!("{n}: start to all protected"), format!("{protected:.1} s"), protected);
        starts.push((f64::from(*n), streaming));
        memory.push((f64::from(*n), mebibytes));
    }
    for (title, y, points) in [
        ("from the start to streaming", "seconds", starts),
        ("resident memory over the number of sequences", "MiB", memory),
    ] {
        let series = vec![Series { name: "seqshadow".to_owned(), points }];
        report.chart(Chart::lines(title, "sequences", y, series).over_powers_of_ten());
    }
    Ok(())
}
