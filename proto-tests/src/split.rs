//! A relay that sends replication connections another way than the others: to a publisher that misbehaves, while SQL goes
//! to a real one, or nowhere, as a connection pooler does.

use anyhow::Result;
use std::net::Ipv4Addr;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What becomes of a connection that asks for replication.
#[derive(Clone, Debug)]
pub enum Replication {
    /// It is relayed to this port.
    To(u16),
    /// It gets a FATAL error with this SQLSTATE and message.
    Refused { code: &'static str, message: &'static str },
}

/// A running relay; dropping it stops it from taking connections and ends those that are open.
#[derive(Debug)]
pub struct Split {
    port: u16,
    task: JoinHandle<()>,
}

impl Split {
    /// Listens on a free port of 127.0.0.1; SQL goes to `sql`. Clients must not ask for TLS.
    ///
    /// # Errors
    /// When there is no port to listen on.
    pub async fn start(sql: u16, replication: Replication) -> Result<Split> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let task = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                open.spawn(serve(client, sql, replication.clone()));
            }
        });
        Ok(Split { port, task })
    }

    /// `conninfo` with this relay in the place of its server.
    #[must_use]
    pub fn conninfo(&self, conninfo: &str) -> String {
        format!("{conninfo} host=127.0.0.1 port={} sslmode=disable", self.port)
    }
}

impl Drop for Split {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut client: TcpStream, sql: u16, replication: Replication) -> Result<()> {
    let length = client.read_u32().await?;
    let mut startup = vec![0; usize::try_from(length)?.saturating_sub(4)];
    client.read_exact(&mut startup).await?;
    let wants_replication = startup.windows(12).any(|window| window == b"replication\0");
    let port = match replication {
        Replication::Refused { code, message } if wants_replication => {
            let fields = format!("SFATAL\0VFATAL\0C{code}\0M{message}\0\0");
            client.write_u8(b'E').await?;
            client.write_u32(u32::try_from(fields.len() + 4)?).await?;
            client.write_all(fields.as_bytes()).await?;
            return Ok(());
        }
        Replication::To(port) if wants_replication => port,
        _ => sql,
    };
    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    server.write_u32(length).await?;
    server.write_all(&startup).await?;
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}
