//! The console of a running daemon, asked by psql and by a driver, and besieged by clients that mean no good.

use anyhow::Result;
use proto_tests::limited;
use proto_tests::rig::Rig;
use proto_tests::shadow::{Shadow, Signal};
use proto_tests::sidecar::SLOT;
use proto_tests::sql::{PATIENCE, Probe, wait_until};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, NoTls};

const SOCKET: &str = ".s.PGSQL.5432";

/// A daemon with a console in a directory of the test's own.
struct Sidecar {
    rig: Rig,
    shadow: Shadow,
    parent: TempDir,
}

impl Sidecar {
    async fn start(publisher: u32, subscriber: u32, flags: &[&str]) -> Result<Sidecar> {
        let rig = Rig::new(publisher, subscriber).await?;
        let parent = tempfile::tempdir()?;
        let shadow = spawn(&rig, &parent.path().join("c"), flags)?;
        shadow.wait_for_line("streaming slot=", PATIENCE)?;
        Ok(Sidecar { rig, shadow, parent })
    }

    fn directory(&self) -> PathBuf {
        self.parent.path().join("c")
    }

    fn psql(&self, flags: &[&str], sql: &str) -> Output {
        psql(&self.directory(), flags, sql)
    }
}

fn spawn(rig: &Rig, directory: &Path, flags: &[&str]) -> Result<Shadow> {
    let console = format!("--console-dir={}", directory.display());
    let shadow = rig.spawn(&[&[console.as_str()], flags].concat())?;
    shadow.wait_for_line("the sequences are protected", PATIENCE)?;
    Ok(shadow)
}

