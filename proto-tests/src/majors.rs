//! Which PostgreSQL majors the tests run on, and where their programs are.

use anyhow::{Context as _, Result, bail};
use seqshadow::demo::servers::{Installation, find, find_or_fetch};
use std::path::Path;
use std::process::{Command, Stdio};

/// Lists pairs for the matrix tests: `12-15,17-18`, or `all`.
pub const MATRIX_VARIABLE: &str = "SEQSHADOW_TEST_MAJORS";

/// The majors that we support.
const SUPPORTED: std::ops::RangeInclusive<u32> = 12..=19;
/// The subscriber that every publisher is tested with: the oldest major that distributions still carry.
const COMMON_SUBSCRIBER: u32 = 15;

/// The pairs (publisher, subscriber) of the matrix tests: those of [`MATRIX_VARIABLE`], else old and new ones.
///
/// # Panics
/// When the variable is not a list of pairs.
#[must_use]
pub fn pairs() -> Vec<(u32, u32)> {
    match std::env::var(MATRIX_VARIABLE) {
        Ok(list) if list.trim() == "all" => all_pairs(),
        Ok(list) if !list.trim().is_empty() => parse_pairs(&list)
            .unwrap_or_else(|| panic!("expected {MATRIX_VARIABLE} like 12-15,17-18, got {list:?}")),
        _ => vec![(12, 15), (15, 17), (17, 18)],
    }
}

/// Every publisher, with the common subscriber and with the next newer major (the newest has itself).
fn all_pairs() -> Vec<(u32, u32)> {
    let newest = *SUPPORTED.end();
    let of = |publisher: u32| [(publisher, COMMON_SUBSCRIBER), (publisher, newest.min(publisher + 1))];
    let mut pairs: Vec<_> = SUPPORTED.flat_map(of).collect();
    pairs.dedup();
    pairs
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
    crate::deadline::watch();
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
        assert_eq!(all_pairs()[..3], [(12, 15), (12, 13), (13, 15)]);
        assert_eq!(all_pairs().iter().filter(|pair| **pair == (14, 15)).count(), 1);
        assert_eq!(all_pairs().last(), Some(&(19, 19)));
    }
}
