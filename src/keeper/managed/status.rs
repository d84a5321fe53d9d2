//! What a person is told of a sequence: its class, why it is not simply covered, and the SQL that mends it.

use super::{Hold, Managed};
use crate::catalog::coverage::Coverage;
use crate::catalog::{ByFunction, Consumer, Readable};
use crate::plan::Column;
use crate::registry::{Class, SequenceStatus};
use crate::types::quote_identifier;

impl Managed {
    /// What must be granted to `role`, as far as the catalog knows: all of it where the catalog sees nothing missing.
    fn missing_grants(&self, role: &str) -> String {
        let (name, role) = (&self.sequence.name, quote_identifier(role));
        let has = self.sequence.privileges;
        let mut sql = String::new();
        if !has.schema {
            sql = format!("GRANT USAGE ON SCHEMA {} TO {role}; ", quote_identifier(&name.schema));
        }
        let rights = [("USAGE", has.usage), ("SELECT", has.select), ("UPDATE", has.update)];
        let missing: Vec<&str> = rights.iter().filter(|(_, has)| !has).map(|(right, _)| *right).collect();
        let missing =
            if missing.is_empty() { "USAGE, SELECT, UPDATE".to_owned() } else { missing.join(", ") };
        sql + &format!("GRANT {missing} ON SEQUENCE {name} TO {role};")
    }

    /// Why it is held, with the SQL that mends it.
    #[must_use]
    pub fn hold_text(&self, hold: &Hold, role: &str) -> String {
        let name = &self.sequence.name;
        match hold {
            Hold::Plan(held) => {
                let end = held.end().map(|end| end.value);
                let too_narrow = |c: &&Consumer| {
                    let (lowest, highest) = c.range.clone().into_inner();
                    let holds_ids = matches!(c.readable, Readable::Yes(_));
                    !c.inherited
                        && c.numeric
                        && holds_ids
                        && end == Some(if self.descending() { lowest } else { highest })
                };
                let columns: Vec<Column<'_>> = self
                    .sequence
                    .consumers
                    .iter()
                    .filter(too_narrow)
                    .map(|c| Column { table: &c.table, name: &c.column })
                    .collect();
                let sql = held.mending_sql(name, &columns).join(" ");
                if sql.is_empty() { held.to_string() } else { format!("{held}; on the subscriber: {sql}") }
            }
            Hold::Denied => {
                let sql = self.missing_grants(role);
                let role = quote_identifier(role);
                let has = self.sequence.privileges;
                if has.function == ByFunction::OutOfReach && has.may_read() && !self.cycles() {
                    return format!(
                        "the role {role} lacks the right to advance it, and may not have it advanced by the function \
                         either; run: seqshadow setup --role {role} --advance-function --grant (with the schema that it \
                         has here)"
                    );
                }
                format!("the role {role} lacks the right to read or advance it; on the subscriber: {sql}")
            }
            Hold::Locked => {
                "it is locked on the subscriber (a TRUNCATE or ALTER SEQUENCE in progress)".to_owned()
            }
            Hold::Failed(why) => {
                format!("the subscriber refused, and is asked again every few seconds: {why}")
            }
        }
    }

    #[must_use]
    pub fn class(&self) -> Class {
        if self.excluded.is_some() {
            Class::Excluded
        } else if self.hold.is_some() || self.is_out_of_sight() {
            Class::Held
        } else {
            match self.coverage {
                Some(Coverage::Covered { .. }) => Class::Covered,
                Some(Coverage::Blind(_)) | None => Class::Blind,
            }
        }
    }

    /// Why it is not simply covered, and what else a person should know.
    #[must_use]
    pub fn reason(&self, role: &str) -> Option<String> {
        let mut reasons = Vec::new();
        if let Some(why) = self.excluded {
            reasons.push(why.to_owned());
        }
        match &self.coverage {
            Some(Coverage::Blind(why) | Coverage::Covered { but: why }) if self.excluded.is_none() => {
                reasons.extend(why.iter().cloned());
            }
            None if self.excluded.is_none() => reasons.push("the publisher was not asked yet".to_owned()),
            _ => {}
        }
        if self.unreadable {
            reasons.push("values in the stream could not be read as ids".to_owned());
        }
        if let Some((_, value)) = &self.publisher {
            reasons.extend(value.unread.clone());
            reasons.extend(value.mismatch.clone());
        }
        // Last, so that the line ends with the SQL.
        if let Some(hold) = &self.hold {
            reasons.push(self.hold_text(hold, role));
        }
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }

    #[must_use]
    pub fn status(&self, role: &str) -> SequenceStatus {
        let mark = self.mark();
        SequenceStatus {
            name: self.sequence.name.clone(),
            consumers: self.sequence.consumers_text(),
            class: self.class(),
            settled: self.settled,
            reason: self.reason(role),
            publisher_value: self.publisher_exact().and_then(|state| state.mark(&self.sequence.definition)),
            mark: mark.map(|(mark, _)| mark),
            source: mark.map(|(_, source)| source),
            next_value: self.state.and_then(|state| state.next(&self.sequence.definition)),
            last_value: self.state.map(|state| state.last_value),
            lead_steps: self.lead_steps(),
            behind: self.is_behind(),
            meter: self.meter.clone(),
            advances: self.advances,
            last_advance: self.last_advance,
            rewinds: self.rewinds,
            set_aside: self.set_aside.iter().copied().collect(),
        }
    }
}
