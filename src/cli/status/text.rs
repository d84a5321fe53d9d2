//! A status as people read it: some lines about the whole, and a table with as many columns as fit. No IO.

use jiff::{Timestamp, Unit};

use crate::cli::show::{count, maybe, number};
use crate::demo::text::bytes;
use crate::ops::status::{NONE, SequenceLine, SlotLine, Status, Stream};

/// A sequence's name is cut to no less than this.
const NAME_MIN: usize = 20;
const GAP: usize = 2;
/// Of the lines that go on below a sequence.
const INDENT: usize = 4;

/// The columns that take their values from it: in a line of their own where there is no room for a column.
const CONSUMER: &str = "consumer";
/// What is said where there are none.
const NO_COLUMN: &str = "no column";

/// A column: its heading, whether it holds numbers, and what it shows of a sequence.
struct Column {
    heading: &'static str,
    right: bool,
    cell: fn(&SequenceLine, Timestamp) -> String,
    /// The lower, the earlier it is left out where there is no room. The first column is never left out.
    worth: u8,
}

/// In the order in which they are shown, after the name.
const COLUMNS: &[Column] = &[
    Column { heading: "state", right: false, cell: state, worth: 10 },
    Column { heading: "publisher", right: true, cell: |s, _| maybe(s.publisher_value), worth: 4 },
    Column { heading: "mark", right: true, cell: |s, _| maybe(s.mark), worth: 8 },
    Column { heading: "from", right: false, cell: |s, _| s.source.clone().unwrap_or_else(dash), worth: 3 },
    Column { heading: "subscriber", right: true, cell: |s, _| maybe(s.subscriber_value), worth: 6 },
    Column { heading: "lead", right: true, cell: |s, _| maybe(s.lead), worth: 9 },
    Column { heading: "lasts", right: true, cell: lasts, worth: 7 },
    Column { heading: "advanced", right: true, cell: advanced, worth: 5 },
    Column {
        heading: CONSUMER,
        right: false,
        cell: |s, _| s.consumers.clone().unwrap_or_else(dash),
        worth: 2,
    },
];

/// The whole, in lines of `width` characters at most, as far as words allow.
pub(super) fn of(status: &Status, width: usize) -> String {
    let mut out = head(status, width);
    let now = status.at.parse().unwrap_or_else(|_| Timestamp::now());
    if !status.sequences.is_empty() {
        out.push('\n');
        out += &table(&status.sequences, now, width);
    }
    out
}

fn head(status: &Status, width: usize) -> String {
    let mut out = String::new();
    let mut say = |name: &str, text: &str| out += &wrap(&format!("{name:<10}{text}"), 10, width);
    match &status.sidecar {
        Some(sidecar) => {
            let pid = sidecar.pid.map(|pid| format!(", process {pid}")).unwrap_or_default();
            let starting = if sidecar.protecting { "" } else { ", not protecting yet: it is still starting" };
            say("sidecar", &format!("running{pid}, version {}{starting}", sidecar.version));
        }
        None if status.slot.as_ref().is_some_and(|slot| slot.held_by_sidecar) => {
            say("sidecar", "streams, but was not asked: looked at both servers");
        }
        None => say("sidecar", "not running: looked at both servers"),
    }
    status.note.iter().for_each(|note| say("", note));
    say("stream", &stream(&status.stream));
    match &status.slot {
        Some(line) => say("slot", &slot(line)),
        None => say("slot", "not named (--slot NAME)"),
    }
    let counts = &status.counts;
    let parts = [
        (counts.covered, "covered"),
        (counts.blind, "blind"),
        (counts.held, "held"),
        (counts.excluded, "excluded"),
        (counts.behind, "BEHIND"),
        (counts.set_aside, "with ids set aside"),
    ];
    let parts: Vec<String> =
        parts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{} {what}", int(*n))).collect();
    let colon = if parts.is_empty() { "" } else { ": " };
    say("sequences", &format!("{}{colon}{}", count(counts.all(), "sequence"), parts.join(", ")));
    out
}

