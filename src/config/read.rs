//! From layers of texts to checked [`Settings`]: defaults, ranges, and what cannot go together.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use super::layer::{Given, Layer, Origin};
use super::value::{ShownDuration, ValueError, malformed, parse_duration, parse_switch};
use super::{ByteSize, ConfigError, ConninfoText, Settings};
use crate::subscriber::function::AdvanceFunction;

/// Blind sequences are no further behind than this; reading one costs some microseconds.
const POLL_INTERVAL: Duration = Duration::from_secs(10);
/// A subscriber's sequence that was set back is noticed within this time.
const VERIFY_INTERVAL: Duration = Duration::from_secs(1);
/// As `pg_recvlogical --status-interval`; well below PostgreSQL's `wal_sender_timeout` of 60 s.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);
const REFRESH_INTERVAL: Duration = Duration::from_secs(60);
const SUMMARY_INTERVAL: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Within the 90 s that systemd gives by default, and the 30 s of container platforms.
const GRACE: Duration = Duration::from_secs(20);
const MAX_RETAINED_WAL: ByteSize = ByteSize(1 << 30);
/// Less than a few WAL segments and the ceiling would be hit by a single one.
const MAX_RETAINED_WAL_MIN: ByteSize = ByteSize(64 << 20);
const MAX_RETAINED_WAL_MAX: ByteSize = ByteSize(1 << 50);

/// Of the 108 bytes that a socket's path may have on Linux, with its end, `/.s.PGSQL.5432` takes 15.
const CONSOLE_DIR_MAX: usize = 90;

const DAY: Duration = Duration::from_secs(86_400);

/// `layers`, the strongest first.
pub(super) fn settings(layers: &[&Layer]) -> Result<Settings, ConfigError> {
    let reader = Reader { layers };
    let slot = reader.one("slot", |text| Ok(text.parse()?))?;
    let ms = Duration::from_millis;
    let settings = Settings {
        slot,
        publisher: reader.one("publisher", conninfo)?,
        subscriber: reader.one("subscriber", conninfo)?,
        publications: reader.many("publication", object_name)?,
        subscription: reader.one("subscription", object_name)?,
        schemas: reader.many("schema", FromStr::from_str)?,
        exclude_schemas: reader.many("exclude_schema", FromStr::from_str)?,
        exclude_sequences: reader.many("exclude_sequence", FromStr::from_str)?,
        renames: reader.many("rename", FromStr::from_str)?,
        advance_function: reader.one("advance_function", object_name)?.map(AdvanceFunction::in_schema),
        create_slot: reader.one("create_slot", parse_switch)?.unwrap_or(true),
        temporary_slot: reader.one("temporary_slot", parse_switch)?.unwrap_or(false),
        failover: reader.one("failover", parse_switch)?.unwrap_or(false),
        streaming: reader.one("streaming", FromStr::from_str)?.unwrap_or_default(),
        lead: reader.one("lead", |text| Ok(text.trim().parse()?))?.unwrap_or_default(),
        outliers: reader.one("outliers", FromStr::from_str)?.unwrap_or_default(),
        poll_interval: reader.duration("poll_interval", POLL_INTERVAL, ms(100)..=DAY)?,
        verify_interval: reader.duration("verify_interval", VERIFY_INTERVAL, ms(10)..=DAY)?,
        status_interval: reader.duration("status_interval", STATUS_INTERVAL, ms(100)..=ms(300_000))?,
        refresh_interval: reader.duration("refresh_interval", REFRESH_INTERVAL, ms(1_000)..=DAY)?,
        summary_interval: reader.duration("summary_interval", SUMMARY_INTERVAL, ms(0)..=DAY)?,
        connect_timeout: reader.duration("connect_timeout", CONNECT_TIMEOUT, ms(100)..=ms(600_000))?,
        grace: reader.duration("grace", GRACE, ms(100)..=ms(600_000))?,
        max_retained_wal: reader.one("max_retained_wal", retained_wal)?.unwrap_or(MAX_RETAINED_WAL),
        console: reader.one("console", parse_switch)?.unwrap_or(true),
        console_dir: reader.one("console_dir", console_dir)?,
        log_format: reader.one("log_format", FromStr::from_str)?.unwrap_or_default(),
        log_level: reader.one("log_level", log_level)?.unwrap_or_else(|| "info".to_owned()),
    };
    reader.check_together(&settings)?;
    Ok(settings)
}

