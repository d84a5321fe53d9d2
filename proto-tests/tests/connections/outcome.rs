//! What came of one connection string, from `psql` and from us, in words that can be compared.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use proto_tests::majors::installation;
use seqshadow::conninfo::{Conninfo, Environment};
use seqshadow::session::{self, ConnectError, ConnectErrorKind, Purpose};

/// Asked by both; what it answers must be the same.
const QUESTION: &str = "select concat_ws('|', 'user='||current_user, 'db='||current_database(), \
    'from='||coalesce(host(inet_client_addr()), 'socket'), 'ssl='||coalesce(ssl, false), \
    'app='||current_setting('application_name'), 'work_mem='||current_setting('work_mem')) \
    from pg_stat_ssl where pid = pg_backend_pid()";

/// A connection string with its surroundings. `{port}`, `{sock}` and `{dir}` are filled in by the test.
pub struct Input<'a> {
    pub text: String,
    pub variables: Vec<(&'a str, String)>,
    pub home: &'a Path,
}

/// The `psql` of the server's major: newer ones know more settings. Fetched servers come without.
static PSQL: LazyLock<PathBuf> = LazyLock::new(|| {
    let beside_the_server = installation(15).unwrap().bindir.join("psql");
    let packaged = PathBuf::from("/usr/lib/postgresql/15/bin/psql");
    let found = [beside_the_server, packaged].into_iter().find(|path| path.is_file());
    found.expect("the psql of PostgreSQL 15, which these tests compare with (postgresql-client-15)")
});

/// What `psql` and we make of connection strings, held against each other.
pub struct Comparison<'a> {
    home: &'a Path,
    differences: Vec<String>,
    count: usize,
}

impl<'a> Comparison<'a> {
    /// Both find their default files in `home`.
    pub fn new(home: &'a Path) -> Self {
        Comparison { home, differences: vec![], count: 0 }
    }

    /// Compares for one connection string; `scenario` is for the reader of a difference.
    pub async fn run(&mut self, scenario: &str, text: &str) {
        self.run_with(scenario, text, vec![]).await;
    }

    /// As [`run`](Self::run), with these variables set.
    pub async fn run_with(&mut self, scenario: &str, text: &str, variables: Vec<(&str, String)>) {
        let input = Input { text: text.to_owned(), variables, home: self.home };
        let (psql, psql_says) = from_psql(&input);
        let (us, we_say) = from_us(&input).await;
        for secret in ["secret", "se cret", "wrong"] {
            assert!(!we_say.contains(secret), "{scenario}: {text}: {we_say}");
        }
        self.count += 1;
        if psql != us {
            self.differences
                .push(format!("{scenario}: {text}\n    psql: {psql} {psql_says}\n    us:   {us} {we_say}"));
        }
    }

    /// # Panics
    /// When there was a difference.
    pub fn finish(self) {
        let (differ, count) = (self.differences.len(), self.count);
        assert!(differ == 0, "{differ} of {count} differ:\n{}", self.differences.join("\n"));
    }
}

/// A line of facts, or `refused: ` and the kind of refusal.
fn from_psql(input: &Input<'_>) -> (String, String) {
    let mut command = Command::new(&*PSQL);
    command.env_clear().env("HOME", input.home).env("LC_ALL", "C").args(["-w", "-X", "-At", "-c", QUESTION]);
    command.envs(input.variables.iter().map(|(name, value)| (name, value)));
    let output = command.args(["-d", &input.text]).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() {
        return (String::from_utf8_lossy(&output.stdout).trim().to_owned(), stderr);
    }
    (format!("refused: {:?}", kind_of_message(&stderr)), stderr)
}

fn environment(input: &Input<'_>) -> Environment {
    let user = Command::new("id").arg("-un").output().unwrap();
    let env = Environment::empty()
        .with_home(input.home)
        .with_user(String::from_utf8_lossy(&user.stdout).trim())
        .with_socket_directory("/var/run/postgresql");
    input.variables.iter().fold(env, |env, (name, value)| env.with_variable(name, value))
}

