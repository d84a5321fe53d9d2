//! `seqshadow capture`. See [`crate::capture`].

use std::path::PathBuf;
use std::process::ExitCode as ProcessExit;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::args::VerbArgs;
use super::show::count;
use super::verb;
use crate::capture::record::Stop;
use crate::capture::run::{Captured, Request, capture, streaming};
use crate::config::ByteSize;
use crate::demo::text::{bytes, hang};
use crate::exit::ExitCode;
use crate::sides::{Needs, Sides, SidesError};
use crate::types::Lsn;

/// Flags of `capture`.
#[derive(Args, Clone, Debug)]
pub struct CaptureArgs {
    /// File to write; it gets this name when it is whole
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,
    /// Replace FILE, and what an interrupted capture left of it
    #[arg(long)]
    force: bool,
    /// Replace what users stored by filler of the same length, but keep ids of tracked columns
    #[arg(long)]
    redact: bool,
    /// Ask for values in binary format (publisher 14 or newer)
    #[arg(long)]
    binary: bool,
    /// End when everything committed up to this WAL position is there
    #[arg(long, value_name = "LSN", help_heading = "When to end")]
    until_lsn: Option<Lsn>,
    /// End after so many seconds
    #[arg(long, value_name = "N", help_heading = "When to end", value_parser = clap::value_parser!(u64).range(1..))]
    seconds: Option<u64>,
    /// End after so many messages
    #[arg(long, value_name = "N", help_heading = "When to end", value_parser = clap::value_parser!(u64).range(1..))]
    messages: Option<u64>,
    /// End when the file has this size
    #[arg(long, value_name = "SIZE", help_heading = "When to end")]
    limit_size: Option<ByteSize>,
    #[command(flatten)]
    common: VerbArgs,
}

/// Exit 0 when the file is there.
#[must_use]
pub fn run(args: &CaptureArgs) -> ProcessExit {
    verb::run(&args.common, async |settings, environment| {
        // That of the file and of the environment is the daemon's, which streams from it.
        let slot = match args.common.sides.slot() {
            Some(_) => Some(settings.required_slot().map_err(SidesError::from)?.clone()),
            None => None,
        };
        let request = Request {
            out: args.out.clone(),
            force: args.force,
            slot,
            redact: args.redact,
            binary: args.binary,
            streaming: streaming(&settings),
            stop: Stop {
                until: args.until_lsn,
                after: args.seconds.map(Duration::from_secs),
                messages: args.messages,
                size: args.limit_size.map(|size| size.0),
                retained: None,
            },
        };
        let sides = Sides::find(&settings, &environment, Needs::PUBLICATIONS).await?;
        let begun = |slot: &crate::types::SlotName, temporary: bool, partial: &std::path::Path| {
            let which = if temporary { "temporary slot" } else { "slot" };
            eprintln!("seqshadow: recording {which} {slot} into {}; Ctrl-C ends it", partial.display());
        };
        let captured = capture(&sides, &settings, &request, begun, signalled()).await?;
        if args.common.json {
            verb::print_json(&captured)?;
        } else {
            verb::print(&text(&captured))?;
        }
        Ok(ExitCode::Success)
    })
}

fn text(captured: &Captured) -> String {
    let why = match captured.ended {
        "until_lsn" => "--until-lsn was reached",
        "seconds" => "--seconds are over",
        "messages" => "--messages were recorded",
        "size" => "--limit-size was reached",
        "max_retained_wal" => "the publisher would have kept more WAL for it than max_retained_wal allows",
        _ => "it was asked to end",
    };
    let slot = if captured.slot_was_temporary {
        format!("Temporary slot {} is gone again.", captured.slot)
    } else {
        format!("Slot {} holds all that it held: nothing was confirmed.", captured.slot)
    };
    let redacted = if captured.redacted { ", redacted" } else { "" };
    hang(
        &format!(
            "{}: {} of PostgreSQL {}, {} of stream in {:.1} s{redacted}, up to {}",
            captured.file,
            count(captured.messages, "message"),
            captured.publisher_version / 10_000,
            bytes(captured.stream_bytes),
            captured.seconds,
            captured.committed_lsn,
        ),
        2,
    ) + &hang(&format!("It ended because {why}. {slot}"), 2)
}

async fn signalled() {
    let (Ok(mut term), Ok(mut interrupt), Ok(mut hup)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()), signal(SignalKind::hangup()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
        _ = hup.recv() => {}
    }
}
