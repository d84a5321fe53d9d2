//! The command line: [`args`] says what can be typed, each verb has a file. [`verb`] is what those that print a result
//! have in common, [`show`] how a result looks.

pub mod args;
pub mod capture;
pub mod check;
pub mod complaint;
pub mod cutover;
pub mod demo;
pub mod manual;
pub mod plan;
pub mod replay;
pub mod reverse;
pub mod run;
pub mod setup;
pub mod show;
pub mod status;
pub mod sync;
pub mod teardown;
pub mod verb;
pub mod verify;
pub mod verify_data;
