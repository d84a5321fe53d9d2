//! What is typed arrives, in the right order of precedence, and no password comes back out.

use clap::CommandFactory;

use super::*;
use crate::config::Settings;
use crate::plan::Lead;

fn verb(line: &str) -> Verb {
    Cli::try_parse_from(line.split_whitespace()).unwrap().into_verb()
}

fn settings(line: &str, environment: &[(&str, &str)]) -> Settings {
    let Verb::Run(args) = verb(line) else { panic!("{line} is not run") };
    args.load(&environment.iter().copied().collect()).unwrap().settings
}

#[test]
fn the_definition_holds_together() {
    Cli::command().debug_assert();
}

#[test]
fn run_is_the_default_verb() {
    let short = settings("seqshadow --slot orders --lead 5 --no-create-slot", &[]);
    assert_eq!(short, settings("seqshadow run --slot orders --lead 5 --no-create-slot", &[]));
    assert_eq!(short.lead, Lead::Steps(5));
    assert!(!short.create_slot);
    assert_eq!(
        settings("seqshadow", &[("SEQSHADOW_SLOT", "orders")]).required_slot().unwrap().as_str(),
        "orders"
    );
}

#[test]
fn every_setting_has_a_flag() {
    let command = Cli::command();
    for (key, _) in settings("seqshadow --slot s", &[]).shown() {
        let flag = key.replace('_', "-");
        assert!(command.get_arguments().any(|arg| arg.get_long() == Some(&flag)), "--{flag}");
    }
}

#[test]
fn every_value_typed_arrives() {
    let typed = "seqshadow --slot s --publisher host=a --subscriber host=b --publication p1 --publication p2 \
        --subscription sub --schema app* --exclude-schema old --exclude-sequence a.b* --rename a.b=c.d --advance-function \
        --temporary-slot --streaming parallel --max-retained-wal 2GB --lead 7 --outliers follow \
        --poll-interval 1s --verify-interval 2s --status-interval 3s --refresh-interval 4s --summary-interval 5s \
        --connect-timeout 6s --grace 7s --console-dir /run/x --log-format json --log-level debug";
    let new = settings(typed, &[]);
    let old = settings("seqshadow --slot other", &[]);
    let same: Vec<_> = old
        .shown()
        .into_iter()
        .zip(new.shown())
        .filter(|(old, new)| old == new)
        .map(|((key, _), _)| key)
        .collect();
    assert_eq!(same, ["create_slot", "failover", "console"]);
    assert!(!settings("seqshadow --slot s --no-console", &[]).console);
    assert!(settings("seqshadow --slot s --failover", &[]).failover);
    assert_eq!(new.publications, ["p1", "p2"]);
}

#[test]
fn the_last_of_two_opposite_flags_wins_and_flags_beat_the_environment() {
    assert!(!settings("seqshadow --slot s --create-slot --no-create-slot", &[]).create_slot);
    assert!(settings("seqshadow --slot s --no-create-slot --create-slot", &[]).create_slot);
    assert!(settings("seqshadow --slot s --create-slot", &[("SEQSHADOW_CREATE_SLOT", "off")]).create_slot);
}

#[test]
fn v_and_q_set_the_level() {
    let level = |flags: &str| {
        settings(&format!("seqshadow --slot s {flags}"), &[("SEQSHADOW_LOG_LEVEL", "error")]).log_level
    };
    assert_eq!(level(""), "error");
    assert_eq!(level("-v"), "debug");
    assert_eq!(level("-vv"), "trace");
    assert_eq!(level("-q"), "warn");
    assert_eq!(level("--log-level info"), "info");
    assert!(Cli::try_parse_from(["seqshadow", "-v", "-q"]).is_err());
}

#[test]
fn an_optional_config_file_starts_with_a_dash() {
    settings("seqshadow --slot s --config -/nonexistent/x.toml", &[]);
    let Verb::Run(args) = verb("seqshadow --slot s --config=/nonexistent/x.toml") else { panic!() };
    assert!(args.load(&Environment::default()).is_err());
}

#[test]
fn the_demo_has_its_own_flags() {
    let Verb::Demo(demo) = verb("seqshadow demo --seconds 3 --rate 50 --keep --pg-bindir /a --pg-bindir /b")
    else {
        panic!()
    };
    assert_eq!((demo.seconds, demo.rate, demo.keep, demo.pg_bindir.len()), (3, 50, true, 2));
    assert!(Cli::try_parse_from(["seqshadow", "demo", "--slot", "s"]).is_err());
    assert!(Cli::try_parse_from(["seqshadow", "demo", "--seconds", "0"]).is_err());
}

#[test]
fn wrong_usage_is_status_2_and_help_is_0() {
    assert_eq!(Cli::parse_from_args(["seqshadow", "--nonsense"]).unwrap_err(), ExitCode::Usage);
    assert_eq!(Cli::parse_from_args(["seqshadow", "--help"]).unwrap_err(), ExitCode::Success);
    assert_eq!(Cli::parse_from_args(["seqshadow", "--version"]).unwrap_err(), ExitCode::Success);
}

#[test]
fn a_conninfo_that_fell_apart_is_not_repeated() {
    for typed in [
        vec!["seqshadow", "--publisher", "host=db", "password=hunter2"],
        vec!["seqshadow", "demo", "postgresql://app:hunter2@db/app"],
        vec!["seqshadow", "--password=hunter2"],
    ] {
        let error = Cli::try_parse_from(typed).unwrap_err();
        assert!(!explain(&error).contains("hunter2"), "{}", explain(&error));
    }
    let Verb::Run(args) = verb("seqshadow --publisher password=hunter2") else { panic!() };
    assert!(!format!("{args:?}").contains("hunter2"));
}
