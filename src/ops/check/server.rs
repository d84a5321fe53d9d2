//! The servers' settings, as far as replication depends on them.

use std::collections::HashMap;

use super::{Code, Context, Fact, Finding, Severity};
use crate::config::ByteSize;
use crate::confirm::Synchronous;
use crate::ops::ask::Side;
use crate::publisher::connection::APPLICATION_NAME;
use crate::publisher::reaction::has_wal_level;
use crate::sides::SidesError;
use crate::types::quote_literal;

const WAL_LEVEL: Code = Code {
    code: "wal-level",
    severity: Severity::Blocker,
    meaning: "The publisher's wal_level is not logical, so that no logical slot can be made there.",
};
const STANDBY_TOO_OLD: Code = Code {
    code: "standby-too-old",
    severity: Severity::Blocker,
    meaning: "The publisher is a standby of a version before 16, which has no logical replication slots.",
};
const STANDBY_PUBLISHER: Code = Code {
    code: "standby-publisher",
    severity: Severity::Notice,
    meaning: "The publisher is a standby: making a slot there waits for a word of its primary.",
};
const STANDBY_FEEDBACK: Code = Code {
    code: "standby-feedback-off",
    severity: Severity::Warning,
    meaning: "The publisher is a standby without hot_standby_feedback: its primary removes catalog rows that a \
              logical slot needs, and the slot is invalidated.",
};
const NO_SLOT_FREE: Code = Code {
    code: "no-slot-free",
    severity: Severity::Blocker,
    meaning: "All replication slots of the publisher are taken, and ours is not there yet.",
};
const LAST_SLOT: Code = Code {
    code: "last-slot",
    severity: Severity::Notice,
    meaning: "Ours will be the publisher's last replication slot: none is left then for a table's copy or a standby.",
};
const NO_SENDER_FREE: Code = Code {
    code: "no-wal-sender-free",
    severity: Severity::Blocker,
    meaning: "All WAL senders of the publisher are at work, and none of them is ours.",
};
const LAST_SENDER: Code = Code {
    code: "last-wal-sender",
    severity: Severity::Notice,
    meaning: "Ours will be the publisher's last WAL sender: none is left then for a table's copy or a standby.",
};
const WAL_UNLIMITED: Code = Code {
    code: "slot-wal-unlimited",
    severity: Severity::Notice,
    meaning: "Nothing on the publisher limits the WAL that a slot holds back: a sidecar that is stopped for long can \
              fill its disk.",
};
const WAL_LIMIT_SMALL: Code = Code {
    code: "slot-wal-limit-small",
    severity: Severity::Warning,
    meaning: "The publisher invalidates slots before they hold back as much WAL as max_retained_wal allows ours: it \
              would be lost, and made anew, where it need not be.",
};
const IDLE_TIMEOUT: Code = Code {
    code: "idle-slot-timeout",
    severity: Severity::Warning,
    meaning: "The publisher invalidates slots that nobody reads for some time: a sidecar that is stopped for longer \
              loses its slot, and a disabled subscription loses rows.",
};
const SYNCHRONOUS: Code = Code {
    code: "synchronous-standby",
    severity: Severity::Blocker,
    meaning: "synchronous_standby_names matches our application_name, so that commits on the publisher would wait for \
              the sidecar.",
};

/// What this file finds.
pub(super) const CODES: &[Code] = &[
    WAL_LEVEL,
    STANDBY_TOO_OLD,
    STANDBY_PUBLISHER,
    STANDBY_FEEDBACK,
    NO_SLOT_FREE,
    LAST_SLOT,
    NO_SENDER_FREE,
    LAST_SENDER,
    WAL_UNLIMITED,
    WAL_LIMIT_SMALL,
    IDLE_TIMEOUT,
    SYNCHRONOUS,
];

/// From here on a standby can have logical replication slots.
const VERSION_DECODES_ON_STANDBY: u32 = 160_000;

/// The publisher's settings and what is taken of what they allow.
struct Publisher {
    /// Without unit, as `pg_settings` has them.
    settings: HashMap<String, String>,
    /// Those with a unit, as `SHOW` prints them.
    shown: HashMap<String, String>,
    in_recovery: bool,
    slots: i64,
    senders: i64,
    /// Our slot is there.
    has_slot: bool,
    /// Somebody streams it: one WAL sender is ours already.
    streams: bool,
}

