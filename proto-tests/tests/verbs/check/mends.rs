//! What is said to mend a finding does: it is what psql runs, it does not fail, and the finding is gone.
//!
//! In: findings as JSON. Each that any test sees is looked at ([`is_as_promised`]) and its statements are tried and undone,
//! all in the order of the report ([`rehearse`]); the tests of the findings run them for good ([`run`]).

use proto_tests::limited;
use proto_tests::pair::Pair;
use serde_json::Value;
use std::collections::BTreeSet;
use std::process::{Command, Output};

/// How far SQL mends the findings of a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mends {
    /// Its test runs what mends it, and finds it gone.
    Gone,
    /// It is tried whenever it is seen, but not run for good, for this reason.
    #[allow(dead_code, reason = "for whoever reads the list")]
    Tried(&'static str),
    /// It is a command for a shell or a setting of a provider's.
    #[allow(dead_code, reason = "for whoever reads the list")]
    Elsewhere(&'static str),
    /// Nothing is printed but advice, for this reason.
    #[allow(dead_code, reason = "for whoever reads the list")]
    Never(&'static str),
}

use Mends::{Elsewhere, Gone as Runs, Never, Tried};

const RESTART: &str = "only a restart brings the setting into force";
const NO_NAME: &str = "nobody but the operator knows which";
const NO_FAULT: &str = "it is how things are, and no fault";
const BY_HAND: &str = "no SQL does it";

/// Every code.
const ALL: &[(&str, Mends)] = &[
    ("not-looked-at", Never(NO_NAME)),
    ("locked", Never("it ends by itself")),
    ("wal-level", Tried(RESTART)),
    ("standby-too-old", Never(BY_HAND)),
    ("standby-publisher", Never(NO_FAULT)),
    ("standby-feedback-off", Tried("it is a standby's setting")),
    ("no-slot-free", Tried(RESTART)),
    ("last-slot", Tried(RESTART)),
    ("no-wal-sender-free", Tried(RESTART)),
    ("last-wal-sender", Tried(RESTART)),
    ("slot-wal-unlimited", Runs),
    ("slot-wal-limit-small", Runs),
    ("idle-slot-timeout", Runs),
    ("synchronous-standby", Runs),
    ("failover-not-set", Runs),
    ("failover-alone", Runs),
    ("failover-on-standby", Never(BY_HAND)),
    ("failover-waits-for-standby", Never(NO_FAULT)),
    ("failover-standby-away", Runs),
    ("failover-without-standby", Never(BY_HAND)),
    ("replication-refused", Runs),
    ("pooler", Never(BY_HAND)),
    ("slot-missing", Never(NO_FAULT)),
    ("slot-not-made", Runs),
    ("slot-refused", Never(NO_NAME)),
    ("slot-in-use", Never(NO_FAULT)),
    ("slot-lost", Never("the sidecar makes it anew")),
    ("slot-retains-wal", Runs),
    ("inactive-slot", Runs),
    ("long-writing-transaction", Runs),
    ("writers-hidden", Runs),
    ("publisher-schema-usage", Runs),
    ("publisher-sequence-select", Runs),
    ("publisher-blind-select", Runs),
    ("publisher-column-select", Runs),
    ("subscriber-schema-usage", Runs),
    ("subscriber-sequence-advance", Runs),
    ("subscriber-sequence-update", Runs),
    ("subscriber-sequence-select", Runs),
    ("subscriber-column-select", Runs),
    ("publication-missing", Never(NO_NAME)),
    ("tables-not-published", Runs),
    ("inserts-not-published", Runs),
    ("id-not-in-column-list", Never(NO_NAME)),
    ("row-filter", Never(NO_FAULT)),
    ("publication-breaks-updates", Runs),
    ("no-subscription", Never(NO_FAULT)),
    ("several-subscriptions", Never(NO_NAME)),
    ("subscription-disabled", Runs),
    ("subscription-not-running", Never("the log says why")),
    ("subscription-errors", Runs),
    ("relations-not-ready", Never("it ends by itself")),
    ("table-not-subscribed", Runs),
    ("subscription-slot-missing", Runs),
    ("subscription-slot-lost", Runs),
    ("disable-on-error", Runs),
    ("publications-differ", Never(NO_FAULT)),
    ("native-sequences", Never(NO_FAULT)),
    ("two-sequence-writers", Runs),
    ("provider", Never(NO_FAULT)),
    ("session-through-pooler", Never(BY_HAND)),
    ("sequence-held", Runs),
    ("sequence-covered-in-part", Never(NO_NAME)),
    ("sequence-not-covered", Never(NO_NAME)),
    ("sequence-column-unknown", Tried("the test of functions and triggers runs it")),
    ("sequence-cycles", Never(NO_FAULT)),
    ("sequence-not-managed", Never(NO_FAULT)),
    ("sequence-unlogged", Runs),
    ("sequence-unread", Never("it ends by itself")),
    ("ids-not-looked-at", Tried("an index or --full is needed as well")),
    ("ids-set-aside", Never(NO_NAME)),
    ("sequence-exhausted", Runs),
    ("sequence-nearly-exhausted", Runs),
    ("sequence-exhaustion-forecast", Tried("it is about a rate")),
    ("sequence-missing", Runs),
    ("sequence-definition-differs", Runs),
    ("sequence-cache", Runs),
    ("sequence-cache-differs", Never(NO_NAME)),
    ("sequence-owner-differs", Runs),
    ("sequence-column-narrower", Runs),
    ("sequence-only-on-subscriber", Never(NO_NAME)),
    ("table-missing", Runs),
    ("column-missing", Runs),
    ("column-required", Runs),
    ("column-type-differs", Runs),
    ("column-type-wider", Never(NO_FAULT)),
    ("column-default-missing", Runs),
    ("primary-key-differs", Runs),
    ("extension-missing", Runs),
    ("extension-version", Never(NO_FAULT)),
    ("column-not-null", Runs),
    ("column-generated", Runs),
    ("check-only-on-subscriber", Runs),
    ("enum-label-missing", Runs),
    ("rows-not-published", Runs),
    ("table-only-on-subscriber", Never(NO_NAME)),
    ("replica-identity", Runs),
    ("replica-identity-needed", Runs),
    ("replica-identity-full", Never(NO_FAULT)),
    ("table-unlogged", Runs),
    ("foreign-table", Never(BY_HAND)),
    ("materialized-view", Never("it is refreshed after the cutover")),
    ("index-invalid", Runs),
    ("trigger-on-apply", Runs),
    ("table-not-analyzed", Runs),
    ("constraint-only-on-subscriber", Never(NO_NAME)),
    ("prepared-transactions", Runs),
    ("large-objects", Elsewhere("pg_dump brings them")),
];

fn of_code(code: &str) -> Mends {
    let known = ALL.iter().find(|(known, _)| *known == code);
    known.unwrap_or_else(|| panic!("{code} is not in the list of what mends")).1
}

#[test]
fn every_code_says_how_far_sql_mends_it() {
    let listed: Vec<&str> = ALL.iter().map(|(code, _)| *code).collect();
    let all: Vec<&str> = seqshadow::ops::check::codes().iter().map(|code| code.code).collect();
    assert_eq!(listed.iter().collect::<BTreeSet<_>>(), all.iter().collect::<BTreeSet<_>>());
    assert_eq!(listed.len(), all.len(), "none is twice");
}

/// Begin at the margin, and go on in indented lines.
fn statements(sql: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for line in sql.lines() {
        match found.last_mut().filter(|_| line.starts_with(' ')) {
            Some(statement) => *statement += &format!("\n{line}"),
            None => found.push(line.to_owned()),
        }
    }
    found
}

/// Without what stands in quotes.
fn bare(sql: &str) -> String {
    let mut quote = None;
    let mut out = String::new();
    for c in sql.chars() {
        match quote {
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if matches!(c, '\'' | '"') => quote = Some(c),
            None => out.push(c),
        }
    }
    out
}

/// Fails where a finding has something to paste that cannot be pasted.
pub fn is_as_promised(finding: &Value) {
    let code = finding["code"].as_str().unwrap();
    let mend = finding["mend"].as_str();
    let place = finding["mend_for"].as_str();
    assert_eq!(mend.is_some(), place.is_some(), "{finding:#}");
    let advice = finding["advice"].as_str().unwrap_or_default();
    assert!(!advice.contains(";;") && !advice.ends_with(';'), "{finding:#}");
    let how = of_code(code);
    assert!(!matches!(how, Never(_)) || mend.is_none(), "{finding:#}");
    if place != Some("psql") {
        return;
    }
    assert!(!matches!(how, Elsewhere(_)) && code != "table-missing", "{finding:#}");
    assert!(finding["side"].is_string(), "where is it to be run? {finding:#}");
    for statement in statements(mend.unwrap()) {
        let bare = bare(&statement);
        assert!(statement.ends_with(';') && bare.matches(';').count() == 1, "{statement}\n{finding:#}");
        for wrong in ["--", "…", "...", " TABLE_NAME", " COLUMN_NAME"] {
            assert!(!bare.contains(wrong), "{statement}\n{finding:#}");
        }
    }
}

/// Has psql run a script, as it would run what is pasted into it.
fn psql(script: &str, conninfo: &str) -> Output {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), script).unwrap();
    let mut command = Command::new("psql");
    command.args(["-X", "-v", "ON_ERROR_STOP=1", "-f"]).arg(file.path()).arg(conninfo);
    limited::output(&mut command).unwrap()
}

