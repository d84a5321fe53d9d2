//! `seqshadow replay`. See [`crate::capture::replay`].

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::process::ExitCode as ProcessExit;

use clap::Args;

use super::show::{Align, Listing, count, maybe, number};
use super::verb;
use crate::capture::replay::{ReplayError, Replayed, replay};
use crate::demo::text::{bytes, hang};
use crate::exit::ExitCode;

/// Flags of `replay`.
#[derive(Args, Clone, Debug)]
pub struct ReplayArgs {
    /// What capture wrote
    file: PathBuf,
    /// Decode it so many times
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    loops: u32,
    /// Take a file that is cut off, up to its last whole block
    #[arg(long)]
    partial: bool,
    /// Print JSON, for programs
    #[arg(long, help_heading = "Output")]
    json: bool,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("{0}")]
    Open(std::io::Error),
    #[error(transparent)]
    Replay(#[from] ReplayError),
}

/// Exit 0 when it was decoded to its end, 2 where the file is none or is damaged.
#[must_use]
pub fn run(args: &ReplayArgs) -> ProcessExit {
    let name = args.file.display().to_string();
    let open = || File::open(&args.file).map(BufReader::new).map_err(Failed::Open);
    let replayed = match replay(&name, args.loops, args.partial, open) {
        Ok(replayed) => replayed,
        Err(error) => {
            let hint = match &error {
                Failed::Replay(ReplayError::Capture(inner)) if inner.is_cut_off() => {
                    "; --partial takes what is whole"
                }
                _ => "",
            };
            return verb::fail(&format!("{name}: {error}{hint}"), ExitCode::Usage, args.json);
        }
    };
    let printed = if args.json { verb::print_json(&replayed) } else { verb::print(&text(&replayed)) };
    match printed {
        Ok(()) => ExitCode::Success.into(),
        Err(error) => verb::fail(&error, error.exit_code(), args.json),
    }
}

fn text(replayed: &Replayed) -> String {
    let redacted = if replayed.redacted { ", redacted" } else { "" };
    let cut = if replayed.ended.is_none() { "; the file is cut off there" } else { "" };
    let mut out = hang(
        &format!(
            "{} of PostgreSQL {}, {} on the wire, recorded {} in {:.1} s{redacted}, up to {}{cut}",
            count(replayed.messages, "message"),
            replayed.server_version / 10_000,
            bytes(replayed.bytes),
            replayed.recorded_at,
            replayed.recorded_seconds,
            replayed.committed_lsn,
        ),
        2,
    );
    let loops =
        if replayed.loops > 1 { format!(" ({})", count(replayed.loops, "loop")) } else { String::new() };
    out += &hang(
        &format!(
            "{:.0} messages/s, {:.1} MB/s, {:.1} ns per message{loops}",
            replayed.messages_per_second, replayed.megabytes_per_second, replayed.nanoseconds_per_message,
        ),
        2,
    );
    if !replayed.kinds.is_empty() {
        let mut kinds = Listing::new(&[("message", Align::Left), ("count", Align::Right)]);
        for kind in &replayed.kinds {
            kinds.row([kind.message.to_owned(), number(i64::try_from(kind.count).unwrap_or(i64::MAX))]);
        }
        out = out + "\n" + &kinds.render();
    }
    if !replayed.marks.is_empty() {
        let mut marks = Listing::new(&[
            ("sequence", Align::Left),
            ("furthest id", Align::Right),
            ("restarted at", Align::Left),
        ]);
        for mark in &replayed.marks {
            let sequence = if mark.unreadable {
                format!("{} (unreadable values)", mark.sequence)
            } else {
                mark.sequence.clone()
            };
            marks.row([sequence, maybe(mark.furthest_id), mark.restarted_at.clone().unwrap_or_default()]);
        }
        out = out + "\n" + &marks.render();
    }
    out
}
