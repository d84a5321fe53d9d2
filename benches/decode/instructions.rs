//! Instructions per message, counted by callgrind: the same on a busy machine as on an idle one.
//!
//! This program runs itself under valgrind, once for each stream and contestant, and has only the function
//! [`counted_pass`] counted. What ours needs is compared with `instructions.json`; `-- --accept` writes that file anew.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};
use bytes::BytesMut;

use crate::contestant::{Contestant, in_pieces};
use crate::measure::{PIECE, check};
use crate::others;
use crate::streams::{CAPTURED, MADE_UP, Stream};

/// The first argument of the process that is counted.
pub const CHILD: &str = "--counted-pass";

/// So many per cent more than in the file are a regression.
const TOLERANCE: f64 = 10.0;

/// Enough messages that what is done once per read does not matter.
const BYTES: usize = 512 << 10;

/// Whose counts are kept.
const OURS: &str = "seqshadow";

/// Streams that are counted for everybody, not only for ours.
const COMPARED: &[&str] = &["narrow", "wide", "update-heavy", "binary"];

/// By stream and contestant.
pub type Counts = BTreeMap<(String, String), f64>;

#[inline(never)]
fn counted_pass(contestant: &mut dyn Contestant, bytes: &[u8], own: &mut BytesMut) -> anyhow::Result<()> {
    contestant.memory(bytes, own)
}

/// What the counted process does; prints the number of messages.
pub fn child(stream: &str, contestant: &str) -> anyhow::Result<()> {
    let stream = Stream::make(stream, BYTES)?;
    let mut contestant = others::start(contestant, &stream)?;
    // Everything that grows has grown, and every table has been seen.
    in_pieces(contestant.as_mut(), &stream.bytes, PIECE)?;
    check(contestant.as_mut(), &stream)?;
    // Copying is left out: what it takes depends on the processor.
    let mut own = if contestant.wants_own() { BytesMut::from(&stream.bytes[..]) } else { BytesMut::new() };
    counted_pass(contestant.as_mut(), &stream.bytes, &mut own)?;
    check(contestant.as_mut(), &stream)?;
    println!("{}", stream.messages);
    Ok(())
}

/// Counts; `None` when valgrind is not there, which is said in one line.
pub fn count() -> anyhow::Result<Option<Counts>> {
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("instructions are not counted: valgrind is missing (Debian: apt-get install valgrind)");
        return Ok(None);
    }
    let mut counts = Counts::new();
    for name in MADE_UP.iter().chain(CAPTURED) {
        let stream = Stream::make(name, 1)?;
        for contestant in others::names() {
            let counted = contestant == OURS || COMPARED.contains(name);
            if counted && others::unable(contestant, &stream).is_none() {
                counts.insert(((*name).to_owned(), contestant.to_owned()), one(name, contestant)?);
            }
        }
    }
    Ok(Some(counts))
}

fn one(stream: &str, contestant: &str) -> anyhow::Result<f64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--toggle-collect=*counted_pass*", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .args([CHILD, stream, contestant])
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "valgrind with {stream} and {contestant}: {said}");
    let collected = said.lines().find_map(|line| line.split_once("Collected :")).context("no count")?.1;
    let instructions: f64 = collected.trim().parse()?;
    let messages: f64 = String::from_utf8_lossy(&output.stdout).trim().parse()?;
    ensure!(instructions > 0.0, "nothing was counted of {contestant} with {stream}");
    Ok(instructions / messages)
}

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.json")
}

/// Prints the counts beside those of the file; whether none of ours grew by more than the tolerance. `accept` writes
/// the file anew.
pub fn compare(counts: &Counts, accept: bool) -> anyhow::Result<bool> {
    let ours = |name: &str| counts.get(&(name.to_owned(), OURS.to_owned())).copied();
    let known: BTreeMap<String, f64> = match std::fs::read_to_string(file()) {
        Ok(text) => serde_json::from_str(&text).context("instructions.json")?,
        Err(_) if accept => BTreeMap::new(),
        Err(error) => bail!("{}: {error}; `-- --accept` writes it", file().display()),
    };
    let mut good = true;
    println!("\ninstructions per message (callgrind; finding messages, decoding, marking)\n");
    println!("{:<22} {:>10} {:>10} {:>9}", "stream", "seqshadow", "accepted", "change");
    for name in MADE_UP.iter().chain(CAPTURED) {
        let Some(now) = ours(name) else { continue };
        let Some(before) = known.get(*name) else {
            println!("{name:<22} {now:>10.1} {:>10} {:>9}", "-", "new");
            good &= accept;
            continue;
        };
        let change = (now / before - 1.0) * 100.0;
        let verdict = if change > TOLERANCE { "  GREW" } else { "" };
        println!("{name:<22} {now:>10.1} {before:>10.1} {change:>+8.1}%{verdict}");
        good &= change <= TOLERANCE || accept;
    }
    println!("\n{:<20} {}", "", COMPARED.map_padded());
    for contestant in others::names() {
        let of = |name: &&str| counts.get(&((*name).to_owned(), contestant.to_owned()));
        let cells: Vec<String> =
            COMPARED.iter().map(|name| of(name).map_or("-".to_owned(), |n| format!("{n:.1}"))).collect();
        println!("{contestant:<20} {}", cells.map_padded());
    }
    if accept {
        let rounded = |n: f64| (n * 10.0).round() / 10.0;
        let all: BTreeMap<&str, f64> =
            MADE_UP.iter().chain(CAPTURED).filter_map(|name| Some((*name, rounded(ours(name)?)))).collect();
        std::fs::write(file(), format!("{}\n", serde_json::to_string_pretty(&all)?))?;
    }
    Ok(good)
}

/// Cells of a table's line.
trait Padded {
    fn map_padded(&self) -> String;
}

impl<T: AsRef<str>> Padded for [T] {
    fn map_padded(&self) -> String {
        self.iter().map(|cell| format!("{:>13}", cell.as_ref())).collect()
    }
}
