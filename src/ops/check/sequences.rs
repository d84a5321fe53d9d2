//! The sequences: how each is followed, and what keeps one from being followed.

use super::bundle::bundle;
use super::widen::mending;
use super::{Code, Context, Finding, Severity};
use crate::catalog::Persistence;
use crate::catalog::coverage::{Coverage, INSIDE_TEXT};
use crate::keeper::{Hold, Managed, Todo};
use crate::ops::plan::todo;
use crate::ops::survey::Surveyed;

const HELD: Code = Code {
    code: "sequence-held",
    severity: Severity::Blocker,
    meaning: "The subscriber's sequence cannot be put past the furthest id: its nextval would fail, or repeat an id.",
};
const COVERED_IN_PART: Code = Code {
    code: "sequence-covered-in-part",
    severity: Severity::Warning,
    meaning: "The stream shows the ids that are inserted, but nobody sees those that an UPDATE sets.",
};
const NOT_COVERED: Code = Code {
    code: "sequence-not-covered",
    severity: Severity::Notice,
    meaning: "The stream does not show every id of this sequence, so that it is followed by polling the publisher.",
};
const COLUMN_UNKNOWN: Code = Code {
    code: "sequence-column-unknown",
    severity: Severity::Warning,
    meaning: "Something seems to take values of this sequence for a column that cannot be named with certainty: no table is looked at for it, and nothing proves it past every id.",
};
const CYCLES: Code = Code {
    code: "sequence-cycles",
    severity: Severity::Notice,
    meaning: "No id of a CYCLE sequence is the furthest: it is given the publisher's exact state, and has no lead.",
};
const NOT_MANAGED: Code = Code {
    code: "sequence-not-managed",
    severity: Severity::Notice,
    meaning: "An unlogged or temporary sequence of the subscriber is left alone: nothing that is written to it is durable.",
};
const UNLOGGED_HERE: Code = Code {
    code: "sequence-unlogged",
    severity: Severity::Blocker,
    meaning: "A sequence of the subscriber is unlogged and the publisher's is not: nothing follows it, and its nextval repeats ids.",
};
const UNREAD: Code = Code {
    code: "sequence-unread",
    severity: Severity::Notice,
    meaning: "Where a sequence stands could not be read now, so that nothing is said of it.",
};
const NOT_LOOKED_AT: Code = Code {
    code: "ids-not-looked-at",
    severity: Severity::Warning,
    meaning: "The ids in a column cannot be read cheaply on either server: verify and cutover say no unless they are given --full, which scans it.",
};
const SET_ASIDE: Code = Code {
    code: "ids-set-aside",
    severity: Severity::Notice,
    meaning: "A single id lies so far past its sequence that it is not followed: the sequence follows the others.",
};

/// Ids inside text have no other way; an index helps a column of integers.
const SCAN: &str = "give verify and cutover --full: they scan such columns on the subscriber";

/// The same for each, so that it is told once.
const NAME_COLUMN: &str = "if a column takes its values, make that known on the subscriber with ALTER SEQUENCE ... \
                           OWNED BY TABLE.COLUMN";

/// What stands in a statement for a name that is not known.
const PLACES: [&str; 4] = [" TABLE.COLUMN;", ".COLUMN;", " TABLE_NAME ", " COLUMN_NAME "];

/// What this file finds.
pub(super) const CODES: &[Code] = &[
    HELD,
    COVERED_IN_PART,
    NOT_COVERED,
    COLUMN_UNKNOWN,
    CYCLES,
    NOT_MANAGED,
    UNLOGGED_HERE,
    UNREAD,
    NOT_LOOKED_AT,
    SET_ASIDE,
];

