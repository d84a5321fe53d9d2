//! The command line: [`args`] says what can be typed.

pub mod args;
