//! What the programs below share: the pictures of what they measured.

pub mod chart;
