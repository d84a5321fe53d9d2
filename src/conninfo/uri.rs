//! Connection URIs: `postgresql://user:secret@host1:5432,[::1]:5433/dbname?sslmode=require`.
//!
//! Goes in: the text, prefix included. Comes out: [`Options`]. The grammar is the manual's ("Connection URIs"), with
//! libpq's reading of its corners: the user part ends at the first `@` before any `/`, a host may be left out, and
//! `ssl=true` means `sslmode=require`. No message repeats the URI, because it may hold a password.

use super::error::ConninfoError;
use super::keyvalue::is_blank;
use super::keywords;
use super::options::Options;
use super::redact;

const PREFIXES: [&str; 2] = ["postgresql://", "postgres://"];

/// What follows the prefix, if `text` is a URI at all.
pub(crate) fn strip_prefix(text: &str) -> Option<&str> {
    PREFIXES.iter().find_map(|prefix| text.strip_prefix(prefix))
}

/// Reads what follows the prefix.
pub(crate) fn parse(after_prefix: &str) -> Result<Options, ConninfoError> {
    let mut options = Options::default();
    let rest = take_credentials(after_prefix, &mut options)?;
    let rest = take_hosts(rest, &mut options)?;
    let rest = match rest.strip_prefix('/') {
        Some(path) => {
            let (dbname, query) = split_before(path, |c| c == '?');
            if options.get("user").is_none() && redact::has_credentials(dbname) {
                return Err(fault("a \"/\" in a user name or password must be written %2F"));
            }
            set_filled(&mut options, "dbname", dbname)?;
            query
        }
        None => rest,
    };
    if let Some(query) = rest.strip_prefix('?') {
        take_parameters(query, &mut options)?;
    }
    Ok(options)
}

fn fault(reason: impl Into<String>) -> ConninfoError {
    ConninfoError::Uri { reason: reason.into() }
}

/// `text` up to, and from, the first character that `stop` accepts.
fn split_before(text: &str, stop: impl Fn(char) -> bool) -> (&str, &str) {
    text.find(stop).and_then(|at| text.split_at_checked(at)).unwrap_or((text, ""))
}

fn set_filled(options: &mut Options, keyword: &str, raw: &str) -> Result<(), ConninfoError> {
    if raw.is_empty() {
        return Ok(());
    }
    let value = decode(raw, keyword)?;
    options.set(keyword, value)
}

fn take_credentials<'a>(text: &'a str, options: &mut Options) -> Result<&'a str, ConninfoError> {
    let (credentials, rest) = split_before(text, |c| c == '@' || c == '/');
    let Some(rest) = rest.strip_prefix('@') else {
        return Ok(text);
    };
    let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
    set_filled(options, "user", user)?;
    set_filled(options, "password", password)?;
    Ok(rest)
}

/// Reads `host[:port][,host[:port]…]` and returns what follows. Hosts and ports are joined before they are decoded, so
/// a `%2C` is a list separator too, as in libpq.
fn take_hosts<'a>(text: &'a str, options: &mut Options) -> Result<&'a str, ConninfoError> {
    let mut rest = text;
    let (mut hosts, mut ports) = (String::new(), String::new());
    loop {
        let host;
        (host, rest) = match rest.strip_prefix('[') {
            Some(inner) => take_bracketed(inner)?,
            None => split_before(rest, |c| matches!(c, ':' | '/' | '?' | ',')),
        };
        // "@name" is an abstract socket; elsewhere it is the rest of a password.
        if host.chars().skip(1).any(|c| c == '@') {
            return Err(fault("\"@\" in a host name; in a user name or password it must be written %40"));
        }
        hosts.push_str(host);
        if let Some(after) = rest.strip_prefix(':') {
            let port;
            (port, rest) = split_before(after, |c| matches!(c, '/' | '?' | ','));
            // A raw "/" in a password ends the credentials early and makes a port of its first half.
            if rest.contains('@') && !port.bytes().all(|b| b.is_ascii_digit()) {
                return Err(fault(
                    "the port is not a number; a \"/\" in a user name or password must be written %2F",
                ));
            }
            ports.push_str(port);
        }
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => break,
        }
        hosts.push(',');
        ports.push(',');
    }
    set_filled(options, "host", &hosts)?;
    set_filled(options, "port", &ports)?;
    Ok(rest)
}

