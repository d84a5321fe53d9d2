//! One throw-away server: a data directory, a process, a port, a log.
//!
//! In: an [`Installation`] and [`ClusterOptions`]. Out: a server that answers on 127.0.0.1 and on a socket in its
//! directory, as superuser `postgres`, to anybody who can reach them (`trust`, unless `hba` says otherwise). The calls
//! block (a start takes some 0.2 s) so that `Drop` can clean up; the server is stopped and its directory removed then.

use super::account::{Account, give, server_account};
use super::directory::{create_directory, free_port};
use super::error::{ServersError, last_lines, run};
use super::find::Installation;
use super::process::{self, ServerProcess};
use super::template::{copy_data_dir, create_data_dir};
use super::watchdog::Watchdog;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a server may take to be ready (a crash recovery included) or to stop.
const PATIENCE: Duration = Duration::from_secs(90);
/// A port found free can be taken before the server binds it.
const PORT_ATTEMPTS: u32 = 20;

/// Ours comes last, so that it decides.
const INCLUDE: &str = "\ninclude 'seqshadow.conf'\n";

/// How a server ends, as `pg_ctl stop -m` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Waits for the clients to leave.
    Smart,
    /// Throws the clients out and writes a checkpoint.
    Fast,
    /// Ends at once; the next start recovers.
    Immediate,
}

/// What a server is started with. `..Default::default()` is a good subscriber and publisher.
#[derive(Clone, Debug, Default)]
pub struct ClusterOptions {
    /// Settings of `postgresql.conf`, over the defaults that logical replication needs.
    pub settings: Vec<(String, String)>,
    /// Lines of `pg_hba.conf`, put before the default ones (the first that matches decides).
    pub hba: Vec<String>,
    /// Files for the data directory, name and content, readable by the server alone (certificates, keys).
    pub files: Vec<(String, String)>,
    /// Whether commits reach the disk. Off is faster, and a killed server loses nothing by it: only a crash of the
    /// whole machine would.
    pub fsync: bool,
    /// Servers of different families have different system identifiers, those of one family may share it.
    pub family: u8,
}

impl ClusterOptions {
    /// With one more setting.
    #[must_use]
    pub fn set(mut self, name: &str, value: impl Into<String>) -> Self {
        self.settings.push((name.to_owned(), value.into()));
        self
    }
}

/// A running (or stopped) server, removed when dropped.
#[derive(Debug)]
pub struct Cluster {
    installation: Installation,
    directory: PathBuf,
    account: Option<Account>,
    port: u16,
    settings: Mutex<BTreeMap<String, String>>,
    process: Mutex<Option<ServerProcess>>,
    watchdog: Option<Watchdog>, // dropped last: it cleans up whatever we did not
    kept: bool,
}

impl Cluster {
    /// Makes a data directory and starts a server on it; returns once it takes connections.
    ///
    /// # Errors
    /// When the server does not start (its log's end is in the error), or as root without an account for servers.
    pub fn start(installation: &Installation, options: &ClusterOptions) -> Result<Self, ServersError> {
        let mut cluster = Self::empty(installation, options)?;
        create_data_dir(installation, options.family, cluster.account, &cluster.data_dir())?;
        cluster.write_files(options)?;
        cluster.first_start().map(|()| cluster)
    }

    /// A physical standby of `primary`, which is stopped for as long as its files are copied.
    ///
    /// # Errors
    /// As [`start`](Self::start) and [`stop`](Self::stop).
    pub fn standby_of(primary: &Cluster, options: &ClusterOptions) -> Result<Self, ServersError> {
        let mut options = options.clone();
        options.settings.push(("primary_conninfo".to_owned(), primary.conninfo("postgres")));
        options.files.push(("standby.signal".to_owned(), String::new()));
        let mut cluster = Self::empty(&primary.installation, &options)?;
        primary.stop(Mode::Fast)?;
        let copied = copy_data_dir(&primary.data_dir(), &cluster.data_dir(), cluster.account);
        primary.resume()?;
        copied?;
        cluster.write_files(&options)?;
        cluster.first_start().map(|()| cluster)
    }

    /// A directory, and the watch over it: from here on what is in it is cleaned up, also if we fail or are killed.
    fn empty(installation: &Installation, options: &ClusterOptions) -> Result<Self, ServersError> {
        let account = server_account()?;
        let directory = create_directory(account)?;
        let watchdog = Watchdog::start(&directory)?;
        Ok(Cluster {
            installation: installation.clone(),
            directory,
            account,
            port: 0,
            settings: Mutex::new(defaults(options)),
            process: Mutex::new(None),
            watchdog: Some(watchdog),
            kept: false,
        })
    }

