//! The live view: what is known at one moment, as lines. No IO.

use std::time::Duration;

use super::choose::Choice;
use super::shop::{CONTROL, SEQUENCES, SLOT, Sequence};
use super::text::{COLUMNS, Line, Style, bytes, count, number, rule};
use crate::publisher::follow::Doing;
use crate::registry::{Class, SequenceStatus};

/// Lines of the view.
pub const ROWS: usize = 15;

/// Lines that stand above it: together with the cursor's they fill a terminal of 24 lines.
pub const ROWS_ABOVE: usize = 8;

/// Columns of the table: name, kind, mark, next value, lead, source.
const WIDTHS: [usize; 6] = [17, 14, 12, 12, 11, 8];

/// Everything that the view shows.
#[derive(Clone, Debug)]
pub struct Moment {
    pub elapsed: Duration,
    pub length: Duration,
    pub rows: u64,
    pub rows_per_second: f64,
    pub doing: Doing,
    /// WAL of the publisher that is not confirmed yet.
    pub lag_bytes: u64,
    /// Of the sequences that are looked after.
    pub sequences: Vec<SequenceStatus>,
    pub control: Control,
}

/// The sequence that nobody looks after.
#[derive(Clone, Copy, Debug, Default)]
pub struct Control {
    /// The furthest id on the publisher.
    pub furthest: i64,
    /// What the subscriber would give next.
    pub next: i64,
}

/// The view at `moment`.
#[must_use]
pub fn view(moment: &Moment) -> Vec<Line> {
    let mut lines = vec![progress(moment), figures(moment), Line::new(), header()];
    lines.extend(SEQUENCES.iter().filter(|sequence| !sequence.control).map(|sequence| {
        let name = sequence.qualified();
        row(sequence, moment.sequences.iter().find(|status| status.name == name))
    }));
    lines.push(rule());
    lines.push(control(moment.control));
    lines.push(Line::new());
    lines.push(hint("mark: the furthest id known · next value: what the subscriber would give"));
    lines
}

/// The view as it is printed now and then where it cannot be repainted.
#[must_use]
pub fn block(moment: &Moment) -> Vec<Line> {
    let mut lines = vec![Line::new()];
    lines.extend(view(moment));
    lines.truncate(ROWS - 1);
    lines
}

/// Which servers these are.
#[must_use]
pub fn title(choice: &Choice) -> Line {
    let short = |version: &str| version.split_whitespace().next().unwrap_or_default().to_owned();
    let servers = format!(
        "PostgreSQL {} (publisher) ──▶ {} (subscriber)",
        short(&choice.publisher.version),
        short(&choice.subscriber.version)
    );
    Line::new().add(Style::Bold, " seqshadow demo").to_margin(Style::Plain, &servers)
}

fn progress(moment: &Moment) -> Line {
    let (elapsed, length) = (moment.elapsed.min(moment.length), moment.length);
    let time = format!("{} s of {} s", elapsed.as_secs(), length.as_secs());
    let width = COLUMNS - 4 - time.chars().count();
    let share = elapsed.as_secs_f64() / length.as_secs_f64().max(f64::MIN_POSITIVE);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    let done = ((width as f64 * share).round() as usize).min(width);
    Line::new()
        .add(Style::Good, format!(" {}", "━".repeat(done)))
        .add(Style::Dim, "─".repeat(width - done))
        .to_margin(Style::Plain, &time)
}

fn figures(moment: &Moment) -> Line {
    let (doing, style) = match moment.doing {
        Doing::Streaming => ("streaming", Style::Good),
        Doing::Connecting => ("connecting", Style::Warning),
        Doing::Creating => ("being made", Style::Warning),
        Doing::Standby => ("standing by", Style::Warning),
        Doing::Idle => ("idle", Style::Warning),
    };
    let rate = format!("{:.0}", moment.rows_per_second);
    let lag = bytes(moment.lag_bytes);
    let line = Line::new()
        .add(Style::Dim, " slot ")
        .add(Style::Plain, SLOT)
        .add(Style::Plain, " ")
        .left(style, doing, 11)
        .add(Style::Dim, "  rows/s ")
        .left(Style::Plain, &rate, 7)
        .add(Style::Dim, " rows ")
        .left(Style::Plain, &count(moment.rows), 11);
    let gap = (COLUMNS - 1).saturating_sub(line.width() + lag.chars().count());
    line.right(Style::Dim, "lag ", gap).add(Style::Plain, lag)
}

fn header() -> Line {
    let [name, kind, mark, next, lead, source] = WIDTHS;
    Line::new()
        .left(Style::Dim, " sequence", name + 2)
        .left(Style::Dim, "kind", kind)
        .right(Style::Dim, "mark", mark)
        .right(Style::Dim, "next value", next)
        .right(Style::Dim, "lead", lead)
        .add(Style::Plain, "  ")
        .left(Style::Dim, "source", source)
}

