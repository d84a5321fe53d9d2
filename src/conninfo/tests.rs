//! Settings that `psql` 15 does not know, what is refused, and that no password shows. The rest is compared with `psql`
//! in `proto-tests`.

use std::time::Duration;

use proptest::prelude::*;
use secrecy::ExposeSecret;

use super::*;

fn env() -> Environment {
    Environment::empty().with_user("bob").with_home("/nowhere").with_socket_directory("/run/pg")
}

fn parse(text: &str) -> Conninfo {
    Conninfo::parse(text, &env()).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn refused(text: &str) -> String {
    Conninfo::parse(text, &env()).expect_err(text).to_string()
}

#[test]
fn defaults_are_libpqs() {
    let conninfo = parse("");
    assert_eq!((conninfo.user(), conninfo.dbname()), ("bob", "bob"));
    assert_eq!(conninfo.to_string(), "dbname=bob user=bob host=/run/pg/.s.PGSQL.5432 sslmode=prefer");
    assert_eq!(conninfo.connect_timeout(), None);
    assert!(conninfo.keepalive().enabled && conninfo.keepalive().idle.is_none());
    let tls = conninfo.tls();
    assert_eq!((tls.mode, tls.negotiation), (SslMode::Prefer, SslNegotiation::Postgres));
    assert_eq!(tls.roots, RootCertificates::File(Some("/nowhere/.postgresql/root.crt".into())));
    assert_eq!(tls.version_min, Some(TlsVersion::V1_2));
    assert_eq!(conninfo.passfile(), Some(Path::new("/nowhere/.pgpass")));
    assert_eq!(conninfo.application_name(), None);
    assert!(matches!(Conninfo::parse("", &Environment::empty()), Err(ConninfoError::NoUser)));
}

#[test]
fn newer_settings_are_understood() {
    assert_eq!(parse("sslrootcert=system").tls().mode, SslMode::VerifyFull);
    assert_eq!(parse("sslrootcert=system").tls().roots, RootCertificates::System);
    assert_eq!(parse("sslmode=require sslnegotiation=direct").tls().negotiation, SslNegotiation::Direct);
    assert_eq!(parse("sslcertmode=disable").tls().certificate_mode, SslCertMode::Disable);
    assert_eq!(parse("load_balance_hosts=random").load_balance_hosts(), LoadBalanceHosts::Random);
    assert!(!parse("require_auth=scram-sha-256").require_auth().allows(AuthMethod::Md5));
    assert!(!parse("sslsni=0").tls().send_host_name);
    assert_eq!(parse("connect_timeout=1").connect_timeout(), Some(Duration::from_secs(2)));
    for off in ["connect_timeout=0", "connect_timeout=-5", "connect_timeout="] {
        assert_eq!(parse(off).connect_timeout(), None);
    }
    for accepted in [
        "gssencmode=prefer gssdelegation=1 krbsrvname=pg gsslib=gssapi",
        "min_protocol_version=3.0 max_protocol_version=latest",
        "oauth_issuer=https://x oauth_client_id=y oauth_client_secret=z oauth_scope=s oauth_ca_file=f",
        "replication=database sslpassword=x sslcompression=0",
        "ssl_min_protocol_version=TLSv1 ssl_max_protocol_version=tlsv1.3",
    ] {
        parse(accepted);
    }
}

#[test]
fn what_cannot_be_honoured_is_refused() {
    for (text, part) in [
        ("gssencmode=require", "GSSAPI"),
        ("sslkeylogfile=/x", "never written"),
        ("scram_client_key=AAAA", "password"),
        ("min_protocol_version=3.2", "3.0"),
        ("max_protocol_version=4", "3.2"),
        ("sslnegotiation=direct", "weak sslmode \"prefer\""),
        ("sslrootcert=system sslmode=require", "weak sslmode \"require\""),
        ("ssl_max_protocol_version=TLSv1.1", "range"),
        ("ssl_min_protocol_version=TLSv1 ssl_max_protocol_version=TLSv1.1", "not supported"),
        ("require_auth=md5,!password", "mixed"),
        ("load_balance_hosts=round-robin", "random"),
        ("sslcertmode=maybe", "require"),
        ("user=a\0b", "zero byte"),
        ("bob:hunter2@host/db", "postgresql://"),
    ] {
        let message = refused(text);
        assert!(message.contains(part), "{text}: {message}");
        assert!(!message.contains("hunter2"), "{message}");
    }
}

#[test]
fn a_password_never_shows() {
    let env = env().with_variable("PGPASSWORD", "hunter2").with_variable("PGHOST", "db");
    assert!(!format!("{env:?}").contains("hunter2"));
    let from_env = Conninfo::parse("", &env).unwrap();
    let given = parse("host=db password=hunter2 sslpassword=hunter2 oauth_client_secret=hunter2");
    let uri = parse("postgresql://u:hunter2@db");
    for conninfo in [from_env, given, uri] {
        assert_eq!(conninfo.password().map(ExposeSecret::expose_secret), Some("hunter2"));
        assert!(!format!("{conninfo} {conninfo:?} {conninfo:#?}").contains("hunter2"));
    }
}

#[test]
fn hosts_are_shown_and_looked_up_by_the_name_given() {
    let shown: Vec<_> =
        parse("host=a,/tmp,::1,@abs port=1,2,3,4").hosts().iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["a:1", "/tmp/.s.PGSQL.2", "[::1]:3", "@abs/.s.PGSQL.4"]);
    let both = parse("host=db hostaddr=10.0.0.1");
    assert_eq!(both.hosts()[0].to_string(), "db:5432");
    assert_eq!(both.hosts()[0].endpoint, Endpoint::Address("10.0.0.1".to_owned()));
    let key = |text: &str| parse(text).hosts()[0].passfile_host(Path::new("/run/pg"));
    assert_eq!(key(""), "localhost");
    assert_eq!(key("host=/run/pg"), "localhost");
    assert_eq!(key("host=/tmp"), "/tmp");
    assert_eq!(key("hostaddr=10.0.0.1"), "10.0.0.1");
    assert_eq!(key("host=db hostaddr=10.0.0.1"), "db");
    parse("hostaddr=fe80::1%eth0");
}

