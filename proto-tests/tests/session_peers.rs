//! A broken, hostile or unusual peer gets a typed error in bounded time and memory, and never a password it may not have.

use std::time::{Duration, Instant};

use seqshadow::conninfo::{Conninfo, Environment};
use seqshadow::session::{self, ConnectError, ConnectErrorKind, Purpose, Session};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// `tag`, length and body of a message.
fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend_from_slice(&u32::try_from(body.len() + 4).unwrap().to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

fn auth(kind: u32, data: &[u8]) -> Vec<u8> {
    message(b'R', &[&kind.to_be_bytes(), data].concat())
}

fn error(sqlstate: &str, text: &str) -> Vec<u8> {
    message(b'E', format!("SFATAL\0VFATAL\0C{sqlstate}\0M{text}\0\0").as_bytes())
}

fn ready(parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = auth(0, b"");
    for (name, value) in parameters {
        bytes.extend(message(b'S', format!("{name}\0{value}\0").as_bytes()));
    }
    bytes.extend(message(b'K', &[0, 0, 0, 9, 1, 2, 3, 4]));
    bytes.extend(message(b'Z', b"I"));
    bytes
}

/// What a peer does after each packet that it reads.
#[derive(Clone)]
enum Act {
    Say(Vec<u8>),
    /// Says it over and over.
    Flood(Vec<u8>),
    HangUp,
    Hang,
}

/// A peer that plays `acts` to its first connection; it gives all that it heard once it has ended.
async fn peer(acts: Vec<Act>) -> (u16, JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut acts = acts.into_iter();
        // Large enough for a whole packet: an act answers one.
        let mut buffer = Vec::with_capacity(8192);
        let mut heard = Vec::new();
        while stream.read_buf(&mut buffer).await.unwrap_or(0) > 0 {
            heard.append(&mut buffer);
            if let Some(act) = acts.next()
                && !play(&mut stream, act).await
            {
                break;
            }
        }
        heard
    });
    (port, task)
}

async fn play(stream: &mut TcpStream, act: Act) -> bool {
    match act {
        Act::Say(bytes) => stream.write_all(&bytes).await.is_ok(),
        Act::Flood(bytes) => {
            while stream.write_all(&bytes).await.is_ok() {}
            false
        }
        Act::HangUp => false,
        Act::Hang => {
            tokio::time::sleep(Duration::from_secs(60)).await;
            false
        }
    }
}

async fn connect(text: &str) -> Result<Session, ConnectError> {
    let conninfo =
        Conninfo::parse(&format!("user=bob password=hunter2 {text}"), &Environment::empty()).unwrap();
    let started = Instant::now();
    let result = session::connect(&conninfo, Purpose::Replication).await;
    assert!(started.elapsed() < Duration::from_secs(10));
    if let Err(error) = &result {
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }
    result
}

/// Connects to a peer that plays `acts`; with an error comes all that the peer heard.
async fn against(acts: Vec<Act>, settings: &str) -> Result<Session, (ConnectError, Vec<u8>)> {
    let (port, peer) = peer(acts).await;
    match connect(&format!("host=127.0.0.1 port={port} {settings}")).await {
        Ok(session) => Ok(session),
        // The connection is closed, so the peer hears the end of what was sent.
        Err(error) => Err((error, peer.await.unwrap())),
    }
}

