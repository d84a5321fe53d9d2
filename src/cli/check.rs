//! `seqshadow check`. See [`crate::ops::check`].

use std::process::ExitCode as ProcessExit;

use clap::Args;

use super::args::VerbArgs;
use super::show::{Align, Listing, count};
use super::verb;
use crate::demo::text::wrap;
use crate::exit::ExitCode;
use crate::ops::check::{Report, Severity, check, codes};

/// Flags of `check`.
#[derive(Args, Clone, Debug)]
pub struct CheckArgs {
    /// Take note of the findings of this code, so that they do not block; repeatable
    #[arg(long, value_name = "CODE", value_parser = known_code)]
    ack: Vec<String>,
    /// List every code that there is, and what it means
    #[arg(long)]
    list: bool,
    #[command(flatten)]
    common: VerbArgs,
}

fn known_code(text: &str) -> Result<String, String> {
    if codes().iter().any(|code| code.code == text) {
        return Ok(text.to_owned());
    }
    Err("no such code; `seqshadow check --list` shows them all".to_owned())
}

/// Exit 0 when nothing stands against going on, 1 with a list otherwise.
#[must_use]
pub fn run(args: &CheckArgs) -> ProcessExit {
    if args.list {
        return match verb::print(&listed()) {
            Ok(()) => ExitCode::Success.into(),
            Err(error) => error.exit_code().into(),
        };
    }
    verb::run(&args.common, async |settings, environment| {
        let report = check(&settings, &environment, &args.ack).await?;
        if args.common.json {
            verb::print_json(&report)?;
        } else {
            verb::print(&text(&report))?;
        }
        Ok(if report.ready { ExitCode::Success } else { ExitCode::NotReady })
    })
}

fn listed() -> String {
    let mut listing =
        Listing::new(&[("code", Align::Left), ("severity", Align::Left), ("meaning", Align::Left)]);
    for code in codes() {
        listing.row([code.code.to_owned(), severity(code.severity).to_owned(), code.meaning.to_owned()]);
    }
    listing.render()
}

fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Blocker => "blocker",
        Severity::Warning => "warning",
        Severity::Notice => "notice",
    }
}

fn text(report: &Report) -> String {
    let mut out = String::new();
    for finding in &report.findings {
        let side = finding.side.map(|side| format!(" on the {side}")).unwrap_or_default();
        let acknowledged = if finding.acknowledged { " (acknowledged)" } else { "" };
        let severity = severity(finding.severity);
        out += &format!("{severity}: {}{acknowledged}\n", finding.code);
        for line in wrap(&format!("{}{side}: {}", finding.object, finding.message), 2) {
            out += &format!("{line}\n");
        }
        for line in finding.mend.iter().flat_map(|mend| mend.lines()) {
            out += &format!("    {line}\n");
        }
    }
    let with = |severity| report.findings.iter().filter(|f| f.severity == severity).count();
    let open = report.findings.iter().filter(|f| f.severity == Severity::Warning && f.blocks()).count();
    let summary = format!(
        "{}, {} ({open} open), {}",
        count(with(Severity::Blocker), "blocker"),
        count(with(Severity::Warning), "warning"),
        count(with(Severity::Notice), "notice")
    );
    out + &if report.ready { format!("ready: {summary}\n") } else { format!("NOT ready: {summary}\n") }
}
