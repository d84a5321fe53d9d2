//! A throw-away PostgreSQL server with TLS, several kinds of users, and files for clients. Gone when dropped.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use proto_tests::majors::installation;
use proto_tests::sql::{PATIENCE, Probe, connect, wait_until};
use seqshadow::demo::servers::{self, ClusterOptions};

use crate::authority::Authority;

/// Which user asks for what, by name: the last word of a line is the method.
const HBA: &str = "
local   all  all                    trust
host    all  u_trust  127.0.0.1/32  trust
host    all  u_trust  ::1/128       trust
host    all  u_scram  all           scram-sha-256
host    all  u_md5    all           md5
host    all  u_clear  all           password
hostssl all  u_cert   all           cert
hostssl all  u_both   all           scram-sha-256 clientcert=verify-ca
hostssl all  u_tls    all           scram-sha-256
hostnossl all u_plain all           scram-sha-256
";

const USERS: &str = "
create role u_trust login replication;
create role u_scram login replication password 'secret';
create role u_clear login password 'se cret';
create role u_cert login;
create role u_both login password 'secret';
create role u_tls login password 'secret';
create role u_plain login password 'secret';
create role root login;
set password_encryption = md5;
create role u_md5 login password 'secret';
";

/// The database that its clients ask for, and one with a name that must be quoted.
const DATABASES: [&str; 2] = ["shop", "\"d b\""];

pub struct Cluster {
    server: servers::Cluster,
    files: tempfile::TempDir,
    pub port: u16,
    pub ca: Authority,
}

impl Cluster {
    /// Starts a server with TLS; its certificate is for `localhost` and 127.0.0.1.
    pub async fn start() -> Cluster {
        let ca = Authority::new("Test CA");
        let (certificate, key) = ca.sign("localhost", &["localhost", "127.0.0.1"], true);
        let files = [("ca.crt", &ca.pem), ("server.crt", &certificate), ("server.key", &key)];
        let options = ClusterOptions {
            files: files.map(|(name, content)| (name.to_owned(), content.clone())).into(),
            ..ClusterOptions::default()
        };
        let options =
            options.set("listen_addresses", "127.0.0.1,::1").set("ssl", "on").set("ssl_ca_file", "ca.crt");
        let server = tokio::task::spawn_blocking(move || {
            servers::Cluster::start(&installation(15).unwrap(), &options).unwrap()
        });
        let server = server.await.unwrap();
        let files = tempfile::Builder::new().prefix("connections-").tempdir_in("/tmp").unwrap();
        fs::set_permissions(files.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let cluster = Cluster { port: server.port(), server, files, ca };
        cluster.run(USERS).await;
        for database in DATABASES {
            cluster.run(&format!("create database {database}")).await;
        }
        // In the place of the rules that a server of the harness has, which let everybody in.
        cluster.write("pg_hba.conf", HBA);
        cluster.reload(&[]).await;
        cluster
    }

    pub fn socket_directory(&self) -> &Path {
        self.server.socket_dir()
    }

    /// A file for clients.
    pub fn file(&self, name: &str, content: &str, mode: u32) -> PathBuf {
        let path = self.files.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    /// A superuser's connection, which no rule keeps out.
    pub async fn admin(&self) -> tokio_postgres::Client {
        let directory = self.socket_directory().display();
        connect(&format!("host={directory} port={} user=postgres", self.port)).await.unwrap()
    }

    async fn run(&self, sql: &str) {
        self.admin().await.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// Changes a setting and waits until new connections see it.
    pub async fn set(&self, setting: &str, value: &str) {
        self.reload(&[(setting, value)]).await;
    }

    /// Puts another server certificate in place.
    pub async fn install(&self, (certificate, key): &(String, String)) {
        self.write("server.crt", certificate);
        self.write("server.key", key);
        self.reload(&[]).await;
    }

    /// Overwrites a file of the server, which keeps its owner and mode.
    fn write(&self, name: &str, content: &str) {
        fs::write(self.server.data_dir().join(name), content).unwrap();
    }

    async fn reload(&self, settings: &[(&str, &str)]) {
        let loaded = async || {
            let sql = "select pg_conf_load_time()::text";
            self.admin().await.query_one(sql, &[]).await.map(|row| row.get::<_, String>(0))
        };
        let before = loaded().await.unwrap();
        self.server.configure(settings).unwrap();
        wait_until("the server to read its files again", PATIENCE, async || {
            let now = loaded().await?;
            Ok(Probe::when(now != before, || now))
        })
        .await
        .unwrap();
    }
}
