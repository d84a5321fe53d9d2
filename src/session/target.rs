//! `target_session_attrs`: is this server in the role that was asked for?
//!
//! Goes in: what the server told at the start. Comes out: the reason why it is not wanted, if so. Servers before 14 do not
//! tell by themselves and are asked.

use super::startup::{Dialogue, Facts, Fault};
use crate::conninfo::TargetSessionAttrs;

/// What is asked of one server; `prefer-standby` becomes one of these for each of its two rounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TargetCheck {
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
}

impl TargetCheck {
    /// The rounds through the list of hosts.
    pub(super) fn rounds(wanted: TargetSessionAttrs) -> &'static [TargetCheck] {
        match wanted {
            TargetSessionAttrs::Any => &[TargetCheck::Any],
            TargetSessionAttrs::ReadWrite => &[TargetCheck::ReadWrite],
            TargetSessionAttrs::ReadOnly => &[TargetCheck::ReadOnly],
            TargetSessionAttrs::Primary => &[TargetCheck::Primary],
            TargetSessionAttrs::Standby => &[TargetCheck::Standby],
            TargetSessionAttrs::PreferStandby => &[TargetCheck::Standby, TargetCheck::Any],
        }
    }
}

/// Why the server is not what `check` asks for; `None` if it is.
pub(super) async fn mismatch(
    dialogue: &mut Dialogue,
    facts: &Facts,
    check: TargetCheck,
) -> Result<Option<&'static str>, Fault> {
    let told = |name: &str| facts.parameters.get(name).map(|value| value == "on");
    let standby = told("in_hot_standby");
    let reason = match check {
        TargetCheck::Any => None,
        TargetCheck::ReadWrite | TargetCheck::ReadOnly => {
            let read_only = match (told("default_transaction_read_only"), standby) {
                (Some(read_only), Some(standby)) => read_only || standby,
                _ => dialogue.query_value("SHOW transaction_read_only").await?.as_deref() == Some("on"),
            };
            match (check, read_only) {
                (TargetCheck::ReadWrite, true) => Some("session is read-only"),
                (TargetCheck::ReadOnly, false) => Some("session is not read-only"),
                _ => None,
            }
        }
        TargetCheck::Primary | TargetCheck::Standby => {
            let standby = match standby {
                Some(standby) => standby,
                None => {
                    let answer = dialogue.query_value("SELECT pg_catalog.pg_is_in_recovery()").await?;
                    answer.as_deref() == Some("t")
                }
            };
            match (check, standby) {
                (TargetCheck::Primary, true) => Some("server is in hot standby mode"),
                (TargetCheck::Standby, false) => Some("server is not in hot standby mode"),
                _ => None,
            }
        }
    };
    Ok(reason)
}
