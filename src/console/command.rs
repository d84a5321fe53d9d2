//! What can be typed: a text is one [`Command`], or a mistake with a hint.

use super::answer::{Column, Rows};
use super::pace::Pace;
use super::view::View;
use super::{config, help, sequences, slot, stream, version};

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Sequences,
    Stream,
    Slot,
    Config,
    Version,
    Help,
    /// What drivers send by themselves and nobody needs here: it succeeds, with this tag.
    Accepted(&'static str),
    /// Nothing between two semicolons.
    Nothing,
}

/// A text that is no command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unknown(pub String);

/// Every command, as it is typed, and what it shows.
pub(super) const COMMANDS: &[(&str, &str, Command)] = &[
    ("SHOW SEQUENCES", "each sequence: marks, values, lead, state and reason", Command::Sequences),
    ("SHOW STREAM", "positions in the publisher's WAL, lag, and ids a second", Command::Stream),
    ("SHOW SLOT", "the replication slot, and how much WAL it holds back", Command::Slot),
    ("SHOW CONFIG", "the settings in force; connection strings are not shown", Command::Config),
    ("SHOW VERSION", "the program's version and process id", Command::Version),
    ("SHOW HELP", "this list; HELP alone will do", Command::Help),
];

/// The most of a text that a message repeats.
const REPEATED_MAX: usize = 60;

impl Command {
    /// Reads one command, without its semicolon.
    pub(super) fn parse(text: &str) -> Result<Command, Unknown> {
        let mut words = text.split_whitespace();
        let (Some(first), second, third) = (words.next(), words.next(), words.next()) else {
            return Ok(Command::Nothing);
        };
        let typed = match (second, third) {
            (Some(second), None) => format!("{first} {second}"),
            _ => first.to_owned(),
        };
        let is_short = second.is_none() || third.is_none();
        let known = COMMANDS.iter().find(|(name, ..)| is_short && name.eq_ignore_ascii_case(&typed));
        if let Some((_, _, command)) = known {
            return Ok(*command);
        }
        let accepted = match first.to_ascii_uppercase().as_str() {
            "HELP" if second.is_none() => return Ok(Command::Help),
            "BEGIN" | "START" => "BEGIN",
            "COMMIT" | "END" => "COMMIT",
            "ROLLBACK" | "ABORT" => "ROLLBACK",
            "SET" => "SET",
            "RESET" => "RESET",
            "DISCARD" => "DISCARD ALL",
            _ => return Err(Unknown(text.split_whitespace().collect::<Vec<_>>().join(" "))),
        };
        Ok(Command::Accepted(accepted))
    }

    /// What its rows consist of; `None` where it gives none.
    pub(super) fn columns(self) -> Option<&'static [Column]> {
        match self {
            Command::Sequences => Some(sequences::COLUMNS),
            Command::Stream => Some(stream::COLUMNS),
            Command::Slot => Some(slot::COLUMNS),
            Command::Config => Some(config::COLUMNS),
            Command::Version => Some(version::COLUMNS),
            Command::Help => Some(help::COLUMNS),
            Command::Accepted(_) | Command::Nothing => None,
        }
    }

    /// Its rows, as things are now.
    pub(super) fn rows(self, view: &View, pace: &Pace) -> Rows {
        match self {
            Command::Sequences => sequences::rows(view),
            Command::Stream => stream::rows(view, pace),
            Command::Slot => slot::rows(view),
            Command::Config => config::rows(view),
            Command::Version => version::rows(),
            Command::Help => help::rows(),
            Command::Accepted(_) | Command::Nothing => Box::new(std::iter::empty()),
        }
    }
}

impl Unknown {
    /// What it was, cut where it is long: a client may send anything.
    pub(super) fn message(&self) -> String {
        let mut shown: String = self.0.chars().take(REPEATED_MAX).collect();
        if shown.len() < self.0.len() {
            shown.push('…');
        }
        format!("this console has no command \"{shown}\"")
    }

    /// What there is.
    pub(super) fn hint() -> String {
        let names: Vec<&str> = COMMANDS.iter().map(|(name, ..)| *name).collect();
        format!("The commands are: {}.", names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_whatever_the_case_and_the_spaces() {
        for (text, command) in [
            ("SHOW SEQUENCES", Command::Sequences),
            ("  show\n\tStream ", Command::Stream),
            ("help", Command::Help),
            ("show help", Command::Help),
            ("", Command::Nothing),
            (" \n", Command::Nothing),
            ("begin transaction isolation level serializable", Command::Accepted("BEGIN")),
            ("SET client_encoding TO 'UTF8'", Command::Accepted("SET")),
        ] {
            assert_eq!(Command::parse(text), Ok(command), "{text}");
        }
        for (name, _, command) in COMMANDS {
            assert_eq!(Command::parse(name), Ok(*command));
        }
    }

    #[test]
    fn what_is_none_is_repeated_in_part_and_the_hint_names_all() {
        for text in ["SHOW", "SHOW ALL", "SHOW SEQUENCES please", "SEQUENCES", "HELP me", "SELECT 1", "\0"] {
            assert!(Command::parse(text).is_err(), "{text}");
        }
        let long = Command::parse(&"é".repeat(5000)).unwrap_err().message();
        assert!(long.len() < 200 && long.ends_with("…\""), "{long}");
        assert!(COMMANDS.iter().all(|(name, ..)| Unknown::hint().contains(name)));
    }
}
