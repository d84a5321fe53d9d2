//! `check`: each finding with the condition on a real server, and silence without it.

mod contents;
mod definitions;
mod drift;
mod failover;
mod headroom;
mod healthy;
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
use proto_tests::sql::{PATIENCE, wait_for};
use proto_tests::stage::Stage;
use proto_tests::verb;
use seqshadow::demo::servers::Cluster;
use serde_json::Value;

/// The findings of one code, as `object: message`; `flags` besides the usual ones.
pub fn found(pair: &Pair, code: &str, flags: &[&str]) -> Result<Vec<String>> {
    Ok(look(pair, flags, &[])?.of(code))
}

/// Runs `check` with `flags` besides the usual ones, and with variables of its environment.
pub fn look(pair: &Pair, flags: &[&str], environment: &[(&str, &str)]) -> Result<Findings> {
    let mut all = vec!["--json"];
    all.extend(flags);
    let command = verb::command(pair, "check", &all);
    let command = environment.iter().fold(command, |command, (name, value)| command.env(*name, *value));
    let report = command.run(PATIENCE)?.json()?;
    Ok(Findings(report["findings"].as_array().cloned().unwrap_or_default()))
}

/// What one `check` said.
#[derive(Debug)]
pub struct Findings(Vec<Value>);

impl Findings {
    /// Runs it with the usual flags.
    pub fn of_pair(pair: &Pair) -> Result<Findings> {
        look(pair, &[], &[])
    }

    /// Runs it with flags besides the usual ones.
    pub fn with(pair: &Pair, flags: &[&str]) -> Result<Findings> {
        look(pair, flags, &[])
    }

    fn with_code(&self, code: &str) -> impl Iterator<Item = &Value> {
        self.0.iter().filter(move |finding| finding["code"] == code)
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

    /// Those of `codes` that were found.
    pub fn among<'a>(&self, codes: &[&'a str]) -> Vec<&'a str> {
        codes.iter().filter(|code| self.with_code(code).next().is_some()).copied().collect()
    }

    /// Fails when there is one of any of these codes.
    pub fn expect_none_of(&self, codes: &[&str]) {
        let told: Vec<&Value> = codes.iter().flat_map(|code| self.with_code(code)).collect();
        assert!(told.is_empty(), "{told:#?}");
    }

    /// Runs what mends the findings of these codes, each where it was found; those of both sides on the subscriber.
    pub async fn mend(&self, stage: &Stage, codes: &[&str]) {
        for finding in codes.iter().flat_map(|code| self.with_code(code)) {
            let sql = finding["mend"].as_str().unwrap_or_else(|| panic!("nothing mends {finding:#}"));
            if finding["side"] == "publisher" {
                stage.on_publisher(sql).await;
            } else {
                stage.on_subscriber(sql).await;
            }
        }
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
