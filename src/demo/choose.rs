//! Chooses the servers' programs: an older major for the publisher, a newer one for the subscriber.
//!
//! In: the directories the user named, what is on the machine, and npm where only one major is here. Out: two
//! installations, which may be one and the same.

use std::fs;
use std::path::PathBuf;

use super::DemoError;
use super::servers::{Installation, ServersError, fetch, find};

/// What to run on each side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    pub publisher: Installation,
    pub subscriber: Installation,
}

/// The oldest major that we promise to work with.
const OLDEST: u32 = 12;

/// What to get where there is one major or none, in this order.
const WANTED: [u32; 2] = [18, 17];

/// Finds two installations, or gets them; `announce` is told before something is fetched. Blocks.
///
/// # Errors
/// When a named directory holds no server, or when there is none and none can be fetched.
pub fn choose(bindirs: &[PathBuf], announce: impl Fn(String)) -> Result<Choice, DemoError> {
    let named = bindirs.iter().map(named).collect::<Result<Vec<_>, _>>()?;
    let mut found = named.clone();
    if named.len() < 2 {
        found.extend(find::find_all(&[]).into_iter().filter(|found| found.major() >= OLDEST));
    }
    let fetching = |major| announce(format!("PostgreSQL {major} is not here: getting it, once"));
    if found.is_empty() {
        fetching(WANTED[0]);
        found.push(fetch::fetch(WANTED[0]).map_err(DemoError::NoServer)?);
    }
    if named.len() < 2 && one_major(&found) {
        let other = WANTED.into_iter().find(|major| found.iter().all(|known| known.major() != *major));
        if let Some(major) = other.filter(|_| npm_is_here()) {
            fetching(major);
            // Nice to have: without it both sides run the same major.
            found.extend(fetch::fetch_relocatable(major));
        }
    }
    let keep = named.first().filter(|_| named.len() == 1);
    pair(&found, keep).ok_or_else(|| {
        DemoError::NoServer(ServersError::NotAvailable {
            major: WANTED[0],
            advice: "install it, and name its programs with --pg-bindir".to_owned(),
        })
    })
}

fn named(bindir: &PathBuf) -> Result<Installation, DemoError> {
    let not_there = |source: std::io::Error| ServersError::NotAServer {
        path: bindir.clone(),
        found: format!("which cannot be opened: {source}"),
    };
    let real = fs::canonicalize(bindir).map_err(|error| DemoError::Bindir(not_there(error)))?;
    Installation::at(&real).map_err(DemoError::Bindir)
}

fn one_major(found: &[Installation]) -> bool {
    found.windows(2).all(|two| two[0].major() == two[1].major())
}

fn npm_is_here() -> bool {
    std::process::Command::new("npm")
        .arg("--version")
        .stdin(std::process::Stdio::null())
        .output()
        .is_ok_and(|output| output.status.success())
}

/// The newest for the subscriber, and the first of the others (which come in the order of preference) that is older
/// for the publisher. `keep` must be one of the two.
fn pair(found: &[Installation], keep: Option<&Installation>) -> Option<Choice> {
    let newest = found.iter().rev().max_by_key(|found| found.version_num)?;
    let older = found.iter().find(|found| found.major() < newest.major()).unwrap_or(newest);
    let (publisher, subscriber) = match keep {
        None => (older, newest),
        Some(keep) if keep.major() < newest.major() => (keep, newest),
        Some(keep) => (older, keep),
    };
    Some(Choice { publisher: publisher.clone(), subscriber: subscriber.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn installation(version_num: u32) -> Installation {
        Installation { bindir: format!("/pg/{version_num}").into(), version_num, version: String::new() }
    }

    fn majors(found: &[u32], keep: Option<u32>) -> Option<(u32, u32)> {
        let found: Vec<_> = found.iter().map(|num| installation(*num)).collect();
        let choice = pair(&found, keep.map(installation).as_ref())?;
        Some((choice.publisher.major(), choice.subscriber.major()))
    }

    #[test]
    fn the_publisher_is_older_where_the_machine_has_two_majors() {
        assert_eq!(majors(&[150_012, 180_004, 120_022], None), Some((15, 18)));
        assert_eq!(majors(&[180_004, 150_012], None), Some((15, 18)));
        assert_eq!(majors(&[150_012], None), Some((15, 15)));
        assert_eq!(majors(&[], None), None);
    }

    #[test]
    fn a_named_one_is_always_used() {
        assert_eq!(majors(&[130_000, 150_012, 180_004], Some(130_000)), Some((13, 18)));
        assert_eq!(majors(&[180_004, 150_012, 180_003], Some(180_004)), Some((15, 18)));
        assert_eq!(majors(&[150_012, 120_000], Some(150_012)), Some((12, 15)));
    }
}
