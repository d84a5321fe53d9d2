pub mod config;
pub mod conninfo;
pub mod demo;
pub mod logging;
pub mod pgoutput;
pub mod plan;
pub mod types;
pub mod wire;