/// The address inside `[…]` and what follows the bracket.
fn take_bracketed(inner: &str) -> Result<(&str, &str), ConninfoError> {
    let (host, rest) = inner.split_once(']').ok_or_else(|| fault("an IPv6 address has no closing \"]\""))?;
    if host.is_empty() {
        return Err(fault("an IPv6 address must not be empty"));
    }
    match rest.chars().next() {
        None | Some(':' | '/' | '?' | ',') => Ok((host, rest)),
        Some(_) => Err(fault("after the \"]\" of an IPv6 address expected \":\", \"/\", \"?\" or \",\"")),
    }
}

fn take_parameters(query: &str, options: &mut Options) -> Result<(), ConninfoError> {
    // A "&" at the very end is allowed; an empty parameter elsewhere is not.
    let query = query.strip_suffix('&').filter(|rest| !rest.is_empty()).unwrap_or(query);
    if query.is_empty() {
        return Ok(());
    }
    for parameter in query.split('&') {
        let Some((keyword, value)) = parameter.split_once('=') else {
            return Err(fault(format!("missing \"=\" in query parameter {}", named(parameter))));
        };
        if value.contains('=') {
            return Err(fault(format!(
                "extra \"=\" in query parameter {} (inside a value write %3D)",
                named(keyword)
            )));
        }
        let keyword = decode(keyword, "query parameter name")?;
        let value = decode(value, &keyword)?;
        if keyword == "ssl" && value == "true" {
            options.set("sslmode", "require".to_owned())?;
            continue;
        }
        options.set(&keyword, value).map_err(|error| match error {
            ConninfoError::UnknownKeyword { .. } => {
                fault(format!("invalid query parameter {}", named(&keyword)))
            }
            other => other,
        })?;
    }
    Ok(())
}

/// A parameter's name where it is fit to be shown: known, or plainly a word (a stray `&` in a password is not).
fn named(keyword: &str) -> String {
    let plain = keyword.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    match keywords::nearest(keyword) {
        Some(nearest) if nearest != keyword => format!("{keyword:?} (did you mean {nearest:?}?)"),
        Some(_) => format!("{keyword:?}"),
        None if plain => redact::shown(keyword),
        None => "(not shown)".to_owned(),
    }
}

/// Undoes percent-encoding. Blanks around a value are dropped and blanks inside refused, as libpq 18 does: a line end
/// at the end of an environment variable must not become part of a database name.
fn decode(raw: &str, what: &str) -> Result<String, ConninfoError> {
    let trimmed = raw.trim_matches(is_blank);
    if trimmed.contains(is_blank) {
        return Err(fault(format!("blank in {what}: write it %20")));
    }
    let mut bytes = Vec::with_capacity(trimmed.len());
    let mut rest = trimmed.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let decoded = rest.next().zip(rest.next()).and_then(|(high, low)| hex_pair(high, low));
        match decoded {
            Some(0) => return Err(fault(format!("%00 in {what} is not allowed"))),
            Some(decoded) => bytes.push(decoded),
            None => {
                return Err(fault(format!("\"%\" without two hexadecimal digits in {what}: write it %25")));
            }
        }
    }
    String::from_utf8(bytes).map_err(|_| fault(format!("{what} is not UTF-8")))
}

