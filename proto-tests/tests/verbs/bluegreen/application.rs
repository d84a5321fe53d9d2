//! The application of a blue/green upgrade: it writes wherever it is told to, and remembers every id that it was given.
//!
//! In: an address. Out: [`Given`], which says what must not happen to ids.

use proto_tests::sql::connect;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

/// How many sessions write at the same time.
const SESSIONS: usize = 4;
/// How long each thinks between two writes.
const THINKS: Duration = Duration::from_millis(4);

/// It runs until it is stopped.
pub struct Application {
    address: Arc<Mutex<String>>,
    stop: Arc<AtomicBool>,
    sessions: Vec<JoinHandle<Vec<Draw>>>,
}

/// An id that it was given.
struct Draw {
    table: usize,
    id: i64,
    /// Its row is committed and nobody has deleted it.
    stays: bool,
}

/// Every id that it was given.
pub struct Given(Vec<Draw>);

impl Application {
    /// Writes to `t0`, `t1` and so on at `address`.
    pub fn start(address: String, tables: usize) -> Self {
        let (address, stop) = (Arc::new(Mutex::new(address)), Arc::new(AtomicBool::new(false)));
        let session = |seed| tokio::spawn(session(address.clone(), stop.clone(), tables, seed));
        Application { sessions: (0..SESSIONS).map(session).collect(), address, stop }
    }

    /// As an operator switches a connection pool over.
    pub fn points_at(&self, address: String) {
        *self.address.lock().unwrap() = address;
    }

    pub async fn stop(self) -> Given {
        self.stop.store(true, Ordering::Relaxed);
        let mut given = Vec::new();
        for session in self.sessions {
            given.extend(session.await.unwrap());
        }
        Given(given)
    }
}

impl Given {
    /// None was given twice, whatever became of its row; and every row that was to stay is on `primary`.
    pub async fn none_lost_doubled_or_reused(&self, primary: &Client) {
        let mut tables: BTreeMap<usize, BTreeMap<i64, bool>> = BTreeMap::new();
        for draw in &self.0 {
            let before = tables.entry(draw.table).or_default().insert(draw.id, draw.stays);
            assert!(before.is_none(), "id {} of t{} was given twice", draw.id, draw.table);
        }
        for (table, given) in tables {
            let rows = primary.query(&format!("SELECT id::int8 FROM t{table}"), &[]).await.unwrap();
            let kept: std::collections::BTreeSet<i64> = rows.iter().map(|row| row.get(0)).collect();
            let lost: Vec<&i64> =
                given.iter().filter(|(id, stays)| **stays && !kept.contains(id)).map(|(id, _)| id).collect();
            assert!(lost.is_empty(), "t{table} lost {lost:?}");
        }
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }
}

async fn session(
    address: Arc<Mutex<String>>,
    stop: Arc<AtomicBool>,
    tables: usize,
    seed: usize,
) -> Vec<Draw> {
    let mut given = Vec::new();
    let mut turn = seed;
    while !stop.load(Ordering::Relaxed) {
        let target = address.lock().unwrap().clone();
        if let Ok(client) = connect(&target).await {
            while *address.lock().unwrap() == target && !stop.load(Ordering::Relaxed) {
                turn += 1;
                if write(&client, (turn / 5 + seed * tables / SESSIONS) % tables, turn, &mut given)
                    .await
                    .is_err()
                {
                    break;
                }
                tokio::time::sleep(THINKS).await;
            }
        }
        tokio::time::sleep(THINKS).await;
    }
    given
}

/// A row that stays, or one that is deleted at once, or an id without a row: none of them may be given again.
async fn write(
    client: &Client,
    table: usize,
    turn: usize,
    given: &mut Vec<Draw>,
) -> Result<(), tokio_postgres::Error> {
    let sql = match turn % 5 {
        0 => format!("SELECT nextval('t{table}_id_seq')"),
        _ => format!("INSERT INTO t{table} (note) VALUES ('load') RETURNING id::int8"),
    };
    let row = client.query_one(&sql, &[]).await.inspect_err(|error| {
        // Of a doubled id the test must hear at once.
        assert!(error.code().is_none_or(|code| code.code() != "23505"), "{error:?}");
    })?;
    let id: i64 = row.get(0);
    given.push(Draw { table, id, stays: turn % 5 > 1 });
    if turn % 5 == 1 {
        client.batch_execute(&format!("DELETE FROM t{table} WHERE id = {id}")).await?;
    }
    Ok(())
}
