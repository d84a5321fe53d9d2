//! What the things that `reverse` makes are called, and the comments by which it knows them again.
//!
//! In: the name of the forward sidecar's slot. Out: [`Names`], and the [`Mark`] that is written as a comment. There is no
//! local state: what a run that was killed has made is found by these.

use serde::{Deserialize, Serialize};

use crate::sides::SidesError;
use crate::types::SlotName;

/// Publication, slot and subscription have one name, which begins so.
const PREFIX: &str = "seqshadow_reverse_";
/// Comments of ours begin so.
const MARK: &str = "seqshadow reverse: ";
/// `NAMEDATALEN - 1`.
const NAME_MAX: usize = 63;

/// The names of one reversal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Names {
    /// The forward sidecar's slot, on the old server.
    pub forward_sidecar: String,
    /// The publication and the slot on the new server, the subscription on the old one. A plain word: a slot's name has
    /// nothing that would have to be quoted.
    pub object: String,
    /// The slot of the sidecar that runs the other way, on the new server.
    pub sidecar: String,
}

impl Names {
    /// The names that belong to `slot`.
    ///
    /// # Errors
    /// When they would be longer than PostgreSQL's names can be.
    pub(super) fn of(slot: &SlotName) -> Result<Self, SidesError> {
        let object = format!("{PREFIX}{slot}");
        if object.len() > NAME_MAX {
            return Err(SidesError::Setting {
                what: format!("slot name \"{slot}\" is too long to name its reverse after it"),
                action: format!(
                    "{object} has {} characters and PostgreSQL's names have at most {NAME_MAX}: reverse by hand, \
                     with a shorter name",
                    object.len()
                ),
            });
        }
        Ok(Names { forward_sidecar: slot.to_string(), object, sidecar: format!("{slot}_reverse") })
    }
}

/// What a comment of ours remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Mark {
    /// The forward subscription that was enabled when we began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscription: Option<String>,
    /// Its slot on the old server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slot: Option<String>,
    /// What it followed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub publications: Vec<String>,
    /// The old server's WAL position before which every row came from the old server itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub switched_at: Option<String>,
}

impl Mark {
    /// The comment.
    pub(super) fn comment(&self) -> String {
        format!("{MARK}{}", serde_json::to_string(self).unwrap_or_default())
    }

    /// Reads a comment; `None` where it is not one of ours.
    pub(super) fn read(comment: Option<&str>) -> Option<Self> {
        let text = comment?.strip_prefix(MARK)?;
        Some(serde_json::from_str(text).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_as_it_was_written_and_others_are_not_ours() {
        let mark = Mark {
            subscription: Some("it's".to_owned()),
            slot: None,
            publications: vec!["a".to_owned(), "B\"".to_owned()],
            switched_at: Some("0/1A".to_owned()),
        };
        assert_eq!(Mark::read(Some(&mark.comment())), Some(mark));
        assert_eq!(Mark::read(Some("seqshadow reverse: of somebody's pen")), Some(Mark::default()));
        assert_eq!(Mark::read(Some("do not touch")), None);
        assert_eq!(Mark::read(None), None);
    }

    #[test]
    fn names_that_do_not_fit_are_refused() {
        let names = Names::of(&"orders".parse().unwrap()).unwrap();
        assert_eq!(
            (names.object.as_str(), names.sidecar.as_str()),
            ("seqshadow_reverse_orders", "orders_reverse")
        );
        assert!(Names::of(&"x".repeat(45).parse().unwrap()).is_ok());
        assert!(Names::of(&"x".repeat(46).parse().unwrap()).is_err());
    }
}