#[test]
fn settings_can_be_changed_afterwards() {
    let mut conninfo = parse("dbname=a options='-c a=1'");
    conninfo.set_fallback_application_name("seqshadow");
    assert_eq!(conninfo.application_name(), Some("seqshadow"));
    conninfo.set_application_name("mine");
    conninfo.append_options("-c b=2");
    conninfo.set_dbname("other");
    assert_eq!(conninfo.application_name(), Some("mine"));
    assert_eq!(conninfo.options(), Some("-c a=1 -c b=2"));
    assert_eq!(conninfo.dbname(), "other");
    let mut named = parse("application_name=given");
    named.set_fallback_application_name("seqshadow");
    assert_eq!(named.application_name(), Some("given"));
}

#[test]
fn the_servicefile_keyword_names_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("services");
    std::fs::write(&path, "[s]\nuser=alice\n").unwrap();
    assert_eq!(parse(&format!("service=s servicefile={}", path.display())).user(), "alice");
    assert!(refused("service=s servicefile=/nowhere/x").contains("/nowhere/x"));
    let message = refused("service=nope");
    assert!(
        message.contains("\"nope\" not found") && message.contains("/nowhere/.pg_service.conf"),
        "{message}"
    );
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,60}|(postgres(ql)?://)?[a-z:/@?&=%,'\\\\\\[\\] 0-9]{0,60}") {
        let _ = Conninfo::parse(&text, &env());
    }

    #[test]
    fn a_quoted_value_is_read_back(password in "\\PC{1,30}") {
        let quoted = password.replace('\\', "\\\\").replace('\'', "\\'");
        let conninfo = parse(&format!("password='{quoted}' host=x"));
        prop_assert_eq!(conninfo.password().map(|p| p.expose_secret().to_owned()), Some(password.clone()));
        let encoded = percent_encoding::utf8_percent_encode(&password, percent_encoding::NON_ALPHANUMERIC);
        let conninfo = parse(&format!("postgresql://u:{encoded}@x/d"));
        prop_assert_eq!(conninfo.password().map(|p| p.expose_secret().to_owned()), Some(password));
    }
}
