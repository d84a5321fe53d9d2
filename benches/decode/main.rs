//! How fast ids come out of a stream, beside others in the same run over the same bytes.
//!
//!     cargo bench --bench decode                      all of it, some five minutes
//!     SEQSHADOW_BENCH=short cargo bench --bench decode   seconds: everybody agrees, everything works
//!     cargo bench --bench decode -- narrow            only what has this in its name
//!     cargo bench --bench decode -- --goals           only what goals are set for
//!     cargo bench --bench decode -- --instructions    only count instructions (needs valgrind)
//!     cargo bench --bench decode -- --accept          and take the counts as those to compare with
//!
//! Every contestant must find the largest id of every tracked column of every stream before it is timed, and does so
//! again in every timed pass; who finds another ends the bench with an error. The contestants:
//!
//! - seqshadow, as the daemon does it, with the daemon's own parts: fill the buffer, find messages, decode, mark, hand
//!   over ([`ours`]).
//! - Crates that decode rows: `pg_walstream`, `pgsync-postgres` (protocol 1 only, so no streamed transactions) and
//!   `pgoutput`. None of these keeps marks; a few lines on top do, as cheaply as can be ([`marks`]).
//! - The framing of `postgres-protocol`, `pgwire` and `pgwire-replication` with our row walk on top, to show what
//!   finding messages costs.
//! - "memory sum" adds up 64-bit words and "memcpy" copies: what memory allows.
//!
//! Their versions are in `../Cargo.toml`; all of them can be had and compile.
//!
//! Two shapes: a stream far larger than the cache that lies in memory, read in place; and one that stays in the cache
//! and comes in reads of 64 KiB, each copied into the contestant's buffer first, as the kernel would.

mod allocations;
#[path = "../../proto-tests/src/capture.rs"]
#[allow(dead_code, reason = "recorded streams are only read here")]
mod capture;
mod charts;
mod contestant;
#[path = "../../proto-tests/src/encode.rs"]
#[allow(dead_code, reason = "of the encoder of the tests, only some messages are needed")]
mod encode;
mod goals;
mod instructions;
mod marks;
mod measure;
mod others;
mod ours;
mod streams;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use criterion::{Criterion, SamplingMode, Throughput};
use measure::{Best, Shape, pass, pass_over};
use streams::{CAPTURED, MADE_UP, Stream};

/// A stream far larger than the cache, and one that stays in it.
const MEMORY_BYTES: usize = 64 << 20;
const CACHED_BYTES: usize = 256 << 10;

/// Large enough for 10,000 tables to come up twice; the same for fewer, so that only their number differs.
const MANY_BYTES: usize = 4 << 20;

/// In a short run.
const SHORT_BYTES: usize = 1 << 20;

/// Streams that are timed in memory as well.
const IN_MEMORY: &[&str] = &["narrow", "wide", "id-last", "update-heavy", "streamed", "binary"];

/// Passes of everybody in turn over what goals are set for.
const ROUNDS: usize = 12;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, stream, contestant] = arguments.as_slice()
        && first == instructions::CHILD
    {
        return exit(instructions::child(stream, contestant).map(|()| true));
    }
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let accept = has("--accept");
    if accept || has("--instructions") {
        return exit(count_instructions(accept).map(|(good, _)| good));
    }
    if has("--goals") {
        return exit(judge(&mut Best::default(), None).map(|()| true));
    }
    // Without --bench it is `cargo test --benches`.
    let asked = std::env::var("SEQSHADOW_BENCH").is_ok_and(|mode| mode == "short");
    exit(if asked || has("--quick") || !has("--bench") { short() } else { full(&arguments) })
}

