//! Slots that survive a failover of the publisher (17 and newer), and what they wait for.
//!
//! A slot with `failover` is copied to the standbys, and waits for those of `synchronized_standby_slots`. Ours should
//! do as the subscription's does: else one of them stays behind, or waits while the other goes on.

use super::{Code, Context, Finding, Severity, up_to_five};
use crate::ops::ask::Side;
use crate::sides::SidesError;
use crate::types::{quote_identifier, quote_literal};

const NOT_SET: Code = Code {
    code: "failover-not-set",
    severity: Severity::Notice,
    meaning: "The subscription's slot survives a failover of the publisher and ours does not: it is made anew then, \
              and everything is looked at again.",
};
const ALONE: Code = Code {
    code: "failover-alone",
    severity: Severity::Warning,
    meaning: "Our slot has failover and the subscription's has not: ours waits for standbys while the subscription \
              goes on, so that the sequences can fall behind.",
};
const ON_STANDBY: Code = Code {
    code: "failover-on-standby",
    severity: Severity::Blocker,
    meaning: "A slot with failover cannot be made on a standby.",
};
const WAITS: Code = Code {
    code: "failover-waits-for-standby",
    severity: Severity::Notice,
    meaning: "synchronized_standby_slots is set: slots with failover, ours too, wait until these standbys have the WAL.",
};
const DEAD_STANDBY: Code = Code {
    code: "failover-standby-away",
    severity: Severity::Warning,
    meaning: "A standby of synchronized_standby_slots is away: slots with failover stand still until it is back.",
};
const NO_STANDBY: Code = Code {
    code: "failover-without-standby",
    severity: Severity::Notice,
    meaning: "Slots with failover are there, but no standby has a slot to keep them in step with: none of them would \
              survive a failover.",
};

/// What this file finds.
pub(super) const CODES: &[Code] = &[NOT_SET, ALONE, ON_STANDBY, WAITS, DEAD_STANDBY, NO_STANDBY];

const VERSION_FAILOVER: u32 = 170_000;

/// What the publisher says.
struct Slots {
    in_recovery: bool,
    /// Ours, where it is there.
    ours: Option<bool>,
    /// That of the subscription, where it is there.
    theirs: Option<bool>,
    physical: bool,
    /// Those of `synchronized_standby_slots`, and whether somebody reads each.
    awaited: Vec<(String, bool)>,
}

