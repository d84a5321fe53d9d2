//! seqshadow beside its peers, in the same run, against real servers.
//!
//!     cargo run --release -p e2e                 everything, about ten minutes on two cores
//!     cargo run --release -p e2e -- --short      the same in small: that it works, no figures to quote
//!     cargo run --release -p e2e -- drain sync   these measurements only
//!
//! Prints a table with the goal, the figure and the ratio of each row, and writes `e2e.json` and `e2e.svg` into
//! `target/bench`. Nothing is asserted on a time: a row that misses its goal is marked.

mod measure;
mod process;
mod report;
mod statistics;

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};
use std::path::{Path, PathBuf};
use std::time::Instant;

use measure::Size;
use report::Report;

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Measurement {
    /// A backlog of one large transaction, and one of small commits, beside pg_recvlogical
    Drain,
    /// From the commit to the sequence ahead, beside native apply; CPU in steady state
    Delay,
    /// Memory over one huge transaction
    Memory,
    /// sync beside REFRESH SEQUENCES of PostgreSQL 19, and one advance over the size of its batch
    Sync,
    /// Start-up, memory and the look at all sequences, with very many of them
    Many,
}

#[derive(Debug, Parser)]
struct Arguments {
    /// What to measure [default: everything]
    #[arg(value_enum)]
    measurements: Vec<Measurement>,
    /// Small sizes, to see that everything works: the figures mean nothing
    #[arg(long)]
    short: bool,
    /// Where to put e2e.json and e2e.svg
    #[arg(long, value_name = "DIR", default_value_os_t = default_directory())]
    out: PathBuf,
}

fn default_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/bench")
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let size = if arguments.short { Size::short() } else { Size::default() };
    let wanted = |one| arguments.measurements.is_empty() || arguments.measurements.contains(&one);
    // Built before anything is timed, in the profile that this program was built in.
    eprintln!("measuring {}", proto_tests::binary::binary().display());
    let begun = Instant::now();
    let mut report = Report::new(arguments.short);
    if wanted(Measurement::Drain) {
        measure::drain::run(&size, &mut report).await.context("drain")?;
    }
    if wanted(Measurement::Delay) {
        measure::delay::run(&size, &mut report).await.context("delay")?;
    }
    if wanted(Measurement::Memory) {
        measure::memory::run(&size, &mut report).await.context("memory")?;
    }
    if wanted(Measurement::Sync) {
        measure::sync::run(&size, &mut report).await.context("sync")?;
    }
    if wanted(Measurement::Many) {
        measure::many::run(&size, &mut report).await.context("many")?;
    }
    report.took(begun.elapsed());
    print!("{}", report.table());
    let directory = &arguments.out;
    std::fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    let (json, svg) = (directory.join("e2e.json"), directory.join("e2e.svg"));
    std::fs::write(&json, serde_json::to_string_pretty(&report)? + "\n")
        .with_context(|| format!("write {}", json.display()))?;
    seqshadow_benches::chart::draw(&report.charts, &svg)?;
    println!("\n{}\n{}", json.display(), svg.display());
    Ok(())
}
