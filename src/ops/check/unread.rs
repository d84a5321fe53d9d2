//! What could not be looked at is said, and does not end the whole check.

use super::{Code, Finding, Severity};
use crate::readings::{Trouble, trouble};
use crate::sides::SidesError;
use crate::sql::{SqlError, describe};

const NOT_LOOKED_AT: Code = Code {
    code: "not-looked-at",
    severity: Severity::Warning,
    meaning: "A server refused to show something, so that nothing is known of it.",
};

const LOCKED: Code = Code {
    code: "locked",
    severity: Severity::Notice,
    meaning: "Something was locked while it was to be looked at: run check again.",
};

/// What this file finds.
pub(super) const CODES: &[Code] = &[NOT_LOOKED_AT, LOCKED];

/// The findings about `what`, or, where a server refused to tell, that it did.
///
/// # Errors
/// Where a connection is lost.
pub(super) fn or_said(
    what: &str,
    looked: Result<Vec<Finding>, SidesError>,
) -> Result<Vec<Finding>, SidesError> {
    let Err(SidesError::Sql { side, source: SqlError::Query(error) }) = &looked else { return looked };
    match trouble(error).filter(|_| error.as_db_error().is_some()) {
        // The connection is lost.
        None => looked,
        Some(Trouble::Locked) => {
            let message = "are locked, or took too long to look at: run check again";
            Ok(vec![Finding { side: Some(side), ..Finding::new(&LOCKED, what, message) }])
        }
        Some(_) => Ok(vec![not_looked_at(what, side, &describe(error))]),
    }
}

/// `what` could not be looked at on `side`, for the reason that the server gave.
pub(super) fn not_looked_at(what: &str, side: &'static str, why: &str) -> Finding {
    let message = format!("could not be looked at: {why}");
    let advice = "give our role what the server's answer asks for, and check again";
    Finding { side: Some(side), ..Finding::new(&NOT_LOOKED_AT, what, message).advise(advice) }
}

/// The published tables could not be listed, for one of them is locked.
pub(super) fn published_tables_are_locked() -> Finding {
    let message = "could not be listed while one of them is locked, and were not compared: run check again";
    Finding::on_publisher(&LOCKED, "published tables", message)
}
