//! Service files: `~/.pg_service.conf`, `PGSERVICEFILE` and the system-wide `pg_service.conf`.
//!
//! Goes in: the options read so far. Comes out: the same with what the named service adds; it never overrides. The
//! format is the manual's ("The Connection Service File"): INI sections, no blanks around `=`, `#` comments.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::environment::Environment;
use super::error::ConninfoError;
use super::keyvalue::is_blank;
use super::keywords;
use super::options::Options;

/// Fills `options` from the service it or `PGSERVICE` names, if any.
pub(crate) fn apply(options: &mut Options, env: &Environment) -> Result<(), ConninfoError> {
    let named = options.get("service").or_else(|| env.variable("PGSERVICE")).map(str::to_owned);
    let Some(service) = named else {
        return Ok(());
    };
    let explicit = options.get("servicefile").or_else(|| env.variable("PGSERVICEFILE")).map(PathBuf::from);
    let mut looked_in = Vec::new();
    if let Some(path) = explicit {
        // A file that was asked for must be there.
        let text = std::fs::read_to_string(&path).map_err(|source| ConninfoError::File {
            what: "service file",
            path: path.clone(),
            source,
        })?;
        if apply_text(&text, &path, &service, options)? {
            return Ok(());
        }
        looked_in.push(path);
    } else if let Some(home) = env.home()
        && apply_file(home.join(".pg_service.conf"), &service, options, &mut looked_in)?
    {
        return Ok(());
    }
    for directory in env.system_config_directories() {
        if apply_file(directory.join("pg_service.conf"), &service, options, &mut looked_in)? {
            return Ok(());
        }
    }
    Err(ConninfoError::ServiceNotFound { service, looked_in })
}

/// Like [`apply_text`] for a file that may be absent.
fn apply_file(
    path: PathBuf,
    service: &str,
    options: &mut Options,
    looked_in: &mut Vec<PathBuf>,
) -> Result<bool, ConninfoError> {
    let found = match std::fs::read_to_string(&path) {
        Ok(text) => apply_text(&text, &path, service, options)?,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => false,
        Err(source) => return Err(ConninfoError::File { what: "service file", path, source }),
    };
    looked_in.push(path);
    Ok(found)
}

/// Takes the first section called `service`; says whether there is one.
fn apply_text(text: &str, path: &Path, service: &str, options: &mut Options) -> Result<bool, ConninfoError> {
    let mut inside = false;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_matches(is_blank);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(header) = line.strip_prefix('[') {
            if inside {
                return Ok(true);
            }
            inside = header.strip_prefix(service).is_some_and(|rest| rest.starts_with(']'));
            continue;
        }
        if inside {
            let fault = |reason: String| ConninfoError::ServiceFile {
                path: path.to_owned(),
                line: index + 1,
                reason,
            };
            apply_line(line, options).map_err(fault)?;
        }
    }
    Ok(inside)
}

fn apply_line(line: &str, options: &mut Options) -> Result<(), String> {
    if line.starts_with("ldap") {
        return Err("looking connection settings up by LDAP is not supported".to_owned());
    }
    let (keyword, value) = line.split_once('=').ok_or("syntax error: expected keyword=value")?;
    if keyword == "service" || keyword == "servicefile" {
        return Err(format!("nested {keyword:?} specifications are not supported"));
    }
    let row = keywords::find(keyword).ok_or_else(|| format!("syntax error: unknown keyword {keyword:?}"))?;
    options.set_if_absent(row, value.to_owned());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# a comment\n\n[other]\nhost=o\n[orders] trailing\nhost=a\n  port=7  \npassword= p\n[orders]\nuser=x\n";

    fn read(text: &str, service: &str) -> Result<Options, ConninfoError> {
        let mut options = Options::default();
        options.set("port", "1".to_owned())?;
        let found = apply_text(text, Path::new("f"), service, &mut options)?;
        assert_eq!(found, service != "absent");
        Ok(options)
    }

    #[test]
    fn the_first_section_of_that_name_is_taken_and_never_overrides() {
        let options = read(FILE, "orders").unwrap();
        assert_eq!(options.get("host"), Some("a"));
        assert_eq!(options.get("port"), Some("1"));
        assert_eq!(options.get("password"), Some(" p"));
        assert_eq!(options.get("user"), None);
        assert_eq!(read(FILE, "absent").unwrap().get("host"), None);
    }

    #[test]
    fn faulty_lines_are_told_by_number() {
        for (text, part) in [
            ("[a]\nhost", "line 2: syntax error: expected"),
            ("[a]\nhost =x", "line 2: syntax error: unknown keyword"),
            ("[a]\n\nservice=b", "line 3: nested"),
            ("[a]\nldap://x", "LDAP"),
        ] {
            let message = read(text, "a").unwrap_err().to_string();
            assert!(message.contains(part), "{text:?}: {message}");
        }
        // Lines of other sections do not matter.
        read("[b]\nrubbish\n[a]\nhost=x\n", "a").unwrap();
    }
}
