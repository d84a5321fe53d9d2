//! Promise of the demonstration: it shows what it says, fits into 80 columns, and leaves nothing behind, however it
//! ends.

use proto_tests::shadow::{ShadowCommand, Signal};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(120);

/// A directory for temporary files that only the demonstration uses, so that what it leaves there can be seen.
fn demo(args: &[&str]) -> (ShadowCommand, tempfile::TempDir) {
    let directory = tempfile::Builder::new().prefix("demo").tempdir_in("/tmp").unwrap();
    // The account of the servers must get there too, when we are root.
    std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = ShadowCommand::new(["demo"]).env("TMPDIR", directory.path());
    for kept in ["SEQSHADOW_PG_BINDIRS", "SEQSHADOW_CACHE", "SEQSHADOW_PG_USER"] {
        if let Some(value) = std::env::var_os(kept) {
            command = command.env(kept, value);
        }
    }
    (args.iter().fold(command, |command, arg| command.arg(*arg)), directory)
}

/// Directories of servers, and processes that name them.
fn left_behind(directory: &Path) -> Vec<PathBuf> {
    let mut left: Vec<PathBuf> =
        std::fs::read_dir(directory).unwrap().flatten().map(|entry| entry.path()).collect();
    let needle = directory.to_string_lossy().into_owned();
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let command = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&command).contains(&needle) {
            left.push(process.path());
        }
    }
    left
}

/// A process that was killed leaves the cleaning to others, who need a moment.
fn wait_until_nothing_is_left(directory: &Path) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !left_behind(directory).is_empty() {
        assert!(Instant::now() < deadline, "left behind: {:?}", left_behind(directory));
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn it_shows_the_famous_error_and_what_prevents_it() {
    let (command, directory) = demo(&["--seconds", "3"]);
    let finished = command.run(PATIENCE).unwrap();
    let all = format!("{}\n{}", finished.stdout, finished.stderr);
    assert_eq!(finished.status.code(), Some(0), "{all}");
    assert!(finished.stderr.is_empty(), "{all}");
    assert!(!all.contains('\u{1b}'), "no escape sequences in a pipe: {all}");
    for line in all.lines() {
        assert!(line.chars().count() <= 80, "too long: {line}");
    }
    let row = |table: &str| {
        let mut rows = finished.stdout.lines().filter(|line| line.trim_start().starts_with(table));
        rows.next_back().unwrap_or_else(|| panic!("no {table}: {all}")).to_owned()
    };
    for table in
        ["customers", "orders", "payments", "refunds", "shipments", "invoices", "events", "countdown"]
    {
        assert!(row(table).contains('✓'), "{all}");
    }
    assert!(row("control ").contains("✗ duplicate key"), "{all}");
    assert!(all.contains("duplicate key value violates unique constraint \"control_pkey\""), "{all}");
    assert!(finished.stdout.contains("seqshadow --slot"), "what to do next: {all}");
    assert_eq!(left_behind(directory.path()), Vec::<PathBuf>::new());
}

#[test]
fn ctrl_c_ends_it_in_order_while_it_runs() {
    let (command, directory) = demo(&["--seconds", "60"]);
    let mut shadow = command.spawn().unwrap();
    shadow.wait_for_output("next value", PATIENCE).unwrap();
    assert!(left_behind(directory.path()).len() > 2, "two servers are there");
    shadow.signal(Signal::INT);
    let status = shadow.wait_exit(Duration::from_secs(20)).unwrap();
    assert_eq!(status.code(), Some(130), "{:?}", shadow.stderr_lines());
    assert_eq!(left_behind(directory.path()), Vec::<PathBuf>::new());
}

#[test]
fn ctrl_c_ends_it_while_the_servers_start() {
    for milliseconds in [20, 150, 400] {
        let (command, directory) = demo(&["--seconds", "60"]);
        let mut shadow = command.spawn().unwrap();
        shadow.wait_for_output("seqshadow demo", PATIENCE).unwrap();
        std::thread::sleep(Duration::from_millis(milliseconds));
        shadow.signal(Signal::INT);
        let status = shadow.wait_exit(Duration::from_secs(20)).unwrap();
        assert_eq!(status.code(), Some(130), "{:?}", shadow.stderr_lines());
        wait_until_nothing_is_left(directory.path());
    }
}

#[test]
fn a_kill_leaves_nothing_either() {
    let (command, directory) = demo(&["--seconds", "60"]);
    let mut shadow = command.spawn().unwrap();
    shadow.wait_for_output("next value", PATIENCE).unwrap();
    shadow.kill9();
    wait_until_nothing_is_left(directory.path());
}

#[test]
fn a_reader_who_leaves_ends_it() {
    let (_, directory) = demo(&[]);
    let finished = ShadowCommand::new(["-c", "\"$0\" demo --seconds 60 | head -n 4"])
        .program("sh")
        .arg(proto_tests::binary::binary())
        .env("TMPDIR", directory.path())
        .run(PATIENCE)
        .unwrap();
    assert!(finished.stdout.contains("seqshadow demo"), "{finished:?}");
    assert!(finished.stderr.contains("nobody reads"), "{finished:?}");
    wait_until_nothing_is_left(directory.path());
}

#[test]
fn kept_servers_stay_until_they_are_ended_as_told() {
    let (command, directory) = demo(&["--seconds", "1", "--keep"]);
    let finished = command.run(PATIENCE).unwrap();
    assert_eq!(finished.status.code(), Some(0), "{finished:?}");
    let told = |start: &str| {
        let mut lines = finished.stdout.lines().map(str::trim);
        lines
            .find(|line| line.starts_with(start))
            .unwrap_or_else(|| panic!("{start}: {finished:?}"))
            .to_owned()
    };
    let output = std::process::Command::new("sh")
        .args(["-c", &format!("{} -Atc 'select count(*) > 1000 from orders'", told("psql "))])
        .output()
        .unwrap();
    let ended = std::process::Command::new("sh")
        .args(["-c", &format!("{}\n{}", told("kill "), told("rm "))])
        .status()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "t\n", "{output:?}");
    assert!(ended.success());
    wait_until_nothing_is_left(directory.path());
}

#[test]
fn a_directory_without_a_server_is_a_usage_error() {
    let (command, directory) = demo(&["--pg-bindir", "/no/such/directory"]);
    let finished = command.run(PATIENCE).unwrap();
    assert_eq!(finished.status.code(), Some(2), "{finished:?}");
    assert!(finished.stderr.contains("--pg-bindir") && finished.stderr.contains("/no/such/directory"));
    assert_eq!((finished.stderr.lines().count(), finished.stdout.as_str()), (1, ""), "{finished:?}");
    let (command, _directory) = demo(&["--pg-bindir", "/tmp"]);
    let finished = command.run(PATIENCE).unwrap();
    assert_eq!(finished.status.code(), Some(2), "{finished:?}");
    assert!(finished.stderr.contains("found no program postgres"), "{finished:?}");
    assert_eq!(left_behind(directory.path()), Vec::<PathBuf>::new());
}
