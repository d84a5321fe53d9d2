//! The runbook: the same statements as `--apply` runs, for psql and for eyes.
//!
//! In: what was found, the tables, the route. Out: one text with a section for each visit to a server. It stops at the
//! first error, and it contains no password: psql takes those from a passfile or the environment.

use std::fmt::Write as _;

use super::apply::mark;
use super::conditions::Obstacle;
use super::connection::{Route, psql, shell, shown};
use super::ends::Ends;
use super::found::{Forward, Piece, SlotPiece};
use super::names::Mark;
use super::statements;
use super::tables::Tables;
use crate::ops::plan::flat;
use crate::types::{quote_identifier, quote_literal};

/// Where the comment's position goes in.
const POSITION: &str = "@position@";

/// A script that grows.
struct Script<'a> {
    ends: &'a Ends,
    text: String,
    step: u32,
    /// The server that it is connected to.
    at: Option<Server>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Server {
    Old,
    New,
}

/// Writes it, for what is still to be done.
pub(super) fn script(
    ends: &Ends,
    tables: &Tables,
    route: &Route,
    obstacles: &[Obstacle],
    wait_seconds: u64,
) -> String {
    let found = &ends.found;
    let mut script = Script { ends, text: String::new(), step: 0, at: None };
    script.head(obstacles);
    if let Some(forward) = found.forward.as_ref().filter(|forward| forward.enabled) {
        script.caught_up(forward, wait_seconds);
    }
    if found.publication == Piece::Absent {
        script.on(Server::New, "What goes back: the tables that came here");
        script.sql(&statements::create_publication(&ends.names, tables, &mark(ends)));
    }
    if let Some(forward) = &found.forward {
        script.on(Server::New, "End the way forwards, so that none of its rows can be in the reverse slot");
        if forward.enabled {
            script.sql(&statements::disable(&forward.name));
        }
        script.stopped(forward, wait_seconds);
    }
    if !matches!(found.slot, SlotPiece::Ready { .. }) {
        script.on(Server::New, "From here on every write on the new server goes back");
        script.sql(&statements::create_slot(&ends.names));
    }
    if let Some(forward) = &found.forward {
        if let (Some(slot), Some(_)) = (&forward.slot, &found.forward_slot) {
            script.nothing_left(forward, slot);
        }
        script.on(Server::New, "Its slot is gone: what is left of the way forwards");
        script.sql(&statements::drop_subscription(&forward.name));
    }
    if found.subscription == Piece::Absent {
        script.subscription(route);
    }
    script.text += "\n-- Then start the sidecar that runs the other way:\n";
    for line in super::sidecar_command(ends).lines() {
        script.text += &format!("--   {}\n", flat(line));
    }
    script.text
}

