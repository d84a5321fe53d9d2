//! Records one stream of a throw-away server into a capture file; `captures/record.sh` starts it.
//!
//!     record-capture SOCKET SLOT OUTPUT STOP key=value…
//!
//! In: the server's Unix socket (trust authentication, user postgres, database postgres) and the options of
//! `START_REPLICATION`. Out: every payload up to the LSN that the file STOP names as soon as it exists. It reads the
//! stream with the library's own wire layer and confirms nothing.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::BytesMut;
use proto_tests::capture::{Capture, Record};
use seqshadow::types::Lsn;
use seqshadow::wire::{Backend, Limits, Replication, Scanner, StandbyStatus, frontend};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |what: &str| arguments.next().with_context(|| format!("expected {what}"));
    let (socket, slot, output, stop) =
        (next("a socket")?, next("a slot")?, next("an output file")?, next("a stop file")?);
    let options = arguments.map(|pair| {
        let (key, value) = pair.split_once('=').context("expected key=value")?;
        Ok((key.to_owned(), value.to_owned()))
    });
    let options: Vec<(String, String)> = options.collect::<anyhow::Result<_>>()?;

    let mut stream = Stream::start(&socket, &slot, &options)?;
    let mut records = Vec::new();
    loop {
        let seen = stream.read(&mut records)?;
        let wanted = std::fs::read_to_string(&stop).ok().and_then(|text| text.trim().parse::<Lsn>().ok());
        if wanted.is_some_and(|wanted| seen >= wanted) {
            break;
        }
    }
    let mut header = vec![("server".to_owned(), stream.server)];
    header.extend(options);
    let bytes = Capture { header, records }.to_bytes();
    std::fs::write(&output, bytes).with_context(|| output.clone())
}

/// A replication connection in CopyBoth mode.
struct Stream {
    socket: UnixStream,
    buffer: Vec<u8>,
    scanner: Scanner,
    server: String,
    seen: Lsn,
}

impl Stream {
    fn start(path: &str, slot: &str, options: &[(String, String)]) -> anyhow::Result<Self> {
        let mut socket = UnixStream::connect(path).context(path.to_owned())?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let body =
            b"\0\x03\0\0user\0postgres\0database\0postgres\0replication\0database\0client_encoding\0UTF8\0\0";
        let length = u32::try_from(body.len() + 4)?;
        socket.write_all(&[&length.to_be_bytes()[..], body].concat())?;
        let listed: Vec<String> = options.iter().map(|(key, value)| format!("{key} '{value}'")).collect();
        let mut query = BytesMut::new();
        let sql = format!("START_REPLICATION SLOT {slot} LOGICAL 0/0 ({})", listed.join(", "));
        frontend::query(&sql, &mut query)?;

        let scanner = Scanner::new(Limits::default());
        let mut stream =
            Stream { socket, buffer: Vec::new(), scanner, server: String::new(), seen: Lsn::ZERO };
        while stream.server.is_empty() {
            stream.read(&mut Vec::new())?;
        }
        stream.socket.write_all(&query)?;
        Ok(stream)
    }

    /// Reads once and takes what is whole; up to where the server has looked at its WAL.
    fn read(&mut self, records: &mut Vec<Record>) -> anyhow::Result<Lsn> {
        let mut chunk = [0; 65536];
        match self.socket.read(&mut chunk) {
            Ok(0) => bail!("the server closed the connection"),
            Ok(n) => self.buffer.extend_from_slice(chunk.get(..n).unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        let mut reply = false;
        let mut frames = self.scanner.scan(&self.buffer);
        for frame in frames.by_ref() {
            match Backend::parse(frame?)? {
                Backend::CopyData(body) => match Replication::parse(body)? {
                    Replication::XLogData { start, payload, .. } => {
                        records.push(Record { start, payload: payload.to_vec() });
                    }
                    Replication::Keepalive { wal_end, reply_requested, .. } => {
                        self.seen = self.seen.max(wal_end);
                        reply |= reply_requested;
                    }
                },
                Backend::ParameterStatus { name, value } if name == "server_version" => {
                    self.server = value.to_string();
                }
                Backend::Error(error) => bail!("{}", error.to_error()),
                _ => {}
            }
        }
        let consumed = frames.consumed();
        self.buffer.drain(..consumed);
        if reply {
            let zero = Lsn::ZERO;
            let status = StandbyStatus {
                write: zero,
                flush: zero,
                apply: zero,
                client_time_us: 0,
                reply_requested: false,
            };
            let mut out = BytesMut::new();
            frontend::standby_status(&status, &mut out);
            self.socket.write_all(&out)?;
        }
        Ok(self.seen)
    }
}
