//! The operator's verbs, against real servers.

mod check;
mod createsubscriber;
mod cutover;
mod manual;
mod compare;
mod plan_and_sync;
mod setup;
mod verify;
