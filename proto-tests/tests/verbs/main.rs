//! The operator's verbs, against real servers.

mod check;
mod console;
mod plan_and_sync;
mod status;
mod verify;