pub(super) fn findings(context: &Context<'_>) -> Vec<Finding> {
    let of = |told: fn(&Surveyed, &Context<'_>) -> Option<Finding>| {
        let all = context.survey.sequences.iter();
        bundle(all.filter_map(|one| told(one, context)).collect(), "sequence")
    };
    let followed: [fn(&Surveyed, &Context<'_>) -> Option<Finding>; 9] = [
        held,
        covered_in_part,
        not_covered,
        column_unknown,
        cycles,
        not_managed,
        unread,
        not_looked_at,
        set_aside,
    ];
    followed.into_iter().flat_map(of).collect()
}

fn name(one: &Managed) -> String {
    one.sequence.name.to_string()
}

fn held(one: &Surveyed, context: &Context<'_>) -> Option<Finding> {
    let managed = &one.managed;
    if managed.excluded.is_some() {
        return None;
    }
    // What our role lacks the right for is told where the rights are, and a lock is no reason.
    let Todo::Hold(hold @ (Hold::Plan(_) | Hold::Failed(_))) = todo(managed, context.settings.lead) else {
        return None;
    };
    let (message, mend) = match &hold {
        Hold::Plan(held) => {
            (format!("cannot be put past the furthest id: {held}"), mending(&managed.sequence, held))
        }
        _ => (managed.hold_text(&hold, &context.survey.role), String::new()),
    };
    let finding = Finding::on_subscriber(&HELD, name(managed), message);
    Some(finding.mend(mend))
}

fn covered_in_part(one: &Surveyed, _: &Context<'_>) -> Option<Finding> {
    let Some(Coverage::Covered { but }) = &one.managed.coverage else { return None };
    // That ids inside text are not looked at is told as such, whatever the publication shows: nothing but a scan reads them.
    let is_told = |why: &&String| !one.gaps.is_empty() && why.ends_with(INSIDE_TEXT);
    let but: Vec<&str> = but.iter().filter(|why| !is_told(why)).map(String::as_str).collect();
    let told = one.managed.excluded.is_none() && !but.is_empty();
    told.then(|| {
        Finding::new(&COVERED_IN_PART, name(&one.managed), format!("is covered, but {}", but.join("; ")))
    })
}

fn not_covered(one: &Surveyed, _: &Context<'_>) -> Option<Finding> {
    let Some(Coverage::Blind(why)) = &one.managed.coverage else { return None };
    let is_suspected = !one.managed.sequence.suspects.is_empty();
    let told = one.managed.excluded.is_none() && !one.managed.cycles() && !is_suspected;
    let message = format!("is followed by polling: {}", why.join("; "));
    let finding = Finding::new(&NOT_COVERED, name(&one.managed), message);
    let has_column = !one.managed.sequence.consumers.is_empty();
    told.then(|| if has_column { finding } else { finding.advise(NAME_COLUMN) })
}

fn column_unknown(one: &Surveyed, _: &Context<'_>) -> Option<Finding> {
    let sequence = &one.managed.sequence;
    let told = one.managed.excluded.is_none() && !sequence.suspects.is_empty();
    let unknown = sequence.unknown_column().filter(|_| told)?;
    let by = if sequence.consumers.is_empty() { "alone" } else { "and what its known columns hold" };
    let message = format!("{unknown}; is followed by polling, by the publisher's own {by}");
    let finding = Finding::on_subscriber(&COLUMN_UNKNOWN, name(&one.managed), message);
    // A statement is certain where there is one for all; several are for somebody to choose from, and so are those in
    // which a name has to be put.
    let mut all: Vec<String> = sequence.naming_sql().into_iter().flatten().collect();
    all.dedup();
    let has_place = |sql: &String| PLACES.iter().any(|place| sql.contains(place));
    if let [only] = all.as_slice()
        && !has_place(only)
    {
        return Some(finding.mend(only).advise("do so where the column holds its values unchanged"));
    }
    let choice = all.iter().map(|sql| sql.trim_end_matches(';')).collect::<Vec<_>>().join(", or ");
    Some(finding.advise(format!("where a column holds its values unchanged, this makes it known: {choice}")))
}

fn cycles(one: &Surveyed, _: &Context<'_>) -> Option<Finding> {
    let told = one.managed.excluded.is_none() && one.managed.cycles();
    let message = "may CYCLE: it is given the publisher's exact state";
    told.then(|| Finding::new(&CYCLES, name(&one.managed), message))
}

fn not_managed(one: &Surveyed, _: &Context<'_>) -> Option<Finding> {
    if one.managed.excluded.is_some()
        && let Some(why) = one.gaps.first()
    {
        let message = format!("is unlogged, and {why}");
        let finding = Finding::on_subscriber(&UNLOGGED_HERE, name(&one.managed), message);
        // That of a serial or identity column is as its table is.
        let sequence = &one.managed.sequence;
        let owner = sequence.owners().next().map(|owner| format!("TABLE {}", owner.table));
        let whose = owner.unwrap_or_else(|| format!("SEQUENCE {}", sequence.name));
        return Some(finding.mend(format!("ALTER {whose} SET LOGGED;")));
    }
    let message = match one.managed.sequence.persistence {
        Persistence::Permanent => return None,
        Persistence::Unlogged => "is unlogged, and left alone",
        Persistence::Temporary => "is temporary, and left alone",
    };
    Some(Finding::on_subscriber(&NOT_MANAGED, name(&one.managed), message))
}

fn unread(one: &Surveyed, _: &Context<'_>) -> Option<Finding> {
    let managed = &one.managed;
    if managed.excluded.is_some() {
        return None;
    }
    if managed.hold == Some(Hold::Locked) {
        let message = "is locked on the subscriber: run check again";
        return Some(Finding::on_subscriber(&UNREAD, name(managed), message));
    }
    let value = managed.publisher_value()?;
    // That it is not there, or that a right is missing, is told elsewhere.
    let why = value.unread.as_ref().filter(|_| !value.absent && !value.denied)?;
    Some(Finding::on_publisher(&UNREAD, name(managed), format!("could not be read: {why}")))
}

fn not_looked_at(one: &Surveyed, _: &Context<'_>) -> Option<Finding> {
    let told = one.managed.excluded.is_none() && !one.gaps.is_empty();
    told.then(|| {
        // Where a right is missing the text ends with what grants it.
        let mut grants = Vec::new();
        let text = |gap: &String| match gap.split_once(": GRANT ") {
            Some((what, grant)) if grant.ends_with(';') => {
                grants.push(format!("GRANT {grant}"));
                format!("{what}: our role may not read it")
            }
            _ => gap.clone(),
        };
        let gaps: Vec<String> = one.gaps.iter().map(text).collect();
        let scan = if gaps.iter().any(|gap| gap.contains("--full")) { SCAN } else { "" };
        Finding::on_subscriber(&NOT_LOOKED_AT, name(&one.managed), gaps.join("; "))
            .mend(grants.join("\n"))
            .advise(scan)
    })
}

fn set_aside(one: &Surveyed, _: &Context<'_>) -> Option<Finding> {
    let ids: Vec<String> = one.managed.set_aside().map(|id| id.to_string()).collect();
    if ids.is_empty() {
        return None;
    }
    let (ids, verb) = (ids.join(", "), if ids.len() == 1 { "lies" } else { "lie" });
    let message = format!("does not follow {ids}, which {verb} far past it; --outliers=follow does");
    Some(Finding::new(&SET_ASIDE, name(&one.managed), message))
}
