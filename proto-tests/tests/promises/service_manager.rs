//! Under a service manager: it says when the sequences are protected, feeds the watchdog only while the stream task
//! lives, says that it stops, and the unit that ships is one that systemd accepts.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use proto_tests::fault_proxy::{Direction, FaultProxy};
use proto_tests::pair::Pair;
use proto_tests::shadow::Signal;
use proto_tests::sidecar::command;
use proto_tests::sql::PATIENCE;

/// What systemd would hear.
struct Manager {
    socket: UnixDatagram,
}

impl Manager {
    fn listen(path: &Path) -> Manager {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        Manager { socket }
    }

    /// Drops what was said so far.
    fn forget(&self) {
        while self.socket.recv(&mut [0; 4096]).is_ok() {}
    }

    /// Waits for a line of a message; others are passed over.
    fn wait_for(&self, line: &str) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let mut message = [0; 4096];
            let Ok(length) = self.socket.recv(&mut message) else { continue };
            if String::from_utf8_lossy(&message[..length]).lines().any(|heard| heard.starts_with(line)) {
                return true;
            }
        }
        false
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_watchdog_reload_and_stop_are_told() {
    let pair = Pair::new(15, 15).await.unwrap();
    pair.replicate("CREATE TABLE t (id serial PRIMARY KEY)").await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let manager = Manager::listen(&path);
    let mut shadow = command(&pair, &["--summary-interval=1s"])
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "20000000")
        .spawn()
        .unwrap();
    assert!(manager.wait_for("READY=1"), "{:?}", shadow.stderr_lines());
    let next: i64 = {
        let client = pair.on_subscriber().await.unwrap();
        client.query_one("SELECT nextval('t_id_seq')", &[]).await.unwrap().get(0)
    };
    assert!(next > 1, "ready means that the sequences are ahead, got {next}");
    assert!(manager.wait_for("WATCHDOG=1"));
    assert!(manager.wait_for("STATUS=1 sequence, 0 held"));
    assert!(manager.wait_for("WATCHDOG=1"), "an idle stream is alive too");
    shadow.signal(Signal::HUP);
    assert!(manager.wait_for("RELOADING=1"));
    assert!(manager.wait_for("READY=1"));
    shadow.signal(Signal::TERM);
    assert!(manager.wait_for("STOPPING=1"));
    assert!(shadow.wait_exit(PATIENCE).unwrap().success());
}

/// The watchdog's patience is shorter than one attempt to connect.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_for_a_publisher_that_hangs_is_a_sign_of_life() {
    let pair = Pair::new(15, 15).await.unwrap();
    pair.on_both("CREATE TABLE t (id serial PRIMARY KEY)").await.unwrap();
    pair.grant(&["public"]).await.unwrap();
    pair.replicate_all().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let manager = Manager::listen(&path);
    let proxy = FaultProxy::start(pair.publisher.port()).await.unwrap();
    let address = format!("--publisher={}", proxy.conninfo(&pair.shadow_publisher_conninfo()));
    let shadow = command(&pair, &[&address, "--connect-timeout=5min"])
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "5000000")
        .spawn()
        .unwrap();
    shadow.wait_for_line("streaming slot=", PATIENCE).unwrap();
    proxy.stall(Direction::ToClient, true);
    proxy.cut();
    shadow.wait_for_line("the stream is interrupted", PATIENCE).unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    manager.forget();
    assert!(manager.wait_for("WATCHDOG=1"), "{:?}", shadow.stderr_lines());
}

/// With the account and the program swapped for ones that any machine has.
#[test]
fn the_unit_is_accepted_by_systemd() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("skipped: there is no systemd-analyze on this machine");
        return;
    }
    let unit = include_str!("../../../packaging/systemd/seqshadow@.service");
    assert!(unit.contains("ExecStart=/usr/bin/seqshadow --slot %i"));
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("seqshadow@.service");
    let runnable = unit
        .replace("/usr/bin/seqshadow", "/bin/true")
        .replace("User=seqshadow", "User=root")
        .replace("Group=seqshadow", "Group=root");
    std::fs::write(&copy, runnable).unwrap();
    let verified = Command::new("systemd-analyze").arg("verify").arg(&copy).output().unwrap();
    let said = String::from_utf8_lossy(&verified.stderr);
    assert!(verified.status.success(), "{said}");
    assert!(!said.contains("seqshadow@.service"), "systemd complains about the unit: {said}");
}
