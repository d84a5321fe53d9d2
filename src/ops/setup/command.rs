//! The command that starts the daemon with what `setup` made, ready to be pasted; never with a password.

use super::Options;
use super::mark::Names;
use crate::conninfo::{Conninfo, Endpoint, SslMode};
use crate::sides::Sides;
use crate::subscriber::function::SCHEMA;

/// For both servers as they were named, and the daemon's role.
pub(super) fn daemon(names: &Names, sides: &Sides, options: &Options, role: Option<&str>) -> String {
    let address = |conninfo: &Conninfo| shell_word(&address(conninfo, role));
    let function = match &options.advance_function {
        None => String::new(),
        Some(function) if function.schema() == SCHEMA => " --advance-function".to_owned(),
        Some(function) => format!(" --advance-function={}", shell_word(function.schema())),
    };
    format!(
        "seqshadow --slot {} --publication {} --publisher {} --subscriber {}{function}",
        names.slot,
        shell_word(&names.publication),
        address(&sides.publisher_conninfo),
        address(&sides.subscriber_conninfo)
    )
}

/// The same as lines of the configuration file, for a daemon that is started by its slot alone and for verbs that are
/// given nothing but the file.
pub(super) fn config(names: &Names, sides: &Sides, options: &Options, role: Option<&str>) -> String {
    let text = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let mut lines = format!(
        "slot = {}\npublisher = {}\nsubscriber = {}\npublication = [{}]\n",
        text(names.slot.as_str()),
        text(&address(&sides.publisher_conninfo, role)),
        text(&address(&sides.subscriber_conninfo, role)),
        text(&names.publication)
    );
    if let Some(function) = &options.advance_function {
        lines += &format!("advance_function = {}\n", text(function.schema()));
    }
    lines
}

fn address(conninfo: &Conninfo, role: Option<&str>) -> String {
    let mut hosts = Vec::new();
    let mut ports = Vec::new();
    for host in conninfo.hosts() {
        hosts.push(host.name.clone().unwrap_or_else(|| match &host.endpoint {
            Endpoint::Socket(path) => path.display().to_string(),
            Endpoint::Name(text) | Endpoint::Address(text) => text.clone(),
        }));
        ports.push(host.port.to_string());
    }
    let mut text = format!(
        "host={} port={} dbname={} user={}",
        value(&hosts.join(",")),
        ports.join(","),
        value(conninfo.dbname()),
        value(role.unwrap_or(conninfo.user()))
    );
    let mode = conninfo.tls().mode;
    if mode != SslMode::Prefer {
        text += &format!(" sslmode={mode}");
    }
    text
}

/// A value in a connection string.
fn value(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | ',' | ':');
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// An argument for a shell.
fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | ',');
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_can_be_pasted() {
        assert_eq!(shell_word("seqshadow_orders"), "seqshadow_orders");
        assert_eq!(shell_word("It's"), "'It'\\''s'");
        assert_eq!(value("a b'c"), "'a b\\'c'");
        assert_eq!(value("/var/run"), "/var/run");
    }
}
