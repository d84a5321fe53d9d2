//! What a SIGHUP may change, by comparing two [`Settings`].

use std::fmt;

use super::{ConninfoText, Settings, ShownDuration};
use crate::subscriber::function::AdvanceFunction;

/// A setting that will have another value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// As in the file.
    pub key: &'static str,
    pub from: String,
    pub to: String,
}

/// What a reload changes, all of it possible while running. Empty if nothing does.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Changes(pub Vec<Change>);

impl Changes {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `key`, as in the file, is among them.
    #[must_use]
    pub fn touches(&self, key: &str) -> bool {
        self.0.iter().any(|change| change.key == key)
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("nothing changed");
        }
        for (i, Change { key, from, to }) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{key} from {from} to {to}")?;
        }
        Ok(())
    }
}

/// The new settings cannot be taken while running; the old ones stay, all of them.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a restart is needed to change {}; nothing was changed", .keys.join(", "))]
pub struct NeedsRestart {
    pub keys: Vec<&'static str>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Live,
    Restart,
}

struct Entry {
    key: &'static str,
    kind: Kind,
    shown: String,
}

impl Settings {
    /// What changes from `self` to `new`, or which settings stand against it. A reload is taken whole or not at all.
    pub fn reload_diff(&self, new: &Settings) -> Result<Changes, NeedsRestart> {
        let mut changes = Changes::default();
        let mut keys = Vec::new();
        if self.publisher != new.publisher {
            keys.push("publisher");
        }
        if self.subscriber != new.subscriber {
            keys.push("subscriber");
        }
        for (old, new) in self.entries().into_iter().zip(new.entries()) {
            if old.shown == new.shown {
                continue;
            }
            match old.kind {
                Kind::Live => changes.0.push(Change { key: old.key, from: old.shown, to: new.shown }),
                Kind::Restart => keys.push(old.key),
            }
        }
        if keys.is_empty() { Ok(changes) } else { Err(NeedsRestart { keys }) }
    }

    /// Every setting by its key, as it would be written; of a conninfo only whether there is one.
    #[must_use]
    pub fn shown(&self) -> Vec<(&'static str, String)> {
        let conninfo = |text: &Option<ConninfoText>| {
            if text.is_some() { "(given, not shown)" } else { "(default)" }.to_owned()
        };
        let mut shown =
            vec![("publisher", conninfo(&self.publisher)), ("subscriber", conninfo(&self.subscriber))];
        shown.extend(self.entries().into_iter().map(|entry| (entry.key, entry.shown)));
        shown
    }

    fn entries(&self) -> Vec<Entry> {
        use Kind::{Live, Restart};
        let entry = |key, kind, shown| Entry { key, kind, shown };
        let duration = |duration| ShownDuration(duration).to_string();
        let switch = |on| if on { "on" } else { "off" }.to_owned();
        let function = self.advance_function.as_ref().map(AdvanceFunction::schema);
        vec![
            entry("slot", Restart, self.slot.as_ref().map(ToString::to_string).unwrap_or_default()),
            entry("publication", Restart, list(&self.publications)),
            entry("subscription", Restart, self.subscription.clone().unwrap_or_default()),
            entry("schema", Restart, list(&self.schemas)),
            entry("exclude_schema", Live, list(&self.exclude_schemas)),
            entry("exclude_sequence", Live, list(&self.exclude_sequences)),
            entry("rename", Restart, list(&self.renames)),
            entry("advance_function", Restart, function.map(str::to_owned).unwrap_or_default()),
            entry("create_slot", Restart, switch(self.create_slot)),
            entry("temporary_slot", Restart, switch(self.temporary_slot)),
            entry("failover", Restart, switch(self.failover)),
            entry("streaming", Restart, self.streaming.to_string()),
            entry("lead", Live, self.lead.to_string()),
            entry("outliers", Live, self.outliers.to_string()),
            entry("poll_interval", Live, duration(self.poll_interval)),
            entry("verify_interval", Live, duration(self.verify_interval)),
            entry("status_interval", Restart, duration(self.status_interval)),
            entry("refresh_interval", Live, duration(self.refresh_interval)),
            entry("summary_interval", Live, duration(self.summary_interval)),
            entry("connect_timeout", Restart, duration(self.connect_timeout)),
            entry("grace", Live, duration(self.grace)),
            entry("max_retained_wal", Live, self.max_retained_wal.to_string()),
            entry("console", Restart, switch(self.console)),
            entry(
                "console_dir",
                Restart,
                self.console_dir.as_ref().map(|dir| dir.display().to_string()).unwrap_or_default(),
            ),
            entry("log_format", Restart, self.log_format.to_string()),
            entry("log_level", Live, self.log_level.clone()),
        ]
    }
}

/// In brackets, each quoted, so that no two lists look the same.
fn list<T: fmt::Display>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(|item| format!("{:?}", item.to_string())).collect();
    format!("[{}]", items.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::layer::KEYS;
    use crate::config::{Environment, Layer, load};

    fn with(given: &[(&str, &str)]) -> Settings {
        let mut layer = Layer::default();
        layer.flag("slot", "orders");
        given.iter().for_each(|(key, text)| layer.flag(key, *text));
        load(&layer, None, &Environment::default()).unwrap().settings
    }

    #[test]
    fn what_can_change_while_running_is_told_with_both_values() {
        let new = with(&[("lead", "64"), ("poll_interval", "5s"), ("exclude_sequence", "audit.*")]);
        let changes = with(&[]).reload_diff(&new).unwrap();
        assert_eq!(
            changes.to_string(),
            "exclude_sequence from [] to [\"audit.*\"], lead from auto to 64, poll_interval from 10s to 5s"
        );
        assert!(changes.touches("lead") && !changes.touches("log_level"));
        assert!(new.reload_diff(&new).unwrap().is_empty());
    }

    #[test]
    fn what_needs_a_restart_is_named_and_nothing_is_taken() {
        let new = with(&[("slot", "other"), ("publisher", "password=hunter2"), ("lead", "64")]);
        let error = with(&[("publisher", "host=a")]).reload_diff(&new).unwrap_err();
        assert_eq!(error.keys, ["publisher", "slot"]);
        assert_eq!(error.to_string(), "a restart is needed to change publisher, slot; nothing was changed");
        assert!(!format!("{:?}", new.shown()).contains("hunter2"));
    }

    #[test]
    fn no_setting_is_forgotten() {
        let mut shown: Vec<_> = with(&[]).shown().into_iter().map(|(key, _)| key).collect();
        let mut keys: Vec<_> = KEYS.iter().map(|(key, _)| *key).collect();
        shown.sort_unstable();
        keys.sort_unstable();
        assert_eq!(shown, keys);
    }
}
