//! The same connection string means the same to `psql` and to us: where it leads, or why it is refused.

use std::collections::BTreeMap;

use crate::cluster::Cluster;
use crate::outcome::{Comparison, fill};

/// One case: variables (`NAME=value`, one per element) and the connection string.
struct Case(&'static [&'static str], &'static str);

#[rustfmt::skip]
const CASES: &[Case] = &[
    // Keywords and values.
    Case(&[], "host={sock} port={port} user=u_trust dbname=shop"),
    Case(&[], "host={sock} port={port} dbname=shop"),
    Case(&[], "host={sock} port={port} user=u_trust dbname=shop sslmode=require"),
    Case(&[], "host={sock} port={port} user=u_trust dbname='d b' application_name='it\\'s me'"),
    Case(&[], "host = {sock} port\t=\n{port} user=u_trust dbname=d\\ b"),
    Case(&[], "host={sock} port=' {port} ' user=u_trust dbname=shop"),
    Case(&[], "host={sock} host=127.0.0.1 port={port} user=u_trust dbname=shop"),
    Case(&[], "host=127.0.0.1 port={port} user=u_trust dbname=shop options='-c work_mem=7MB'"),
    Case(&[], "host=127.0.0.1 port={port} user=u_trust dbname=shop options='-c nope=1'"),
    Case(&[], "host=127.0.0.1 port={port} user=u_trust dbname=shop application_name='' fallback_application_name=fb"),
    Case(&[], "host=::1 port={port} user=u_trust dbname=shop"),
    Case(&[], "hostaddr=127.0.0.1 port={port} user=u_trust dbname=shop"),
    Case(&[], "host=nowhere.invalid hostaddr=127.0.0.1 port={port} user=u_trust dbname=shop"),
    Case(&[], "host=127.0.0.1 port={port} user=u_trust dbname="),
    Case(&[], "host=127.0.0.1 port={port} user='' dbname=shop"),
    Case(&[], "host=127.0.0.1 port={port} user=u_trust dbname=nope"),
    Case(&[], "host=127.0.0.1 port={port} user=nobody_here dbname=shop"),
    Case(&[], "hots=127.0.0.1"),
    Case(&[], "host=127.0.0.1 port"),
    Case(&[], "host=127.0.0.1 password='abc"),
    Case(&[], "host=127.0.0.1 =x"),
    Case(&[], "HOST=127.0.0.1"),
    Case(&[], "host=127.0.0.1 port=abc"),
    Case(&[], "host=127.0.0.1 port=0"),
    Case(&[], "host=127.0.0.1 port=65536"),
    Case(&[], "host=127.0.0.1 port=-1"),
    Case(&[], "host=127.0.0.1 port='5 4'"),
    Case(&[], "hostaddr=localhost port={port}"),
    Case(&[], "host=nowhere.invalid port={port}"),
    Case(&[], "host=127.0.0.1 port=1"),
    Case(&[], "host=/nowhere/at/all port={port}"),
    Case(&[], "host=@nowhere port={port}"),
    Case(&[], "host=127.0.0.1 port={port} user=u_trust dbname=shop sslmode=Require"),
    Case(&[], "host=127.0.0.1 port={port} user=u_trust dbname=shop sslmode="),
    Case(&[], "host=127.0.0.1 port={port} user=u_trust dbname=shop requiressl=1"),
    Case(&[], "host=127.0.0.1 port={port} user=u_trust dbname=shop channel_binding=maybe"),
    Case(&[], "host=127.0.0.1 port={port} user=u_trust dbname=shop channel_binding="),
    Case(&[], "host=127.0.0.1 port={port} user=u_trust dbname=shop gssencmode=maybe"),
    Case(&[], "host=127.0.0.1 port={port} user=u_trust dbname=shop gssencmode=disable krbsrvname=x gsslib=gssapi"),
    Case(&[], "host=127.0.0.1 port={port} user=u_trust dbname=shop ssl_min_protocol_version=TLSv1.3 ssl_max_protocol_version=TLSv1.2"),
    Case(&[], "host=127.0.0.1 port={port} user=u_trust dbname=shop ssl_min_protocol_version=SSLv3"),
    Case(&[], "host=127.0.0.1 port={port} user=u_trust dbname=shop connect_timeout=10 keepalives=1 keepalives_idle=10 keepalives_interval=5 keepalives_count=2 tcp_user_timeout=5000"),
    Case(&[], "host=127.0.0.1 port={port} user=u_trust dbname=shop connect_timeout=ten"),
    Case(&[], "host=127.0.0.1 port={port} user=u_trust dbname=shop keepalives=yes"),
    Case(&[], "host=127.0.0.1 port={port} user=u_trust dbname=shop keepalives=0 sslcompression=1 sslsni=0 client_encoding=utf8"),
    // Several hosts.
    Case(&[], "host=127.0.0.1,{sock} port=1,{port} user=u_trust dbname=shop"),
    Case(&[], "host=nowhere.invalid,127.0.0.1 port={port} user=u_trust dbname=shop"),
    Case(&[], "host=127.0.0.1,127.0.0.1 port=1,{port},3 user=u_trust dbname=shop"),
    Case(&[], "host=a,b hostaddr=127.0.0.1 port={port}"),
    Case(&[], "host=127.0.0.1,127.0.0.1 port=1,2 user=u_trust"),
    Case(&[], "host=127.0.0.1,{sock} port={port} user=u_scram password=wrong dbname=shop"),
    Case(&[], "hostaddr=127.0.0.1,127.0.0.1 port=1,{port} user=u_trust dbname=shop"),
    Case(&["PGPORT={port}"], "host=,127.0.0.1 user=u_trust dbname=shop"),
    // URIs.
    Case(&[], "postgresql://u_trust@127.0.0.1:{port}/shop"),
    Case(&[], "postgres://u_trust@localhost:{port}/shop?sslmode=disable"),
    Case(&[], "postgresql://u_trust@[::1]:{port}/shop"),
    Case(&[], "postgresql://u_trust@127.0.0.1:{port}/d%20b?application_name=a%26b"),
    Case(&[], "postgresql://u_scram:secret@127.0.0.1:{port}/shop?ssl=true"),
    Case(&[], "postgresql://u_clear:se%20cret@127.0.0.1:{port}/shop"),
    Case(&[], "postgresql://u_trust@127.0.0.1:1,127.0.0.1:{port}/shop"),
    Case(&[], "postgresql:///shop?host={sock}&port={port}&user=u_trust"),
    Case(&[], "postgresql://u_trust@{sockpct}:{port}/shop"),
    Case(&[], "postgresql://127.0.0.1:{port}?user=u_trust&dbname=shop"),
    Case(&["PGHOST=127.0.0.1", "PGPORT={port}", "PGUSER=u_trust", "PGDATABASE=shop"], "postgresql://"),
    Case(&["PGHOST=127.0.0.1", "PGUSER=u_trust"], "postgresql://:{port}/shop"),
    Case(&[], "postgresql://u_trust@[::1/shop"),
    Case(&[], "postgresql://u_trust@[]/shop"),
    Case(&[], "postgresql://u_trust@[::1]x/shop"),
    Case(&[], "postgresql://u_trust@127.0.0.1:{port}/shop?nope=1"),
    Case(&[], "postgresql://u_trust@127.0.0.1:{port}/shop?user"),
    Case(&[], "postgresql://u_trust@127.0.0.1:{port}/shop?user=a=b"),
    Case(&[], "postgresql://u_trust@127.0.0.1:{port}/shop?application_name=x&"),
    Case(&[], "postgresql://u_trust@127.0.0.1:{port}/shop?&application_name=x"),
    Case(&[], "postgresql://u_trust@127.0.0.1:{port}/shop%zz"),
    Case(&[], "postgresql://u_trust@127.0.0.1:{port}/shop%00"),
    Case(&[], "postgresql://u_trust:x/y@127.0.0.1:{port}/shop"),
    Case(&[], "postgresqk://u_trust@127.0.0.1:{port}/shop?user=x"),
    // The environment.
    Case(&["PGHOST={sock}", "PGPORT={port}", "PGUSER=u_trust"], "shop"),
    Case(&["PGHOST={sock}", "PGPORT={port}", "PGUSER=u_trust", "PGDATABASE=shop"], ""),
    Case(&["PGHOST={sock}", "PGPORT={port}", "PGUSER=u_trust", "PGAPPNAME=env", "PGOPTIONS=-c work_mem=6MB"], "dbname=shop"),
    Case(&["PGHOST={sock}", "PGPORT={port}", "PGUSER=u_trust", "PGAPPNAME=env"], "dbname=shop application_name="),
    Case(&["PGHOSTADDR=127.0.0.1", "PGPORT={port}", "PGUSER=u_scram", "PGPASSWORD=secret"], "shop"),
    Case(&["PGHOSTADDR=127.0.0.1", "PGPORT={port}", "PGUSER=u_scram", "PGPASSWORD=secret"], "dbname=shop password=wrong"),
    Case(&["PGHOSTADDR=127.0.0.1", "PGPORT={port}", "PGUSER=u_scram"], "shop"),
    Case(&["PGHOST=127.0.0.1", "PGPORT={port}", "PGUSER=u_trust", "PGSSLMODE=require"], "shop"),
    Case(&["PGHOST=127.0.0.1", "PGPORT={port}", "PGUSER=u_trust", "PGREQUIRESSL=1", "PGSSLMODE=disable"], "shop"),
    Case(&["PGHOST=127.0.0.1", "PGPORT={port}", "PGUSER=u_plain", "PGPASSWORD=secret", "PGREQUIRESSL=1"], "shop"),
    Case(&["PGHOST=127.0.0.1", "PGPORT={port}", "PGUSER=u_trust", "PGSSLMODE="], "shop"),
    Case(&["PGHOST=127.0.0.1", "PGPORT={port}", "PGUSER=u_trust", "PGTARGETSESSIONATTRS=standby"], "shop"),
    Case(&["PGCONNECT_TIMEOUT=x", "PGHOST=127.0.0.1", "PGPORT={port}", "PGUSER=u_trust"], "shop"),
    Case(&["PGPORT={port}"], "shop"),
    // Services.
    Case(&["PGSERVICEFILE={dir}/services"], "service=one"),
    Case(&["PGSERVICEFILE={dir}/services", "PGSERVICE=one"], "application_name=mine"),
    Case(&["PGSERVICEFILE={dir}/services", "PGUSER=u_scram"], "service=one"),
    Case(&["PGSERVICEFILE={dir}/services"], "postgresql:///d%20b?service=one"),
    Case(&["PGSERVICEFILE={dir}/services"], "service=absent"),
    Case(&["PGSERVICEFILE={dir}/services"], "service=broken"),
    Case(&["PGSERVICEFILE={dir}/services"], "service=nested"),
    Case(&["PGSERVICEFILE={dir}/services"], "service=unknown"),
    Case(&["PGSERVICEFILE={dir}/nowhere"], "service=one"),
    Case(&["PGSYSCONFDIR={dir}/etc"], "service=system"),
    Case(&["PGSYSCONFDIR={dir}/etc"], "service=home"),
    // Password files.
    Case(&[], "host=127.0.0.1 port={port} user=u_scram dbname=shop passfile={dir}/pass"),
    Case(&["PGPASSFILE={dir}/pass"], "host=127.0.0.1 port={port} user=u_md5 dbname=shop"),
    Case(&["PGPASSFILE={dir}/pass"], "host=127.0.0.1 port={port} user=u_clear dbname=shop"),
    Case(&["PGPASSFILE={dir}/pass"], "hostaddr=127.0.0.1 port={port} user=u_scram dbname='d b'"),
    Case(&["PGPASSFILE={dir}/pass"], "host=localhost hostaddr=127.0.0.1 port={port} user=u_scram dbname=shop"),
    Case(&["PGPASSFILE={dir}/open-pass"], "host=127.0.0.1 port={port} user=u_scram dbname=shop"),
    Case(&["PGPASSFILE={dir}"], "host=127.0.0.1 port={port} user=u_scram dbname=shop"),
    Case(&["PGPASSFILE={dir}/nowhere"], "host=127.0.0.1 port={port} user=u_scram dbname=shop"),
    Case(&[], "host=127.0.0.1 port={port} user=u_tls dbname=shop"),
    Case(&["PGPASSFILE={dir}/pass"], "host=127.0.0.1 port={port} user=u_scram password= dbname=shop"),
    // Authentication, channel binding, target_session_attrs, requirepeer.
    Case(&[], "host=127.0.0.1 port={port} user=u_scram password=secret dbname=shop channel_binding=require"),
    Case(&[], "host=127.0.0.1 port={port} user=u_scram password=secret dbname=shop channel_binding=require sslmode=disable"),
    Case(&[], "host=127.0.0.1 port={port} user=u_scram password=secret dbname=shop channel_binding=disable sslmode=require"),
    Case(&[], "host=127.0.0.1 port={port} user=u_md5 password=secret dbname=shop"),
    Case(&[], "host=127.0.0.1 port={port} user=u_md5 password=wrong dbname=shop"),
    Case(&[], "host=127.0.0.1 port={port} user=u_md5 password=secret dbname=shop channel_binding=require"),
    Case(&[], "host=127.0.0.1 port={port} user=u_clear password='se cret' dbname=shop"),
    Case(&[], "host=127.0.0.1 port={port} user=u_clear password='se cret' dbname=shop channel_binding=require"),
    Case(&[], "host=127.0.0.1 port={port} user=u_trust dbname=shop channel_binding=require"),
    Case(&[], "host=127.0.0.1 port={port} user=u_scram password=wrong dbname=shop"),
    Case(&[], "host=127.0.0.1 port={port} user=u_trust dbname=shop target_session_attrs=read-write"),
    Case(&[], "host=127.0.0.1 port={port} user=u_trust dbname=shop target_session_attrs=read-only"),
    Case(&[], "host=127.0.0.1 port={port} user=u_trust dbname=shop target_session_attrs=read-only options='-c default_transaction_read_only=on'"),
    Case(&[], "host=127.0.0.1 port={port} user=u_trust dbname=shop target_session_attrs=primary"),
    Case(&[], "host=127.0.0.1 port={port} user=u_trust dbname=shop target_session_attrs=standby"),
    Case(&[], "host=127.0.0.1,{sock} port={port} user=u_trust dbname=shop target_session_attrs=prefer-standby"),
    Case(&[], "host=127.0.0.1 port={port} user=u_trust dbname=shop target_session_attrs=master"),
    Case(&[], "host={sock} port={port} user=u_trust dbname=shop requirepeer=postgres"),
    Case(&[], "host={sock} port={port} user=u_trust dbname=shop requirepeer=daemon"),
    Case(&[], "host=127.0.0.1 port={port} user=u_trust dbname=shop requirepeer=daemon"),
    // TLS, as far as the pg_hba.conf decides.
    Case(&[], "host=127.0.0.1 port={port} user=u_tls password=secret dbname=shop sslmode=disable"),
    Case(&[], "host=127.0.0.1 port={port} user=u_tls password=secret dbname=shop sslmode=allow"),
    Case(&[], "host=127.0.0.1 port={port} user=u_tls password=secret dbname=shop sslmode=prefer"),
    Case(&[], "host=127.0.0.1 port={port} user=u_tls password=secret dbname=shop sslmode=require"),
    Case(&[], "host=127.0.0.1 port={port} user=u_plain password=secret dbname=shop sslmode=disable"),
    Case(&[], "host=127.0.0.1 port={port} user=u_plain password=secret dbname=shop sslmode=allow"),
    Case(&[], "host=127.0.0.1 port={port} user=u_plain password=secret dbname=shop sslmode=prefer"),
    Case(&[], "host=127.0.0.1 port={port} user=u_plain password=secret dbname=shop sslmode=require"),
    Case(&[], "host=127.0.0.1 port={port} user=u_scram password=secret dbname=shop sslmode=allow"),
    Case(&[], "host=127.0.0.1 port={port} user=u_scram password=wrong dbname=shop sslmode=allow"),
    Case(&[], "host=127.0.0.1 port={port} user=u_trust dbname=shop sslmode=verify-ca"),
    Case(&[], "host=127.0.0.1 port={port} user=u_trust dbname=shop sslmode=verify-full sslrootcert={dir}/nowhere"),
];