fn stream(stream: &Stream) -> String {
    let mut parts: Vec<String> = (stream.state != NONE).then(|| stream.state.clone()).into_iter().collect();
    let lsn = |name: &str, lsn: &Option<String>| lsn.as_ref().map(|lsn| format!("{name} {lsn}"));
    parts
        .extend(lsn("received", &stream.received_lsn).or_else(|| lsn("publisher at", &stream.publisher_lsn)));
    parts.extend(lsn("confirmed", &stream.confirmed_lsn));
    if let Some(lag) = stream.lag_bytes {
        let seconds = stream.lag_seconds.map(|lag| format!(", {}", seconds(lag))).unwrap_or_default();
        parts.push(format!("lag {}{seconds}", size(lag)));
    }
    parts.extend(stream.ids_per_second.map(|rate| {
        let digits = usize::from(rate > 0.0 && rate < 10.0);
        format!("{rate:.digits$} ids/s")
    }));
    parts.join(", ")
}

fn slot(slot: &SlotLine) -> String {
    let mut parts = vec![format!("{}: {}", slot.name, slot.state)];
    if let Some(retained) = slot.retained_bytes {
        let ceiling = slot.ceiling_bytes.map(|max| format!(" of at most {}", size(max))).unwrap_or_default();
        parts.push(format!("holds back {}{ceiling}", size(retained)));
    }
    parts.extend(slot.lost.filter(|lost| *lost > 0).map(|lost| format!("lost {lost} times until now")));
    parts.extend(slot.reason.clone());
    parts.join(", ")
}

/// Every sequence in one line, and its reason, if any, below.
fn table(lines: &[SequenceLine], now: Timestamp, width: usize) -> String {
    let chars = |text: &str| text.chars().count();
    let rows: Vec<Vec<String>> =
        lines.iter().map(|line| COLUMNS.iter().map(|column| (column.cell)(line, now)).collect()).collect();
    // Zero for a column that says nothing of any sequence.
    let widths: Vec<usize> = COLUMNS
        .iter()
        .enumerate()
        .map(|(index, column)| {
            let cells = rows.iter().filter_map(|row| row.get(index)).filter(|cell| **cell != dash());
            cells.map(|cell| chars(cell)).max().map_or(0, |widest| widest.max(chars(column.heading)))
        })
        .collect();
    let name_width = lines.iter().map(|line| chars(&line.sequence)).max().unwrap_or(0).max(chars("sequence"));
    let shown = choose(&widths, name_width, width);
    let taken: usize = shown.iter().filter_map(|index| widths.get(*index)).map(|width| width + GAP).sum();
    let name_width = name_width.min(width.saturating_sub(taken).max(NAME_MIN));

    let line = |name: &str, cell: &dyn Fn(usize) -> String| {
        let mut out = format!("{:<name_width$}", cut(name, name_width));
        for index in &shown {
            let (Some(column), Some(width)) = (COLUMNS.get(*index), widths.get(*index)) else { continue };
            let text = cell(*index);
            out += &" ".repeat(GAP);
            out += &if column.right { format!("{text:>width$}") } else { format!("{text:<width$}") };
        }
        out.trim_end().to_owned() + "\n"
    };
    let consumers = COLUMNS.iter().position(|column| column.heading == CONSUMER);
    let has_room = consumers.is_some_and(|index| shown.contains(&index));
    let mut out = line("sequence", &|i| COLUMNS.get(i).map_or_else(String::new, |c| c.heading.to_owned()));
    out += &("─".repeat((name_width + taken).min(width)) + "\n");
    for (sequence, row) in lines.iter().zip(&rows) {
        out += &line(&sequence.sequence, &|i| row.get(i).cloned().unwrap_or_default());
        if let Some(consumers) = sequence.consumers.as_ref().filter(|text| !has_room && *text != NO_COLUMN) {
            let names: Vec<String> =
                consumers.split_whitespace().map(|name| cut(name, width.saturating_sub(INDENT))).collect();
            out += &wrap(&format!("  of {}", names.join(" ")), INDENT, width);
        }
        for remark in remarks(sequence) {
            out += &wrap(&format!("  {remark}"), INDENT, width);
        }
    }
    let left_out: Vec<&str> = COLUMNS
        .iter()
        .enumerate()
        .filter(|(index, _)| !shown.contains(index) && Some(*index) != consumers)
        .filter(|(index, _)| widths.get(*index).is_some_and(|width| *width > 0))
        .map(|(_, column)| column.heading)
        .collect();
    if !left_out.is_empty() {
        out += &wrap(&format!("(no room for: {}; --json has all)", left_out.join(", ")), 1, width);
    }
    out
}

