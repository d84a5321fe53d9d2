//! A session opened by us works as a `tokio-postgres` client, and as a replication connection.

use futures_util::future::join_all;
use seqshadow::conninfo::{Conninfo, Environment};
use seqshadow::session::{self, Purpose};

use crate::cluster::Cluster;

#[tokio::test]
async fn an_open_session_serves_pipelined_queries_and_replication() {
    let cluster = Cluster::start().await;
    let port = cluster.port;
    let env = Environment::empty();
    let socket = cluster.socket_directory();
    for text in [
        format!("host=localhost port={port} user=u_scram password=secret dbname=shop sslmode=require"),
        format!("host=localhost port={port} user=u_scram password=secret dbname=shop sslmode=disable"),
        format!("host={} port={port} user=u_trust dbname=shop", socket.display()),
    ] {
        let mut conninfo = Conninfo::parse(&text, &env).unwrap();
        conninfo.set_application_name("a name");
        conninfo.append_options("-c work_mem=5MB");
        let session = session::connect(&conninfo, Purpose::Sql).await.unwrap();
        assert_eq!(session.server_version_num().map(|v| v / 10_000), Some(15));
        assert_eq!(session.is_tls(), text.contains("require"));
        let pid = i32::try_from(session.backend_pid()).unwrap();
        let (client, connection) = session.into_sql().await.unwrap();
        let driver = tokio::spawn(connection);
        let queries = (0..200_i32).map(|n| {
            let client = &client;
            async move { client.query_one("select $1::int4, pg_backend_pid()", &[&n]).await.unwrap() }
        });
        for (n, row) in (0..).zip(join_all(queries).await) {
            assert_eq!((row.get::<_, i32>(0), row.get::<_, i32>(1)), (n, pid));
        }
        let big: String = client.query_one("select repeat('x', 10000000)", &[]).await.unwrap().get(0);
        assert_eq!(big.len(), 10_000_000);
        let row =
            client.query_one("select current_setting('application_name'), current_setting('work_mem')", &[]);
        let row = row.await.unwrap();
        assert_eq!((row.get::<_, &str>(0), row.get::<_, &str>(1)), ("a name", "5MB"));
        drop(client);
        driver.await.unwrap().unwrap();

        let session = session::connect(&conninfo, Purpose::Replication).await.unwrap();
        let (client, connection) = session.into_sql().await.unwrap();
        tokio::spawn(connection);
        let answer = client.simple_query("IDENTIFY_SYSTEM").await.unwrap();
        let row = answer.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get("dbname"),
            _ => None,
        });
        assert_eq!(row, Some("shop"));
    }
}