    /// Starts on a port that is free, and on another if somebody takes it first.
    fn first_start(&mut self) -> Result<(), ServersError> {
        let mut attempts = 0;
        loop {
            self.port = free_port()?;
            attempts += 1;
            match self.resume() {
                Err(error) if attempts < PORT_ATTEMPTS && port_was_taken(&error) => {}
                result => return result,
            }
        }
    }

    /// Starts the stopped or killed server again, on the same port. Does nothing while it runs.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn resume(&self) -> Result<(), ServersError> {
        let mut slot = self.process();
        if slot.as_mut().is_some_and(ServerProcess::is_running) {
            return Ok(());
        }
        self.write_settings()?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let logged_before = fs::metadata(self.log_path()).map_or(0, |metadata| metadata.len());
            let mut process =
                ServerProcess::spawn(&self.installation, self.account, &self.data_dir(), &self.log_path())?;
            let Err(reason) = process.wait_ready(deadline) else {
                *slot = Some(process);
                return Ok(());
            };
            process.kill();
            let log = process::log_since(&self.log_path(), logged_before);
            // The children of a killed server need a moment to notice; their memory is still in use until then.
            let children_linger = log.contains("is still in use") || log.contains("already exists");
            if !children_linger || Instant::now() > deadline {
                let version = self.installation.version.clone();
                return Err(ServersError::DidNotStart { version, reason, log: last_lines(&log, 30) });
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Stops the server and waits for its end; does nothing when it is not running.
    ///
    /// # Errors
    /// When it does not end in time, which a client that holds back its acknowledgements can bring about.
    pub fn stop(&self, mode: Mode) -> Result<(), ServersError> {
        self.begin_stop(mode);
        if self.wait_stopped(PATIENCE) {
            return Ok(());
        }
        let pid = self.pid().unwrap_or_default();
        Err(ServersError::DidNotStop { pid, seconds: PATIENCE.as_secs(), log: self.log_tail(30) })
    }

    /// Asks the server to stop, and does not wait.
    pub fn begin_stop(&self, mode: Mode) {
        if let Some(process) = self.process().as_mut() {
            process.signal(match mode {
                Mode::Smart => rustix::process::Signal::TERM,
                Mode::Fast => rustix::process::Signal::INT,
                Mode::Immediate => rustix::process::Signal::QUIT,
            });
        }
    }

    /// Whether the server has ended, after waiting for that at most `patience`.
    #[must_use]
    pub fn wait_stopped(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        // The lock is taken anew for each look: somebody else may lose patience and kill the server meanwhile.
        while self.is_running() {
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(process::POLL);
        }
        true
    }

    /// Kills the server with SIGKILL, as a machine's out-of-memory killer would. [`resume`](Self::resume) recovers it.
    pub fn kill9(&self) {
        if let Some(process) = self.process().as_mut() {
            process.kill();
        }
    }

    /// A fast stop, if it runs, and a start.
    ///
    /// # Errors
    /// As [`stop`](Self::stop) and [`resume`](Self::resume).
    pub fn restart(&self) -> Result<(), ServersError> {
        self.stop(Mode::Fast)?;
        self.resume()
    }

    /// Changes settings; those that need no restart are in force soon after (the server re-reads its files).
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn configure(&self, settings: &[(&str, &str)]) -> Result<(), ServersError> {
        let changed = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        lock(&self.settings).extend(changed);
        self.write_settings()?;
        if let Some(process) = self.process().as_mut() {
            process.signal(rustix::process::Signal::HUP);
        }
        Ok(())
    }

    /// Whether the server's process lives.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.process().as_mut().is_some_and(ServerProcess::is_running)
    }

