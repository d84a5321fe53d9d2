//! The promise: a session of ours is what it is set to, whatever the role's defaults and the tables' policies say.

use crate::advancing::{ours, server};
use proto_tests::sql::connect;
use seqshadow::demo::servers::ClusterOptions;
use tokio_postgres::error::SqlState;

async fn is_ours(major: u32, timeouts: &[&str]) {
    let server = server(major, ClusterOptions::default()).await.unwrap();
    let admin = connect(&server.conninfo("postgres")).await.unwrap();
    admin
        .batch_execute(
            "CREATE TABLE t (id serial PRIMARY KEY); INSERT INTO t VALUES (4000); GRANT SELECT ON t TO shadow; \
             ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY few ON t USING (id < 1000)",
        )
        .await
        .unwrap();
    for timeout in timeouts {
        admin.batch_execute(&format!("ALTER ROLE shadow SET {timeout} = '3s'")).await.unwrap();
    }
    let session = ours(&server.conninfo_as("shadow", "postgres")).await.unwrap();
    let refused = session.client.query_one("SELECT max(id) FROM public.t", &[]).await.unwrap_err();
    assert_eq!(
        refused.code(),
        Some(&SqlState::INSUFFICIENT_PRIVILEGE),
        "hidden ids are refused, not left out"
    );
    for timeout in timeouts {
        let row = session.client.query_one(&format!("SHOW {timeout}"), &[]).await.unwrap();
        assert_eq!(row.get::<_, String>(0), "0", "{timeout}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_an_old_server() {
    is_ours(12, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_new_server() {
    is_ours(17, &["transaction_timeout", "idle_session_timeout"]).await;
}
