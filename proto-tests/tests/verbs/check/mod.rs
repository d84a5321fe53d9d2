//! `check`: each finding with the condition on a real server, and silence without it.

mod contents;
mod failover;
mod native;
mod pooler;
mod provider;
mod publication;
mod replication;
mod rights;
mod sequences;
mod server;
mod subscription;
mod unanswered;

use anyhow::Result;
use proto_tests::pair::Pair;
use proto_tests::sql::{PATIENCE, wait_for};
use proto_tests::verb;
use seqshadow::demo::servers::Cluster;

/// The findings of one code, as `object: message`; `flags` besides the usual ones.
pub fn found(pair: &Pair, code: &str, flags: &[&str]) -> Result<Vec<String>> {
    Ok(look(pair, flags, &[])?.of(code))
}

/// What one `check` said.
#[derive(Debug)]
pub struct Looked(serde_json::Value);

/// Runs `check` with `flags` besides the usual ones, and with variables of its environment.
pub fn look(pair: &Pair, flags: &[&str], environment: &[(&str, &str)]) -> Result<Looked> {
    let mut all = vec!["--json"];
    all.extend(flags);
    let command = verb::command(pair, "check", &all);
    let command = environment.iter().fold(command, |command, (name, value)| command.env(*name, *value));
    Ok(Looked(command.run(PATIENCE)?.json()?))
}

impl Looked {
    fn findings(&self, code: &str) -> Vec<&serde_json::Value> {
        let all = self.0["findings"].as_array().into_iter().flatten();
        all.filter(|finding| finding["code"] == code).collect()
    }

    /// The findings of one code, as `object: message`.
    pub fn of(&self, code: &str) -> Vec<String> {
        let text =
            |finding: &serde_json::Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
        let findings = self.findings(code).into_iter();
        findings.map(|finding| format!("{}: {}", text(finding, "object"), text(finding, "message"))).collect()
    }

    /// What mends the findings of one code.
    pub fn mends(&self, code: &str) -> Vec<String> {
        let mend = |finding: &serde_json::Value| finding["mend"].as_str().unwrap_or_default().to_owned();
        self.findings(code).into_iter().map(mend).collect()
    }

    /// Those of `codes` that were found.
    pub fn among<'a>(&self, codes: &[&'a str]) -> Vec<&'a str> {
        codes.iter().filter(|code| !self.findings(code).is_empty()).copied().collect()
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
