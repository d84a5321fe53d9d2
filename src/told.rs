//! What was said of an outage: once, however often it is tried again, and anew when the reason is another. Pure.

use std::collections::BTreeSet;

/// As many reasons are remembered: an outage that has more of them says no more.
const REASONS_MAX: usize = 16;

/// The reasons that were told since it was last well.
#[derive(Debug, Default)]
pub struct Told {
    reasons: BTreeSet<String>,
}

impl Told {
    /// Whether `reason` is to be told. Numbers make no news: pids and positions differ at each attempt.
    pub fn is_news(&mut self, reason: &str) -> bool {
        let reason: String = reason.chars().filter(|c| !c.is_ascii_digit()).collect();
        self.reasons.len() < REASONS_MAX && self.reasons.insert(reason)
    }

    /// It is well again. Says whether there was an outage.
    pub fn is_over(&mut self) -> bool {
        !std::mem::take(&mut self.reasons).is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_news_once_in_an_outage() {
        let mut told = Told::default();
        assert!(!told.is_over());
        for pid in 0..10 {
            assert_eq!(told.is_news(&format!("the slot is held by pid {pid}")), pid == 0);
            assert_eq!(told.is_news("connection refused"), pid == 0);
        }
        assert!(told.is_over());
        assert!(told.is_news("connection refused"));
    }

    #[test]
    fn reasons_that_never_end_are_not_remembered_for_ever() {
        let mut told = Told::default();
        let news = (0..1000).filter(|n| told.is_news(&"x".repeat(*n))).count();
        assert_eq!(news, REASONS_MAX);
    }
}