fn conninfo(pair: &Pair, side: &Value) -> String {
    if side == "publisher" { pair.publisher_conninfo() } else { pair.subscriber_conninfo() }
}

/// Whether it can be undone with the transaction that it is run in.
fn is_undone(statement: &str) -> bool {
    let never =
        ["ALTER SYSTEM ", "ALTER SUBSCRIPTION ", "DROP SUBSCRIPTION ", "SELECT ", "REINDEX ", "ANALYZE "];
    !never.iter().any(|begin| statement.starts_with(begin)) && !statement.contains(" PREPARED ")
}

/// Runs what mends all of these, in the order of the report, and takes it back.
pub fn rehearse(pair: &Pair, findings: &[Value]) {
    for side in ["publisher", "subscriber"] {
        let of_side = findings.iter().filter(|f| f["side"] == side && f["mend_for"] == "psql");
        let all: Vec<String> = of_side.flat_map(|f| statements(f["mend"].as_str().unwrap())).collect();
        let all: Vec<String> = all.into_iter().filter(|statement| is_undone(statement)).collect();
        if all.is_empty() {
            continue;
        }
        let script = format!("SET lock_timeout = '2s';\nBEGIN;\n{}\nROLLBACK;\n", all.join("\n"));
        let done = psql(&script, &conninfo(pair, &Value::from(side)));
        let said = String::from_utf8_lossy(&done.stderr);
        // Some tests lock what they look at.
        assert!(done.status.success() || said.contains("lock timeout"), "on the {side}: {said}\n{script}");
    }
}