async fn ask(context: &Context<'_>) -> Result<Option<Slots>, SidesError> {
    let side = Side::Publisher;
    let client = &context.publisher.client;
    let ours = context.settings.slot.as_ref().map(crate::types::SlotName::as_str);
    let theirs = context.sides.chosen.as_ref().and_then(|chosen| chosen.slot.as_deref());
    let sql = "SELECT pg_is_in_recovery(),
                      (SELECT failover FROM pg_replication_slots WHERE slot_name = $1),
                      (SELECT failover FROM pg_replication_slots WHERE slot_name = $2),
                      EXISTS (SELECT FROM pg_replication_slots WHERE slot_type = 'physical'),
                      ARRAY(SELECT btrim(name) FROM
                            unnest(string_to_array(current_setting('synchronized_standby_slots'), ',')) name
                             WHERE btrim(name) <> ''),
                      ARRAY(SELECT slot_name::text FROM pg_replication_slots WHERE active)";
    let rows = side.rows(client, sql, &[&ours, &theirs]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let names: Vec<String> = side.get(row, 4)?;
    let active: Vec<String> = side.get(row, 5)?;
    let names = names.into_iter().map(|name| name.trim_matches('"').to_owned());
    Ok(Some(Slots {
        in_recovery: side.get(row, 0)?,
        ours: side.get(row, 1)?,
        theirs: side.get(row, 2)?,
        physical: side.get(row, 3)?,
        awaited: names.map(|name| (name.clone(), active.contains(&name))).collect(),
    }))
}

pub(super) async fn findings(context: &Context<'_>) -> Result<Vec<Finding>, SidesError> {
    if context.publisher.version < VERSION_FAILOVER {
        return Ok(Vec::new());
    }
    let Some(slots) = ask(context).await? else { return Ok(Vec::new()) };
    let wanted = context.settings.failover;
    let name = context.settings.slot.as_ref().map_or("our slot", |name| name.as_str()).to_owned();
    if slots.in_recovery {
        let refusal = "cannot be made with failover on a standby";
        let found = Finding::on_publisher(&ON_STANDBY, name, refusal)
            .advise("leave --failover out, or name the primary in --publisher");
        return Ok(if wanted { vec![found] } else { Vec::new() });
    }
    let has = slots.ours.unwrap_or(wanted);
    let mut found = Vec::new();
    found.extend(differing(context, &slots, &name, has));
    if !has {
        return Ok(found);
    }
    if !slots.physical {
        let message = "has failover, but no standby of the publisher has a slot there";
        found.push(Finding::on_publisher(&NO_STANDBY, name, message).advise(
            "set these on the standby: primary_slot_name, hot_standby_feedback and sync_replication_slots",
        ));
    }
    if !slots.awaited.is_empty() {
        let all: Vec<String> = slots.awaited.iter().map(|(name, _)| name.clone()).collect();
        let away: Vec<String> =
            slots.awaited.iter().filter(|(_, active)| !active).map(|(name, _)| name.clone()).collect();
        let setting = "synchronized_standby_slots";
        let message = format!("holds {}: slots with failover wait for it", up_to_five(&all));
        found.push(Finding::on_publisher(&WAITS, setting, message));
        if !away.is_empty() {
            let message = format!("names {}, which nobody reads: ours stands still", up_to_five(&away));
            let rest: Vec<String> =
                slots.awaited.iter().filter(|(_, active)| *active).map(|(name, _)| name.clone()).collect();
            let mend = context.publisher_provider.set(setting, quote_literal(&rest.join(",")).trim_start());
            found.push(Finding::on_publisher(&DEAD_STANDBY, setting, message).remedy(mend));
        }
    }
    Ok(found)
}

/// Whether ours does as the subscription's slot does.
fn differing(context: &Context<'_>, slots: &Slots, name: &str, has: bool) -> Option<Finding> {
    let chosen = context.sides.chosen.as_ref()?;
    let theirs = slots.theirs?;
    let subscription = quote_identifier(&chosen.name);
    match (theirs, has) {
        (true, false) => {
            let message = format!("has no failover, but the slot of subscription {subscription} has");
            let drop = format!("SELECT pg_drop_replication_slot({});", quote_literal(name).trim_start());
            let drop = if slots.ours.is_some() { drop } else { String::new() };
            Some(
                Finding::on_publisher(&NOT_SET, name, message)
                    .mend(drop)
                    .advise("start the sidecar with --failover: it makes its slot so"),
            )
        }
        (false, true) => {
            let message = format!("has failover, but the slot of subscription {subscription} has not");
            // Where the subscription has the option, it has to be disabled for it.
            let set = format!("ALTER SUBSCRIPTION {subscription} SET (failover = true);");
            let mend = match (context.sides.subscriber.version >= VERSION_FAILOVER, chosen.enabled) {
                (false, _) => String::new(),
                (true, false) => set,
                (true, true) => format!(
                    "ALTER SUBSCRIPTION {subscription} DISABLE;\n{set}\nALTER SUBSCRIPTION {subscription} ENABLE;"
                ),
            };
            let without = "leave --failover out";
            let advice = match (mend.is_empty(), slots.ours.is_some()) {
                (true, false) => without.to_owned(),
                (true, true) => format!("{without}, and drop the slot: it is made anew without"),
                (false, _) => format!("or {without}, where the slots shall not survive a failover"),
            };
            // What mends it is the subscription's.
            Some(Finding::on_subscriber(&ALONE, name, message).mend(mend).advise(advice))
        }
        _ => None,
    }
}
