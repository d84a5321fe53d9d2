//! One text to one value: durations and sizes as PostgreSQL writes them in `postgresql.conf`, switches, choices.
//!
//! A text that came from a person is never repeated where it may hold a password; here it never does.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::plan::LeadError;
use crate::types::SlotNameError;

/// Why a text is not the value a setting needs.
#[derive(Debug, thiserror::Error)]
pub enum ValueError {
    #[error("expected {expected}, got {got:?}")]
    Malformed { expected: &'static str, got: String },
    #[error("{got} is out of range, it must be from {min} to {max}")]
    OutOfRange { got: String, min: String, max: String },
    #[error(transparent)]
    Slot(#[from] SlotNameError),
    #[error(transparent)]
    Lead(#[from] LeadError),
    #[error("expected text, got {got}")]
    Kind { got: &'static str },
    #[error("expected one value, got {got}")]
    NotOne { got: usize },
}

pub(super) fn malformed(expected: &'static str, got: &str) -> ValueError {
    ValueError::Malformed { expected, got: got.chars().take(60).collect() }
}

/// `on`, `off` and their relatives, as PostgreSQL's `parse_bool` takes them (without its abbreviations).
pub fn parse_switch(text: &str) -> Result<bool, ValueError> {
    match text.trim().to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" | "1" => Ok(true),
        "off" | "false" | "no" | "0" => Ok(false),
        _ => Err(malformed("on or off", text)),
    }
}

const DURATION: &str = "a duration such as 10s, 500ms or 1min (a bare number is seconds)";
const DURATION_UNITS: &[(&str, u64)] = &[
    ("us", 1),
    ("ms", 1_000),
    ("s", 1_000_000),
    ("min", 60_000_000),
    ("h", 3_600_000_000),
    ("d", 86_400_000_000),
];

/// A duration with one of PostgreSQL's units (`us`, `ms`, `s`, `min`, `h`, `d`), a bare number being seconds.
pub fn parse_duration(text: &str) -> Result<Duration, ValueError> {
    let (number, unit) = split_unit(text);
    let unit = if unit.is_empty() { "s" } else { unit };
    let micros = DURATION_UNITS
        .iter()
        .find(|(name, _)| *name == unit)
        .and_then(|(_, micros)| scaled(number, *micros))
        .ok_or_else(|| malformed(DURATION, text))?;
    Ok(Duration::from_micros(micros))
}

/// A duration, in the largest unit that shows it whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShownDuration(pub Duration);

impl fmt::Display for ShownDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.as_micros();
        let (name, unit) = DURATION_UNITS
            .iter()
            .rev()
            .find(|(_, unit)| micros > 0 && micros.is_multiple_of(u128::from(*unit)))
            .unwrap_or(&("s", 1_000_000));
        write!(f, "{}{name}", micros / u128::from(*unit))
    }
}

const SIZE: &str = "a size with a unit such as 512MB, 1GB or 1GiB";
const SIZE_UNITS: &[(&str, u64)] = &[
    ("b", 1),
    ("kb", 1 << 10),
    ("kib", 1 << 10),
    ("mb", 1 << 20),
    ("mib", 1 << 20),
    ("gb", 1 << 30),
    ("gib", 1 << 30),
    ("tb", 1 << 40),
    ("tib", 1 << 40),
];

/// A number of bytes. As in PostgreSQL, `kB`, `MB`, `GB` and `TB` are powers of 1024, and so are `KiB` to `TiB`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (number, unit) = split_unit(text);
        SIZE_UNITS
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(unit))
            .and_then(|(_, bytes)| scaled(number, *bytes))
            .map(ByteSize)
            .ok_or_else(|| malformed(SIZE, text))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("TiB", 1_u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        match units.iter().find(|(_, unit)| self.0 > 0 && self.0.is_multiple_of(*unit)) {
            Some((name, unit)) => write!(f, "{}{name}", self.0 / unit),
            None => write!(f, "{}B", self.0),
        }
    }
}

fn split_unit(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim_start())
}

