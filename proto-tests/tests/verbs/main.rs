//! The operator's verbs, against real servers.

mod bluegreen;
mod capture;
mod check;
mod compare;
mod console;
mod consumers;
mod createsubscriber;
mod cutover;
mod documented;
mod manual;
mod nothing_known;
mod plan_and_sync;
mod reverse;
mod reverse_followed;
mod reverse_kills;
mod reverse_overlooked;
mod reverse_script;
mod reverse_split_brain;
mod reverse_writes;
mod setup;
mod shapes;
mod status;
mod verify;
