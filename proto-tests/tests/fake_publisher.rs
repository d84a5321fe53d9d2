//! The fake publisher serves an ordinary client and a replication client, and remembers what they said.

use bytes::{BufMut as _, BytesMut};
use proto_tests::fake_publisher::{Answer, Cell, FakePublisher, FakePublisherOptions, Step, Type};
use proto_tests::sql::connect;
use seqshadow::types::Lsn;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn sql_gets_the_rows_that_the_test_says_in_both_protocols() {
    let fake = FakePublisherOptions::default()
        .version("12.22")
        .on_query(|ask| {
            (ask.sql.contains("pg_sequences")).then(|| {
                Answer::rows(
                    &[("name", Type::NAME), ("last_value", Type::INT8), ("is_called", Type::BOOL)],
                    vec![
                        vec!["a".into(), 41_i64.into(), true.into()],
                        vec!["b".into(), Cell::Null, false.into()],
                    ],
                )
                .with_params(&[Type::TEXT])
            })
        })
        .start()
        .await
        .unwrap();
    let client = connect(&fake.conninfo()).await.unwrap();
    let rows = client.query("SELECT * FROM pg_sequences WHERE schemaname = $1", &[&"public"]).await.unwrap();
    assert_eq!(rows[0].get::<_, i64>("last_value"), 41);
    assert_eq!(rows[1].get::<_, Option<i64>>("last_value"), None);
    assert_eq!(rows[1].get::<_, &str>("name"), "b");

    let messages = client.simple_query("SELECT * FROM pg_sequences").await.unwrap();
    let first = messages.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(1).map(str::to_owned),
        _ => None,
    });
    assert_eq!(first.as_deref(), Some("41"));

    let error = client.query("SELECT nonsense", &[]).await.unwrap_err();
    assert_eq!(error.code().map(tokio_postgres::error::SqlState::code), Some("0A000"));
    client.batch_execute("SET x = 1").await.unwrap();
    assert!(fake.queries().iter().any(|sql| sql == "SELECT nonsense"), "{:?}", fake.queries());
    assert_eq!(fake.startups()[0]["user"], "postgres");
}

#[tokio::test]
async fn a_stream_is_played_and_confirmations_are_remembered() {
    let fake = FakePublisherOptions::default()
        .on_stream(|stream, _| match stream {
            0 => vec![
                Step::at(Lsn(0x2000), &b"B..."[..]),
                Step::Keepalive { wal_end: Lsn(0x3000), reply_requested: true },
                Step::UntilFlushed(Lsn(0x3000)),
                Step::Raw((&b"garbage"[..]).into()),
            ],
            _ => vec![Step::Error { code: "57P01", message: "terminating" }, Step::Hold],
        })
        .start()
        .await
        .unwrap();

    let mut client = replication_client(&fake).await;
    let (kind, body) = message(&mut client).await;
    assert_eq!((kind, body[0], body.len(), &body[25..]), (b'd', b'w', 29, &b"B..."[..]));
    let (kind, body) = message(&mut client).await;
    assert_eq!((kind, body[0], body[17]), (b'd', b'k', 1));
    client.write_all(&status(0x2000)).await.unwrap();
    client.write_all(&status(0x3000)).await.unwrap();
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"garbage");
    fake.wait_for_flush(Lsn(0x3000), SOON).await.unwrap();
    let flushed: Vec<_> = fake.statuses().iter().map(|status| status.flush).collect();
    assert_eq!(flushed, [Lsn(0x2000), Lsn(0x3000)]);

    let mut next = replication_client(&fake).await;
    assert_eq!(message(&mut next).await.0, b'E');
    assert_eq!(fake.streams(), 2);
}

/// Connects as a replication client by hand and starts to stream.
async fn replication_client(fake: &FakePublisher) -> TcpStream {
    let mut client = TcpStream::connect(("127.0.0.1", fake.port())).await.unwrap();
    let parameters = b"user\0postgres\0database\0shop\0replication\0database\0\0";
    let mut startup = BytesMut::new();
    startup.put_u32(u32::try_from(parameters.len()).unwrap() + 8);
    startup.put_u32(3 << 16);
    startup.put_slice(parameters);
    client.write_all(&startup).await.unwrap();
    while message(&mut client).await.0 != b'Z' {}

    query(&mut client, "IDENTIFY_SYSTEM").await;
    let mut kinds = Vec::new();
    while kinds.last() != Some(&b'Z') {
        kinds.push(message(&mut client).await.0);
    }
    assert_eq!(kinds, *b"TDCZ");
    query(&mut client, "START_REPLICATION SLOT \"s\" LOGICAL 0/0 (proto_version '1')").await;
    assert_eq!(message(&mut client).await.0, b'W');
    client
}

async fn query(client: &mut TcpStream, sql: &str) {
    let mut bytes = BytesMut::new();
    bytes.put_u8(b'Q');
    bytes.put_u32(u32::try_from(sql.len()).unwrap() + 5);
    bytes.put_slice(sql.as_bytes());
    bytes.put_u8(0);
    client.write_all(&bytes).await.unwrap();
}

async fn message(client: &mut TcpStream) -> (u8, Vec<u8>) {
    let read = async {
        let kind = client.read_u8().await.unwrap();
        let mut body = vec![0; client.read_u32().await.unwrap() as usize - 4];
        client.read_exact(&mut body).await.unwrap();
        (kind, body)
    };
    tokio::time::timeout(SOON, read).await.unwrap()
}

fn status(lsn: u64) -> BytesMut {
    let mut bytes = BytesMut::new();
    bytes.put_u8(b'd');
    bytes.put_u32(4 + 34);
    bytes.put_u8(b'r');
    for position in [lsn, lsn, lsn] {
        bytes.put_u64(position);
    }
    bytes.put_i64(0);
    bytes.put_u8(0);
    bytes
}
