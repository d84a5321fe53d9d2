//! The operator's verbs, against real servers.

mod check;
mod plan_and_sync;
mod setup;
mod verify;
