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
use crate::ops::check::{Fact, Finding, MendFor, Report, Severity, check, codes};

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

/// So many lines of advice: of many objects with a choice each, the first ones.
const ADVICE_LINES: usize = 8;

/// Where what mends a finding begins.
const MEND_INDENT: &str = "      ";

/// How wide it may be, where it can be broken.
const MEND_WIDTH: usize = 80 - MEND_INDENT.len();

/// What was found and what is to be said of it, in lines that keep to the margins, and what mends it, in statements that
/// can be pasted as they stand.
fn told(finding: &Finding) -> String {
    let text = format!("{}: {}", finding.object, finding.message);
    let mut out = String::new();
    for (index, line) in wrap(&text, 4).iter().enumerate() {
        let indent = if index == 0 { "  " } else { "    " };
        out += &format!("{indent}{}\n", line.trim_start());
    }
    let advice: Vec<String> = finding.advice.iter().flat_map(|advice| wrap(advice, 4)).collect();
    for line in advice.iter().take(ADVICE_LINES) {
        out += &format!("{line}\n");
    }
    if advice.len() > ADVICE_LINES {
        out += "    and so on, see --json\n";
    }
    let text = finding.mend.as_deref().unwrap_or_default();
    let broken_by = if finding.mend_for == Some(MendFor::Shell) { " \\" } else { "" };
    let mut statements: Vec<Vec<String>> = Vec::new();
    for line in text.lines() {
        let folded = fold(line, MEND_WIDTH, broken_by);
        match statements.last_mut().filter(|_| line.starts_with(' ')) {
            Some(statement) => statement.extend(folded),
            None => statements.push(folded),
        }
    }
    // Half a statement would be worse than none.
    let mut shown = 0;
    let all = statements.len();
    for (index, statement) in statements.into_iter().enumerate() {
        if index > 0 && shown + statement.len() > MEND_LINES {
            out += &format!("{MEND_INDENT}-- and {} more, see --json\n", all - index);
            break;
        }
        shown += statement.len();
        for line in statement {
            out += &format!("{MEND_INDENT}{line}\n");
        }
    }
    out
}

/// A line of SQL, or of a shell with `broken_by` at the end of a line that goes on, in lines of at most `width` where it
/// can be broken: at a space that is in no quotes. Those that go on are indented.
fn fold(line: &str, width: usize, broken_by: &str) -> Vec<String> {
    let text = line.trim_start_matches(' ');
    let (begin, _) = line.split_at(line.len() - text.len());
    let indent = if begin.is_empty() { "  " } else { "    " };
    let mut lines = Vec::new();
    let mut current = begin.to_owned();
    let mut words = words(text).into_iter().peekable();
    while let Some(word) = words.next() {
        let broken_by_here = if words.peek().is_some() { broken_by.chars().count() } else { 0 };
        let fits = current.chars().count() + 1 + word.chars().count() + broken_by_here <= width;
        if !current.trim().is_empty() && !fits {
            lines.push(format!("{current}{broken_by}"));
            current = format!("{indent}{word}");
        } else {
            if !current.trim().is_empty() {
                current.push(' ');
            }
            current.push_str(word);
        }
    }
    lines.push(current);
    lines
}

/// What stands between the spaces that are in no quotes.
fn words(line: &str) -> Vec<&str> {
    let (mut found, mut begin, mut quote) = (Vec::new(), 0, None);
    for (at, c) in line.char_indices() {
        match (quote, c) {
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), c) if open == c => quote = None,
            (None, ' ') => {
                found.extend(line.get(begin..at));
                begin = at + 1;
            }
            _ => {}
        }
    }
    found.extend(line.get(begin..));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_broken_at_spaces_that_are_in_no_quotes() {
        let sql = "ALTER TABLE \"My own table\" ALTER a SET DEFAULT 'it''s a b c';";
        assert_eq!(
            fold(sql, 30, ""),
            ["ALTER TABLE \"My own table\"", "  ALTER a SET DEFAULT", "  'it''s a b c';"]
        );
        assert_eq!(fold(sql, 100, ""), [sql]);
        assert_eq!(fold("  MINVALUE 1 MAXVALUE 2", 14, ""), ["  MINVALUE 1", "    MAXVALUE 2"]);
        assert_eq!(
            fold("pg_dump PUBLISHER | psql SUBSCRIBER", 20, " \\"),
            ["pg_dump PUBLISHER \\", "  | psql SUBSCRIBER"]
        );
    }
}
