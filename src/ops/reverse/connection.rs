//! How the old server reaches the new one, and how a person does: connection strings that may be shown, and the one
//! that goes into the reverse subscription.
//!
//! In: what was typed, and the [`Conninfo`]s that it became. Out: texts. A password is shown nowhere; one that was typed
//! into the connection string goes into the subscription, where superusers can read it.

use secrecy::ExposeSecret as _;

use crate::config::ConninfoText;
use crate::conninfo::{self, Conninfo, Endpoint, Environment, Named, SslMode, TargetSessionAttrs};
use crate::sides::SidesError;

/// The connection string of the reverse subscription.
#[derive(Debug)]
pub(super) struct Route {
    /// As it goes into the subscription.
    pub text: ConninfoText,
    /// As it may be shown.
    pub shown: String,
    /// A password, of whatever kind.
    pub has_password: bool,
    /// The keywords of `text` that are not in `shown`.
    pub hidden: Vec<&'static str>,
    /// It leads to the machine that it is used on, which is the old server's.
    pub is_local: bool,
    /// Somebody has named it with `--connection`.
    pub is_given: bool,
}

impl Route {
    /// `given` is what `--connection` says; without it the old server is told what we were told of the new one.
    ///
    /// # Errors
    /// What libpq would not accept in it either.
    pub(super) fn of(
        given: Option<&str>,
        typed: Option<&ConninfoText>,
        new: &Conninfo,
    ) -> Result<Self, SidesError> {
        // What the environment and the passfile add is ours, and not there on the old server.
        let nobody = Environment::empty().with_user("postgres");
        let parse = |text: &str| {
            Conninfo::parse(text, &nobody)
                .map_err(|source| SidesError::Conninfo { side: "reverse subscription", source })
        };
        let Some(text) = given else {
            let password =
                typed.and_then(|text| parse(text.expose()).ok()).and_then(|c| c.password().cloned());
            let shown = shown(new);
            let text = match &password {
                Some(password) => format!("{shown} password={}", value(password.expose_secret())),
                None => shown.clone(),
            };
            let has_password = password.is_some();
            let hidden = if has_password { vec!["password"] } else { Vec::new() };
            return Ok(Route {
                text: ConninfoText::new(text),
                shown,
                has_password,
                hidden,
                is_local: is_local(new),
                is_given: false,
            });
        };
        let parsed = parse(text)?;
        let has_password = parsed.password().is_some();
        let named = conninfo::named(text)
            .map_err(|source| SidesError::Conninfo { side: "reverse subscription", source })?;
        let hides = has_password || !named.secret.is_empty();
        let shown = if hides { without_secrets(&parsed, &named) } else { text.to_owned() };
        Ok(Route {
            text: ConninfoText::new(text),
            shown,
            has_password: hides,
            hidden: named.secret,
            is_local: is_local(&parsed),
            is_given: true,
        })
    }

    /// What a person should know of one that leads to the machine that it is used on.
    pub(super) fn local_note(&self) -> Option<String> {
        let otherwise =
            if self.is_given { "else give another --connection" } else { "else give --connection" };
        self.is_local.then(|| {
            format!(
                "the old server is told to reach the new one by: {} – right only where both run on one machine; \
                 {otherwise}",
                self.shown
            )
        })
    }
}

/// What [`shown`] shows, and whatever else was given that may be: files of certificates above all.
fn without_secrets(parsed: &Conninfo, named: &Named) -> String {
    const SHOWN: [&str; 7] =
        ["host", "hostaddr", "port", "dbname", "user", "sslmode", "target_session_attrs"];
    let more = named.open.iter().filter(|(keyword, _)| !SHOWN.contains(keyword));
    more.fold(shown(parsed), |text, (keyword, given)| format!("{text} {keyword}={}", value(given)))
}

fn is_local(conninfo: &Conninfo) -> bool {
    conninfo.hosts().iter().any(|host| match &host.endpoint {
        Endpoint::Socket(_) => true,
        Endpoint::Name(name) | Endpoint::Address(name) => {
            name == "localhost" || name == "::1" || name.starts_with("127.")
        }
    })
}

