//! What decoding must reach, beside what it reached in this run.

use serde_json::{Value, json};

use crate::contestant::Role;
use crate::measure::{Best, Shape};

/// One goal.
pub struct Row {
    pub what: String,
    pub goal: String,
    pub figure: String,
    /// The figure by the goal: 1 or more is met, for goals that are a most as for those that are a least.
    pub ratio: f64,
}

impl Row {
    fn at_least(what: &str, goal: f64, figure: f64, unit: &str) -> Self {
        let show = |number: f64| format!("{number:.*}{unit}", if number < 10.0 { 2 } else { 1 });
        Row {
            what: what.to_owned(),
            goal: format!("≥ {}", show(goal)),
            figure: show(figure),
            ratio: figure / goal,
        }
    }

    fn at_most(what: &str, goal: f64, figure: f64, unit: &str) -> Self {
        let ratio = if figure <= goal {
            1.0f64.max(goal / figure.max(f64::MIN_POSITIVE)).min(9.99)
        } else {
            goal / figure
        };
        let show = |number: f64| format!("{number:.2}{unit}");
        Row { what: what.to_owned(), goal: format!("≤ {}", show(goal)), figure: show(figure), ratio }
    }

    pub fn met(&self) -> bool {
        self.ratio >= 1.0
    }

    pub fn to_json(&self) -> Value {
        let Row { what, goal, figure, ratio } = self;
        json!({ "what": what, "goal": goal, "figure": figure, "ratio": ratio, "met": self.met() })
    }
}

/// How many there are.
pub const COUNT: usize = 8;

/// The goals of decoding; `allocations`: the most that one message of any made-up stream cost.
pub fn rows(best: &Best, allocations: f64) -> Vec<Row> {
    let mut rows = Vec::new();
    let narrow = |name| best.get("narrow", Shape::Memory, name);
    if let Some(ours) = narrow("seqshadow") {
        let decoders = crate::others::ROLES.iter().filter(|(_, role)| *role == Role::Decoder);
        let fastest = decoders.filter_map(|(name, _)| Some((narrow(name)?, *name)));
        if let Some((fastest, name)) = fastest.min_by(|a, b| a.0.seconds.total_cmp(&b.0.seconds)) {
            let what = format!("174 B messages in memory, by {name}, the fastest crate that decodes rows");
            rows.push(Row::at_least(&what, 9.0, fastest.seconds / ours.seconds, " x"));
        }
        if let Some(sum) = narrow("memory sum") {
            let rate = sum.seconds / ours.seconds;
            rows.push(Row::at_least("174 B messages in memory, by the memory sum's rate", 0.6, rate, " x"));
        }
    }
    if let Some(ours) = best.get("narrow", Shape::Reads, "seqshadow") {
        let what = "174 B messages from the cache, in reads of 64 KiB";
        rows.push(Row::at_least(what, 60.0, ours.messages_per_second() / 1e6, " M/s"));
    }
    rows.push(Row::at_most("allocations per message, the most of any stream", 0.0, allocations, ""));
    for (many, what) in
        [("relations", "tables with one sequence"), ("sequences", "tables, each with its own")]
    {
        let cost = |count| {
            best.get(&format!("{many}-{count}"), Shape::Reads, "seqshadow").map(|f| f.seconds / f.messages)
        };
        for count in [100, 10_000] {
            if let (Some(one), Some(all)) = (cost(1), cost(count)) {
                let what = format!("cost of a message of {count} {what}, by that of one");
                rows.push(Row::at_most(&what, 1.2, all / one, " x"));
            }
        }
    }
    rows
}

/// Prints them in 80 columns.
pub fn print(rows: &[Row]) {
    println!("\n{:<44} {:>10} {:>11} {:>5}  ", "goal", "goal", "figure", "ratio");
    for row in rows {
        let mut lines = wrapped(&row.what, 44).into_iter();
        let first = lines.next().unwrap_or_default();
        let verdict = if row.met() { "met" } else { "NOT MET" };
        println!("{first:<44} {:>10} {:>11} {:>5.2}  {verdict}", row.goal, row.figure, row.ratio);
        lines.for_each(|line| println!("  {line}"));
    }
}

fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let Some(line) = lines.last_mut() else { break };
        if !line.is_empty() && line.len() + 1 + word.len() > width {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}
