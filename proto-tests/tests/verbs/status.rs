//! `status`: the same question answered by the sidecar and, without one, by both servers.

use anyhow::Result;
use proto_tests::limited;
use proto_tests::shadow::{Finished, Shadow, Signal};
use proto_tests::sidecar::{self, SLOT};
use proto_tests::sql::{PATIENCE, Probe, wait_until};
use proto_tests::stage::Stage;
use proto_tests::{binary::binary, verb};
use serde_json::{Value, json};
use std::io::Write as _;
use std::process::{Command, Stdio};
use tempfile::TempDir;

const TABLES: &str = "
CREATE TABLE orders (id bigserial PRIMARY KEY, note text);
CREATE TABLE down (id integer PRIMARY KEY);
CREATE SEQUENCE going_down AS integer INCREMENT -1 OWNED BY down.id;
ALTER TABLE down ALTER id SET DEFAULT nextval('going_down');
CREATE SEQUENCE nobodys;
CREATE SEQUENCE \"Forbidden\"";

/// A sidecar's console in a directory of the test's own, with the flag that leads there.
struct Place {
    parent: TempDir,
}

impl Place {
    fn new() -> Place {
        Place { parent: tempfile::tempdir().unwrap() }
    }

    fn flag(&self) -> String {
        format!("--console-dir={}", self.parent.path().join("c").display())
    }

    fn start(&self, stage: &Stage, flags: &[&str]) -> Shadow {
        sidecar::start(&stage.pair, &[&[self.flag().as_str()], flags].concat()).unwrap()
    }

    fn status(&self, stage: &Stage, flags: &[&str]) -> Finished {
        let slot = format!("--slot={SLOT}");
        verb::run(&stage.pair, "status", &[&[self.flag().as_str(), &slot], flags].concat()).unwrap()
    }
}

fn names(finished: &Finished) -> Vec<String> {
    let json = finished.json().unwrap();
    let lines = json["sequences"].as_array().unwrap();
    lines.iter().map(|line| line["sequence"].as_str().unwrap().to_owned()).collect()
}

fn line(finished: &Finished, name: &str) -> Value {
    let json = finished.json().unwrap();
    json["sequences"].as_array().unwrap().iter().find(|line| line["sequence"] == name).unwrap().clone()
}

