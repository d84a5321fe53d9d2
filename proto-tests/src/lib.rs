pub mod encode;
pub mod record;