/// Has a shell run it, with connection strings where their places are.
fn shell(pair: &Pair, finding: &Value) {
    let place = |conninfo: String| format!("'{}'", conninfo.replace('\'', "'\\''"));
    let commands = finding["mend"].as_str().unwrap();
    let commands = commands.replace("PUBLISHER", &place(pair.publisher_conninfo()));
    let commands = commands.replace("SUBSCRIBER", &place(pair.subscriber_conninfo()));
    let mut command = Command::new("bash");
    let done = limited::output(command.args(["-e", "-o", "pipefail", "-c", &commands])).unwrap();
    assert!(done.status.success(), "{}\n{commands}", String::from_utf8_lossy(&done.stderr));
}

/// Whether the finding is mended now: by what it prints, or by what another one has printed.
pub fn run(pair: &Pair, finding: &Value) -> bool {
    let code = finding["code"].as_str().unwrap();
    assert_eq!(of_code(code), Runs, "{code}");
    if finding["mend_for"] == "shell" {
        shell(pair, finding);
        return true;
    }
    if finding["mend_for"] != "psql" {
        let advice = finding["advice"].as_str().unwrap_or_default();
        return advice.starts_with("what mends ");
    }
    let sql = finding["mend"].as_str().unwrap();
    let done = psql(&format!("{sql}\n"), &conninfo(pair, &finding["side"]));
    assert!(done.status.success(), "{}\n{finding:#}", String::from_utf8_lossy(&done.stderr));
    true
}

/// What is not to be found any more.
pub struct Gone {
    pub code: String,
    side: Value,
    names: BTreeSet<String>,
}

impl Gone {
    pub fn of(finding: &Value) -> Gone {
        let names = finding["objects"].as_array().unwrap().iter().filter_map(Value::as_str);
        let mut names: BTreeSet<String> = names.map(str::to_owned).collect();
        if names.is_empty() {
            names.insert(finding["object"].as_str().unwrap().to_owned());
        }
        Gone { code: finding["code"].as_str().unwrap().to_owned(), side: finding["side"].clone(), names }
    }

    /// Whether this is it, or a part of it.
    pub fn is(&self, finding: &Value) -> bool {
        let other = Gone::of(finding);
        self.code == other.code && self.side == other.side && !self.names.is_disjoint(&other.names)
    }
}
