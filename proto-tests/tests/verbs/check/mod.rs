//! `check`: each finding with the condition on a real server, and silence without it.

mod contents;
mod definitions;
mod drift;
mod failover;
mod headroom;
mod healthy;
mod mends;
mod native;
mod one_sided;
mod pooler;
mod provider;
mod publication;
mod replication;
mod rights;
mod same;
mod schema;
mod sequences;
mod server;
mod shape;
mod subscription;
mod tables;
mod unanswered;
mod unread;

use anyhow::Result;
use proto_tests::pair::Pair;
use proto_tests::sql::{PATIENCE, Probe, wait_for, wait_until};
use proto_tests::verb;
use seqshadow::demo::servers::Cluster;
use serde_json::Value;

/// The findings of one code, as `object: message`; `flags` besides the usual ones.
pub fn found(pair: &Pair, code: &str, flags: &[&str]) -> Result<Vec<String>> {
    Ok(look(pair, flags, &[])?.of(code))
}

/// Runs `check` with `flags` besides the usual ones, and with variables of its environment. Whatever it says mends what it
/// has found is tried, and undone.
pub fn look(pair: &Pair, flags: &[&str], environment: &[(&str, &str)]) -> Result<Findings> {
    let findings = look_only(pair, flags, environment)?;
    mends::rehearse(pair, &findings.found);
    Ok(findings)
}

fn look_only(pair: &Pair, flags: &[&str], environment: &[(&str, &str)]) -> Result<Findings> {
    let mut all = vec!["--json"];
    all.extend(flags);
    let command = verb::command(pair, "check", &all);
    let command = environment.iter().fold(command, |command, (name, value)| command.env(*name, *value));
    let report = command.run(PATIENCE)?.json()?;
    let findings = Findings {
        found: report["findings"].as_array().cloned().unwrap_or_default(),
        flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
        environment: environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
    };
    findings.found.iter().for_each(mends::is_as_promised);
    Ok(findings)
}

/// What one `check` said.
#[derive(Debug)]
pub struct Findings {
    found: Vec<Value>,
    flags: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Findings {
    /// Runs it with the usual flags.
    pub fn of_pair(pair: &Pair) -> Result<Findings> {
        look(pair, &[], &[])
    }

    /// Runs it with flags besides the usual ones.
    pub fn with(pair: &Pair, flags: &[&str]) -> Result<Findings> {
        look(pair, flags, &[])
    }

    pub fn with_code(&self, code: &str) -> impl Iterator<Item = &Value> {
        self.found.iter().filter(move |finding| finding["code"] == code)
    }

    /// Those of one code, as `object: message`.
    pub fn of(&self, code: &str) -> Vec<String> {
        let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
        self.with_code(code).map(|f| format!("{}: {}", text(f, "object"), text(f, "message"))).collect()
    }

    /// What mends the findings of one code.
    pub fn mends(&self, code: &str) -> Vec<String> {
        let mend = |finding: &Value| finding["mend"].as_str().unwrap_or_default().to_owned();
        self.with_code(code).map(mend).collect()
    }

    /// What is to be done or decided about the findings of one code, in words.
    pub fn advice(&self, code: &str) -> Vec<String> {
        let advice = |finding: &Value| finding["advice"].as_str().unwrap_or_default().to_owned();
        self.with_code(code).map(advice).collect()
    }

    /// Those of `codes` that were found.
    pub fn among<'a>(&self, codes: &[&'a str]) -> Vec<&'a str> {
        codes.iter().filter(|code| self.with_code(code).next().is_some()).copied().collect()
    }

    /// Fails when there is one of any of these codes.
    pub fn expect_none_of(&self, codes: &[&str]) {
        let told: Vec<&Value> = codes.iter().flat_map(|code| self.with_code(code)).collect();
        assert!(told.is_empty(), "{told:#?}");
    }

    /// Has psql run what mends the findings of these codes, as it is printed, each where it says; then none of them is
    /// found any more.
    pub async fn mend(&self, pair: &Pair, codes: &[&str]) {
        let mut gone = Vec::new();
        for finding in codes.iter().flat_map(|code| self.with_code(code)) {
            if mends::run(pair, finding) {
                gone.push(mends::Gone::of(finding));
            }
        }
        for code in codes {
            assert!(gone.iter().any(|one| one.code == *code), "nothing mends {code}: {self:#?}");
        }
        let flags: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        let environment: Vec<(&str, &str)> =
            self.environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        // Settings and statistics come into force a little later.
        wait_until("what was mended to be found no more", PATIENCE / 3, async || {
            let now = look_only(pair, &flags, &environment)?;
            let left: Vec<&Value> = now.found.iter().filter(|f| gone.iter().any(|one| one.is(f))).collect();
            Ok(Probe::when(left.is_empty(), || format!("{left:#?}")))
        })
        .await
        .unwrap();
    }
}

/// Changes settings that need no restart, and waits until they are in force.
pub async fn configure(cluster: &Cluster, settings: &[(&str, &str)]) -> Result<()> {
    cluster.configure(settings)?;
    for (name, value) in settings {
        let sql = format!("SELECT current_setting('{name}') = '{value}'");
        wait_for(&cluster.conninfo("postgres"), &format!("{name} = {value}"), &sql).await?;
    }
    Ok(())
}
