//! The result as lines: what each table did at the cutover, what it means, and what to do next. No IO.

use super::cutover::{Insert, Outcome};
use super::pair::{Pair, Side};
use super::shop::{DATABASE, SLOT};
use super::text::{Line, Style, count, number, rule, wrap};

/// Columns of the table: name, furthest id, id taken.
const WIDTHS: [usize; 3] = [12, 22, 22];

/// The table of results, and under it what the server said to the control.
#[must_use]
pub fn results(outcomes: &[Outcome]) -> Vec<Line> {
    let [name, furthest, taken] = WIDTHS;
    let mut lines = vec![
        Line::new(),
        Line::new().add(Style::Bold, " One row into each table of the subscriber, without an id"),
        Line::new()
            .left(Style::Dim, " table", name + 1)
            .right(Style::Dim, "furthest on publisher", furthest)
            .right(Style::Dim, "taken on subscriber", taken),
        rule(),
    ];
    lines.extend(outcomes.iter().map(|outcome| {
        let (id, style, verdict) = match &outcome.insert {
            Insert::Took { id, number: value } => {
                let shown = if *id == value.to_string() { number(*value) } else { id.clone() };
                (shown, Style::Good, format!("✓ {} past it", count(outcome.furthest.abs_diff(*value))))
            }
            Insert::Refused { duplicate: true, .. } => {
                ("–".to_owned(), Style::Bad, "✗ duplicate key".to_owned())
            }
            Insert::Refused { .. } => ("–".to_owned(), Style::Bad, "✗ refused".to_owned()),
        };
        Line::new()
            .add(Style::Plain, " ")
            .left(Style::Plain, outcome.table.name, name)
            .right(Style::Plain, &number(outcome.furthest), furthest)
            .right(Style::Bold, &id, taken)
            .add(Style::Plain, "   ")
            .add(style, verdict)
    }));
    lines.push(rule());
    for outcome in outcomes {
        if let Insert::Refused { message, detail, .. } = &outcome.insert {
            for (what, text) in
                [("ERROR", message), ("DETAIL", detail)].into_iter().filter(|(_, t)| !t.is_empty())
            {
                let texts = wrap(&format!("{what}: {text}"), 1);
                lines.extend(texts.into_iter().map(|text| Line::new().add(Style::Bad, text)));
            }
        }
    }
    lines
}

/// What was seen, and what to do next.
#[must_use]
pub fn closing(outcomes: &[Outcome]) -> Vec<Line> {
    let good = outcomes.iter().filter(|outcome| !outcome.table.sequence.control).count();
    let seen = format!(
        "{good} tables went on with ids that the publisher never used. The sequence of \"control\" was left alone, as \
         every sequence is without seqshadow: the first insert after the cutover fails."
    );
    let mut lines = vec![Line::new()];
    lines.extend(plain(&wrap(&seen, 1)));
    lines.push(Line::new());
    lines.push(Line::new().add(Style::Bold, " Next: the same for your own servers"));
    lines.extend(plain(&[
        "   seqshadow --slot orders --publisher 'host=old dbname=app user=seqshadow' \\".to_owned(),
        "                           --subscriber 'host=new dbname=app user=seqshadow'".to_owned(),
    ]));
    lines
}

/// How to reach the servers that were kept, and how to end them.
#[must_use]
pub fn kept(pair: &Pair) -> Vec<Line> {
    let mut texts = Vec::new();
    for (name, cluster) in [("publisher", &pair.publisher), ("subscriber", &pair.subscriber)] {
        texts.push(format!("   # {name}, PostgreSQL {}", cluster.installation().version));
        texts.push(format!("   psql -h 127.0.0.1 -p {} -U postgres {DATABASE}", cluster.port()));
    }
    texts.push("   # go on where the demonstration ended".to_owned());
    texts.push(format!("   seqshadow --slot {SLOT} \\"));
    texts.push(format!("     --publisher  \"{}\" \\", pair.conninfo(Side::Publisher)));
    texts.push(format!("     --subscriber \"{}\"", pair.conninfo(Side::Subscriber)));
    texts.push("   # end them and remove all".to_owned());
    let pid = |pid: Option<u32>| pid.map_or_else(String::new, |pid| pid.to_string());
    texts.push(format!("   kill -INT {} {}; sleep 3", pid(pair.subscriber.pid()), pid(pair.publisher.pid())));
    texts.push(format!(
        "   rm -rf {} {}",
        pair.subscriber.socket_dir().display(),
        pair.publisher.socket_dir().display()
    ));
    let heading = Line::new().add(Style::Bold, " Both servers are kept, open to everybody on this machine");
    [Line::new(), heading].into_iter().chain(plain(&texts)).collect()
}

fn plain(texts: &[String]) -> Vec<Line> {
    texts.iter().map(|text| Line::new().add(Style::Plain, text.as_str())).collect()
}
