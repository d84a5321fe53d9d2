//! Settings that `psql` 15 does not know, against a real server: require_auth, sslcertmode, load_balance_hosts; and cancel
//! requests.

use proto_tests::sql::{PATIENCE, Probe, wait_until};
use seqshadow::conninfo::{Conninfo, Environment};
use seqshadow::session::{self, ConnectError, ConnectErrorKind, Purpose, Session};

use crate::cluster::Cluster;

async fn connect(text: &str) -> Result<Session, ConnectError> {
    let conninfo = Conninfo::parse(text, &Environment::empty()).unwrap();
    session::connect(&conninfo, Purpose::Sql).await
}

#[tokio::test]
async fn newer_settings_hold_against_a_real_server() {
    let cluster = Cluster::start().await;
    let base = format!("host=127.0.0.1 port={} dbname=shop", cluster.port);
    let (certificate, key) = cluster.ca.sign("u_cert", &[], true);
    let certificate = cluster.file("u.crt", &certificate, 0o644);
    let key = cluster.file("u.key", &key, 0o600);
    let client = format!("sslcert={} sslkey={}", certificate.display(), key.display());
    let encrypted_key = std::process::Command::new("openssl")
        .args(["pkcs8", "-topk8", "-passout", "pass:x", "-in"])
        .arg(&key)
        .output()
        .unwrap();
    let encrypted_key = cluster.file("locked.key", &String::from_utf8(encrypted_key.stdout).unwrap(), 0o600);
    let ok = None;
    let refused = |kind: ConnectErrorKind, part: &'static str| Some((kind, part));
    let auth = ConnectErrorKind::Auth;
    for (tail, expected) in [
        ("user=u_scram password=secret require_auth=scram-sha-256", ok),
        ("user=u_scram password=secret require_auth=scram-sha-256 sslmode=disable", ok),
        ("user=u_scram password=secret require_auth=md5", refused(auth, "scram-sha-256")),
        ("user=u_scram password=secret require_auth=!scram-sha-256", refused(auth, "scram-sha-256")),
        ("user=u_scram password=secret require_auth=!none", ok),
        ("user=u_md5 password=secret require_auth=md5,scram-sha-256", ok),
        ("user=u_md5 password=secret require_auth=scram-sha-256", refused(auth, "md5")),
        ("user=u_clear password='se cret' require_auth=!password", refused(auth, "cleartext")),
        ("user=u_clear password='se cret' require_auth=password", ok),
        ("user=u_trust require_auth=none", ok),
        ("user=u_trust require_auth=!none", refused(auth, "did not complete")),
        ("user=u_trust require_auth=scram-sha-256", refused(auth, "did not complete")),
        ("user=u_trust load_balance_hosts=random", ok),
        ("user=u_cert {client} sslcertmode=require", ok),
        ("user=u_cert {client} sslcertmode=allow require_auth=none", ok),
        ("user=u_cert {client} sslcertmode=disable", refused(auth, "certificate")),
        ("user=u_trust sslcertmode=require sslcert=/nowhere", refused(auth, "valid SSL certificate")),
        ("user=u_trust {client} sslcertmode=require sslmode=disable", refused(auth, "did not request")),
        (
            "user=u_trust sslmode=require sslcert={certificate} sslkey={locked} sslpassword=x",
            refused(ConnectErrorKind::Tls, "encrypted"),
        ),
        (
            "user=u_trust sslmode=require sslrootcert=system sslmode=verify-full",
            refused(ConnectErrorKind::Tls, ""),
        ),
    ] {
        let tail =
            tail.replace("{client}", &client).replace("{locked}", &encrypted_key.display().to_string());
        let tail = tail.replace("{certificate}", &certificate.display().to_string());
        match (connect(&format!("{base} {tail}")).await, expected) {
            (Ok(_), None) => {}
            (Err(error), Some((kind, part))) => {
                assert!(error.kind() == kind && error.to_string().contains(part), "{tail}: {error}");
            }
            (result, expected) => panic!("{tail}: {result:?}, expected {expected:?}"),
        }
    }
}

#[tokio::test]
async fn a_query_is_cancelled_over_each_kind_of_connection() {
    let cluster = Cluster::start().await;
    let socket = cluster.socket_directory();
    let admin = cluster.admin().await;
    let asleep = "select exists (select from pg_stat_activity where wait_event = 'PgSleep')";
    for text in [
        "host=127.0.0.1 sslmode=disable".to_owned(),
        "host=127.0.0.1 sslmode=require".to_owned(),
        format!("host={}", socket.display()),
    ] {
        let text = format!("{text} port={} user=u_trust dbname=shop", cluster.port);
        let conninfo = Conninfo::parse(&text, &Environment::empty()).unwrap();
        let session = session::connect(&conninfo, Purpose::Sql).await.unwrap();
        let cancel = session.cancel_handle(&conninfo);
        let (client, connection) = session.into_sql().await.unwrap();
        tokio::spawn(connection);
        let sleeping = client.batch_execute("select pg_sleep(60)");
        let cancelling = async {
            // A request that comes too early cancels nothing.
            wait_until("the query to run", PATIENCE, async || {
                let row = admin.query_one(asleep, &[]).await?;
                Ok(Probe::when(row.get(0), || "nobody sleeps".to_owned()))
            })
            .await
            .unwrap();
            cancel.cancel().await.unwrap();
        };
        let (result, ()) = tokio::join!(sleeping, cancelling);
        assert_eq!(result.unwrap_err().code().map(|code| code.code().to_owned()).as_deref(), Some("57014"));
        client.batch_execute("select 1").await.unwrap();
    }
}
