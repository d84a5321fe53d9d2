//! `seqshadow check`. See [`crate::ops::check`].

use std::ffi::OsStr;
use std::process::ExitCode as ProcessExit;

use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use clap::{Arg, Args, Command, Error};

use super::args::{SlotArgs, VerbArgs};
use super::show::count;
use super::verb;
use crate::demo::text::wrap;
use crate::exit::ExitCode;
use crate::ops::check::{Fact, Finding, Report, Severity, check, codes};

/// Flags of `check`.
#[derive(Args, Clone, Debug)]
pub struct CheckArgs {
    /// Take note of the findings of this code, so that they do not block; repeatable
    #[arg(long, value_name = "CODE", value_parser = KnownCode, hide_possible_values = true)]
    ack: Vec<String>,
    /// List every code that there is, and what it means
    #[arg(long)]
    list: bool,
    #[command(flatten)]
    slot: SlotArgs,
    #[command(flatten)]
    common: VerbArgs,
}

/// Says [`known_code`] to what is no code, and tells completions which there are.
#[derive(Clone, Debug)]
struct KnownCode;

impl TypedValueParser for KnownCode {
    type Value = String;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<String, Error> {
        StringValueParser::new().try_map(|text| known_code(&text)).parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(codes().into_iter().map(|code| PossibleValue::new(code.code))))
    }
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
    let common = VerbArgs { slot: args.slot.clone(), ..args.common.clone() };
    verb::run(&common, async |settings, environment| {
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
    let mut out = String::new();
    for code in codes() {
        out += &format!("{} ({})\n", code.code, severity(code.severity));
        for line in wrap(code.meaning, 4) {
            out += &format!("{line}\n");
        }
    }
    out
}

/// As it is printed, in lists and reports.
pub(super) fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Blocker => "blocker",
        Severity::Warning => "warning",
        Severity::Notice => "notice",
    }
}

fn text(report: &Report) -> String {
    let mut out = String::new();
    for fact in &report.facts {
        let Fact { name, side, allowed, used, free } = fact;
        out += &format!("{name} of the {side}: {used} of {allowed} in use, {free} free\n");
    }
    if !out.is_empty() {
        out.push('\n');
    }
    let above = out.len();
    let mut before = None;
    for finding in &report.findings {
        let heading = (finding.severity, finding.code, finding.side, finding.acknowledged);
        if before.replace(heading) != Some(heading) {
            let side = finding.side.map(|side| format!(", on the {side}")).unwrap_or_default();
            let acknowledged = if finding.acknowledged { " (acknowledged)" } else { "" };
            out += &format!("{}: {}{side}{acknowledged}\n", severity(finding.severity), finding.code);
        }
        out += &told(finding);
    }
    if out.len() > above {
        out.push('\n');
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

/// So many lines of what mends a finding are shown; with `--json` it is whole.
const MEND_LINES: usize = 10;

/// What was found, in lines that keep to the margins, and what mends it as it is: statements to paste are not broken.
fn told(finding: &Finding) -> String {
    let text = format!("{}: {}", finding.object, finding.message);
    let mut out = String::new();
    for (index, line) in wrap(&text, 4).iter().enumerate() {
        let indent = if index == 0 { "  " } else { "    " };
        out += &format!("{indent}{}\n", line.trim_start());
    }
    let mend: Vec<&str> = finding.mend.as_deref().unwrap_or_default().lines().collect();
    for line in mend.iter().take(MEND_LINES) {
        out += &format!("      {line}\n");
    }
    if let Some(more) = mend.len().checked_sub(MEND_LINES).filter(|more| *more > 0) {
        out += &format!("      -- and {}, see --json\n", count(more, "more line"));
    }
    out
}
