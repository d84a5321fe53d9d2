//! What somebody at a shell does with the README's runbook: the files that they write, the commands, and what those print.

use proto_tests::shadow::{Finished, Shadow, ShadowCommand, Signal};
use proto_tests::sql::PATIENCE;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A directory with configuration files, from which every command is run.
pub struct Runbook {
    directory: tempfile::TempDir,
    /// Connection strings of the README, and what they stand for here.
    stand_for: Vec<(&'static str, String)>,
    steps: Vec<String>,
    pub transcript: String,
}

/// The commands of the README's runbook, in its order.
fn in_readme() -> Vec<String> {
    let readme = include_str!("../../../../README.md");
    let (_, section) = readme.split_once("## The runbook of an upgrade\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let commands = section.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").nth(1));
    let quoted = |cell: &str| Some(cell.strip_prefix('`')?.strip_suffix('`')?.to_owned());
    commands.filter_map(quoted).collect()
}

impl Runbook {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Runbook { directory, stand_for: Vec::new(), steps: Vec::new(), transcript: String::new() }
    }

    /// `text` of the README means `this`.
    pub fn stands_for(&mut self, text: &'static str, this: String) {
        self.stand_for.push((text, this));
    }

    /// Every line of the README's table was run, in its order, and nothing else.
    pub fn is_as_in_the_readme(&self) {
        assert_eq!(self.steps, in_readme());
    }

    fn step(&mut self, command: String) {
        if self.steps.last() != Some(&command) {
            self.steps.push(command);
        }
    }

    /// Writes a configuration file.
    pub fn file(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What a shell makes of `args`; all that it has to know is `'…'`.
    fn command(&self, args: &str) -> ShadowCommand {
        let mut words = vec![String::new()];
        for (index, part) in args.split('\'').enumerate() {
            let mut pieces = part.split(if index % 2 == 0 { ' ' } else { '\'' });
            let last = words.last_mut().unwrap();
            last.push_str(pieces.next().unwrap());
            words.extend(pieces.map(str::to_owned));
        }
        let stand_for = |word: String| {
            let this = self.stand_for.iter().find(|(text, _)| *text == word);
            this.map(|(_, this)| this.clone()).unwrap_or(word)
        };
        // As in a login's session: the console of the sidecar is there, and verbs look for it there.
        ShadowCommand::new(words.into_iter().map(stand_for))
            .current_dir(self.directory.path())
            .env("SEQSHADOW_CONSOLE", "on")
            .env("XDG_RUNTIME_DIR", self.directory.path())
    }

    /// Runs `seqshadow ARGS…` as it stands in the README.
    pub fn run(&mut self, args: &str) -> Finished {
        self.step(format!("seqshadow {args}"));
        let begun = Instant::now();
        let done = self.command(args).run(PATIENCE).unwrap();
        let took = begun.elapsed().as_secs_f64();
        let _ = writeln!(self.transcript, "$ seqshadow {args}    # {took:.1} s\n{}", done.all());
        done
    }

    /// As [`run`](Self::run), and it must say yes, in lines that fit a terminal.
    #[track_caller]
    pub fn must(&mut self, args: &str) -> Finished {
        let done = self.run(args);
        assert_eq!(done.code(), 0, "{}", self.transcript);
        // A script is for psql, and not broken.
        if !args.starts_with("plan ") {
            fits(&done.stdout);
        }
        done
    }

    /// As [`must`](Self::must), and says no at most for a while: under load a sequence may be passed a moment before it is
    /// advanced, so somebody who watches looks again.
    #[track_caller]
    pub fn comes_to(&mut self, args: &str) {
        let until = Instant::now() + PATIENCE;
        let mut done = self.run(args);
        while done.code() == 1 && Instant::now() < until {
            done = self.run(args);
        }
        assert_eq!(done.code(), 0, "{}", self.transcript);
        fits(&done.stdout);
    }

    /// Puts the lines that `setup` has printed for it into a file, as it says.
    #[track_caller]
    pub fn paste(&self, setup: &Finished, name: &str) {
        let announced = format!("with these lines in\n/etc/seqshadow/{name}:");
        let (_, lines) = setup.stdout.split_once(&announced).unwrap_or_else(|| panic!("{}", setup.all()));
        let lines: Vec<&str> = lines.lines().filter_map(|line| line.strip_prefix("    ")).collect();
        assert!(!lines.is_empty(), "{}", setup.all());
        self.file(name, &(lines.join("\n") + "\n"));
    }

    /// `systemctl start seqshadow@SLOT`: what the unit of the package runs, with its file in our directory.
    pub fn start_unit(&mut self, slot: &str) -> Shadow {
        self.step(format!("systemctl start seqshadow@{slot}"));
        let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/systemd/seqshadow@.service");
        let unit = std::fs::read_to_string(unit).unwrap().replace("%i", slot);
        let value = |key: &str| unit.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        let args = value("ExecStart=/usr/bin/seqshadow ");
        let file = value("Environment=SEQSHADOW_CONFIG=-/etc/seqshadow/");
        let file = format!("-{}", self.path(file).display());
        self.command(args).env("SEQSHADOW_CONFIG", file).start().unwrap()
    }

    /// `systemctl stop seqshadow@SLOT`.
    pub fn stop_unit(&mut self, slot: &str, mut unit: Shadow) {
        self.step(format!("systemctl stop seqshadow@{slot}"));
        unit.signal(Signal::TERM);
        assert!(unit.wait_exit(PATIENCE).unwrap().success(), "{:#?}", unit.stderr_lines());
    }

    /// `seqshadow ARGS… | head`: somebody who watches for a moment and leaves. What was shown until `word` came.
    #[track_caller]
    pub fn watch(&mut self, args: &str, word: &str) {
        self.step(format!("seqshadow {args}"));
        let mut watch = self.command(args).spawn().unwrap();
        watch.wait_for_output(word, PATIENCE).unwrap();
        watch.signal(Signal::INT);
        let status = watch.wait_exit(PATIENCE).unwrap();
        let shown = watch.stdout_lines().join("\n");
        assert!(status.success(), "{shown}");
        fits(&shown);
        let _ = writeln!(self.transcript, "$ seqshadow {args}\n{shown}");
    }

    /// The only certificate that lies there, which is put aside.
    pub fn certificate(&self) -> PathBuf {
        let files = std::fs::read_dir(self.directory.path()).unwrap().map(|file| file.unwrap().path());
        let is_one = |path: &PathBuf| {
            path.file_name().unwrap().to_string_lossy().starts_with("seqshadow-certificate-")
        };
        let found: Vec<PathBuf> = files.filter(is_one).collect();
        let [only] = &found[..] else { panic!("{found:?}\n{}", self.transcript) };
        let aside = self.path("certificate.json");
        std::fs::rename(only, &aside).unwrap();
        aside
    }
}

#[track_caller]
fn fits(text: &str) {
    for line in text.lines().filter(|line| !line.trim_start().starts_with("--")) {
        let width = line.chars().count();
        // SQL, commands and lines of a file are to be pasted, and not broken.
        let is_prose = !line.starts_with("    ") && !line.contains("seqshadow --") && !line.contains(';');
        assert!(width <= 80 || !is_prose, "{width}: {line}");
    }
}

/// The write pause of a cutover, without the wait for the subscription, which is not of our making.
#[track_caller]
pub fn own_pause(cutover: &Finished) -> Duration {
    let mut seconds = 0.0;
    for line in cutover.stdout.lines().filter(|line| line.contains(" s  pause  ")) {
        if !line.contains("committed before the fence is applied") {
            seconds += line.split_whitespace().next().unwrap().parse::<f64>().unwrap();
        }
    }
    assert!(seconds > 0.0, "{}", cutover.all());
    Duration::from_secs_f64(seconds)
}
