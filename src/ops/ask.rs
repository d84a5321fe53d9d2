//! Questions to one of the two servers, with errors that name it.

use std::time::Duration;

use tokio_postgres::types::{FromSql, ToSql};
use tokio_postgres::{Client, Row};

use crate::sides::SidesError;
use crate::sql::{self, STATEMENT_TIMEOUT};

/// The server ends a statement by itself after [`STATEMENT_TIMEOUT`]; one that does not is as good as away.
const ANSWER_TIMEOUT: Duration = STATEMENT_TIMEOUT.saturating_add(Duration::from_secs(5));

/// Which server is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Publisher,
    Subscriber,
}

impl Side {
    /// As people are told.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Side::Publisher => "publisher",
            Side::Subscriber => "subscriber",
        }
    }

    /// The error of this side.
    pub(crate) fn error(self, source: impl Into<sql::SqlError>) -> SidesError {
        match self {
            Side::Publisher => SidesError::on_publisher(source),
            Side::Subscriber => SidesError::on_subscriber(source),
        }
    }

    /// Asks for rows, and waits no longer than for a look.
    pub(crate) async fn rows(
        self,
        client: &Client,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, SidesError> {
        sql::within(ANSWER_TIMEOUT, client.query(sql, parameters)).await.map_err(|error| self.error(error))
    }

    /// Asks for the one value of the one row.
    pub(crate) async fn value<T: for<'a> FromSql<'a>>(
        self,
        client: &Client,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<T, SidesError> {
        let asked = sql::within(ANSWER_TIMEOUT, client.query_one(sql, parameters)).await;
        self.get(&asked.map_err(|error| self.error(error))?, 0)
    }

    /// Runs statements without parameters.
    pub(crate) async fn run(self, client: &Client, sql: &str) -> Result<(), SidesError> {
        sql::within(ANSWER_TIMEOUT, client.batch_execute(sql)).await.map_err(|error| self.error(error))
    }

    /// A column of a row.
    pub(crate) fn get<T: for<'a> FromSql<'a>>(self, row: &Row, index: usize) -> Result<T, SidesError> {
        row.try_get(index).map_err(|error| self.error(error))
    }
}