fn hex_pair(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(uri: &str) -> Options {
        parse(strip_prefix(uri).unwrap()).unwrap()
    }

    fn fields(uri: &str) -> [Option<String>; 5] {
        let options = read(uri);
        ["user", "password", "host", "port", "dbname"].map(|keyword| options.get(keyword).map(str::to_owned))
    }

    #[test]
    fn each_part_lands_where_libpq_puts_it() {
        let cases: &[(&str, [&str; 5])] = &[
            ("postgresql://", ["-", "-", "-", "-", "-"]),
            ("postgres://localhost", ["-", "-", "localhost", "-", "-"]),
            ("postgresql://localhost:5433/mydb", ["-", "-", "localhost", "5433", "mydb"]),
            ("postgresql://u@h", ["u", "-", "h", "-", "-"]),
            ("postgresql://u:p@h/d", ["u", "p", "h", "-", "d"]),
            ("postgresql://u:p:q@h", ["u", "p:q", "h", "-", "-"]),
            ("postgresql://u:@h", ["u", "-", "h", "-", "-"]),
            ("postgresql://@h", ["-", "-", "h", "-", "-"]),
            ("postgresql://:p@h", ["-", "p", "h", "-", "-"]),
            ("postgresql://u%40x:p%3A%2F@h", ["u@x", "p:/", "h", "-", "-"]),
            ("postgresql://a:1,b:2/d", ["-", "-", "a,b", "1,2", "d"]),
            ("postgresql://a,b/d", ["-", "-", "a,b", ",", "d"]),
            ("postgresql://[::1]:7/d", ["-", "-", "::1", "7", "d"]),
            ("postgresql://[::1],h/d", ["-", "-", "::1,h", ",", "d"]),
            ("postgresql:///d", ["-", "-", "-", "-", "d"]),
            ("postgresql://:99/d", ["-", "-", "-", "99", "d"]),
            ("postgresql://%2Fvar%2Frun/d", ["-", "-", "/var/run", "-", "d"]),
            ("postgresql:///d?host=/tmp&port=6", ["-", "-", "/tmp", "6", "d"]),
            ("postgresql://h?user=x", ["x", "-", "h", "-", "-"]),
            ("postgresql://h/?user=x", ["x", "-", "h", "-", "-"]),
            ("postgresql://h/d%20e?", ["-", "-", "h", "-", "d e"]),
            ("postgresql://h/a/b", ["-", "-", "h", "-", "a/b"]),
            ("postgresql://h/d\n", ["-", "-", "h", "-", "d"]),
            ("postgresql://u@h/d@e", ["u", "-", "h", "-", "d@e"]),
        ];
        for (uri, expected) in cases {
            let got = fields(uri).map(|field| field.unwrap_or_else(|| "-".to_owned()));
            assert_eq!(&got.each_ref().map(String::as_str), expected, "{uri}");
        }
        assert_eq!(read("postgresql://h?ssl=true").get("sslmode"), Some("require"));
    }

    #[test]
    fn faults_are_told_without_the_password() {
        for (uri, part) in [
            ("postgresql://u:hunter2@[::1", "closing"),
            ("postgresql://u:hunter2@[]/d", "empty"),
            ("postgresql://u:hunter2@[::1]x", "expected"),
            ("postgresql://u:hunter2%zz@h", "hexadecimal"),
            ("postgresql://u:hunter2%0@h", "hexadecimal"),
            ("postgresql://u:hunter2%00@h", "%00"),
            ("postgresql://u:hunter2/x@h/d", "%2F"),
            ("postgresql://u/v:hunter2@h/d", "%2F"),
            ("postgresql://u:x@hunter2@h/d", "%40"),
            ("postgresql://u:@hunter2@h/d", "%40"),
            ("postgresql://u:hunter2@h/d?nope=1", "nope"),
            ("postgresql://u:hunter2@h/d?sslmod=1", "sslmode"),
            ("postgresql://h/d?password=a&Hunter2=1", "(not shown)"),
            ("postgresql://u:hunter2@h/d?user", "missing"),
            ("postgresql://u:hunter2@h/d?user=a=b", "extra"),
            ("postgresql://u:hunter2@h/d?user=a&&port=1", "missing"),
            ("postgresql://u:hunter2@h/d e", "%20"),
            ("postgresql://u:hunter2%FF@h", "UTF-8"),
        ] {
            let message = parse(strip_prefix(uri).unwrap()).unwrap_err().to_string();
            assert!(message.contains(part), "{uri}: {message}");
            assert!(!message.to_lowercase().contains("hunter2"), "{uri}: {message}");
        }
    }
}