fn exit(done: anyhow::Result<bool>) -> ExitCode {
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn count_instructions(accept: bool) -> anyhow::Result<(bool, Option<instructions::Counts>)> {
    let Some(counts) = instructions::count()? else { return Ok((true, None)) };
    let good = instructions::compare(&counts, accept)?;
    if !good {
        println!("\nmore than the tolerance: see what grew, or take it as it is with `-- --accept`");
    }
    Ok((good, Some(counts)))
}

/// Everybody agrees on every stream, nothing is allocated, and the figures can be had; what they are means nothing.
fn short() -> anyhow::Result<bool> {
    let mut best = Best::default();
    let captured = streams::all_captured()?;
    for name in MADE_UP.iter().copied().chain(captured.iter().map(String::as_str)) {
        let bytes = if name.starts_with("captured-") { 64 << 10 } else { SHORT_BYTES };
        agree(&Stream::make(name, bytes)?, &mut best)?;
    }
    println!("all contestants agree on {} streams", MADE_UP.len() + captured.len());
    limits(&Stream::make("narrow", SHORT_BYTES)?, 1, &mut best);
    let allocations = allocations_per_message()?;
    println!("allocations per message: {allocations}");
    let rows = goals::rows(&best, allocations);
    println!("{} goals can be measured, which a short run does not", rows.len());
    write("short", &best, &rows, None)?;
    Ok(allocations == 0.0 && rows.len() == goals::COUNT)
}

/// Every contestant reads the stream in both shapes, and in reads that cut it at odd places.
fn agree(stream: &Stream, best: &mut Best) -> anyhow::Result<()> {
    for name in others::names() {
        if others::unable(name, stream).is_some() {
            continue;
        }
        let mut contestant =
            others::start(name, stream).with_context(|| format!("{name}, {}", stream.name))?;
        for shape in [Shape::Memory, Shape::Reads] {
            let took = pass(contestant.as_mut(), stream, shape)
                .with_context(|| format!("{name}, {}", stream.name))?;
            best.note(stream, shape, name, took);
        }
        contestant::in_pieces(contestant.as_mut(), &stream.bytes, 977)?;
        measure::check(contestant.as_mut(), stream)?;
    }
    Ok(())
}

fn full(arguments: &[String]) -> anyhow::Result<bool> {
    let mut best = Best::default();
    let mut criterion = Criterion::default().without_plots().sample_size(10);
    criterion =
        criterion.warm_up_time(Duration::from_millis(50)).measurement_time(Duration::from_millis(300));
    criterion = criterion.configure_from_args();
    let filtered = arguments.iter().any(|argument| !argument.starts_with("--"));
    for name in MADE_UP.iter().chain(CAPTURED) {
        let stream = Stream::make(name, reads_bytes(name))?;
        agree(&stream, &mut Best::default())?;
        race(&mut criterion, &stream, Shape::Reads, &mut best)?;
        if IN_MEMORY.contains(name) {
            race(&mut criterion, &Stream::make(name, MEMORY_BYTES)?, Shape::Memory, &mut best)?;
        }
    }
    criterion.final_summary();
    if filtered {
        print_all(&best);
        return Ok(true);
    }
    let (good, counts) = count_instructions(false)?;
    judge(&mut best, counts.as_ref())?;
    Ok(good)
}

/// Measures once more what goals are set for, and prints everything.
fn judge(best: &mut Best, counts: Option<&instructions::Counts>) -> anyhow::Result<()> {
    in_turn(best)?;
    print_all(best);
    let rows = goals::rows(best, allocations_per_message()?);
    goals::print(&rows);
    write("full", best, &rows, counts)
}

fn reads_bytes(name: &str) -> usize {
    if charts::over_size(name) { MANY_BYTES } else { CACHED_BYTES }
}

/// Times everybody who can read the stream.
fn race(criterion: &mut Criterion, stream: &Stream, shape: Shape, best: &mut Best) -> anyhow::Result<()> {
    let mut group = criterion.benchmark_group(format!("{}, {}", stream.name, shape.name()));
    group.sampling_mode(SamplingMode::Flat).throughput(Throughput::Elements(stream.messages));
    for name in others::names() {
        if others::unable(name, stream).is_some() {
            continue;
        }
        let mut contestant = others::start(name, stream)?;
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|passes| {
                let mut total = Duration::ZERO;
                for _ in 0..passes {
                    match pass(contestant.as_mut(), stream, shape) {
                        Ok(took) => {
                            best.note(stream, shape, name, took);
                            total += took;
                        }
                        Err(error) => panic!("{error:#}"),
                    }
                }
                total
            });
        });
    }
    group.finish();
    Ok(())
}

/// Once more, everybody in turn, over what goals are set for: when the machine is busy for a while, it hits all.
fn in_turn(best: &mut Best) -> anyhow::Result<()> {
    let many = [
        "relations-100",
        "relations-1",
        "sequences-100",
        "sequences-1",
        "relations-10000",
        "sequences-10000",
    ];
    let ours = |best: &mut Best, streams: &[Stream], passes: usize| -> anyhow::Result<()> {
        // All at the same place, and each time with buffers of its own: where they happen to lie can cost as much again
        // as what is measured.
        let mut place = vec![0; streams.iter().map(|stream| stream.bytes.len()).max().unwrap_or(0)];
        for _ in 0..ROUNDS {
            for stream in streams {
                let mut contestant = others::start("seqshadow", stream)?;
                let bytes = place.split_at_mut(stream.bytes.len()).0;
                bytes.copy_from_slice(&stream.bytes);
                for _ in 0..passes {
                    let took = pass_over(contestant.as_mut(), stream, bytes)?;
                    best.note(stream, Shape::Reads, "seqshadow", took);
                }
            }
        }
        Ok(())
    };
    let made: anyhow::Result<Vec<_>> =
        many.iter().map(|name| Stream::make(name, reads_bytes(name))).collect();
    ours(best, &made?, 3)?;
    ours(best, &[Stream::make("narrow", CACHED_BYTES)?], 200)?;
    let narrow = Stream::make("narrow", MEMORY_BYTES)?;
    let mut started = Vec::new();
    for (name, role) in others::ROLES {
        if matches!(role, contestant::Role::Ours | contestant::Role::Decoder) {
            started.push((*name, others::start(name, &narrow)?));
        }
    }
    for _ in 0..ROUNDS {
        for (name, contestant) in &mut started {
            best.note(&narrow, Shape::Memory, name, pass(contestant.as_mut(), &narrow, Shape::Memory)?);
        }
        limits(&narrow, 2, best);
    }
    Ok(())
}