impl Publisher {
    async fn ask(context: &Context<'_>) -> Result<Self, SidesError> {
        const NAMES: &[&str] = &[
            "wal_level",
            "hot_standby_feedback",
            "max_replication_slots",
            "max_wal_senders",
            "max_slot_wal_keep_size",
            "idle_replication_slot_timeout",
            "synchronous_standby_names",
        ];
        let side = Side::Publisher;
        let client = &context.publisher.client;
        let sql = "SELECT name, setting, current_setting(name) FROM pg_settings WHERE name = ANY($1)";
        let mut settings = HashMap::new();
        let mut shown = HashMap::new();
        for row in side.rows(client, sql, &[&NAMES]).await? {
            let name: String = side.get(&row, 0)?;
            settings.insert(name.clone(), side.get(&row, 1)?);
            shown.insert(name, side.get(&row, 2)?);
        }
        let slot = context.settings.slot.as_ref().map(crate::types::SlotName::as_str);
        // Without a name of ours, a slot that a seqshadow holds is taken for it. Temporary slots come and go.
        let sql = "SELECT pg_is_in_recovery(), count(s.*),
                          (SELECT count(*) FROM pg_stat_replication),
                          coalesce(bool_or(s.ours), false), coalesce(bool_or(s.ours AND s.active), false)
                     FROM (SELECT r.active, coalesce(r.slot_name = $1,
                                  EXISTS (SELECT FROM pg_stat_replication w
                                           WHERE w.pid = r.active_pid AND w.application_name = $2)) AS ours
                             FROM pg_replication_slots r) s";
        let rows = side.rows(client, sql, &[&slot, &APPLICATION_NAME]).await?;
        let Some(row) = rows.first() else {
            return Ok(Publisher {
                settings,
                shown,
                in_recovery: false,
                slots: 0,
                senders: 0,
                has_slot: false,
                streams: false,
            });
        };
        Ok(Publisher {
            settings,
            shown,
            in_recovery: side.get(row, 0)?,
            slots: side.get(row, 1)?,
            senders: side.get(row, 2)?,
            has_slot: side.get(row, 3)?,
            streams: side.get(row, 4)?,
        })
    }

    fn text(&self, name: &str) -> &str {
        self.settings.get(name).map_or("", String::as_str)
    }

    fn number(&self, name: &str) -> Option<i64> {
        self.settings.get(name)?.parse().ok()
    }

    /// What is taken of what the settings allow.
    fn facts(&self) -> Vec<Fact> {
        let limits = [("max_replication_slots", self.slots), ("max_wal_senders", self.senders)];
        let fact = |(name, used): (&'static str, i64)| {
            let allowed = self.number(name)?;
            Some(Fact { name, side: "publisher", allowed, used, free: (allowed - used).max(0) })
        };
        limits.into_iter().filter_map(fact).collect()
    }

    fn shown(&self, name: &str) -> &str {
        self.shown.get(name).map_or("", String::as_str)
    }
}

/// `facts` gets the numbers of what is limited, whatever is found.
pub(super) async fn findings(
    context: &Context<'_>,
    facts: &mut Vec<Fact>,
) -> Result<Vec<Finding>, SidesError> {
    let publisher = Publisher::ask(context).await?;
    facts.extend(publisher.facts());
    let mut found = Vec::new();
    found.extend(wal_level(context, &publisher));
    found.extend(standby(context, &publisher));
    found.extend(free(context, &publisher));
    found.extend(retention(context, &publisher));
    found.extend(synchronous(context, &publisher));
    Ok(found)
}

fn wal_level(context: &Context<'_>, publisher: &Publisher) -> Option<Finding> {
    let level = publisher.text("wal_level");
    if has_wal_level(level, context.publisher.version) {
        return None;
    }
    let message = format!("is {level}, expected logical");
    let mend = context.publisher_provider.logical_wal();
    Some(Finding::on_publisher(&WAL_LEVEL, "wal_level", message).remedy(mend))
}

fn standby(context: &Context<'_>, publisher: &Publisher) -> Vec<Finding> {
    if !publisher.in_recovery {
        return Vec::new();
    }
    let peer = &context.publisher.peer;
    let major = context.publisher.version / 10_000;
    if context.publisher.version < VERSION_DECODES_ON_STANDBY {
        let message = format!("is a standby of PostgreSQL {major}, which has no logical slots before 16");
        return vec![
            Finding::on_publisher(&STANDBY_TOO_OLD, peer, message)
                .advise("name its primary in --publisher (target_session_attrs=read-write finds it)"),
        ];
    }
    let message = "is a standby: making a slot waits until its primary says who runs";
    let mut found = vec![
        Finding::on_publisher(&STANDBY_PUBLISHER, peer, message)
            .advise("on the primary, SELECT pg_log_standby_snapshot() makes it say so"),
    ];
    if publisher.text("hot_standby_feedback") == "off" {
        let message = "is off, so that a logical slot of this standby can be invalidated at any time";
        found.push(
            Finding::on_publisher(&STANDBY_FEEDBACK, "hot_standby_feedback", message)
                .remedy(context.publisher_provider.set("hot_standby_feedback", "on")),
        );
    }
    found
}