/// The columns that fit, the worthiest first, in the order in which they are shown.
fn choose(widths: &[usize], name_width: usize, width: usize) -> Vec<usize> {
    let mut by_worth: Vec<usize> = (0..COLUMNS.len()).collect();
    by_worth.sort_by_key(|index| std::cmp::Reverse(COLUMNS.get(*index).map(|column| column.worth)));
    // The name gives way to a few columns, but not to all.
    let mut left = width.saturating_sub(name_width.min(width * 2 / 5));
    let mut shown = Vec::new();
    for index in by_worth {
        let needed = match widths.get(index) {
            None | Some(0) => continue,
            Some(width) => width + GAP,
        };
        if needed > left {
            break;
        }
        left -= needed;
        shown.push(index);
    }
    shown.sort_unstable();
    shown
}

fn remarks(sequence: &SequenceLine) -> Vec<String> {
    let mut remarks: Vec<String> = sequence.reason.iter().cloned().collect();
    if sequence.behind {
        remarks.push("BEHIND: its next value is in use, or will be".to_owned());
    }
    if !sequence.set_aside.is_empty() {
        let ids: Vec<String> = sequence.set_aside.iter().map(|id| number(*id)).collect();
        remarks.push(format!("set aside: {}", ids.join(" ")));
    }
    remarks
}

fn state(sequence: &SequenceLine, _: Timestamp) -> String {
    if sequence.behind { "BEHIND".to_owned() } else { sequence.state.clone() }
}

fn lasts(sequence: &SequenceLine, _: Timestamp) -> String {
    sequence.lead_seconds.map_or_else(dash, seconds)
}

fn advanced(sequence: &SequenceLine, now: Timestamp) -> String {
    let at = sequence.last_advance.as_ref().and_then(|at| at.parse::<Timestamp>().ok());
    let ago = at.and_then(|at| now.since(at).ok()).and_then(|span| span.total(Unit::Second).ok());
    ago.map_or_else(dash, |ago| format!("{} ago", seconds(ago.max(0.0))))
}

/// `0.3 s`, `12 s`, `5 min`, `3 h`, `2 d`.
fn seconds(value: f64) -> String {
    let units = [("s", 120.0, 1.0), ("min", 7200.0, 60.0), ("h", 172_800.0, 3600.0)];
    match units.iter().find(|(_, below, _)| value < *below) {
        Some((unit, _, length)) if value < 10.0 && value > 0.0 => format!("{:.1} {unit}", value / length),
        Some((unit, _, length)) => format!("{:.0} {unit}", value / length),
        None => format!("{:.0} d", value / 86_400.0),
    }
}

fn size(value: i64) -> String {
    bytes(u64::try_from(value).unwrap_or(0))
}

fn int(n: usize) -> String {
    number(i64::try_from(n).unwrap_or(i64::MAX))
}

fn dash() -> String {
    "–".to_owned()
}

fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    kept + "…"
}