impl Script<'_> {
    fn head(&mut self, obstacles: &[Obstacle]) {
        let (old, new) = (&self.ends.old.peer, &self.ends.new.peer);
        self.text = format!(
            "-- seqshadow reverse, made {}: the way back, after a switch\n{}{}--\n\
             -- Run it before the application writes on the new server:\n\
             --   psql -X -f reverse.sql \\\n--     {}\n\
             -- It stops at the first error; then run seqshadow reverse again for the rest.\n",
            crate::ops::now(),
            comment(&format!("old server: {old} (--publisher, as before the switch)")),
            comment(&format!("new server: {new} (--subscriber)")),
            flat(&shell(&shown(&self.ends.old_conninfo)))
        );
        for one in obstacles {
            let what = flat(&format!("{}: {}", one.what, one.action));
            self.text += "--\n";
            for (index, line) in
                crate::demo::text::wrap(&format!("NOT YET: {what}"), 5).into_iter().enumerate()
            {
                self.text += &format!("--{}{}\n", if index == 0 { " " } else { "   " }, line.trim_start());
            }
        }
        self.text += "\n\\set ON_ERROR_STOP on\n";
    }

    /// A step on `server`.
    fn on(&mut self, server: Server, why: &str) {
        self.step += 1;
        let (name, conninfo) = match server {
            Server::Old => ("old", &self.ends.old_conninfo),
            Server::New => ("new", &self.ends.new_conninfo),
        };
        self.text.push('\n');
        self.text += &comment(&format!("{}. On the {name} server. {why}.", self.step));
        if self.at == Some(server) {
            return;
        }
        self.at = Some(server);
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "\\connect {}", psql(&shown(conninfo)));
        self.text += "SET search_path = pg_catalog;\n";
        self.text += "SET default_transaction_read_only = off; -- in this session only\n";
    }

    fn sql(&mut self, sql: &str) {
        self.text += sql;
        self.text.push('\n');
    }

    /// A block that asks `ready` until it is true.
    fn wait(&mut self, ready: &str, seconds: u64, message: &str) {
        let body = format!(
            "BEGIN\n  FOR i IN 1..{} LOOP\n    IF {ready} THEN RETURN; END IF;\n    \
             PERFORM pg_sleep(0.1);\n  END LOOP;\n  RAISE EXCEPTION {};\nEND",
            seconds.saturating_mul(10).max(1),
            raised(message)
        );
        self.sql(&block("wait", &body));
    }

    fn caught_up(&mut self, forward: &Forward, seconds: u64) {
        let slot = forward.slot.clone().unwrap_or_default();
        let name = quote_identifier(&forward.name);
        self.on(Server::Old, "Everything that was written here must have arrived");
        self.sql(
            "SELECT pg_logical_emit_message(true, 'seqshadow', 'reverse');\n\
             SELECT set_config('seqshadow.fence', pg_current_wal_flush_lsn()::text, false);",
        );
        let ready = format!(
            "(SELECT confirmed_flush_lsn >= current_setting('seqshadow.fence')::pg_lsn\n          \
             FROM pg_replication_slots WHERE slot_name = {})",
            quote_literal(&slot).trim_start()
        );
        self.wait(&ready, seconds, &format!("subscription {name} has not applied everything"));
        self.on(Server::New, "Every table must be followed");
        let ready = format!(
            "NOT EXISTS (SELECT FROM pg_subscription_rel r JOIN pg_subscription s\n           \
             ON s.oid = r.srsubid WHERE s.subname = {} AND r.srsubstate <> 'r')",
            quote_literal(&forward.name).trim_start()
        );
        self.wait(&ready, 1, &format!("subscription {name} does not follow every table yet"));
    }

    fn stopped(&mut self, forward: &Forward, seconds: u64) {
        let ready = format!(
            "NOT EXISTS (SELECT FROM pg_stat_subscription\n                   WHERE subname = {} AND pid IS NOT NULL)",
            quote_literal(&forward.name).trim_start()
        );
        let message = format!("subscription {} is still at work", quote_identifier(&forward.name));
        self.wait(&ready, seconds, &message);
    }

    fn nothing_left(&mut self, forward: &Forward, slot: &str) {
        self.on(Server::Old, "The proof that no row is lost, from the forward slot itself; then it goes");
        let literal = quote_literal(slot);
        let ready = format!(
            "NOT EXISTS (SELECT FROM pg_replication_slots\n                   WHERE slot_name = {} AND active)",
            literal.trim_start()
        );
        self.wait(&ready, 10, &format!("slot {slot} is still in use"));
        let messages =
            statements::messages(slot, &forward.publications, self.ends.old.version, forward.local_only);
        let message = format!(
            "slot {slot} has changes that the new server does not have; seqshadow reverse --undo goes on forwards"
        );
        let body = format!(
            "BEGIN\n  IF EXISTS (SELECT FROM {messages}\n    WHERE kind IN {}) THEN\n    \
             RAISE EXCEPTION {};\n  END IF;\nEND",
            statements::CHANGES,
            raised(&message)
        );
        self.sql(&block("proof", &body));
        self.sql(&statements::drop_slot(slot));
    }

    fn subscription(&mut self, route: &Route) {
        self.on(Server::Old, "The way back");
        if !route.hidden.is_empty() {
            let hidden: Vec<String> = route.hidden.iter().map(|keyword| format!("{keyword}=…")).collect();
            let what = if route.hidden == ["password"] { "The password" } else { "What is secret" };
            let _ =
                writeln!(self.text, "-- {what} is not printed: put {} into CONNECTION.", hidden.join(" "));
        }
        let comment = Mark { switched_at: Some(POSITION.to_owned()), ..Mark::default() }.comment();
        let _ = writeln!(
            self.text,
            "SELECT replace({}, '{POSITION}', pg_current_wal_flush_lsn()::text) AS mark \\gset",
            quote_literal(&comment).trim_start()
        );
        let sql =
            statements::create_subscription(&self.ends.names, &route.shown, self.ends.old.version, ":'mark'");
        self.sql(&sql);
    }
}

/// A comment in lines that keep to the margins, whatever breaks there are in it.
fn comment(text: &str) -> String {
    crate::demo::text::wrap(text, 3).iter().map(|line| format!("-- {}\n", line.trim_start())).collect()
}

/// A DO block, in quotes that nothing in it can end, whatever somebody has named a subscription.
fn block(name: &str, body: &str) -> String {
    let mut tag = format!("${name}$");
    while body.contains(&tag) {
        tag = format!("{}_$", tag.trim_end_matches('$'));
    }
    format!("DO {tag} {body} {tag};")
}

/// A message for RAISE, in which a percent sign would want a value.
fn raised(message: &str) -> String {
    quote_literal(&message.replace('%', "%%")).trim_start().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_keeps_to_the_margins_and_nothing_ends_it() {
        let text = comment(&format!("1. On the new server. {}\nDROP TABLE t;", "word ".repeat(20)));
        assert!(text.lines().all(|line| line.starts_with("-- ") && line.len() <= 80), "{text}");
        assert!(text.starts_with("-- 1. On the new server. word"), "{text}");
    }

    #[test]
    fn nothing_in_a_block_ends_it() {
        assert_eq!(block("wait", "x"), "DO $wait$ x $wait$;");
        assert_eq!(block("wait", "'$wait$'"), "DO $wait_$ '$wait$' $wait_$;");
        assert_eq!(block("wait", "$wait$ $wait_$"), "DO $wait__$ $wait$ $wait_$ $wait__$;");
    }
}
