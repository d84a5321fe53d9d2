//! What was measured: rows for the table, series for the charts, all of it for the JSON.

use seqshadow_benches::chart::Chart;
use serde::Serialize;
use std::fmt::Write as _;
use std::time::Duration;

/// The name and version of the JSON.
pub const SCHEMA: &str = "seqshadow.bench.e2e/1";

#[derive(Debug, Serialize)]
pub struct Report {
    schema: &'static str,
    /// Sizes are small and the figures mean nothing.
    short: bool,
    seconds: f64,
    cores: usize,
    pub rows: Vec<Row>,
    pub charts: Vec<Chart>,
}

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub section: &'static str,
    pub what: String,
    /// In words; empty where none was set.
    pub goal: String,
    pub figure: String,
    /// The same as a number, in the unit of `figure` or the ratio where there is a peer.
    pub value: f64,
    /// `None` where there is no goal.
    pub met: Option<bool>,
}

impl Report {
    pub fn new(short: bool) -> Report {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Report { schema: SCHEMA, short, seconds: 0.0, cores, rows: Vec::new(), charts: Vec::new() }
    }

    pub fn took(&mut self, time: Duration) {
        self.seconds = time.as_secs_f64();
    }

    /// A figure without a goal.
    pub fn note(
        &mut self,
        section: &'static str,
        what: impl Into<String>,
        figure: impl Into<String>,
        value: f64,
    ) {
        self.add(section, what.into(), String::new(), figure.into(), value, None);
    }

    /// A figure that should be `at_most` so much.
    pub fn at_most(
        &mut self,
        section: &'static str,
        what: impl Into<String>,
        at_most: f64,
        unit: &str,
        value: f64,
        figure: impl Into<String>,
    ) {
        let goal = format!("≤ {at_most}{unit}");
        self.add(section, what.into(), goal, figure.into(), value, Some(value <= at_most));
    }

    fn add(
        &mut self,
        section: &'static str,
        what: String,
        goal: String,
        figure: String,
        value: f64,
        met: Option<bool>,
    ) {
        let row = Row { section, what, goal, figure, value, met };
        eprintln!("{}: {} {}{}", row.section, row.what, row.figure, mark(row.met));
        self.rows.push(row);
    }

    pub fn chart(&mut self, chart: Chart) {
        self.charts.push(chart);
    }

    /// The rows in columns, 80 wide.
    pub fn table(&self) -> String {
        let mut text = String::new();
        if self.short {
            text.push_str("small sizes: these figures show that it works, and nothing else\n");
        }
        let mut section = "";
        for row in &self.rows {
            if row.section != section {
                section = row.section;
                let _ = writeln!(text, "\n{section}\n  {:42} {:>9} {:>18}", "", "goal", "measured");
            }
            let _ = writeln!(
                text,
                "  {:42} {:>9} {:>18} {}",
                row.what,
                row.goal,
                row.figure,
                mark(row.met).trim()
            );
        }
        let missed = self.rows.iter().filter(|row| row.met == Some(false)).count();
        let goals = self.rows.iter().filter(|row| row.met.is_some()).count();
        let _ = writeln!(
            text,
            "\n{} of {goals} goals met, on {} cores, in {:.0} s",
            goals - missed,
            self.cores,
            self.seconds
        );
        text
    }
}

fn mark(met: Option<bool>) -> &'static str {
    match met {
        Some(true) => " met",
        Some(false) => " MISSED",
        None => "",
    }
}
