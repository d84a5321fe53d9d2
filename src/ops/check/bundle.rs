//! Many findings of one kind become one, so that a schema with a thousand tables prints a page and not a book.
//!
//! In: the findings of one code. Out: up to [`NAMED`] of a side as they are; of more, one that names the first of them,
//! counts the others, and holds the names and the mending statements of all.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use super::Finding;

/// So many of a kind are told one by one.
const NAMED: usize = 5;

/// `thing` is what there are many of: `table`, `sequence`.
pub(super) fn bundle(found: Vec<Finding>, thing: &str) -> Vec<Finding> {
    let mut sides: Vec<(Option<&'static str>, Vec<Finding>)> = Vec::new();
    for finding in found {
        match sides.iter_mut().find(|(side, _)| *side == finding.side) {
            Some((_, known)) => known.push(finding),
            None => sides.push((finding.side, vec![finding])),
        }
    }
    let told = |(_, group): (_, Vec<Finding>)| {
        if group.len() <= NAMED { group } else { together(&group, thing).into_iter().collect() }
    };
    sides.into_iter().flat_map(told).collect()
}

fn together(group: &[Finding], thing: &str) -> Option<Finding> {
    let first = group.first()?;
    let alike = group.iter().all(|finding| finding.message == first.message);
    let named = group.iter().take(NAMED);
    let more = group.len().saturating_sub(NAMED);
    let message = if alike {
        let names: Vec<&str> = named.map(|finding| finding.object.as_str()).collect();
        format!("each {} ({} and {more} more)", first.message, names.join(", "))
    } else {
        let texts: Vec<String> = named.map(|f| format!("{} {}", f.object, f.message)).collect();
        format!("{}; and {more} more", texts.join("; "))
    };
    // A statement that goes for many is the last one of each: once, after the others, is enough.
    // A schema is needed from the first on.
    let (mut known, mut schemas) = (HashSet::new(), HashSet::new());
    let mends: Vec<String> =
        group.iter().filter_map(|finding| finding.mend.as_deref()).flat_map(statements).collect();
    let is_schema = |statement: &str| statement.starts_with("CREATE SCHEMA ");
    let mut mends: Vec<&str> = mends.iter().map(String::as_str).collect();
    mends.retain(|statement| !is_schema(statement) || schemas.insert(*statement));
    mends.reverse();
    mends.retain(|statement| known.insert(*statement));
    mends.reverse();
    let mut advice: Vec<&str> = Vec::new();
    for text in group.iter().filter_map(|finding| finding.advice.as_deref()) {
        if !advice.contains(&text) {
            advice.push(text);
        }
    }
    let advice = advice.join("; ");
    Some(Finding {
        object: format!("{} {thing}s", group.len()),
        objects: group.iter().map(|finding| finding.object.clone()).collect(),
        message,
        advice: (!advice.is_empty()).then_some(advice),
        mend: (!mends.is_empty()).then(|| mends.join("\n")),
        mend_for: group.iter().find_map(|finding| finding.mend_for),
        ..first.clone()
    })
}

/// Of findings of one kind that the same statements mend, as of partitions by their root, the first has them.
pub(super) fn once(found: &mut [Finding]) {
    let mut known: HashMap<(&'static str, Option<&'static str>, String), String> = HashMap::new();
    for finding in found {
        let Some(mend) = finding.mend.clone() else { continue };
        match known.entry((finding.code, finding.side, mend)) {
            Entry::Occupied(first) => {
                let said = format!("what mends {} mends this", first.get());
                finding.advice = Some(match finding.advice.take() {
                    Some(advice) => format!("{said}; {advice}"),
                    None => said,
                });
                finding.mend = None;
                finding.mend_for = None;
            }
            Entry::Vacant(place) => {
                place.insert(finding.object.clone());
            }
        }
    }
}

/// Statements begin at the margin, and go on in indented lines.
fn statements(mend: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for line in mend.lines() {
        match found.last_mut().filter(|_| line.starts_with(' ')) {
            Some(statement) => {
                statement.push('\n');
                statement.push_str(line);
            }
            None => found.push(line.to_owned()),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{Code, Severity};

    const CODE: Code = Code { code: "c", severity: Severity::Notice, meaning: "" };

    fn findings(count: usize, message: impl Fn(usize) -> String) -> Vec<Finding> {
        (0..count)
            .map(|n| {
                Finding::on_publisher(&CODE, format!("t{n}"), message(n))
                    .mend(format!("MEND t{n};\nREFRESH;"))
            })
            .collect()
    }

    #[test]
    fn few_are_told_one_by_one_and_many_together() {
        let few = findings(NAMED, |_| "is odd".to_owned());
        assert_eq!(bundle(few.clone(), "table"), few);
        let mut many = findings(7, |_| "is odd".to_owned());
        many.push(Finding::on_subscriber(&CODE, "t9", "is odd"));
        let [one, other] = bundle(many, "table").try_into().unwrap();
        assert_eq!(one.object, "7 tables");
        assert_eq!(one.objects, ["t0", "t1", "t2", "t3", "t4", "t5", "t6"]);
        assert_eq!(one.message, "each is odd (t0, t1, t2, t3, t4 and 2 more)");
        assert_eq!(
            one.mend.unwrap(),
            "MEND t0;\nMEND t1;\nMEND t2;\nMEND t3;\nMEND t4;\nMEND t5;\nMEND t6;\nREFRESH;"
        );
        assert_eq!((other.side, other.object.as_str()), (Some("subscriber"), "t9"));
    }

    #[test]
    fn statements_of_several_lines_stay_together() {
        let found = (0..6).map(|n| Finding::on_publisher(&CODE, format!("t{n}"), "is odd"));
        let found = found.map(|f| f.clone().mend(format!("MAKE {}\n  LIKE THE OTHERS;", f.object)));
        let mend = bundle(found.collect(), "table").first().unwrap().mend.clone().unwrap();
        assert_eq!(mend.matches("LIKE THE OTHERS").count(), 6);
        assert!(mend.starts_with("MAKE t0\n  LIKE THE OTHERS;\nMAKE t1\n"), "{mend}");
    }

    #[test]
    fn what_mends_several_is_told_once() {
        let found = |name: &str| Finding::on_publisher(&CODE, name, "is odd").mend("MEND root;");
        let mut all = vec![found("part_1"), found("part_2").advise("with care"), found("part_3")];
        once(&mut all);
        let told: Vec<_> = all.iter().map(|f| (f.mend.as_deref(), f.advice.as_deref())).collect();
        let first = "what mends part_1 mends this";
        assert_eq!(
            told,
            [
                (Some("MEND root;"), None),
                (None, Some("what mends part_1 mends this; with care")),
                (None, Some(first))
            ]
        );
    }

    #[test]
    fn a_schema_is_made_before_what_is_in_it() {
        let found = (0..6).map(|n| {
            Finding::on_publisher(&CODE, format!("t{n}"), "is odd")
                .mend(format!("CREATE SCHEMA IF NOT EXISTS s;\nMAKE s.t{n};"))
        });
        let mend = bundle(found.collect(), "table").first().unwrap().mend.clone().unwrap();
        assert!(mend.starts_with("CREATE SCHEMA IF NOT EXISTS s;\nMAKE s.t0;\nMAKE s.t1;"), "{mend}");
    }

    #[test]
    fn what_is_said_of_each_is_kept_where_it_differs() {
        let found = bundle(findings(6, |n| format!("holds {n}")), "table");
        let message = "t0 holds 0; t1 holds 1; t2 holds 2; t3 holds 3; t4 holds 4; and 1 more";
        assert_eq!(found.first().unwrap().message, message);
    }
}
