//! The pictures of decoding: everybody beside ours, and the cost of a message over the number of tables.

use seqshadow_benches::chart::{Bar, Chart, Series};

use crate::measure::{Best, Shape};
use crate::others;
use crate::streams::{CAPTURED, MADE_UP};

/// How many tables the streams are made for.
const COUNTS: [u32; 3] = [1, 100, 10_000];

/// What memory allows, timed over the same bytes.
const LIMITS: [&str; 2] = ["memory sum", "memcpy"];

/// Those for which there are figures.
pub fn charts(best: &Best) -> Vec<Chart> {
    let mut charts = Vec::new();
    for (shape, title) in [
        (Shape::Memory, "174 B messages, from memory"),
        (Shape::Reads, "174 B messages, from the cache in reads of 64 KiB"),
    ] {
        let rate = |name: &'static str| {
            let figure = best.get("narrow", shape, name)?;
            let ours = name == "seqshadow";
            Some(Bar { name: name.to_owned(), length: figure.messages_per_second() / 1e6, ours })
        };
        push(
            &mut charts,
            title,
            "million messages a second",
            others::names().chain(LIMITS).filter_map(rate).collect(),
        );
    }
    let rate = |name: &&'static str| {
        let figure = best.get(name, Shape::Reads, "seqshadow")?;
        Some(Bar { name: (*name).to_owned(), length: figure.messages_per_second() / 1e6, ours: true })
    };
    let streams = MADE_UP.iter().filter(|name| !over_size(name)).chain(CAPTURED);
    let bars = streams.filter_map(rate).collect();
    push(&mut charts, "seqshadow over kinds of streams", "million messages a second", bars);
    let cost = |kind: &str, name: &str| {
        let point = |count: u32| {
            let figure = best.get(&format!("{kind}-{count}"), Shape::Reads, "seqshadow")?;
            Some((f64::from(count), figure.ns_per_message()))
        };
        Series { name: name.to_owned(), points: COUNTS.into_iter().filter_map(point).collect() }
    };
    let mut series = vec![
        cost("relations", "all with one sequence"),
        cost("sequences", "each with a sequence of its own"),
    ];
    series.retain(|series| series.points.len() > 1);
    if !series.is_empty() {
        let chart = Chart::lines("cost of a message, over the number of tables", "tables", "ns", series);
        charts.push(chart.over_powers_of_ten());
    }
    charts
}

fn push(charts: &mut Vec<Chart>, title: &str, x: &str, bars: Vec<Bar>) {
    if bars.len() > 1 {
        charts.push(Chart::bars(title, x, bars));
    }
}

/// One of a number of tables: the same messages for more or fewer of them.
pub fn over_size(stream: &str) -> bool {
    stream.starts_with("relations") || stream.starts_with("sequences")
}
