//! `check`: each finding with the condition on a real server, and silence without it.

mod contents;
mod definitions;
mod headroom;
mod healthy;
mod schema;
mod sequences;
mod server;
mod shape;
mod tables;
mod unread;

use anyhow::Result;
use proto_tests::pair::Pair;
use proto_tests::stage::Stage;
use proto_tests::verb;
use serde_json::Value;

/// The findings of one code, as `object: message`; `flags` besides the usual ones.
pub fn found(pair: &Pair, code: &str, flags: &[&str]) -> Result<Vec<String>> {
    Ok(Findings::with(pair, flags)?.of(code))
}

/// One answer of `check`.
#[derive(Debug)]
pub struct Findings(Vec<Value>);

impl Findings {
    /// Runs it.
    ///
    /// # Errors
    /// When it does not end, or prints no JSON.
    pub fn of_pair(pair: &Pair) -> Result<Findings> {
        Self::with(pair, &[])
    }

    /// Runs it with flags besides the usual ones.
    ///
    /// # Errors
    /// When it does not end, or prints no JSON.
    pub fn with(pair: &Pair, flags: &[&str]) -> Result<Findings> {
        let mut all = vec!["--json"];
        all.extend(flags);
        let report = verb::run(pair, "check", &all)?.json()?;
        Ok(Findings(report["findings"].as_array().cloned().unwrap_or_default()))
    }

    fn with_code(&self, code: &str) -> impl Iterator<Item = &Value> {
        self.0.iter().filter(move |finding| finding["code"] == code)
    }

    /// Those of one code, as `object: message`.
    #[must_use]
    pub fn of(&self, code: &str) -> Vec<String> {
        let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
        self.with_code(code).map(|f| format!("{}: {}", text(f, "object"), text(f, "message"))).collect()
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
