pub mod conninfo;
pub mod demo;
pub mod pgoutput;
pub mod types;
pub mod wire;