fn row(sequence: &Sequence, status: Option<&SequenceStatus>) -> Line {
    let mark = status.and_then(|status| status.mark);
    let next = status.and_then(|status| status.next_value);
    let behind = status.is_some_and(|status| status.behind);
    let lead = match status.and_then(|status| status.lead_steps) {
        _ if behind => (Style::Bad, "behind".to_owned()),
        Some(0) => (Style::Warning, "0".to_owned()),
        Some(lead) => (Style::Good, format!("+{}", count(lead))),
        None => (Style::Dim, "–".to_owned()),
    };
    let source = match status {
        Some(status) if status.class == Class::Covered => {
            status.source.map_or((Style::Dim, "–"), |source| (Style::Plain, source.as_str()))
        }
        Some(status) => (Style::Warning, status.class.as_str()),
        None => (Style::Dim, "–"),
    };
    cells(sequence, mark, next, &lead, source)
}

fn control(control: Control) -> Line {
    let behind = control.next.saturating_sub(control.furthest).saturating_sub(1);
    let lead = if behind < 0 { (Style::Bad, number(behind)) } else { (Style::Warning, number(behind)) };
    cells(&CONTROL, Some(control.furthest), Some(control.next), &lead, (Style::Bad, "nobody"))
}

fn cells(
    sequence: &Sequence,
    mark: Option<i64>,
    next: Option<i64>,
    lead: &(Style, String),
    source: (Style, &str),
) -> Line {
    let shown = |value: Option<i64>| value.map_or_else(|| "–".to_owned(), number);
    let [name, kind, mark_width, next_width, lead_width, source_width] = WIDTHS;
    Line::new()
        .add(Style::Plain, " ")
        .left(Style::Plain, sequence.name, name + 1)
        .left(Style::Dim, sequence.kind, kind)
        .right(Style::Plain, &shown(mark), mark_width)
        .right(Style::Bold, &shown(next), next_width)
        .right(lead.0, &lead.1, lead_width)
        .add(Style::Plain, "  ")
        .left(source.0, source.1, source_width)
}

fn hint(text: &str) -> Line {
    Line::new().add(Style::Dim, format!(" {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::servers::Installation;
    use crate::plan::LeadMeter;
    use crate::registry::Source;

    fn choice() -> Choice {
        let installation = |version_num, version: &str| Installation {
            bindir: "/pg".into(),
            version_num,
            version: version.to_owned(),
        };
        Choice {
            publisher: installation(150_012, "15.12 (Debian 15.12-0+deb12u2)"),
            subscriber: installation(190_000, "19rc1"),
        }
    }

    fn moment(id: i64) -> Moment {
        let sequences = SEQUENCES.iter().filter(|sequence| !sequence.control).map(|sequence| {
            let sign = if sequence.descending { -1 } else { 1 };
            SequenceStatus {
                name: sequence.qualified(),
                consumers: String::new(),
                settled: true,
                class: Class::Covered,
                reason: None,
                publisher_value: None,
                mark: Some(id * sign),
                source: Some(Source::Sequence),
                next_value: Some((id + 33) * sign),
                last_value: None,
                lead_steps: Some(32),
                behind: false,
                meter: LeadMeter::new(sign),
                advances: 0,
                last_advance: None,
                rewinds: 0,
                set_aside: Vec::new(),
            }
        });
        Moment {
            elapsed: Duration::from_secs(4),
            length: Duration::from_secs(10),
            rows: 123_456_789,
            rows_per_second: 123_456.7,
            doing: Doing::Connecting,
            lag_bytes: 123_456,
            sequences: sequences.collect(),
            control: Control { furthest: id, next: 1 },
        }
    }

    #[test]
    fn no_line_is_too_long_and_none_is_missing() {
        for id in [1, 123_456, 999_999_999_999, i64::MAX / 2] {
            let lines = view(&moment(id));
            assert_eq!(lines.len(), ROWS);
            for line in lines.into_iter().chain([title(&choice())]) {
                assert!(line.width() < COLUMNS, "{}", line.render(false));
            }
        }
    }

    #[test]
    fn a_sequence_that_is_behind_is_called_so() {
        let mut moment = moment(1000);
        let text =
            |moment: &Moment| view(moment).iter().map(|line| line.render(false) + "\n").collect::<String>();
        assert!(!text(&moment).contains("behind"), "{}", text(&moment));
        assert!(text(&moment).contains("lag 121 kB"), "{}", text(&moment));
        assert!(text(&moment).contains("-1,000"), "the control: {}", text(&moment));
        moment.sequences[0].behind = true;
        assert!(text(&moment).contains("behind"), "{}", text(&moment));
    }
}
