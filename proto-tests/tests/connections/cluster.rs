//! A throw-away PostgreSQL server with TLS, several kinds of users, and files for clients. Gone when dropped.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};

const BIN: &str = "/usr/lib/postgresql/15/bin";

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
create database \"d b\";
create database shop;
";

pub struct Cluster {
    child: Child,
    directory: tempfile::TempDir,
    pub port: u16,
    pub ca: Authority,
}

/// The serial number of every certificate that an [`Authority`] signs.
pub const SERIAL: u64 = 4711;

/// A certificate authority that signs whatever is asked of it.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    key_pem: String,
    pub pem: String,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        Authority::with(name, |_| {})
    }

    /// One whose own certificate is too old.
    pub fn expired(name: &str) -> Self {
        Authority::with(name, |params| {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        })
    }

    /// One that signs with another kind of key than P-256.
    pub fn with_algorithm(name: &str, algorithm: &'static rcgen::SignatureAlgorithm) -> Self {
        Authority::with_key(Authority::params(name), KeyPair::generate_for(algorithm).unwrap())
    }

    fn with(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = Authority::params(name);
        change(&mut params);
        Authority::with_key(params, KeyPair::generate().unwrap())
    }

    fn with_key(params: CertificateParams, key: KeyPair) -> Self {
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { key_pem: key.serialize_pem(), issuer: Issuer::new(params, key), pem }
    }

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params
    }

    pub fn key_pem(&self) -> String {
        self.key_pem.clone()
    }

    /// An authority below this one, and its certificate.
    pub fn intermediate(&self, name: &str) -> (Authority, String) {
        let params = Authority::params(name);
        let key = KeyPair::generate().unwrap();
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        let authority =
            Authority { key_pem: key.serialize_pem(), issuer: Issuer::new(params, key), pem: pem.clone() };
        (authority, pem)
    }

    /// A revocation list with these serial numbers on it.
    pub fn revoke(&self, serials: &[u64], valid: bool) -> String {
        let revoked_certs = serials.iter().map(|serial| rcgen::RevokedCertParams {
            serial_number: (*serial).into(),
            revocation_time: rcgen::date_time_ymd(2021, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = rcgen::CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2020, 1, 1),
            next_update: rcgen::date_time_ymd(if valid { 4000 } else { 2021 }, 1, 1),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: revoked_certs.collect(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    /// A certificate that signed itself and is no authority.
    pub fn self_signed_leaf(&self, common_name: &str, names: &[&str]) -> (String, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, common_name);
        let key = KeyPair::generate().unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    /// Certificate and key for a common name and alternative names (host names or addresses).
    pub fn sign(&self, common_name: &str, names: &[&str], valid: bool) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        self.sign_with(common_name, names, valid, &key)
    }

    pub fn sign_with(
        &self,
        common_name: &str,
        names: &[&str],
        valid: bool,
        key: &KeyPair,
    ) -> (String, String) {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.serial_number = Some(SERIAL.into());
        params.distinguished_name = rcgen::DistinguishedName::new();
        if !common_name.is_empty() {
            params.distinguished_name.push(DnType::CommonName, common_name);
        }
        for name in names {
            params.subject_alt_names.push(match name.parse() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName((*name).try_into().unwrap()),
            });
        }
        if !valid {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        }
        (params.signed_by(key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

impl Cluster {
    /// Starts a server with TLS; its certificate is for `localhost` and 127.0.0.1.
    pub fn start() -> Cluster {
        let directory = tempfile::Builder::new().prefix("connections-").tempdir_in("/tmp").unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let data = directory.path().join("data");
        fs::create_dir(&data).unwrap();
        own(&data);
        let password_less = ["-A", "trust", "-U", "postgres", "-N", "-E", "UTF8", "--locale=C"];
        let status = server_command("initdb").arg("-D").arg(&data).args(password_less).output().unwrap();
        assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));

        let ca = Authority::new("Test CA");
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let settings = format!(
            "port = {port}\nlisten_addresses = '127.0.0.1,::1'\nunix_socket_directories = '{}'\nfsync = off\n\
             ssl = on\nssl_ca_file = 'ca.crt'\nwal_level = logical\nmax_connections = 50\nshared_buffers = 16MB\n\
             logging_collector = off\n",
            data.display()
        );
        fs::write(data.join("postgresql.auto.conf"), settings).unwrap();
        fs::write(data.join("pg_hba.conf"), HBA).unwrap();
        fs::write(data.join("ca.crt"), &ca.pem).unwrap();
        let log = fs::File::create(directory.path().join("log")).unwrap();
        let mut command = server_command("postgres");
        install(&data, &ca.sign("localhost", &["localhost", "127.0.0.1"], true));
        command.arg("-D").arg(&data).stdout(Stdio::null()).stderr(log);
        let cluster = Cluster { child: command.spawn().unwrap(), directory, port, ca };
        let deadline = Instant::now() + Duration::from_secs(60);
        while cluster.sql("select 1").is_err() {
            let log = fs::read_to_string(cluster.directory.path().join("log")).unwrap();
            assert!(Instant::now() < deadline, "the server did not start:\n{log}");
            std::thread::sleep(Duration::from_millis(50));
        }
        for statement in USERS.split(";\n").map(str::trim).filter(|s| !s.is_empty()) {
            if !statement.starts_with("set ") {
                let md5 = if statement.contains("u_md5") { "set password_encryption = md5;" } else { "" };
                let run = cluster.sql_each(&[md5, statement]);
                run.unwrap();
            }
        }
        cluster
    }

    pub fn socket_directory(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// A directory for files of clients.
    pub fn file(&self, name: &str, content: &str, mode: u32) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    /// Runs SQL as superuser.
    pub fn sql(&self, sql: &str) -> Result<String, String> {
        self.sql_each(&[sql])
    }

    fn sql_each(&self, statements: &[&str]) -> Result<String, String> {
        let mut command = Command::new("psql");
        command.env_clear().args(["-X", "-At", "-U", "postgres", "-d", "postgres"]);
        command.arg("-h").arg(self.socket_directory()).arg("-p").arg(self.port.to_string());
        for statement in statements.iter().filter(|s| !s.is_empty()) {
            command.args(["-c", statement]);
        }
        let output = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// Changes a setting and waits until new connections see it.
    pub fn set(&self, setting: &str, value: &str) {
        self.sql(&format!("alter system set {setting} = '{value}'")).unwrap();
        self.reload();
    }

    /// Puts another server certificate in place.
    pub fn install(&self, certificate: &(String, String)) {
        install(&self.socket_directory(), certificate);
        self.reload();
    }

    fn reload(&self) {
        let before = self.sql("select pg_conf_load_time()").unwrap();
        self.sql("select pg_reload_conf()").unwrap();
        while self.sql("select pg_conf_load_time()").unwrap() == before {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-QUIT", &self.child.id().to_string()]).status();
        let _ = self.child.wait();
    }
}

fn install(data: &Path, (certificate, key): &(String, String)) {
    for (name, content, mode) in [("server.crt", certificate, 0o644), ("server.key", key, 0o600)] {
        let path = data.join(name);
        let _ = fs::remove_file(&path);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        own(&path);
    }
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|metadata| std::os::unix::fs::MetadataExt::uid(&metadata) == 0)
}

fn own(path: &Path) {
    if is_root() {
        let id = |flag: &str| {
            let output = Command::new("id").args([flag, "postgres"]).output().unwrap();
            String::from_utf8_lossy(&output.stdout).trim().parse::<u32>().unwrap()
        };
        chown(path, Some(id("-u")), Some(id("-g"))).unwrap();
    }
}

/// Servers refuse to run as root.
fn server_command(program: &str) -> Command {
    let path = format!("{BIN}/{program}");
    if !is_root() {
        return Command::new(path);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "postgres", "--regid", "postgres", "--init-groups", &path]);
    command
}
