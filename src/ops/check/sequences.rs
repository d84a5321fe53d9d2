//! The sequences: how each is covered, whether both sides define it alike, and whether it lasts.

use super::{Code, Context, Finding, Severity};

const NOT_COVERED: Code = Code {
    code: "sequence-not-covered",
    severity: Severity::Notice,
    meaning: "The stream does not show every id of this sequence, so that it is followed by polling the publisher.",
};

/// What this file finds.
pub(super) const CODES: &[Code] = &[NOT_COVERED];

pub(super) fn findings(context: &Context<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    for one in context.survey.sequences.iter().filter(|one| one.managed.excluded.is_none()) {
        if let Some(crate::catalog::coverage::Coverage::Blind(why)) = &one.managed.coverage {
            found.push(Finding::new(
                &NOT_COVERED,
                one.managed.sequence.name.to_string(),
                format!("is followed by polling: {}", why.join("; ")),
            ));
        }
    }
    found
}
