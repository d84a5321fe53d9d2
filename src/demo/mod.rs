//! Throw-away servers, for the `demo` verb and the tests.

pub mod servers;