    /// The process id of the server, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process().as_mut().and_then(|process| process.is_running().then(|| process.pid()))
    }

    /// A connection string for `dbname` over TCP, as superuser.
    #[must_use]
    pub fn conninfo(&self, dbname: &str) -> String {
        self.conninfo_as("postgres", dbname)
    }

    /// A connection string for `dbname` over TCP, as `user`.
    #[must_use]
    pub fn conninfo_as(&self, user: &str, dbname: &str) -> String {
        let (user, dbname) = (quote(user), quote(dbname));
        format!("host=127.0.0.1 port={} user={user} dbname={dbname}", self.port)
    }

    /// The TCP port, on 127.0.0.1; it stays the same over restarts.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where the unix socket is.
    #[must_use]
    pub fn socket_dir(&self) -> &Path {
        &self.directory
    }

    /// The server's data directory.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// What this server is an instance of.
    #[must_use]
    pub fn installation(&self) -> &Installation {
        &self.installation
    }

    /// The last `lines` lines of the server's log.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        last_lines(&self.log(), lines)
    }

    /// The server's whole log.
    #[must_use]
    pub fn log(&self) -> String {
        process::log_since(&self.log_path(), 0)
    }

    /// Leaves the server running and its directory in place, for good: whoever started it has to end it.
    pub fn keep(mut self) {
        if let Some(watchdog) = self.watchdog.take() {
            watchdog.dismiss();
        }
        if let Some(process) = self.process().take() {
            process.leave();
        }
        self.kept = true;
    }

    fn log_path(&self) -> PathBuf {
        self.directory.join("log")
    }

    fn process(&self) -> MutexGuard<'_, Option<ServerProcess>> {
        lock(&self.process)
    }

    fn write_files(&self, options: &ClusterOptions) -> Result<(), ServersError> {
        let data = self.data_dir();
        let write = |name: &str, content: &str| {
            let path = data.join(name);
            fs::write(&path, content)
                .and_then(|()| {
                    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
                })
                .map_err(ServersError::io(format!("write {}", path.display())))?;
            give(&path, self.account)
        };
        let read = |name: &str| {
            fs::read_to_string(data.join(name)).map_err(ServersError::io(format!("read the new {name}")))
        };
        let conf = read("postgresql.conf")?;
        if !conf.contains(INCLUDE) {
            write("postgresql.conf", &(conf + INCLUDE))?;
        }
        write("pg_hba.conf", &(options.hba.join("\n") + "\n" + &read("pg_hba.conf")?))?;
        options.files.iter().try_for_each(|(name, content)| write(name, content))
    }

    fn write_settings(&self) -> Result<(), ServersError> {
        let mut text = format!(
            "port = {}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{}'\n",
            self.port,
            self.directory.display()
        );
        for (name, value) in &*lock(&self.settings) {
            let _ = writeln!(text, "{name} = '{}'", value.replace('\'', "''"));
        }
        let path = self.data_dir().join("seqshadow.conf");
        fs::write(&path, text).map_err(ServersError::io(format!("write {}", path.display())))?;
        give(&path, self.account)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        if std::thread::panicking() {
            eprintln!(
                "--- the end of the log of PostgreSQL {} on port {}",
                self.installation.version, self.port
            );
            eprintln!("{}", self.log_tail(15));
        }
        if let Some(process) = self.process().as_mut() {
            process.signal(rustix::process::Signal::QUIT);
            if !process.wait_ended(Instant::now() + Duration::from_secs(5)) {
                process.kill();
            }
        }
        if let Some(segment) = process::left_shared_memory(&self.data_dir()) {
            let _ = run(std::process::Command::new("ipcrm").args(["-m", &segment]));
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn defaults(options: &ClusterOptions) -> BTreeMap<String, String> {
    let on_off = |on: bool| if on { "on" } else { "off" };
    let fixed = [
        ("wal_level", "logical"),
        ("max_connections", "100"),
        ("max_wal_senders", "30"),
        ("max_replication_slots", "30"),
        ("max_worker_processes", "40"),
        ("max_logical_replication_workers", "24"),
        ("max_sync_workers_per_subscription", "8"),
        ("max_prepared_transactions", "20"),
        ("shared_buffers", "32MB"),
        // In files of the data directory, so that a killed server leaves nothing in /dev/shm.
        ("dynamic_shared_memory_type", "mmap"),
        // A subscription's workers come back this soon after an error.
        ("wal_retrieve_retry_interval", "200ms"),
        ("log_line_prefix", "%m [%p] %a "),
        ("log_timezone", "UTC"),
        ("timezone", "UTC"),
        ("fsync", on_off(options.fsync)),
        ("full_page_writes", on_off(options.fsync)),
    ];
    let fixed = fixed.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
    fixed.chain(options.settings.iter().cloned()).collect()
}

fn port_was_taken(error: &ServersError) -> bool {
    matches!(error, ServersError::DidNotStart { log, .. }
        if log.contains("could not bind") || log.contains("could not create any TCP/IP sockets"))
}

/// A value of a connection string.
fn quote(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// A panic elsewhere does not make a server unusable: its state is what the operating system says.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
