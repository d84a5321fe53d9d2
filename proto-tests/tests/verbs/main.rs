//! The operator's verbs, against real servers.

mod check;
mod compare;
mod console;
mod createsubscriber;
mod cutover;
mod manual;
mod plan_and_sync;
mod reverse;
mod reverse_kills;
mod reverse_split_brain;
mod setup;
mod status;
mod verify;
