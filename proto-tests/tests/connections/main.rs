//! Connections mean what libpq means: the same connection string leads our client and `psql` to the same session, or to
//! the same kind of refusal; TLS is never weaker than asked; passwords never show.

mod auth;
mod authority;
mod cluster;
mod outcome;
mod psql;
mod sql;
mod tls;
