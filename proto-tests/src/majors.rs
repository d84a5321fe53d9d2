//! Which PostgreSQL majors the tests run on, and where their programs are.

use anyhow::{Context as _, Result, bail};
use seqshadow::demo::servers::{Installation, find, find_or_fetch};
use std::path::Path;
use std::process::{Command, Stdio};

/// Lists pairs for the matrix tests: `12-15,17-18`.
pub const MATRIX_VARIABLE: &str = "SEQSHADOW_TEST_MAJORS";

/// The pairs (publisher, subscriber) of the matrix tests: those of [`MATRIX_VARIABLE`], else an old and a new one.
///
/// # Panics
/// When the variable is not a list of pairs.
#[must_use]
pub fn pairs() -> Vec<(u32, u32)> {
    match std::env::var(MATRIX_VARIABLE) {
        Ok(list) if !list.trim().is_empty() => parse_pairs(&list)
            .unwrap_or_else(|| panic!("expected {MATRIX_VARIABLE} like 12-15,17-18, got {list:?}")),
        _ => vec![(12, 15), (17, 18)],
    }
}

fn parse_pairs(list: &str) -> Option<Vec<(u32, u32)>> {
    let pair = |text: &str| {
        let (publisher, subscriber) = text.trim().split_once('-')?;
        Some((publisher.trim().parse().ok()?, subscriber.trim().parse().ok()?))
    };
    list.split(',').map(pair).collect()
}

/// The programs of `major`, fetched if need be.
///
/// # Errors
/// When they are not here and cannot be fetched.
pub fn installation(major: u32) -> Result<Installation> {
    if major == 19 && find::find_major(&[], 19).is_none() {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/fetch-pg19");
        let status = Command::new(&script).stdout(Stdio::null()).status();
        if !status.with_context(|| format!("run {}", script.display()))?.success() {
            bail!("PostgreSQL 19 is not here and {} could not get it", script.display());
        }
    }
    Ok(find_or_fetch(&[], major)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_is_a_list_of_pairs() {
        assert_eq!(parse_pairs("12-15, 17-18"), Some(vec![(12, 15), (17, 18)]));
        assert_eq!(parse_pairs("12"), None);
    }
}
