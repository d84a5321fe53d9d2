//! The operator's verbs, against real servers.

mod check;
mod compare;
mod plan_and_sync;
mod verify;