fn limits(stream: &Stream, passes: usize, best: &mut Best) {
    let mut copy = vec![1; stream.bytes.len()];
    for _ in 0..passes {
        best.note(stream, Shape::Memory, "memory sum", measure::memory_sum(&stream.bytes));
        best.note(stream, Shape::Memory, "memcpy", measure::memcpy(&stream.bytes, &mut copy));
    }
}

/// The most that a message of any made-up stream allocates, once every table was seen.
fn allocations_per_message() -> anyhow::Result<f64> {
    let mut most = 0.0f64;
    for name in MADE_UP {
        let stream = Stream::make(name, SHORT_BYTES)?;
        let mut ours = others::start("seqshadow", &stream)?;
        for _ in 0..2 {
            contestant::in_pieces(ours.as_mut(), &stream.bytes, measure::PIECE)?;
            // So that every sequence was handed over once, which is done every few milliseconds only.
            std::thread::sleep(Duration::from_millis(10));
        }
        let read = || contestant::in_pieces(ours.as_mut(), &stream.bytes, measure::PIECE);
        let (done, count) = allocations::during(read);
        done?;
        #[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
        let each = count as f64 / stream.messages as f64;
        most = most.max(each);
    }
    Ok(most)
}

fn print_all(best: &Best) {
    let mut group = (String::new(), Shape::Memory);
    for (stream, shape, name, figure) in best.all() {
        if group != (stream.to_owned(), shape) {
            group = (stream.to_owned(), shape);
            println!("\n{stream}, {}", shape.name());
            println!(
                "{:<22} {:>12} {:>12} {:>10} {:>14}",
                "", "ns/message", "M messages/s", "GB/s", "seqshadow is"
            );
        }
        let ours =
            best.get(stream, shape, "seqshadow").map_or(f64::NAN, |ours| figure.seconds / ours.seconds);
        println!(
            "{name:<22} {:>12.1} {:>12.2} {:>10.2} {:>12.2} x",
            figure.ns_per_message(),
            figure.messages_per_second() / 1e6,
            figure.bytes_per_second() / 1e9,
            ours
        );
    }
}

/// To `target/bench/decode.json`, and what can be drawn of it to `decode.svg`.
fn write(
    mode: &str,
    best: &Best,
    rows: &[goals::Row],
    counts: Option<&instructions::Counts>,
) -> anyhow::Result<()> {
    use serde_json::json;
    let measurement = |(stream, shape, name, figure): (&str, Shape, &str, measure::Figure)| {
        json!({
            "stream": stream, "shape": shape.name(), "contestant": name,
            "ns_per_message": figure.ns_per_message(), "messages_per_second": figure.messages_per_second(),
            "bytes_per_second": figure.bytes_per_second(),
        })
    };
    let count = |((stream, name), count): (&(String, String), &f64)| json!({ "stream": stream, "contestant": name, "instructions_per_message": count });
    let all = json!({
        "schema": "seqshadow.bench.decode/1",
        "mode": mode,
        "goals": rows.iter().map(goals::Row::to_json).collect::<Vec<_>>(),
        "measurements": best.all().map(measurement).collect::<Vec<_>>(),
        "instructions": counts.map(|counts| counts.iter().map(count).collect::<Vec<_>>()),
    });
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from);
    let file = target.join("bench/decode.json");
    std::fs::create_dir_all(target.join("bench"))?;
    std::fs::write(&file, format!("{}\n", serde_json::to_string_pretty(&all)?))?;
    let picture = file.with_extension("svg");
    seqshadow_benches::chart::draw(&charts::charts(best), &picture)?;
    println!("\nall figures: {}\nas a picture: {}", file.display(), picture.display());
    Ok(())
}