/// Words in lines of `width`; the first line as it stands, the others indented.
fn wrap(text: &str, indent: usize, width: usize) -> String {
    let first = text.len() - text.trim_start().len();
    let mut out = " ".repeat(first);
    let mut column = first;
    // Two words or more apart in a heading stay apart.
    let (head, rest) = text.trim_start().split_at(text.trim_start().find("  ").unwrap_or(0));
    out += head;
    column += head.chars().count();
    let padding = if head.is_empty() { 0 } else { rest.len() - rest.trim_start().len() };
    out += &" ".repeat(padding);
    column += padding;
    let mut starts_line = true;
    for word in rest.split_whitespace() {
        let length = word.chars().count();
        if !starts_line && column + 1 + length > width {
            out += "\n";
            out += &" ".repeat(indent);
            column = indent;
            starts_line = true;
        }
        if !starts_line {
            out.push(' ');
            column += 1;
        }
        out += word;
        column += length;
        starts_line = false;
    }
    out.trim_end().to_owned() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::status::{Counts, SCHEMA, Sidecar};

    fn line(name: &str, value: i64) -> SequenceLine {
        SequenceLine {
            sequence: name.to_owned(),
            consumers: Some(format!("{name}.id")),
            state: "covered".to_owned(),
            publisher_value: Some(value),
            mark: Some(value),
            source: Some("sequence".to_owned()),
            subscriber_value: Some(value + 32),
            next_value: Some(value + 33),
            lead: Some(32),
            lead_seconds: Some(1.5),
            ids_per_second: Some(21),
            last_advance: Some("2026-11-21T15:00:00Z".to_owned()),
            ..SequenceLine::default()
        }
    }

    fn status(sequences: Vec<SequenceLine>) -> Status {
        Status {
            schema: SCHEMA,
            at: "2026-11-21T15:05:00Z".to_owned(),
            well: true,
            sidecar: Some(Sidecar {
                version: "0.1.0".to_owned(),
                pid: Some(4711),
                console: "/run/x".into(),
                protecting: true,
            }),
            note: None,
            stream: Stream {
                state: "streaming".to_owned(),
                received_lsn: Some("16/B374D848".to_owned()),
                confirmed_lsn: Some("16/B374D848".to_owned()),
                lag_bytes: Some(3_000_000),
                lag_seconds: Some(0.4),
                ids_per_second: Some(123_456.7),
                ..Stream::default()
            },
            slot: Some(SlotLine {
                name: "orders".to_owned(),
                state: "streaming".to_owned(),
                retained_bytes: Some(3_000_000),
                ceiling_bytes: Some(1 << 30),
                lost: Some(2),
                reason: None,
                held_by_sidecar: true,
            }),
            counts: Counts { covered: sequences.len(), ..Counts::default() },
            sequences,
        }
    }

    #[test]
    fn at_80_columns_it_reads_well() {
        let mut held = line("billing.invoice_numbers_seq", 12);
        held.state = "held".to_owned();
        held.reason = Some("it is locked on the subscriber ".to_owned() + &"and so on ".repeat(12));
        held.set_aside = vec![9_000_000_000];
        let text = of(&status(vec![line("public.orders_id_seq", 1_234_567), held]), 80);
        let expected = "\
sidecar   running, process 4711, version 0.1.0
stream    streaming, received 16/B374D848, confirmed 16/B374D848, lag 2.9 MB,
          0.4 s, 123457 ids/s
slot      orders: streaming, holds back 2.9 MB of at most 1.0 GB, lost 2 times
          until now
sequences 2 sequences: 2 covered

sequence                     state         mark  subscriber  lead  lasts
──────────────────────────────────────────────────────────────────────────";
        assert!(text.starts_with(expected.lines().take(7).collect::<Vec<_>>().join("\n").as_str()), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(text.contains("\n  it is locked") && text.contains("set aside: 9,000,000,000"), "{text}");
        assert!(text.contains("\n  of public.orders_id_seq.id\n"), "{text}");
        assert!(text.contains("(no room for: ") && !text.contains("consumer"), "{text}");
    }

    #[test]
    fn a_sidecar_that_was_not_asked_is_not_said_to_be_away() {
        let mut status = status(vec![line("public.orders_id_seq", 1)]);
        status.sidecar = None;
        status.note = Some("a sidecar streams, but no console answers in /run/x".to_owned());
        let text = of(&status, 80);
        assert!(text.starts_with("sidecar   streams, but was not asked: looked at both servers\n"), "{text}");
        assert!(text.contains("no console answers in /run/x") && !text.contains("not running"), "{text}");
    }

    #[test]
    fn a_wider_terminal_gets_more_columns_and_a_narrow_one_fewer() {
        let all = of(&status(vec![line("public.orders_id_seq", 1_234_567)]), 200);
        for column in COLUMNS {
            assert!(all.contains(column.heading), "{}: {all}", column.heading);
        }
        assert!(all.contains("1.5 s") && all.contains("5 min ago") && !all.contains("no room"), "{all}");
        let huge = line(&"very_long_schema.".repeat(8), i64::MAX - 40);
        for width in [40, 60, 80, 120] {
            let text = of(&status(vec![huge.clone()]), width);
            assert!(text.lines().all(|line| line.chars().count() <= width), "{width}: {text}");
            assert!(text.contains("covered"), "{width}: {text}");
        }
    }

    #[test]
    fn times_have_the_unit_that_fits() {
        for (value, text) in
            [(0.0, "0 s"), (0.34, "0.3 s"), (99.0, "99 s"), (600.0, "10 min"), (86_400.0, "24 h")]
        {
            assert_eq!(seconds(value), text);
        }
        assert_eq!(seconds(864_000.0), "10 d");
    }
}