/// Whether there is room for one slot and one WAL sender.
fn free(context: &Context<'_>, publisher: &Publisher) -> Vec<Finding> {
    let room = [
        ("max_replication_slots", publisher.slots, publisher.has_slot, &NO_SLOT_FREE, &LAST_SLOT),
        ("max_wal_senders", publisher.senders, publisher.streams, &NO_SENDER_FREE, &LAST_SENDER),
    ];
    let mut found = Vec::new();
    for (setting, taken, has_ours, none, last) in room {
        let Some(allowed) = publisher.number(setting).filter(|_| !has_ours) else { continue };
        let code = match allowed - taken {
            ..=0 => none,
            1 => last,
            _ => continue,
        };
        let are = if taken == 1 { "is" } else { "are" };
        let message =
            format!("allows {allowed}, of which {taken} {are} taken; one is needed for the sidecar");
        let more = (allowed.max(taken) + 10).to_string();
        found.push(
            Finding::on_publisher(code, setting, message)
                .remedy(context.publisher_provider.set_and_restart(setting, &more)),
        );
    }
    found
}

/// How much WAL our slot may hold back, and for how long.
fn retention(context: &Context<'_>, publisher: &Publisher) -> Vec<Finding> {
    let provider = context.publisher_provider;
    let mut found = Vec::new();
    if context.settings.temporary_slot {
        // It ends with the sidecar, and so does what it holds back.
        return found;
    }
    let (keep, ours) = ("max_slot_wal_keep_size", context.settings.max_retained_wal);
    match publisher.number(keep) {
        None => found.push(Finding::on_publisher(
            &WAL_UNLIMITED,
            "WAL of slots",
            "has no limit before PostgreSQL 13: watch the disk, and drop our slot if the sidecar stays away",
        )),
        Some(..0) => {
            let message = "is -1: a slot that nobody reads holds back WAL until the disk is full";
            let limit = format!("'{}MB'", (ours.0 >> 20).saturating_mul(10).max(1024));
            found.push(
                Finding::on_publisher(&WAL_UNLIMITED, keep, message).remedy(provider.set(keep, &limit)),
            );
        }
        Some(megabytes) => {
            let limit = ByteSize(u64::try_from(megabytes).unwrap_or(0) << 20);
            if limit.0 < ours.0 {
                let message =
                    format!("is {limit}, less than the {ours} that max_retained_wal allows our slot");
                let more = format!("'{}MB'", (ours.0 >> 20).saturating_mul(2));
                found.push(
                    Finding::on_publisher(&WAL_LIMIT_SMALL, keep, message).remedy(provider.set(keep, &more)),
                );
            }
        }
    }
    let idle = "idle_replication_slot_timeout";
    if publisher.number(idle).is_some_and(|timeout| timeout > 0) {
        let shown = publisher.shown(idle);
        let message = format!("is {shown}: a slot that nobody reads for so long is lost");
        found.push(Finding::on_publisher(&IDLE_TIMEOUT, idle, message).remedy(provider.set(idle, "0")));
    }
    found
}

fn synchronous(context: &Context<'_>, publisher: &Publisher) -> Option<Finding> {
    let setting = "synchronous_standby_names";
    let names = publisher.text(setting);
    Synchronous::matching(names, APPLICATION_NAME)?;
    let message = format!(
        "is '{names}', which matches {APPLICATION_NAME}: commits would wait for it; name the standbys one by one"
    );
    let finding = Finding::on_publisher(&SYNCHRONOUS, setting, message);
    Some(match others(names) {
        Some(others) => {
            let value = quote_literal(&others);
            finding.remedy(context.publisher_provider.set(setting, value.trim_start()))
        }
        // Nobody but its owner knows which standbys are meant.
        None => finding.advise("which standbys it is to name is for you to decide"),
    })
}

/// The setting without our name. `None` where it names everybody, and so does not say who else is meant.
fn others(names: &str) -> Option<String> {
    let (method, list) = match names.split_once('(') {
        Some((method, list)) => (Some(method.trim()), list.trim_end().trim_end_matches(')')),
        None => (None, names),
    };
    let all = || list.split(',').map(str::trim);
    if all().any(|name| name.trim_matches('"') == "*") {
        return None;
    }
    let is_ours = |name: &&str| name.trim_matches('"').eq_ignore_ascii_case(APPLICATION_NAME);
    let rest: Vec<&str> = all().filter(|name| !is_ours(name)).collect();
    Some(match method {
        _ if rest.is_empty() => String::new(),
        Some(method) => format!("{method} ({})", rest.join(", ")),
        None => rest.join(", "),
    })
}

#[cfg(test)]
mod tests {
    use super::others;

    #[test]
    fn our_name_goes_and_the_others_stay() {
        assert_eq!(others("ANY 1 (a, SeqShadow)").unwrap(), "ANY 1 (a)");
        assert_eq!(others("FIRST 2 (\"seqshadow\", a, b)").unwrap(), "FIRST 2 (a, b)");
        assert_eq!(others("seqshadow, \"B b\"").unwrap(), "\"B b\"");
        assert_eq!(others("seqshadow").unwrap(), "");
        assert_eq!(others("FIRST 1 (a, *)"), None);
    }
}