struct Reader<'a> {
    layers: &'a [&'a Layer],
}

impl Reader<'_> {
    fn given(&self, key: &str) -> Option<&Given> {
        self.layers.iter().find_map(|layer| layer.get(key))
    }

    fn origin(&self, key: &'static str) -> Origin {
        self.given(key).map_or(Origin::Default(key), |given| given.origin.clone())
    }

    fn many<T>(
        &self,
        key: &str,
        read: impl Fn(&str) -> Result<T, ValueError>,
    ) -> Result<Vec<T>, ConfigError> {
        let Some(given) = self.given(key) else { return Ok(Vec::new()) };
        let values = given.texts.iter().map(|text| read(text)).collect::<Result<_, _>>();
        values.map_err(|error| ConfigError::Value { origin: Box::new(given.origin.clone()), error })
    }

    fn one<T>(
        &self,
        key: &str,
        read: impl Fn(&str) -> Result<T, ValueError>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(given) = self.given(key) else { return Ok(None) };
        let value = match given.texts.as_slice() {
            [text] => read(text),
            texts => Err(ValueError::NotOne { got: texts.len() }),
        };
        value.map(Some).map_err(|error| ConfigError::Value { origin: Box::new(given.origin.clone()), error })
    }

    fn duration(
        &self,
        key: &str,
        default: Duration,
        range: std::ops::RangeInclusive<Duration>,
    ) -> Result<Duration, ConfigError> {
        let read = |text: &str| {
            let duration = parse_duration(text)?;
            if range.contains(&duration) {
                return Ok(duration);
            }
            Err(ValueError::OutOfRange {
                got: ShownDuration(duration).to_string(),
                min: ShownDuration(*range.start()).to_string(),
                max: ShownDuration(*range.end()).to_string(),
            })
        };
        Ok(self.one(key, read)?.unwrap_or(default))
    }

    fn check_together(&self, settings: &Settings) -> Result<(), ConfigError> {
        let conflict = |first, second, why| {
            Err(ConfigError::Conflict {
                first: Box::new(self.origin(first)),
                second: Box::new(self.origin(second)),
                why,
            })
        };
        if settings.temporary_slot && settings.failover {
            return conflict("temporary_slot", "failover", "a temporary slot cannot be a failover slot");
        }
        if settings.temporary_slot && !settings.create_slot {
            return conflict("temporary_slot", "create_slot", "a temporary slot has to be made each time");
        }
        for (i, rename) in settings.renames.iter().enumerate() {
            if settings.renames.iter().take(i).any(|other| other.publisher == rename.publisher) {
                return conflict("rename", "rename", "one publisher table is renamed twice");
            }
        }
        Ok(())
    }
}

/// Never repeats the text: it may hold a password.
fn conninfo(text: &str) -> Result<ConninfoText, ValueError> {
    if text.trim().is_empty() {
        return Err(malformed(
            "a connection string such as \"host=db dbname=app\" or a postgresql:// URI",
            "",
        ));
    }
    Ok(ConninfoText::new(text))
}

/// A publication, subscription or schema: any name PostgreSQL can hold (63 bytes unless it was built otherwise).
fn object_name(text: &str) -> Result<String, ValueError> {
    if text.is_empty() || text.len() > 63 || text.contains('\0') {
        return Err(malformed("a name of 1 to 63 bytes", text));
    }
    Ok(text.to_owned())
}