pub async fn from_us(input: &Input<'_>) -> (String, String) {
    match try_us(input).await {
        Ok(line) => (line, String::new()),
        Err(error) => (format!("refused: {:?}", error.kind()), error.to_string()),
    }
}

async fn try_us(input: &Input<'_>) -> Result<String, ConnectError> {
    let mut conninfo = Conninfo::parse(&input.text, &environment(input))?;
    conninfo.set_fallback_application_name("psql");
    let session = session::connect(&conninfo, Purpose::Sql).await?;
    let (client, connection) = session.into_sql().await.unwrap();
    tokio::spawn(connection);
    Ok(client.query_one(QUESTION, &[]).await.unwrap().get(0))
}

/// libpq's messages, sorted into our kinds. The first line that fits decides.
fn kind_of_message(stderr: &str) -> ConnectErrorKind {
    let table: &[(&str, ConnectErrorKind)] = &[
        ("password authentication failed", ConnectErrorKind::Auth),
        ("no password supplied", ConnectErrorKind::Auth),
        ("no pg_hba.conf entry", ConnectErrorKind::Auth),
        ("no PostgreSQL user name", ConnectErrorKind::Auth),
        ("channel binding required", ConnectErrorKind::Auth),
        ("channel binding is required", ConnectErrorKind::Auth),
        ("could not find digest", ConnectErrorKind::Auth),
        ("requirepeer specifies", ConnectErrorKind::Auth),
        ("connection requires a valid client certificate", ConnectErrorKind::Auth),
        ("certificate authentication failed", ConnectErrorKind::Auth),
        ("FATAL:  role", ConnectErrorKind::Auth),
        ("FATAL:  database", ConnectErrorKind::Server),
        ("FATAL:  invalid command-line argument", ConnectErrorKind::Server),
        ("FATAL:  unrecognized configuration parameter", ConnectErrorKind::Server),
        ("server is not in hot standby mode", ConnectErrorKind::NotWanted),
        ("server is in hot standby mode", ConnectErrorKind::NotWanted),
        ("session is read-only", ConnectErrorKind::NotWanted),
        ("session is not read-only", ConnectErrorKind::NotWanted),
        ("invalid connection option", ConnectErrorKind::Config),
        ("invalid URI query parameter", ConnectErrorKind::Config),
        ("in URI", ConnectErrorKind::Config),
        ("percent-encoded", ConnectErrorKind::Config),
        ("missing \"=\"", ConnectErrorKind::Config),
        ("unterminated quoted string", ConnectErrorKind::Config),
        ("could not match", ConnectErrorKind::Config),
        ("invalid integer value", ConnectErrorKind::Config),
        ("invalid port number", ConnectErrorKind::Config),
        ("could not parse network address", ConnectErrorKind::Config),
        ("definition of service", ConnectErrorKind::Config),
        ("service file", ConnectErrorKind::Config),
        ("SSL protocol version range", ConnectErrorKind::Config),
        ("value: \"", ConnectErrorKind::Config),
        ("Connection refused", ConnectErrorKind::Unreachable),
        ("No such file or directory\n\tIs the server running", ConnectErrorKind::Unreachable),
        ("could not translate host name", ConnectErrorKind::Unreachable),
        ("timeout expired", ConnectErrorKind::Timeout),
        ("SSL", ConnectErrorKind::Tls),
        ("certificate", ConnectErrorKind::Tls),
        ("private key file", ConnectErrorKind::Tls),
    ];
    let found = table.iter().find(|(part, _)| stderr.contains(part));
    found.unwrap_or_else(|| panic!("psql says something new: {stderr}")).1
}

/// Files are written once; each case names variables as `NAME=value` before the connection string.
pub fn fill(text: &str, facts: &BTreeMap<&str, String>) -> String {
    facts.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("{{{name}}}"), value))
}
