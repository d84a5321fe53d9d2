//! TLS from the first byte (`sslnegotiation=direct`), the protocol name it needs, and which host name the server is told.

use std::sync::{Arc, Mutex};

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use seqshadow::conninfo::{Conninfo, Environment};
use seqshadow::session::{self, ConnectError, ConnectErrorKind, Purpose, Session};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// AuthenticationOk, BackendKeyData, ReadyForQuery.
const READY: &[u8] = b"R\0\0\0\x08\0\0\0\0K\0\0\0\x0c\0\0\0\x01\0\0\0\x02Z\0\0\0\x05I";

type SeenName = Arc<Mutex<Option<Option<String>>>>;

/// A server that speaks TLS at once or after an SSLRequest; returns its port and the host name it was told.
async fn server(alpn: &[&str]) -> (u16, SeenName) {
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private)
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = SeenName::default();
    let sees = seen.clone();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut first = [0];
        stream.peek(&mut first).await.unwrap();
        if first == [0] {
            stream.read_exact(&mut [0; 8]).await.unwrap();
            stream.write_all(b"S").await.unwrap();
        }
        let Ok(mut tls) = TlsAcceptor::from(Arc::new(config)).accept(stream).await else {
            return;
        };
        *sees.lock().unwrap() = Some(tls.get_ref().1.server_name().map(str::to_owned));
        let mut packet = Vec::with_capacity(4096);
        let _ = tls.read_buf(&mut packet).await;
        let _ = tls.write_all(READY).await;
        let _ = tls.read_to_end(&mut packet).await;
    });
    (port, seen)
}

async fn connect(port: u16, settings: &str) -> Result<Session, ConnectError> {
    let text =
        format!("hostaddr=127.0.0.1 port={port} user=bob sslmode=require connect_timeout=5 {settings}");
    let conninfo = Conninfo::parse(&text, &Environment::empty()).unwrap();
    session::connect(&conninfo, Purpose::Sql).await
}

#[tokio::test]
async fn direct_tls_needs_the_protocol_name() {
    let (port, _) = server(&["postgresql"]).await;
    assert!(connect(port, "sslnegotiation=direct").await.unwrap().is_tls());
    let (port, _) = server(&["postgresql"]).await;
    assert!(connect(port, "").await.unwrap().is_tls());
    // An older server behind an SSLRequest knows no protocol names, which is fine.
    let (port, _) = server(&[]).await;
    assert!(connect(port, "").await.unwrap().is_tls());
    for names in [&[][..], &["http/1.1"]] {
        let (port, _) = server(names).await;
        let error = connect(port, "sslnegotiation=direct").await.unwrap_err();
        assert_eq!(error.kind(), ConnectErrorKind::Tls, "{error}");
    }
}

#[tokio::test]
async fn the_server_is_told_the_host_name_but_no_address() {
    for (settings, expected) in [
        ("host=db.example.com", Some("db.example.com")),
        ("host=db.example.com sslsni=0", None),
        ("host=127.0.0.1", None),
        ("host=::1", None),
        ("", None),
        ("host='not a name'", None),
    ] {
        let (port, seen) = server(&["postgresql"]).await;
        connect(port, settings).await.unwrap();
        assert_eq!(seen.lock().unwrap().clone().unwrap().as_deref(), expected, "{settings}");
    }
}
