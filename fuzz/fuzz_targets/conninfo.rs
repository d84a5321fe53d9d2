//! Any text as a connection string: it is read or refused, and never shows the password that it holds.
//!
//! Input: the text. It is also tried with a password before and behind it, in both forms.
#![no_main]

use libfuzzer_sys::fuzz_target;
use seqshadow::conninfo::{Conninfo, Environment};

const PASSWORD: &str = "s3cr3t-Xyzzy";

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let environment = Environment::empty().with_user("fuzz").with_socket_directory("/tmp");
    for text in [
        text.to_owned(),
        format!("{text} password={PASSWORD}"),
        format!("password='{PASSWORD}' {text}"),
        format!("postgresql://user:{PASSWORD}@{text}"),
    ] {
        let shown = match Conninfo::parse(&text, &environment) {
            Ok(conninfo) => {
                assert!(!conninfo.hosts().is_empty());
                format!("{conninfo} {conninfo:?}")
            }
            Err(error) => format!("{error} {error:?}"),
        };
        assert!(!shown.contains(PASSWORD), "{text:?} shows its password: {shown}");
    }
});
