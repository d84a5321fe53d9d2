//! Help, completions and manual pages: there for every verb, alike, and within 80 columns.

use proto_tests::limited;
use proto_tests::shadow::{Finished, ShadowCommand};
use proto_tests::sql::PATIENCE;
use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};

fn seqshadow(args: &[&str]) -> Finished {
    ShadowCommand::new(args.iter().copied()).run(PATIENCE).unwrap()
}

fn verbs() -> Vec<String> {
    let help = seqshadow(&["--help"]).stdout;
    let listed = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap().to_owned();
    let first = |line: &str| line.starts_with("  ") && !line.starts_with("   ");
    let verbs: Vec<String> = listed
        .lines()
        .filter(|line| first(line))
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .filter(|verb| verb != "help")
        .collect();
    assert!(verbs.len() > 5, "{help}");
    verbs
}

#[test]
fn every_verb_teaches_by_help_and_manual() {
    for verb in verbs() {
        let help = seqshadow(&[&verb, "--help"]);
        assert_eq!(help.code(), 0, "{}", help.all());
        for line in help.stdout.lines() {
            assert!(line.chars().count() <= 80, "{verb}: {line}");
        }
        let page = seqshadow(&["man", &verb]);
        assert_eq!(page.code(), 0, "{}", page.all());
        assert!(page.stdout.contains(&format!("seqshadow\\-{verb}")), "{}", page.all());
    }
    let directory = tempfile::tempdir().unwrap();
    let written = seqshadow(&["man", "--dir", directory.path().to_str().unwrap()]);
    assert_eq!(written.code(), 0, "{}", written.all());
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), verbs().len() + 1);
    let unknown = seqshadow(&["man", "nonsense"]);
    assert_eq!(unknown.code(), 2, "{}", unknown.all());
}

/// `(code, severity, meaning)` as `check --list` prints them.
fn listed_codes() -> Vec<[String; 3]> {
    let list = seqshadow(&["check", "--list"]);
    assert_eq!(list.code(), 0, "{}", list.all());
    let mut codes: Vec<[String; 3]> = Vec::new();
    for line in list.stdout.lines() {
        match codes.last_mut().filter(|_| line.starts_with(' ')) {
            Some([_, _, meaning]) => *meaning = format!("{meaning} {}", line.trim()).trim_start().to_owned(),
            None => {
                let (code, severity) = line.split_once(" (").unwrap();
                codes.push([code.to_owned(), severity.trim_end_matches(')').to_owned(), String::new()]);
            }
        }
    }
    assert!(codes.len() > 50, "{codes:?}");
    codes
}

#[test]
fn the_readme_and_the_manual_have_every_code_of_check() {
    let codes = listed_codes();
    let names: BTreeSet<&str> = codes.iter().map(|[code, ..]| code.as_str()).collect();
    assert_eq!(names.len(), codes.len(), "each code is there once");
    let rows: Vec<String> = codes
        .iter()
        .map(|[code, severity, meaning]| format!("| `{code}` | {severity} | {meaning} |"))
        .collect();
    let readme = include_str!("../../../README.md");
    let section = readme.split("\n### Finding codes\n").nth(1).unwrap().split("\n#").next().unwrap();
    let told: Vec<&str> = section.lines().filter(|line| line.starts_with("| `")).collect();
    assert_eq!(told, rows, "to paste into the README:\n{}", rows.join("\n"));

    let page = seqshadow(&["man", "check"]).stdout.replace("\\-", "-").replace("\\*(Aq", "'");
    let findings = page.split(".SH FINDINGS").nth(1).unwrap();
    for [code, severity, meaning] in &codes {
        let entry = format!("\\fB{code}\\fR ({severity})\n{meaning}");
        assert!(findings.contains(&entry), "{entry}\n{findings}");
    }
    assert!(!seqshadow(&["man", "plan"]).stdout.contains("FINDINGS"));
}

#[test]
fn ack_knows_the_codes_and_completes_them() {
    let wrong = seqshadow(&["check", "--ack=large"]);
    assert_eq!(wrong.code(), 2, "{}", wrong.all());
    assert!(
        wrong.stderr.contains("no such code; `seqshadow check --list` shows them all"),
        "{}",
        wrong.all()
    );
    let help = seqshadow(&["check", "--help"]).stdout;
    assert!(!help.contains("large-objects,"), "the list is not in the help: {help}");
    let asked = "COMP_WORDS=(seqshadow check --ack large); COMP_CWORD=3; _seqshadow seqshadow large --ack; echo \"${COMPREPLY[@]}\"";
    assert_eq!(bash(asked), "large-objects\n");
    for shell in ["zsh", "fish"] {
        let script = seqshadow(&["completions", shell]).stdout;
        assert!(script.contains("large-objects"), "{shell}");
    }
}

#[test]
fn bash_completes_verbs_and_flags() {
    let ask = "COMP_WORDS=(seqshadow cut); COMP_CWORD=1; _seqshadow seqshadow cut seqshadow; echo \"${COMPREPLY[@]}\"
COMP_WORDS=(seqshadow cutover --stop); COMP_CWORD=2; _seqshadow seqshadow --stop cutover; echo \"${COMPREPLY[@]}\"";
    assert_eq!(bash(ask), "cutover\n--stop-writes\n");
    for shell in ["zsh", "fish"] {
        let script = seqshadow(&["completions", shell]);
        assert!(script.code() == 0 && script.stdout.contains("cutover"), "{shell}");
    }
}

/// What bash prints that has read our completions, and then runs `ask`.
fn bash(ask: &str) -> String {
    let script = seqshadow(&["completions", "bash"]).stdout;
    let mut bash = Command::new("bash")
        .args(["--norc", "-s"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    bash.stdin.take().unwrap().write_all(format!("{script}\n{ask}\n").as_bytes()).unwrap();
    let output = limited::wait(bash).unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}
