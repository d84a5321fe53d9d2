//! What `setup` makes is called, and how it is known again: by a comment that names the slot. Pure.

use super::super::OpsError;
use crate::config::Settings;
use crate::sides::SidesError;
use crate::types::SlotName;

/// PostgreSQL cuts longer names off (`NAMEDATALEN`).
const NAME_BYTES: usize = 63;

/// The names of everything that belongs to one slot.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    pub slot: SlotName,
    pub publication: String,
    /// The role on the publisher that holds what the daemon's role may do there.
    pub reads: String,
    /// The role on the subscriber that holds the rights to move sequences.
    pub moves: String,
    /// The role on the subscriber that holds what is needed where the advance-only function moves them.
    pub calls: String,
}

impl Names {
    /// From the slot's name and the publication's, if it was given.
    ///
    /// # Errors
    /// Where there is no slot, are several publications, or a name would be too long.
    pub(crate) fn of(settings: &Settings) -> Result<Self, OpsError> {
        let slot = settings.required_slot().map_err(SidesError::from)?.clone();
        let publication = match settings.publications.as_slice() {
            [] => format!("seqshadow_{slot}"),
            [only] => only.clone(),
            several => {
                return Err(setting(
                    format!("several publications are named ({}), and setup makes one", several.join(", ")),
                    "give --publication once, or not at all",
                ));
            }
        };
        let names = Names {
            publication,
            reads: format!("seqshadow_{slot}_reads"),
            moves: format!("seqshadow_{slot}_moves"),
            calls: format!("seqshadow_{slot}_calls"),
            slot,
        };
        for name in [&names.publication, &names.reads, &names.moves] {
            if name.len() > NAME_BYTES {
                return Err(setting(
                    format!("the name {name:?} is longer than {NAME_BYTES} bytes"),
                    "use a shorter name for the slot, and for the publication where it was given",
                ));
            }
        }
        Ok(names)
    }

    /// The comment on our publication, function and schema.
    pub(crate) fn publication_mark(&self) -> String {
        format!("made by seqshadow setup, slot {}", self.slot)
    }

    /// The comment on our roles, which all databases of a server share.
    pub(crate) fn role_mark(&self, database: &str) -> String {
        format!("made by seqshadow setup, slot {}, database {database}", self.slot)
    }
}

fn setting(what: String, action: &str) -> OpsError {
    SidesError::Setting { what, action: action.to_owned() }.into()
}
