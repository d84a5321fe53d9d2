//! Crates that split the stream into messages and leave the rest to others: with our row walk on top.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use futures_util::FutureExt as _;
use pgwire::messages::{DecodeContext, PgWireBackendMessage};
use pgwire_replication::protocol::framing::MessageReader;
use pgwire_replication::protocol::{ReplicationCopyData, parse_copy_data};
use postgres_protocol::message::backend::{Header, Message};
use tokio::io::{AsyncRead, ReadBuf};

use crate::contestant::{Contestant, Decoder};
use crate::ours::Sunk;
use crate::streams::Stream;

/// Of a CopyData's body: tag, two positions and a time of XLogData.
const XLOG_HEADER_BYTES: usize = 25;

fn feed(sunk: &mut Sunk, body: &[u8]) -> anyhow::Result<()> {
    if let Some((&[b'w', ..], payload)) = body.split_first_chunk::<XLOG_HEADER_BYTES>() {
        sunk.tap.feed(payload, &mut sunk.observer)?;
    }
    Ok(())
}

/// `postgres-protocol`, on which `tokio-postgres` is built.
pub struct PostgresProtocol(Sunk);

impl PostgresProtocol {
    pub fn new(stream: &Stream) -> Self {
        PostgresProtocol(Sunk::new(stream))
    }
}

impl Decoder for PostgresProtocol {
    const NAME: &'static str = "postgres-protocol";

    fn take(&mut self, buffer: &mut BytesMut) -> anyhow::Result<()> {
        self.0.begin_batch();
        while Header::parse(buffer)?.is_some() {
            match Message::parse(buffer)? {
                Some(Message::CopyData(body)) => feed(&mut self.0, body.data())?,
                Some(_) => anyhow::bail!("no CopyData"),
                None => break,
            }
        }
        self.0.end_batch();
        Ok(())
    }

    fn marks(&mut self) -> Vec<Option<i64>> {
        self.0.marks()
    }
}

/// `pgwire`, of which the console of ours is made.
pub struct Pgwire(Sunk, DecodeContext);

impl Pgwire {
    pub fn new(stream: &Stream) -> Self {
        Pgwire(Sunk::new(stream), DecodeContext::default())
    }
}

impl Decoder for Pgwire {
    const NAME: &'static str = "pgwire";

    fn take(&mut self, buffer: &mut BytesMut) -> anyhow::Result<()> {
        self.0.begin_batch();
        while let Some(message) = PgWireBackendMessage::decode(buffer, &self.1)? {
            let PgWireBackendMessage::CopyData(body) = message else { anyhow::bail!("no CopyData") };
            feed(&mut self.0, &body.data)?;
        }
        self.0.end_batch();
        Ok(())
    }

    fn marks(&mut self) -> Vec<Option<i64>> {
        self.0.marks()
    }
}

/// `pgwire-replication`: reads from a socket by itself, so it gets one that gives what there is and then waits.
pub struct PgwireReplication(Sunk, MessageReader);

impl PgwireReplication {
    pub fn start(stream: &Stream) -> anyhow::Result<Box<dyn Contestant>> {
        let mut started = PgwireReplication(Sunk::new(stream), MessageReader::new());
        started.piece(&stream.preamble)?;
        Ok(Box::new(started))
    }
}

/// A socket with some bytes in it.
struct Socket<'a>(&'a [u8]);

impl AsyncRead for Socket<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.0.is_empty() {
            return Poll::Pending;
        }
        let (now, later) = self.0.split_at(self.0.len().min(into.remaining()));
        into.put_slice(now);
        self.0 = later;
        Poll::Ready(Ok(()))
    }
}

impl Contestant for PgwireReplication {
    fn name(&self) -> &'static str {
        "pgwire-replication"
    }

    fn wants_own(&self) -> bool {
        false
    }

    fn memory(&mut self, stream: &[u8], _: &mut BytesMut) -> anyhow::Result<()> {
        self.piece(stream)
    }

    fn piece(&mut self, piece: &[u8]) -> anyhow::Result<()> {
        let mut socket = Socket(piece);
        self.0.begin_batch();
        while let Some(message) = self.1.read(&mut socket).now_or_never() {
            let message = message?;
            anyhow::ensure!(message.is_copy_data(), "no CopyData");
            if let ReplicationCopyData::XLogData { data, .. } = parse_copy_data(message.payload)? {
                self.0.tap.feed(&data, &mut self.0.observer)?;
            }
        }
        self.0.end_batch();
        Ok(())
    }

    fn marks(&mut self) -> Vec<Option<i64>> {
        self.0.marks()
    }
}
