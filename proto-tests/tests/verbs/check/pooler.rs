//! A pooler in the way, in the words of PgBouncer: it lets queries through and no replication, and tells a process id of
//! its own making.

use super::look;
use anyhow::Result;
use proto_tests::pair::DATABASE;
use proto_tests::stage::Stage;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Its port.
async fn pooler(server: u16) -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(pooled(client, server));
        }
    });
    Ok(port)
}

async fn pooled(mut client: TcpStream, server: u16) -> Result<()> {
    let startup = loop {
        let length = client.read_u32().await?;
        let mut rest = vec![0; usize::try_from(length)? - 4];
        client.read_exact(&mut rest).await?;
        if rest.len() > 4 {
            break rest;
        }
        client.write_all(b"N").await?; // neither TLS nor GSSAPI
    };
    if startup.windows(11).any(|part| part == b"replication") {
        let fields = b"SFATAL\0VFATAL\0C08P01\0Munsupported startup parameter: replication\0\0";
        return message(&mut client, b'E', fields).await;
    }
    let mut server = TcpStream::connect(("127.0.0.1", server)).await?;
    server.write_u32(u32::try_from(startup.len() + 4)?).await?;
    server.write_all(&startup).await?;
    loop {
        let kind = server.read_u8().await?;
        let length = server.read_u32().await?;
        let mut body = vec![0; usize::try_from(length)? - 4];
        server.read_exact(&mut body).await?;
        if kind == b'K' {
            body[..4].copy_from_slice(&0x7fff_fff0_u32.to_be_bytes());
        }
        message(&mut client, kind, &body).await?;
        if kind == b'Z' {
            break;
        }
    }
    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

async fn message(client: &mut TcpStream, kind: u8, body: &[u8]) -> Result<()> {
    client.write_u8(kind).await?;
    client.write_u32(u32::try_from(body.len() + 4)?).await?;
    Ok(client.write_all(body).await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_before_either_server() -> Result<()> {
    let stage = Stage::with(17, 16, "CREATE TABLE a (id serial PRIMARY KEY)").await?;
    let pair = &stage.pair;
    let codes = ["pooler", "replication-refused", "session-through-pooler"];
    assert!(look(pair, &[], &[])?.among(&codes).is_empty());
    let through =
        |side: &str, port: u16| format!("--{side}=host=127.0.0.1 port={port} user=shadow dbname={DATABASE}");
    let port = pooler(pair.publisher.port()).await?;
    let looked = look(pair, &[&through("publisher", port)], &[])?;
    assert_eq!(looked.among(&codes), ["pooler", "session-through-pooler"], "{looked:?}");
    assert_eq!(looked.advice("pooler"), ["give the server's own host and port in --publisher"]);

    let port = pooler(pair.subscriber.port()).await?;
    let looked = look(pair, &[&through("subscriber", port)], &[])?;
    assert_eq!(looked.among(&codes), ["session-through-pooler"], "{looked:?}");
    assert_eq!(
        looked.advice("session-through-pooler"),
        ["give the server's own host and port in --subscriber"]
    );
    Ok(())
}