/// `number` (digits, perhaps a point and at most nine more) times `unit`, rounded down; `None` if it is no number or
/// does not fit.
fn scaled(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.len() > 9 || fraction.contains('.') {
        return None;
    }
    let whole = if whole.is_empty() { 0 } else { whole.parse::<u64>().ok()? };
    let part = if fraction.is_empty() { 0 } else { fraction.parse::<u64>().ok()? };
    let of = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let sum = u128::from(whole) * u128::from(unit) + u128::from(part) * u128::from(unit) / of;
    u64::try_from(sum).ok()
}

/// A setting with a few words to choose from.
macro_rules! choice {
    ($(#[$meta:meta])* $name:ident: $expected:literal { $($(#[$variant_meta:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
        pub enum $name { $($(#[$variant_meta])* $variant),+ }

        impl FromStr for $name {
            type Err = ValueError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text.trim().to_ascii_lowercase().as_str() {
                    $($word => Ok($name::$variant),)+
                    _ => Err(malformed($expected, text)),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $($name::$variant => $word),+ })
            }
        }
    };
}

choice! {
    /// What to do with a single id that lies too far out.
    Outliers: "aside or follow" {
        /// set it aside, follow the rest
        #[default]
        Aside = "aside",
        /// take it for a mark
        Follow = "follow",
    }
}

choice! {
    /// pgoutput's option `streaming`.
    Streaming: "on, off or parallel" {
        /// each transaction only after its commit
        Off = "off",
        /// large transactions while they run (publisher 14 or newer; off on older ones)
        #[default]
        On = "on",
        /// as `on`, with the abort's position (publisher 16 or newer; the next best on older ones)
        Parallel = "parallel",
    }
}

choice! {
    /// How log lines look.
    LogFormat: "auto, human or json" {
        /// for people, with colours if the log is a terminal
        #[default]
        Auto = "auto",
        /// for people, without colours unless the log is a terminal
        Human = "human",
        /// one JSON object a line
        Json = "json",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_postgresqls_and_a_bare_number_is_seconds() {
        for (text, micros) in [
            ("10", 10_000_000),
            ("10s", 10_000_000),
            (" 500 ms ", 500_000),
            ("1min", 60_000_000),
            ("1.5h", 5_400_000_000),
            (".25s", 250_000),
            ("7us", 7),
            ("1d", 86_400_000_000),
            ("0", 0),
        ] {
            assert_eq!(parse_duration(text).unwrap(), Duration::from_micros(micros), "{text}");
        }
        for bad in [
            "",
            "s",
            "-1s",
            "1 m",
            "1m",
            "1.2.3s",
            "10 seconds",
            "99999999999999999999",
            "1e3",
            ".",
            "99999999999999d",
        ] {
            let error = parse_duration(bad).unwrap_err().to_string();
            assert!(error.starts_with("expected a duration such as 10s") && error.contains(bad), "{error}");
        }
    }

    #[test]
    fn sizes_are_powers_of_1024_and_need_a_unit() {
        for (text, bytes) in [
            ("1GiB", 1 << 30),
            ("1GB", 1 << 30),
            ("512 MB", 512 << 20),
            ("64kB", 64 << 10),
            ("64KiB", 64 << 10),
            ("1.5TB", 3 << 39),
            ("7B", 7),
        ] {
            assert_eq!(text.parse::<ByteSize>().unwrap(), ByteSize(bytes), "{text}");
        }
        for bad in ["1024", "", "GB", "-1GB", "1PB", "99999999999TB"] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_shown_can_be_read_again() {
        for micros in [0, 1, 500_000, 10_000_000, 90_000_000, 60_000_000, 86_400_000_000] {
            let duration = Duration::from_micros(micros);
            assert_eq!(parse_duration(&ShownDuration(duration).to_string()).unwrap(), duration);
        }
        for bytes in [0, 1, 1 << 10, 3 << 29, 1 << 40] {
            assert_eq!(ByteSize(bytes).to_string().parse::<ByteSize>().unwrap(), ByteSize(bytes));
        }
    }

    #[test]
    fn switches_and_choices_say_what_they_expect() {
        assert!(parse_switch("ON").unwrap() && !parse_switch("false").unwrap());
        assert_eq!(parse_switch("maybe").unwrap_err().to_string(), "expected on or off, got \"maybe\"");
        assert_eq!("Follow".parse::<Outliers>().unwrap(), Outliers::Follow);
        assert_eq!(
            "both".parse::<Streaming>().unwrap_err().to_string(),
            "expected on, off or parallel, got \"both\""
        );
    }
}
