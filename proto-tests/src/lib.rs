//! What the tests of the workspace share.

pub mod capture;
pub mod encode;
pub mod record;
