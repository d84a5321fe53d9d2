//! Help, completions and manual pages: there for every verb, alike, and within 80 columns.

use proto_tests::shadow::{Finished, ShadowCommand};
use proto_tests::sql::PATIENCE;
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

#[test]
fn bash_completes_verbs_and_flags() {
    let script = seqshadow(&["completions", "bash"]).stdout;
    let ask = "COMP_WORDS=(seqshadow cut); COMP_CWORD=1; _seqshadow seqshadow cut seqshadow; echo \"${COMPREPLY[@]}\"
COMP_WORDS=(seqshadow cutover --stop); COMP_CWORD=2; _seqshadow seqshadow --stop cutover; echo \"${COMPREPLY[@]}\"";
    let mut bash = Command::new("bash")
        .args(["--norc", "-s"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    bash.stdin.take().unwrap().write_all(format!("{script}\n{ask}\n").as_bytes()).unwrap();
    let output = bash.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "cutover\n--stop-writes\n");
    for shell in ["zsh", "fish"] {
        let script = seqshadow(&["completions", shell]);
        assert!(script.code() == 0 && script.stdout.contains("cutover"), "{shell}");
    }
}