fn retained_wal(text: &str) -> Result<ByteSize, ValueError> {
    let size: ByteSize = text.parse()?;
    if (MAX_RETAINED_WAL_MIN..=MAX_RETAINED_WAL_MAX).contains(&size) {
        return Ok(size);
    }
    Err(ValueError::OutOfRange {
        got: size.to_string(),
        min: MAX_RETAINED_WAL_MIN.to_string(),
        max: MAX_RETAINED_WAL_MAX.to_string(),
    })
}

/// The socket's path in it must fit into a socket's address.
fn console_dir(text: &str) -> Result<PathBuf, ValueError> {
    if text.is_empty() || text.len() > CONSOLE_DIR_MAX || text.contains('\0') {
        return Err(malformed("a directory whose path has 1 to 90 bytes", text));
    }
    Ok(PathBuf::from(text))
}

fn log_level(text: &str) -> Result<String, ValueError> {
    let text = text.trim();
    // A word that is no level would be taken for a target's name.
    let is_level = ["off", "error", "warn", "info", "debug", "trace"].contains(&text);
    if is_level || (text.contains(['=', ',']) && EnvFilter::builder().parse(text).is_ok()) {
        return Ok(text.to_owned());
    }
    Err(malformed(
        "off, error, warn, info, debug, trace, or directives such as info,seqshadow::wire=trace",
        text,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, load};
    use crate::plan::Lead;

    fn read(given: &[(&str, &str)]) -> Result<Settings, ConfigError> {
        let mut layer = Layer::default();
        given.iter().for_each(|(key, text)| layer.flag(key, *text));
        load(&layer, None, &Environment::default()).map(|loaded| loaded.settings)
    }

    fn error(key: &str, text: &str) -> String {
        read(&[("slot", "s"), (key, text)]).unwrap_err().to_string()
    }

    #[test]
    fn a_slot_is_all_that_has_to_be_given() {
        let settings = read(&[("slot", "orders")]).unwrap();
        assert!(settings.create_slot && !settings.temporary_slot && !settings.failover);
        assert_eq!(settings.lead, Lead::Auto);
        assert_eq!(settings.max_retained_wal, ByteSize(1 << 30));
        assert_eq!(settings.poll_interval, Duration::from_secs(10));
        assert_eq!(settings.verify_interval, Duration::from_secs(1));
        assert!(read(&[]).unwrap().required_slot().unwrap_err().to_string().contains("--slot NAME"));
    }

    #[test]
    fn errors_say_where_what_was_expected_and_what_came() {
        assert_eq!(
            error("poll_interval", "fast"),
            "--poll-interval: expected a duration such as 10s, 500ms or 1min (a bare number is seconds), got \"fast\""
        );
        assert_eq!(
            error("status_interval", "1h"),
            "--status-interval: 1h is out of range, it must be from 100ms to 5min"
        );
        assert_eq!(error("lead", "many"), "--lead: expected auto or a number of ids, got \"many\"");
        assert!(error("slot", "Orders").starts_with("--slot: replication slot name"));
        assert!(error("max_retained_wal", "1MB").contains("from 64MiB"));
        assert!(error("rename", "a=b").starts_with("--rename: expected a renamed table as"));
        assert!(error("log_level", "loud").starts_with("--log-level: expected off, error"));
        assert!(read(&[("slot", "s"), ("log_level", "info,seqshadow::wire=trace")]).is_ok());
    }

    #[test]
    fn what_cannot_go_together_is_refused() {
        let temporary = [("slot", "s"), ("temporary_slot", "on")];
        let with = |key, text| read(&[&temporary[..], &[(key, text)]].concat()).unwrap_err().to_string();
        assert!(
            with("failover", "on").starts_with("--temporary-slot and --failover cannot be used together")
        );
        assert!(with("create_slot", "off").starts_with("--temporary-slot and --create-slot"));
        assert!(read(&[("slot", "s"), ("rename", "a.b=c.d"), ("rename", "a.b=e.f")]).is_err());
    }
}
