//! The command line: [`args`] says what can be typed, each verb has a file.

pub mod args;
pub mod demo;
pub mod run;