/// As a person would: psql reads no settings of this machine.
fn psql(directory: &Path, flags: &[&str], sql: &str) -> Output {
    let mut psql = Command::new("psql");
    psql.arg("-Xh").arg(directory).args(flags).args(["-c", sql, "seqshadow"]);
    limited::output(psql.env_remove("PGOPTIONS").env("PGUSER", "nobody-in-particular")).unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// `name|value` lines of the one row that `-x` prints.
fn field(output: &Output, name: &str) -> String {
    let text = text(output);
    let line = text.lines().find(|line| line.split('|').next() == Some(name));
    line.and_then(|line| line.split_once('|')).unwrap_or_else(|| panic!("{name}: {text}")).1.to_owned()
}

async fn driver(directory: &Path) -> Client {
    let stream = tokio::net::UnixStream::connect(directory.join(SOCKET)).await.unwrap();
    let mut config = tokio_postgres::Config::new();
    let (client, connection) = config.user("x").dbname("seqshadow").connect_raw(stream, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn psql_is_answered() -> Result<()> {
    let sidecar = Sidecar::start(14, 17, &[]).await?;
    let id = sidecar.rig.follows(100).await?;
    let row = |sql: &str| sidecar.psql(&["-xAt"], sql);
    let sequences = || row("SHOW SEQUENCES");
    wait_until("the advance to be told", PATIENCE, async || {
        let found = sequences();
        let told =
            field(&found, "mark") == id.to_string() && field(&found, "publisher_value") == id.to_string();
        Ok(Probe::when(told, || text(&found)))
    })
    .await?;
    let found = sequences();
    assert_eq!(field(&found, "sequence"), "public.orders_id_seq");
    assert_eq!(field(&found, "consumers"), "public.orders.id");
    assert_eq!((field(&found, "state"), field(&found, "behind")), ("covered".to_owned(), "f".to_owned()));
    assert!(field(&found, "next_value").parse::<i64>()? > id + 30, "{}", text(&found));
    assert_eq!(field(&found, "set_aside"), "", "NULL where there is none");
    assert!(field(&found, "last_advance").starts_with("20"), "{}", text(&found));

    let stream = row("show stream;");
    assert_eq!(
        (field(&stream, "state"), field(&stream, "protecting")),
        ("streaming".to_owned(), "t".to_owned())
    );
    assert!(field(&stream, "confirmed_lsn").contains('/'), "{}", text(&stream));
    assert!(field(&stream, "lag_bytes").parse::<i64>()? >= 0);
    let slot = row("Show  Slot ;");
    assert_eq!((field(&slot, "name"), field(&slot, "lost")), (SLOT.to_owned(), "0".to_owned()));
    assert_eq!(field(&slot, "ceiling_bytes"), (1_u64 << 30).to_string());
    assert_eq!(field(&row("SHOW VERSION"), "pid"), sidecar.shadow.pid().to_string());
    for help in ["SHOW HELP", "help"] {
        let help = sidecar.psql(&["-At"], help);
        assert!(help.status.success() && text(&help).contains("SHOW SEQUENCES|"), "{}", text(&help));
    }
    let config = sidecar.psql(&["-At"], "SHOW CONFIG");
    assert!(text(&config).contains(&format!("slot|{SLOT}")), "{}", text(&config));
    // Several at once, up to the first that is none; nothing at all is no mistake.
    let several = sidecar.psql(&["-At"], "SHOW VERSION; SHOW SLOT; SELECT 1; SHOW VERSION");
    assert!(!several.status.success() && text(&several).contains("SHOW HELP"), "{}", text(&several));
    assert!(sidecar.psql(&[], ";").status.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mistakes_leave_the_connection_open() -> Result<()> {
    let sidecar = Sidecar::start(12, 15, &[]).await?;
    let script =
        "\\d\nSELECT version();\n\\l\n\\df\nSHOW VERSION\\g\nBEGIN;\nSET x = 1;\nSHOW VERSION;\nCOMMIT;\n";
    let mut psql = Command::new("psql")
        .args(["-XAtqh"])
        .arg(sidecar.directory())
        .arg("seqshadow")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()?;
    psql.stdin.take().unwrap().write_all(script.as_bytes())?;
    let output = limited::wait(psql)?;
    let pid = format!("|{}", sidecar.shadow.pid());
    assert_eq!(text(&output).matches(&pid).count(), 2, "{}", text(&output));
    assert!(text(&output).contains("HINT:  The commands are: SHOW SEQUENCES, "), "{}", text(&output));
    let verbose = sidecar.psql(&["-v", "VERBOSITY=verbose"], "SELECT 1");
    assert!(text(&verbose).contains("ERROR:  42601:"), "{}", text(&verbose));
    // Another database is none of ours, and TLS is not spoken.
    let mut other = Command::new("psql");
    let other = limited::output(other.args(["-Xh"]).arg(sidecar.directory()).args(["-c", "x", "shop"]))?;
    assert!(text(&other).contains("psql -h DIR seqshadow"), "{}", text(&other));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_driver_gets_typed_values_and_parameters_are_refused() -> Result<()> {
    let sidecar = Sidecar::start(16, 13, &[]).await?;
    sidecar.rig.follows(10).await?;
    let mut client = driver(&sidecar.directory()).await;
    let rows = client.query("SHOW SEQUENCES", &[]).await?;
    let types: Vec<&Type> = rows[0].columns().iter().map(tokio_postgres::Column::type_).collect();
    assert!(types.contains(&&Type::INT8) && types.contains(&&Type::BOOL) && types.contains(&&Type::FLOAT8));
    assert_eq!(rows[0].get::<_, &str>("name"), "orders_id_seq");
    assert!(rows[0].get::<_, i64>("next_value") > 10 && !rows[0].get::<_, bool>("behind"));
    assert_eq!(rows[0].get::<_, Option<&str>>("reason"), None);
    // A statement that is used twice; rows a few at a time.
    let config = client.prepare("SHOW CONFIG").await?;
    let all = client.query(&config, &[]).await?.len();
    assert!(all > 20 && client.query(&config, &[]).await?.len() == all);
    let transaction = client.transaction().await?;
    let portal = transaction.bind("SHOW CONFIG", &[]).await?;
    let mut fetched = Vec::new();
    loop {
        let rows = transaction.query_portal(&portal, 7).await?;
        assert!(rows.len() <= 7);
        if rows.is_empty() {
            break;
        }
        fetched.extend(rows.iter().map(|row| row.get::<_, String>("name")));
    }
    assert_eq!(fetched.len(), all);
    transaction.commit().await?;
    // Refused, and the connection goes on.
    let refused = client.query_typed("SHOW SLOT", &[(&1_i32, Type::INT4)]).await.unwrap_err();
    let refused = refused.as_db_error().unwrap();
    assert_eq!(
        (refused.code().code(), refused.message()),
        ("0A000", "the console's commands take no parameters")
    );
    let unknown = client.query("SHOW $1", &[]).await.unwrap_err();
    assert_eq!(unknown.as_db_error().unwrap().code().code(), "42601");
    assert!(client.query("SHOW SLOT; SHOW SLOT", &[]).await.is_err());
    assert_eq!(client.query_one("SHOW SLOT", &[]).await?.get::<_, &str>("name"), SLOT);
    assert_eq!(client.simple_query("SHOW VERSION; SHOW SLOT").await?.len(), 6);
    // Statements are not kept without end.
    let mut kept = Vec::new();
    let error = loop {
        match client.prepare("SHOW SLOT").await {
            Ok(statement) if kept.len() < 100 => kept.push(statement),
            Ok(_) => panic!("100 statements"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.as_db_error().unwrap().code().code(), "53400");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_socket_is_private_and_its_place_is_respected() -> Result<()> {
    let mut sidecar = Sidecar::start(18, 16, &[]).await?;
    let directory = sidecar.directory();
    let path = directory.join(SOCKET);
    let mode = |path: &Path| std::fs::metadata(path).map(|metadata| metadata.mode() & 0o777);
    assert_eq!((mode(&directory)?, mode(&path)?), (0o700, 0o600));

    // Another slot's daemon does not steal it, says who has it, and goes on.
    let second = spawn(&sidecar.rig, &directory, &["--slot=second"])?;
    let warning = second.wait_for_line("there is no console", PATIENCE)?;
    assert!(warning.contains(&format!("process {}", sidecar.shadow.pid())), "{warning}");
    assert_eq!(field(&sidecar.psql(&["-xAt"], "SHOW SLOT"), "name"), SLOT);
    drop(second);
    // In a place of its own it has one.
    let elsewhere = sidecar.parent.path().join("second");
    let second = spawn(&sidecar.rig, &elsewhere, &["--slot=second"])?;
    assert_eq!(field(&psql(&elsewhere, &["-xAt"], "SHOW SLOT"), "name"), "second");
    drop(second);

    // Killed, it leaves its socket behind; the next one takes its place. Ended in order, it leaves none.
    sidecar.shadow.kill9();
    assert!(path.exists());
    let mut third = spawn(&sidecar.rig, &directory, &[])?;
    assert_eq!(field(&sidecar.psql(&["-xAt"], "SHOW VERSION"), "pid"), third.pid().to_string());
    third.signal(Signal::TERM);
    assert!(third.wait_exit(PATIENCE)?.success());
    assert!(!path.exists());

    // Somebody else's socket is left alone.
    let _stranger = UnixListener::bind(&path)?;
    let fourth = spawn(&sidecar.rig, &directory, &[])?;
    let warning = fourth.wait_for_line("there is no console", PATIENCE)?;
    assert!(warning.contains(&format!("process {}", std::process::id())), "{warning}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_is_shown_nowhere() -> Result<()> {
    let rig = Rig::new(13, 18).await?;
    let parent = tempfile::tempdir()?;
    let directory = parent.path().join("c");
    let secret = |conninfo: String| format!("{conninfo} password=hunter2");
    let publisher = format!("--publisher={}", secret(rig.pair.shadow_publisher_conninfo()));
    let subscriber = format!("--subscriber={}", secret(rig.pair.shadow_subscriber_conninfo()));
    let shadow = spawn(&rig, &directory, &[&publisher, &subscriber, "--log-level=trace"])?;
    for command in ["SHOW CONFIG", "SHOW SEQUENCES", "SHOW STREAM", "SHOW SLOT", "SHOW VERSION", "SHOW HELP"]
    {
        let shown = psql(&directory, &[], command);
        assert!(shown.status.success() && !text(&shown).contains("hunter2"), "{}", text(&shown));
    }
    let config = psql(&directory, &["-At"], "SHOW CONFIG");
    assert!(text(&config).contains("publisher|(given, not shown)"), "{}", text(&config));
    assert!(!shadow.stderr_lines().join("\n").contains("hunter2"));
    Ok(())
}

/// A client's first bytes: protocol 3.0, user and database.
fn hello() -> Vec<u8> {
    let body = b"\0\x03\0\0user\0x\0database\0seqshadow\0\0";
    [&u32::try_from(body.len() + 4).unwrap().to_be_bytes()[..], body].concat()
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag][..], &u32::try_from(body.len() + 4).unwrap().to_be_bytes(), body].concat()
}

fn connect(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends `bytes` and reads until the console closes the connection.
fn until_closed(path: &Path, bytes: &[u8]) -> String {
    let mut stream = connect(path);
    // It may be closed before everything is written.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let mut buffer = [0; 8192];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => answer.extend_from_slice(&buffer[..n]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => panic!("it was not closed: {error}"),
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_clients_get_an_error_or_nothing_and_the_daemon_goes_on() -> Result<()> {
    let sidecar = Sidecar::start(17, 14, &[]).await?;
    let path = sidecar.directory().join(SOCKET);
    let before = sidecar.shadow.rss_bytes().unwrap_or_default();
    let greeted = |bytes: &[u8]| [hello(), bytes.to_vec()].concat();
    let huge = [b'Q', 0x3F, 0xFF, 0xFF, 0xFF];
    for (bytes, expected) in [
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "08P01"),
        (vec![0xFF; 4096], "08P01"),
        (vec![0, 0, 0, 8, 0, 2, 0, 0], "08P01"),
        (vec![0, 0, 0, 4], "08P01"),
        (greeted(&huge), "08P01"),
        (greeted(&message(b'Q', &vec![b'x'; 100_000])), "08P01"),
        (greeted(&message(b'P', b"\0SHOW SLOT\0\xFF\xFF")), "08P01"),
        (greeted(&message(b'B', b"\0\0\0\0\0\x01\x7F\xFF\xFF\xFF")), "08P01"),
        (greeted(&message(b'p', b"secret\0")), "08P01"),
        (greeted(&[0xFF; 4096]), "08P01"),
        (greeted(&message(b'X', b"")), ""),
    ] {
        let answer = until_closed(&path, &bytes);
        assert!(answer.contains(expected), "{:?} was answered {answer:?}", &bytes[..bytes.len().min(60)]);
    }
    // One that says nothing is shown the door.
    let begun = Instant::now();
    until_closed(&path, b"\0\0");
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());

    // Many that stay: for the one after them there is no room, and they neither keep the rows from being followed nor
    // take memory.
    let mut crowd: Vec<UnixStream> = (0..16)
        .map(|_| {
            let mut stream = connect(&path);
            stream.write_all(&hello()).unwrap();
            stream
        })
        .collect();
    for stream in &mut crowd {
        // Greeted, and so one of those that are counted.
        stream.read_exact(&mut [0; 64]).unwrap();
    }
    assert!(until_closed(&path, &hello()).contains("53300"));
    let flood: Vec<u8> = message(b'Q', b"SHOW SEQUENCES\0").repeat(2000);
    let floods: Vec<_> = crowd
        .into_iter()
        .map(|mut stream| {
            let flood = flood.clone();
            // They write until nobody takes it any more, and never read.
            std::thread::spawn(move || while stream.write_all(&flood).is_ok() {})
        })
        .collect();
    for _ in 0..20 {
        sidecar.rig.follows(50).await?;
    }
    for flood in floods {
        tokio::task::spawn_blocking(move || flood.join().unwrap()).await?;
    }
    let grown = sidecar.shadow.rss_bytes().unwrap_or_default().saturating_sub(before);
    assert!(grown < 24 << 20, "it grew by {grown} bytes");
    // All of them were shown the door: there is room again.
    wait_until("room in the console", PATIENCE, async || {
        let answer = sidecar.psql(&["-xAt"], "SHOW STREAM");
        Ok(Probe::when(answer.status.success(), || text(&answer)))
    })
    .await?;
    assert!(!sidecar.shadow.stderr_lines().join("\n").contains("panicked"));
    assert!(sidecar.shadow.complaints().is_empty(), "{:?}", sidecar.shadow.complaints());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_console_there_is_none() -> Result<()> {
    let rig = Rig::new(15, 12).await?;
    let parent = tempfile::tempdir()?;
    let directory = parent.path().join("c");
    let shadow = spawn(&rig, &directory, &["--no-console"])?;
    assert!(!directory.exists());
    drop(shadow);
    // One that cannot be opened is a warning.
    std::fs::write(&directory, "no directory")?;
    let shadow = spawn(&rig, &directory, &[])?;
    let warning = shadow.wait_for_line("there is no console", PATIENCE)?;
    assert!(warning.contains("is not a directory"), "{warning}");
    rig.follows(10).await?;
    Ok(())
}
