//! `check`: each finding with the condition on a real server, and silence without it.

mod contents;
mod sequences;
mod server;

use anyhow::Result;
use proto_tests::pair::Pair;
use proto_tests::verb;

/// The findings of one code, as `object: message`; `flags` besides the usual ones.
pub fn found(pair: &Pair, code: &str, flags: &[&str]) -> Result<Vec<String>> {
    let mut all = vec!["--json"];
    all.extend(flags);
    let finished = verb::run(pair, "check", &all)?;
    let report = finished.json()?;
    let findings = report["findings"].as_array().into_iter().flatten();
    let text = |finding: &serde_json::Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    Ok(findings
        .filter(|finding| text(finding, "code") == code)
        .map(|finding| format!("{}: {}", text(finding, "object"), text(finding, "message")))
        .collect())
}