async fn refused(acts: Vec<Act>, settings: &str) -> ConnectError {
    against(acts, settings).await.unwrap_err().0
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[tokio::test]
async fn rubbish_is_a_protocol_error() {
    let flood = message(b'S', format!("name\0{}\0", "x".repeat(1000)).as_bytes());
    let cases: Vec<Vec<Act>> = vec![
        vec![Act::Say(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec())],
        vec![Act::Say(b"SSH-2.0-OpenSSH_9.2p1\r\n".to_vec())],
        vec![Act::Say(b"R\x7f\xff\xff\xff".to_vec())],
        vec![Act::Say(message(b'R', b""))],
        vec![Act::Say(message(b'T', b"\0\0"))],
        vec![Act::Say([auth(0, b""), message(b'D', b"\0\0")].concat())],
        vec![Act::Say(auth(0, b"")), Act::Say(vec![])],
    ];
    for (index, acts) in cases.into_iter().enumerate() {
        let settings = "sslmode=disable connect_timeout=2";
        let kind = refused(acts, settings).await.kind();
        let expected = if index == 6 { ConnectErrorKind::Timeout } else { ConnectErrorKind::Protocol };
        assert_eq!(kind, expected, "case {index}");
    }
    let flooded = refused(vec![Act::Flood([auth(0, b""), flood].concat())], "sslmode=disable").await;
    assert_eq!(flooded.kind(), ConnectErrorKind::Protocol);
    let flooded = refused(vec![Act::Flood(message(b'N', b"\0"))], "sslmode=disable").await;
    assert!(flooded.to_string().contains("longer than"), "{flooded}");
}

#[tokio::test]
async fn nothing_in_the_clear_is_believed_before_tls() {
    for (answer, part) in [
        (&b"SR\0\0\0\x08\0\0\0\0"[..], "unencrypted data"),
        (b"Sx", "unencrypted data"),
        (b"Nx", "unencrypted data"),
        (b"X", "invalid response"),
        (&error("28000", "give me your password"), "error response during SSL exchange"),
        (b"N", "does not support SSL"),
        (b"SHTTP", "unencrypted data"),
    ] {
        let error = refused(vec![Act::Say(answer.to_vec())], "sslmode=require").await;
        assert_eq!(error.kind(), ConnectErrorKind::Tls, "{error}");
        assert!(error.to_string().contains(part), "{error}");
        assert!(!error.to_string().contains("give me"), "{error}");
    }
    // A handshake with somebody who cannot.
    let acts = vec![Act::Say(b"S".to_vec()), Act::Say(b"rubbish that is not TLS".to_vec())];
    assert_eq!(refused(acts, "sslmode=require").await.kind(), ConnectErrorKind::Tls);
}

#[tokio::test]
async fn a_password_is_not_given_to_who_may_not_ask() {
    let scram = auth(10, b"SCRAM-SHA-256\0\0");
    for (acts, settings, part) in [
        (vec![Act::Say(auth(3, b""))], "require_auth=scram-sha-256", "cleartext"),
        (vec![Act::Say(auth(3, b""))], "require_auth=!password", "cleartext"),
        (vec![Act::Say(auth(5, b"salt"))], "require_auth=scram-sha-256", "md5"),
        (vec![Act::Say(auth(3, b""))], "channel_binding=require", "channel binding"),
        (vec![Act::Say(auth(0, b""))], "require_auth=scram-sha-256", "did not complete"),
        (vec![Act::Say(auth(0, b""))], "channel_binding=require", "without channel binding"),
        (vec![Act::Say(scram.clone())], "channel_binding=require", "TLS is not in use"),
        (vec![Act::Say(scram), Act::Say(auth(0, b""))], "", "end of the SCRAM exchange"),
        (vec![Act::Say(auth(10, b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"))], "", "without TLS"),
        (vec![Act::Say(auth(7, b""))], "", "GSSAPI"),
        (vec![Act::Say(auth(10, b"OAUTHBEARER\0\0"))], "", "OAUTHBEARER"),
        (vec![Act::Say(ready(&[]))], "sslcertmode=require", "did not request an SSL certificate"),
    ] {
        let (error, heard) = against(acts, &format!("sslmode=disable {settings}")).await.unwrap_err();
        assert_eq!(error.kind(), ConnectErrorKind::Auth, "{error}");
        assert!(error.to_string().contains(part), "{settings}: {error}");
        assert!(!heard.is_empty() && !contains(&heard, b"hunter2"));
    }
    let acts = vec![Act::Say(auth(3, b"")), Act::HangUp];
    let (error, heard) = against(acts, "sslmode=disable").await.unwrap_err();
    assert!(contains(&heard, b"hunter2"), "{error}: the peer must hear what is sent");
}

#[tokio::test]
async fn the_next_host_is_tried_only_when_it_may_help() {
    let fine = || vec![Act::Say(ready(&[("server_version", "13.4")]))];
    for (first, moves_on) in [
        (vec![Act::Say(error("57P03", "the database system is starting up"))], true),
        (vec![Act::HangUp], true),
        (vec![Act::Hang], true),
        (vec![Act::Say(error("28P01", "password authentication failed"))], false),
        (vec![Act::Say(error("3D000", "database does not exist"))], false),
        (vec![Act::Say(error("53300", "too many connections"))], false),
        (vec![Act::Say(auth(7, b""))], false),
    ] {
        let (one, _first) = peer(first).await;
        let (two, _second) = peer(fine()).await;
        let text = format!("host=127.0.0.1,127.0.0.1 port={one},{two} sslmode=disable connect_timeout=2");
        let result = connect(&text).await;
        assert_eq!(result.is_ok(), moves_on, "{result:?}");
    }
}

#[tokio::test]
async fn what_the_server_tells_is_kept() {
    // A notice comes late, a protocol negotiation early; both are no obstacle.
    let negotiate = message(b'v', &[0, 3, 0, 0, 0, 0, 0, 0]);
    let notice = message(b'N', b"SNOTICE\0C00000\0Mhello\0\0");
    let told = [("server_version", "9.6.24"), ("in_hot_standby", "off")];
    let bytes = [negotiate, ready(&told), notice.clone()].concat();
    let session = against(vec![Act::Say(bytes)], "sslmode=disable").await.unwrap();
    assert_eq!(session.server_version_num(), Some(90_624));
    assert_eq!((session.backend_pid(), session.cancel_key()), (9, &[1, 2, 3, 4][..]));
    assert_eq!(session.parameter("in_hot_standby"), Some("off"));
    assert_eq!(&session.into_parts().1[..], &notice[..]);
}

#[tokio::test]
async fn an_old_server_is_asked_for_its_role() {
    let answer = |value: &str| {
        let mut row = vec![0, 1];
        row.extend_from_slice(&u32::try_from(value.len()).unwrap().to_be_bytes());
        row.extend_from_slice(value.as_bytes());
        [message(b'T', b"\0\x01"), message(b'D', &row), message(b'C', b"SHOW\0"), message(b'Z', b"I")]
            .concat()
    };
    for (wanted, value, fits) in [
        ("read-write", "off", true),
        ("read-write", "on", false),
        ("read-only", "on", true),
        ("read-only", "off", false),
        ("primary", "f", true),
        ("primary", "t", false),
        ("standby", "t", true),
        ("standby", "f", false),
    ] {
        let acts = vec![Act::Say(ready(&[("server_version", "13.4")])), Act::Say(answer(value))];
        match against(acts, &format!("sslmode=disable target_session_attrs={wanted}")).await {
            Ok(_) => assert!(fits, "{wanted} {value}"),
            Err((error, _)) => {
                assert!(!fits && error.kind() == ConnectErrorKind::NotWanted, "{wanted} {value}: {error}");
            }
        }
    }
}

#[tokio::test]
async fn poolers_are_recognised_by_their_refusal() {
    for (sqlstate, text, pooler) in [
        ("08P01", "unsupported startup parameter: replication", true),
        ("08P01", "unsupported startup parameter in options: work_mem", true),
        ("0A000", "Feature not supported: RDS Proxy currently does not support replication", true),
        ("42501", "must be superuser or replication role to start walsender", false),
    ] {
        let error = refused(vec![Act::Say(error(sqlstate, text))], "sslmode=disable").await;
        assert_eq!(error.is_pooler_refusal(), pooler, "{text}");
        assert_eq!(error.sqlstate(), Some(sqlstate));
    }
}