/// What differs from run to run becomes a word.
fn redacted(mut json: Value) -> Value {
    let replace = |value: &mut Value, keys: &[&str]| {
        for key in keys {
            if value.get(key).is_some_and(|value| !value.is_null()) {
                value[*key] = json!(format!("[{key}]"));
            }
        }
    };
    replace(&mut json, &["at"]);
    replace(&mut json["sidecar"], &["pid", "console", "version"]);
    replace(
        &mut json["stream"],
        &[
            "publisher_lsn",
            "received_lsn",
            "committed_lsn",
            "confirmed_lsn",
            "lag_bytes",
            "lag_seconds",
            "ids_per_second",
        ],
    );
    replace(&mut json["slot"], &["retained_bytes"]);
    let is_running = !json["sidecar"].is_null();
    for line in json["sequences"].as_array_mut().unwrap() {
        if is_running {
            // None where nothing moves any more, which is a matter of time.
            line["lead_seconds"] = json!("[lead_seconds]");
        }
        replace(
            line,
            &["lead", "lead_seconds", "ids_per_second", "subscriber_value", "next_value", "last_advance"],
        );
    }
    json
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sidecar_answers_and_without_it_both_servers_do() -> Result<()> {
    let stage = Stage::replicating(15, 18, TABLES).await?;
    stage.on_subscriber("REVOKE ALL ON SEQUENCE \"Forbidden\" FROM shadow").await;
    let place = Place::new();
    let mut shadow = place.start(&stage, &[]);
    stage
        .on_publisher("INSERT INTO orders (note) SELECT 'x' FROM generate_series(1, 1000); INSERT INTO down DEFAULT VALUES")
        .await;
    stage.wait_past("orders_id_seq", 1000).await;
    stage.pair.catch_up().await?;
    let settled = || place.status(&stage, &["--json"]);
    wait_until("the status to be that of the servers", PATIENCE, async || {
        let status = settled();
        let polled = line(&status, "public.orders_id_seq")["publisher_value"] == 1000
            && line(&status, "public.going_down")["mark"] == -1;
        Ok(Probe::when(polled, || status.all()))
    })
    .await?;
    let running = settled();
    // One is held: our role may not move it.
    assert_eq!(running.code(), 1, "{}", running.all());
    insta::assert_json_snapshot!("running", redacted(running.json()?));
    let text = place.status(&stage, &[]);
    assert!(text.stdout.lines().all(|line| line.chars().count() <= 80), "{}", text.all());
    assert!(text.stdout.contains(&format!("running, process {}", shadow.pid())), "{}", text.all());
    assert!(text.stdout.contains("GRANT ") && text.stdout.contains("(no room for: "), "{}", text.all());
    eprintln!("{}", text.stdout);

    // The same, told by the servers.
    let looked = place.status(&stage, &["--no-console", "--json"]);
    for name in ["public.orders_id_seq", "public.going_down"] {
        for key in ["publisher_value", "mark", "subscriber_value", "next_value", "lead", "behind", "state"] {
            assert_eq!(line(&looked, name)[key], line(&running, name)[key], "{name}.{key}: {}", looked.all());
        }
    }
    assert_eq!(looked.json()?["slot"]["state"], "held", "{}", looked.all());
    shadow.signal(Signal::TERM);
    shadow.wait_exit(PATIENCE)?;
    let alone = place.status(&stage, &["--json"]);
    assert_eq!(alone.code(), 1, "{}", alone.all());
    insta::assert_json_snapshot!("alone", redacted(alone.json()?));
    let text = place.status(&stage, &[]);
    assert!(text.stdout.contains("not running: looked at both servers"), "{}", text.all());
    assert!(text.stdout.contains(&format!("{SLOT}: free")), "{}", text.all());
    assert!(text.stdout.lines().all(|line| line.chars().count() <= 80), "{}", text.all());
    eprintln!("{}", text.stdout);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_exit_status_says_whether_all_is_well() -> Result<()> {
    let stage =
        Stage::replicating(13, 16, "CREATE TABLE orders (id bigserial PRIMARY KEY, note text)").await?;
    let place = Place::new();
    let shadow = place.start(&stage, &[]);
    let running = place.status(&stage, &["--json"]);
    assert_eq!((running.code(), &running.json()?["well"]), (0, &json!(true)), "{}", running.all());
    drop(shadow);
    // Nobody keeps it ahead now.
    let alone = place.status(&stage, &[]);
    assert_eq!(alone.code(), 0, "{}", alone.all());
    stage.on_publisher("INSERT INTO orders (note) SELECT 'x' FROM generate_series(1, 50000)").await;
    let behind = place.status(&stage, &["--json"]);
    assert_eq!((behind.code(), &behind.json()?["counts"]["behind"]), (1, &json!(1)), "{}", behind.all());
    assert!(place.status(&stage, &[]).stdout.contains("BEHIND"));
    // Without a slot nothing is said of one.
    let unnamed = verb::run(&stage.pair, "status", &["--json", "--filter=public.none*"])?;
    assert_eq!((unnamed.code(), &unnamed.json()?["slot"]), (0, &Value::Null), "{}", unnamed.all());
    // A lost slot.
    assert_eq!(verb::run(&stage.pair, "sync", &[])?.code(), 0);
    stage.on_publisher("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'").await;
    stage.on_publisher("SELECT pg_reload_conf()").await;
    wait_until("the slot to be lost", PATIENCE, async || {
        for sql in [
            "SELECT pg_logical_emit_message(true, 'x', repeat('x', 100000))",
            "SELECT pg_switch_wal()",
            "CHECKPOINT",
        ] {
            stage.on_publisher(sql).await;
        }
        let sql = format!("SELECT wal_status FROM pg_replication_slots WHERE slot_name = '{SLOT}'");
        let status: Option<String> = stage.publisher.query_one(&sql, &[]).await?.get(0);
        Ok(Probe::when(status.as_deref() == Some("lost"), || format!("{status:?}")))
    })
    .await?;
    let lost = place.status(&stage, &["--json"]);
    assert_eq!((lost.code(), &lost.json()?["slot"]["state"]), (1, &json!("lost")), "{}", lost.all());
    assert_eq!(lost.json()?["counts"]["behind"], 0, "{}", lost.all());
    // Nobody there.
    let away = verb::run(&stage.pair, "status", &["--publisher=host=127.0.0.1 port=1 dbname=x"])?;
    assert_eq!(away.code(), 3, "{}", away.all());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_and_order() -> Result<()> {
    let ddl = "CREATE TABLE a (id bigserial PRIMARY KEY); CREATE TABLE b (id bigserial PRIMARY KEY);
               CREATE TABLE c (id serial PRIMARY KEY); CREATE SEQUENCE d";
    let stage = Stage::replicating(17, 12, ddl).await?;
    stage.on_subscriber("REVOKE ALL ON SEQUENCE b_id_seq FROM shadow").await;
    let place = Place::new();
    let shadow = place.start(&stage, &["--lead=500"]);
    stage.on_publisher("INSERT INTO a SELECT FROM generate_series(1, 3)").await;
    stage.on_publisher("INSERT INTO c VALUES (2147483647)").await;
    wait_until("the far id to be set aside", PATIENCE, async || {
        let status = place.status(&stage, &["--json", "--only=set-aside"]);
        Ok(Probe::when(names(&status) == ["public.c_id_seq"], || status.all()))
    })
    .await?;
    {
        let shown = |flags: &[&str]| names(&place.status(&stage, &[&["--json"], flags].concat()));
        assert_eq!(shown(&[]), ["public.a_id_seq", "public.b_id_seq", "public.c_id_seq", "public.d"]);
        assert_eq!(shown(&["--only=held"]), ["public.b_id_seq"]);
        assert_eq!(shown(&["--only=blind"]), ["public.d"]);
        assert_eq!(shown(&["--only=behind"]), Vec::<String>::new());
        assert_eq!(shown(&["--only=held", "--only=blind"]), ["public.b_id_seq", "public.d"]);
        assert_eq!(shown(&["--filter=public.a*", "--filter=public.d"]), ["public.a_id_seq", "public.d"]);
        assert_eq!(shown(&["--sort=class"])[0], "public.b_id_seq");
        assert_eq!(place.status(&stage, &["--filter=public.a*"]).code(), 0);
        assert_eq!(place.status(&stage, &["--filter=public.a*", "--filter=public.b*"]).code(), 1);
        assert_eq!(place.status(&stage, &["--only=blind"]).code(), 1, "the held one counts");
    }
    let aside = place.status(&stage, &["--only=set-aside"]);
    assert!(aside.stdout.contains("set aside: 2,147,483,647"), "{}", aside.all());
    // The console of another slot is not the one that was asked for.
    let other = verb::run(&stage.pair, "status", &[&place.flag(), "--slot=other"])?;
    assert!(other.stdout.contains("not running: looked at both servers"), "{}", other.all());
    assert!(
        other.stdout.contains("it is of the slot ours") && other.stdout.contains("other: missing"),
        "{}",
        other.all()
    );
    drop(shadow);
    for bad in ["--only=lost", "--sort=size", "--watch=never", "--watch=1ms", "--filter="] {
        assert_eq!(place.status(&stage, &[bad]).code(), 2, "{bad}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_on_a_pipe_prints_blocks_and_ends_quietly() -> Result<()> {
    let stage = Stage::replicating(14, 15, "CREATE TABLE orders (id bigserial PRIMARY KEY)").await?;
    let place = Place::new();
    let shadow = place.start(&stage, &[]);
    let slot = format!("--slot={SLOT}");
    let watch = |flags: &[&str]| {
        let usual = [place.flag(), slot.clone(), "--watch=100ms".to_owned()];
        let flags: Vec<&str> = usual.iter().map(String::as_str).chain(flags.iter().copied()).collect();
        verb::command(&stage.pair, "status", &flags).spawn()
    };
    let mut text = watch(&[])?;
    let heads =
        |shadow: &Shadow, head: &str| shadow.stdout_lines().iter().filter(|l| l.starts_with(head)).count();
    wait_until("three blocks", PATIENCE, async || {
        Ok(Probe::when(heads(&text, "sidecar   running") >= 3, || format!("{:?}", text.stdout_lines())))
    })
    .await?;
    // The sidecar ends; the watch goes on with the servers.
    drop(shadow);
    text.wait_for_output("not running: looked at both servers", PATIENCE)?;
    text.signal(Signal::INT);
    assert_eq!(text.wait_exit(PATIENCE)?.code(), Some(0), "{:?}", text.stderr_lines());
    let printed = text.stdout_lines().join("\n");
    assert!(!printed.contains('\x1b') && printed.lines().all(|line| line.chars().count() <= 80), "{printed}");
    assert!(text.stderr_lines().is_empty(), "{:?}", text.stderr_lines());

    let mut json = watch(&["--json"])?;
    wait_until("two documents", PATIENCE, async || {
        Ok(Probe::when(json.stdout_lines().len() >= 2, || format!("{:?}", json.stderr_lines())))
    })
    .await?;
    json.signal(Signal::TERM);
    json.wait_exit(PATIENCE)?;
    for line in json.stdout_lines() {
        assert_eq!(serde_json::from_str::<Value>(&line)?["schema"], "seqshadow.status/1");
    }

    // `| head`: nobody reads any more.
    let mut piped = Command::new(binary())
        .args(["status", "--no-console", "--watch=100ms"])
        .arg(format!("--publisher={}", stage.pair.shadow_publisher_conninfo()))
        .arg(format!("--subscriber={}", stage.pair.shadow_subscriber_conninfo()))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    drop(piped.stdout.take());
    let ended = tokio::task::spawn_blocking(move || limited::wait(piped)).await??;
    assert_eq!((ended.status.code(), String::from_utf8_lossy(&ended.stderr).as_ref()), (Some(0), ""));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_on_a_terminal_gives_it_back() -> Result<()> {
    let stage = Stage::replicating(18, 13, "CREATE TABLE orders (id bigserial PRIMARY KEY)").await?;
    let publisher = stage.pair.shadow_publisher_conninfo();
    let subscriber = stage.pair.shadow_subscriber_conninfo();
    // q ends it, and so does Ctrl-C.
    for key in ["xq", "\x03"] {
        let log = tempfile::NamedTempFile::new()?;
        let command = format!(
            "trap : INT; stty cols 80 rows 24; {} status --no-console --watch=100ms --publisher='{publisher}' \
             --subscriber='{subscriber}'; echo \"ended $?\"; stty -a",
            binary().display()
        );
        let mut terminal = Command::new("script")
            .args(["-qfec", &command])
            .arg(log.path())
            .env("TERM", "xterm")
            .env("SHELL", "/bin/sh")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()?;
        let seen = || String::from_utf8_lossy(&std::fs::read(log.path()).unwrap()).into_owned();
        wait_until("a second picture", PATIENCE, async || {
            Ok(Probe::when(seen().matches("looked at both servers").count() >= 2, seen))
        })
        .await?;
        terminal.stdin.as_mut().unwrap().write_all(key.as_bytes())?;
        let ended = tokio::task::spawn_blocking(move || limited::wait(terminal)).await??.status;
        let seen = seen();
        assert!(ended.success(), "{seen}");
        let (during, after) = seen.split_once("\x1b[?1049l").expect("it left its screen");
        assert!(during.contains("\x1b[?1049h") && during.contains("public.orders_id_seq"), "{seen}");
        assert!(after.contains("ended 0"), "{seen}");
        assert!(after.contains(" echo ") && after.contains(" icanon "), "the keyboard is as it was: {after}");
    }
    Ok(())
}

/// Ctrl-Z gives the terminal back to the shell, and fg paints anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_can_be_halted_and_go_on() -> Result<()> {
    let stage = Stage::replicating(16, 14, "CREATE TABLE orders (id bigserial PRIMARY KEY)").await?;
    let log = tempfile::NamedTempFile::new()?;
    let mut terminal = Command::new("script")
        .args(["-qfec", "stty cols 80 rows 24; exec bash --norc --noediting -i"])
        .arg(log.path())
        .env("TERM", "xterm")
        .env("SHELL", "/bin/sh")
        .env("PS1", "ready> ")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    let mut keyboard = terminal.stdin.take().unwrap();
    let mut type_in = |text: &str| keyboard.write_all(text.as_bytes());
    let seen = || String::from_utf8_lossy(&std::fs::read(log.path()).unwrap()).into_owned();
    let after = |mark: &str, times: usize, what: &str| {
        let all = seen();
        let rest: Vec<&str> = all.splitn(times + 1, mark).collect();
        rest.len() > times && rest[times].contains(what)
    };
    let wait = async |what: &str, is_there: &dyn Fn() -> bool| {
        wait_until(what, PATIENCE, async || Ok(Probe::when(is_there(), seen))).await
    };
    type_in(&format!(
        "{} status --no-console --watch=100ms --publisher='{}' --subscriber='{}'; echo \"ended $?\"\n",
        binary().display(),
        stage.pair.shadow_publisher_conninfo(),
        stage.pair.shadow_subscriber_conninfo()
    ))?;
    wait("a picture", &|| after("\x1b[?1049h", 1, "looked at both servers")).await?;
    type_in("\x1a")?;
    wait("the shell", &|| after("\x1b[?1049l", 1, "Stopped")).await?;
    type_in("echo halted; fg\n")?;
    wait("a new picture", &|| after("\x1b[?1049h", 2, "looked at both servers")).await?;
    type_in("q")?;
    wait("its end", &|| after("\x1b[?1049l", 2, "ready> ")).await?;
    type_in("stty -a; exit\n")?;
    drop(keyboard);
    tokio::task::spawn_blocking(move || limited::wait(terminal)).await??;
    let seen = seen();
    let halted = seen.split("\x1b[?1049l").nth(1).unwrap().split("\x1b[?1049h").next().unwrap();
    assert!(!halted.contains("looked at both"), "nothing is painted while it is halted: {seen}");
    let last = seen.rsplit("\x1b[?1049l").next().unwrap();
    assert!(last.contains(" echo ") && last.contains(" icanon "), "{seen}");
    Ok(())
}

/// A sidecar whose console is not where it is looked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_with_its_console_elsewhere_is_not_said_to_be_away() -> Result<()> {
    let stage =
        Stage::replicating(12, 17, "CREATE TABLE orders (id bigserial PRIMARY KEY, note text)").await?;
    let (place, nowhere) = (Place::new(), Place::new());
    let shadow = place.start(&stage, &[]);
    let status = nowhere.status(&stage, &[]);
    assert!(status.stdout.contains("streams, but was not asked"), "{}", status.all());
    assert!(
        status.stdout.contains("--console-dir") && !status.stdout.contains("not running"),
        "{}",
        status.all()
    );
    assert!(status.stdout.contains("public.orders.id"), "{}", status.all());
    assert!(status.stdout.lines().all(|line| line.chars().count() <= 80 || line.contains("/tmp")));
    let json = nowhere.status(&stage, &["--json"]).json()?;
    assert!(json["note"].as_str().unwrap().contains("a sidecar streams"), "{json}");
    drop(shadow);
    // Behind, and so not covered.
    stage.on_publisher("INSERT INTO orders (note) SELECT 'x' FROM generate_series(1, 50000)").await;
    let behind = nowhere.status(&stage, &[]);
    assert!(behind.stdout.contains("1 sequence: 1 BEHIND\n"), "{}", behind.all());
    assert!(behind.stdout.contains("not running: looked at both servers"), "{}", behind.all());
    Ok(())
}

/// Nobody says where the console is: both find the same place by themselves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_usual_places_need_no_flag() -> Result<()> {
    let stage = Stage::replicating(16, 17, "CREATE TABLE orders (id bigserial PRIMARY KEY)").await?;
    let (login, service) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let xdg = ("XDG_RUNTIME_DIR", login.path());
    let systemd = ("RUNTIME_DIRECTORY", service.path());
    for (variables, place) in [
        (vec![xdg], login.path().join(format!("seqshadow-{SLOT}"))),
        (vec![xdg, systemd], service.path().to_owned()),
    ] {
        let with = |command: proto_tests::shadow::ShadowCommand| {
            let command = command.env("SEQSHADOW_CONSOLE", "on");
            variables.iter().fold(command, |command, (name, value)| command.env(name, value))
        };
        let shadow = with(sidecar::command(&stage.pair, &[])).start()?;
        let slot = format!("--slot={SLOT}");
        let status = with(verb::command(&stage.pair, "status", &["--json", &slot])).run(PATIENCE)?;
        assert_eq!(status.code(), 0, "{}", status.all());
        assert_eq!(status.json()?["sidecar"]["console"], json!(place), "{}", status.all());
        assert_eq!(status.json()?["sidecar"]["pid"], json!(shadow.pid()), "{}", status.all());
    }
    Ok(())
}