#[tokio::test]
async fn every_connection_string_means_what_it_means_to_psql() {
    let cluster = Cluster::start().await;
    let port = cluster.port.to_string();
    let services = format!(
        "# services\n[one]\nhost=127.0.0.1\nport={port}\nuser=u_trust\ndbname=shop\napplication_name=from service\n\
         [broken]\nhost\n[nested]\nservice=one\n[unknown]\nhots=x\n"
    );
    let open = cluster.file("services", &services, 0o644);
    cluster.file("etc/pg_service.conf", &services.replace("[one]", "[system]"), 0o644);
    cluster.file("home/.pg_service.conf", &services.replace("[one]", "[home]"), 0o644);
    let pass = format!(
        "# passwords\n127.0.0.1:{port}:shop:u_scram:secret\nlocalhost:*:shop:u_scram:secret\n*:*:d b:u_scram:secret\n\
         *:1:*:*:wrong\n*:*:*:u_md5:secret:more\n127.0.0.1:{port}:*:u_clear:se\\ cret\n"
    );
    cluster.file("pass", &pass, 0o600);
    cluster.file("open-pass", &pass, 0o640);
    cluster.file("home/.pgpass", "*:*:*:u_tls:secret\n", 0o600);
    let directory = open.parent().unwrap();
    let home = directory.join("home");
    let sock = cluster.socket_directory().display().to_string();
    let facts = BTreeMap::from([
        ("port", port),
        ("sockpct", sock.replace('/', "%2F")),
        ("sock", sock),
        ("dir", directory.display().to_string()),
    ]);
    let mut comparison = Comparison::new(&home);
    for Case(variables, text) in CASES {
        let variables = variables.iter().map(|pair| pair.split_once('=').unwrap());
        let variables: Vec<_> = variables.map(|(name, value)| (name, fill(value, &facts))).collect();
        comparison.run_with(&format!("with {variables:?}"), &fill(text, &facts), variables.clone()).await;
    }
    comparison.finish();
}