/// A connection string that leads to the same place; whoever uses it needs a password of their own.
pub(super) fn shown(conninfo: &Conninfo) -> String {
    let hosts: Vec<String> = conninfo
        .hosts()
        .iter()
        .map(|host| match (&host.endpoint, host.name.as_deref().filter(|name| !name.is_empty())) {
            (_, Some(name)) => name.to_owned(),
            (Endpoint::Socket(directory), None) => directory.display().to_string(),
            (Endpoint::Name(name) | Endpoint::Address(name), None) => name.clone(),
        })
        .collect();
    let ports: Vec<String> = conninfo.hosts().iter().map(|host| host.port.to_string()).collect();
    let mut text = format!(
        "host={} port={} dbname={} user={}",
        value(&hosts.join(",")),
        ports.join(","),
        value(conninfo.dbname()),
        value(conninfo.user())
    );
    if conninfo.tls().mode != SslMode::Prefer {
        text = format!("{text} sslmode={}", conninfo.tls().mode.as_str());
    }
    if conninfo.target_session_attrs() != TargetSessionAttrs::Any {
        text = format!("{text} target_session_attrs={}", conninfo.target_session_attrs().as_str());
    }
    text
}

/// A value of a connection string, quoted where it must be.
fn value(text: &str) -> String {
    let plain = !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c == '\'' || c == '\\');
    if plain { text.to_owned() } else { format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'")) }
}

/// One argument of a shell command.
pub(super) fn shell(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// One argument of a psql command, which ends with its line: what comes after a line break would be SQL.
pub(super) fn psql(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('\'', "''");
    format!("'{}'", text.replace('\n', "\\n").replace('\r', "\\r"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conninfo(text: &str) -> Conninfo {
        Conninfo::parse(text, &Environment::empty().with_user("me")).unwrap()
    }

    #[test]
    fn a_password_goes_into_the_subscription_and_is_not_shown() {
        let text = "host=db password='it''s' dbname=shop".replace("''", "\\'");
        let typed = ConninfoText::new(text.clone());
        let route = Route::of(None, Some(&typed), &conninfo(&text)).unwrap();
        assert!(route.has_password && !route.is_local);
        assert_eq!(route.shown, "host=db port=5432 dbname=shop user=me");
        assert_eq!(route.text.expose(), format!("{} password='it\\'s'", route.shown));

        let given = Route::of(Some("postgresql://u:secret@new/shop"), None, &conninfo("host=/tmp")).unwrap();
        assert!(given.has_password && !given.is_local);
        assert_eq!(given.shown, "host=new port=5432 dbname=shop user=u");
    }

    #[test]
    fn no_secret_of_any_kind_is_shown() {
        for secret in ["sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key"] {
            let text = format!("host=new dbname=shop sslcert=/c.pem {secret}=hunter2");
            let Ok(route) = Route::of(Some(&text), None, &conninfo("host=/tmp")) else { continue };
            assert_eq!(
                route.shown, "host=new port=5432 dbname=shop user=postgres sslcert=/c.pem",
                "{secret}"
            );
            assert_eq!(route.text.expose(), text, "the subscription keeps it");
            assert!(route.has_password);
            assert_eq!(route.hidden, [secret]);
        }
    }

    #[test]
    fn without_a_password_it_is_used_as_it_was_given() {
        let given =
            Route::of(Some("host=new dbname=shop sslmode=require"), None, &conninfo("host=/tmp")).unwrap();
        assert_eq!(given.shown, given.text.expose());
        assert!(!given.has_password && given.local_note().is_none());
        let here = Route::of(Some("host=localhost dbname=shop"), None, &conninfo("host=new")).unwrap();
        assert!(here.local_note().unwrap().ends_with("else give another --connection"));
        let local = Route::of(None, None, &conninfo("host=127.0.0.1 port=5433 dbname='my shop'")).unwrap();
        assert!(local.local_note().unwrap().ends_with("else give --connection"));
        assert_eq!(local.shown, "host=127.0.0.1 port=5433 dbname='my shop' user=me");
        assert_eq!(shell("a 'b'"), "'a '\\''b'\\'''");
        assert_eq!(psql("a 'b\\'"), "'a ''b\\\\'''");
        assert_eq!(psql("a\nb\r"), "'a\\nb\\r'");
    }
}
