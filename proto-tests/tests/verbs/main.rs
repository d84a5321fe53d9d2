//! The operator's verbs, against real servers.

mod check;
mod plan_and_sync;
mod reverse;
mod reverse_kills;
mod reverse_split_brain;
mod verify;
