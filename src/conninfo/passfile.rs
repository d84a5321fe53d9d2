//! Password files (`~/.pgpass`, `PGPASSFILE`, `passfile`).
//!
//! Goes in: the file and whom we connect to. Comes out: the password of the first line that matches. The format is the
//! manual's ("The Password File"): `host:port:database:user:password`, `*` matches anything, `\` takes the next
//! character literally. A file that others can read is ignored, as libpq does; the caller says so.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use secrecy::SecretString;

/// Larger files are not password files; the bound keeps memory fixed.
const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Whom a line must match.
#[derive(Debug, Clone, Copy)]
pub struct PassfileKey<'a> {
    /// `localhost` for the default socket directory.
    pub host: &'a str,
    pub port: u16,
    pub dbname: &'a str,
    pub user: &'a str,
}

/// What a password file has for us.
#[derive(Debug)]
pub enum PassfileOutcome {
    /// No file, or no line that matches.
    Nothing,
    /// The password of the first line that matches.
    Found(SecretString),
    /// The file is not used, for this reason; libpq warns and goes on without it.
    Ignored(String),
}

/// Looks `key` up in the file at `path`.
#[must_use]
pub fn look_up(path: &Path, key: PassfileKey<'_>) -> PassfileOutcome {
    let shown = path.display();
    // Non-blocking, so that a pipe in its place does not hang us before we see that it is no plain file.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let mut file = match file {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return PassfileOutcome::Nothing;
        }
        Err(error) => {
            return PassfileOutcome::Ignored(format!("could not open password file {shown}: {error}"));
        }
    };
    match file.metadata() {
        Ok(metadata) if !metadata.is_file() => {
            return PassfileOutcome::Ignored(format!("password file {shown} is not a plain file"));
        }
        Ok(metadata) if metadata.mode() & 0o077 != 0 => {
            return PassfileOutcome::Ignored(format!(
                "password file {shown} has group or world access; permissions should be u=rw (0600) or less, got {:04o}",
                metadata.mode() & 0o7777
            ));
        }
        Ok(_) => {}
        Err(error) => {
            return PassfileOutcome::Ignored(format!("could not stat password file {shown}: {error}"));
        }
    }
    let mut text = Vec::new();
    if let Err(error) = file.by_ref().take(FILE_BYTES_MAX).read_to_end(&mut text) {
        return PassfileOutcome::Ignored(format!("could not read password file {shown}: {error}"));
    }
    find(&String::from_utf8_lossy(&text), key).map_or(PassfileOutcome::Nothing, PassfileOutcome::Found)
}

fn find(text: &str, key: PassfileKey<'_>) -> Option<SecretString> {
    let port = key.port.to_string();
    text.split('\n').map(|line| line.trim_end_matches('\r')).filter(|line| !line.starts_with('#')).find_map(
        |line| {
            let rest = match_field(line, key.host)?;
            let rest = match_field(rest, &port)?;
            let rest = match_field(rest, key.dbname)?;
            let rest = match_field(rest, key.user)?;
            Some(SecretString::from(take_password(rest)))
        },
    )
}

/// What follows the first field of `line`, if the field is `*` or `wanted`.
fn match_field<'a>(line: &'a str, wanted: &str) -> Option<&'a str> {
    if let Some(rest) = line.strip_prefix("*:") {
        return Some(rest);
    }
    let mut wanted = wanted.chars();
    let mut rest = line.chars();
    loop {
        let c = match rest.next()? {
            ':' => return wanted.next().is_none().then_some(rest.as_str()),
            '\\' => rest.next()?,
            c => c,
        };
        if wanted.next() != Some(c) {
            return None;
        }
    }
}

/// The last field, up to a `:` that is not escaped.
fn take_password(field: &str) -> String {
    let mut password = String::new();
    let mut rest = field.chars();
    while let Some(c) = rest.next() {
        match c {
            ':' => break,
            '\\' => password.push(rest.next().unwrap_or('\\')),
            c => password.push(c),
        }
    }
    password
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;
    use std::os::unix::fs::PermissionsExt;

    const KEY: PassfileKey<'_> = PassfileKey { host: "db:1", port: 5432, dbname: "shop", user: "bob" };

    fn found(text: &str) -> Option<String> {
        find(text, KEY).map(|password| password.expose_secret().to_owned())
    }

    #[test]
    fn the_first_matching_line_wins() {
        assert_eq!(found("db\\:1:5432:shop:bob:one").as_deref(), Some("one"));
        assert_eq!(found("*:*:*:*:two\ndb\\:1:5432:shop:bob:one").as_deref(), Some("two"));
        assert_eq!(found("#*:*:*:*:no\n\n*:*:*:bob:p\\:q\\\\r:rest\r\n").as_deref(), Some("p:q\\r"));
        assert_eq!(found("*:*:*:bob:").as_deref(), Some(""));
        assert_eq!(found("*:*:*:bobby:x\n*:*:*:bo:x\n*:5433:*:*:x\n*:*:*:bob"), None);
        assert_eq!(found("db:1:5432:shop:bob:one"), None);
        assert_eq!(found("**:*:*:*:x"), None);
    }

    #[test]
    fn a_file_that_others_can_read_is_ignored() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pgpass");
        assert!(matches!(look_up(&path, KEY), PassfileOutcome::Nothing));
        std::fs::write(&path, "*:*:*:*:secret\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(
            matches!(look_up(&path, KEY), PassfileOutcome::Ignored(why) if why.contains("0600") && why.contains("0640"))
        );
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(look_up(&path, KEY), PassfileOutcome::Found(_)));
        assert!(matches!(look_up(directory.path(), KEY), PassfileOutcome::Ignored(_)));
    }
}
