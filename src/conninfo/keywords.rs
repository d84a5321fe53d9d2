//! The table of connection keywords: every one libpq knows (manual, "Parameter Key Words"), the environment
//! variable that stands in for it, and whether its value is a secret.
//!
//! Goes in: a keyword as somebody typed it. Comes out: its row, or the nearest known spelling. It never reads the
//! environment itself.

/// One row of the table.
#[derive(Debug)]
pub(crate) struct Keyword {
    pub name: &'static str,
    /// The environment variable that gives the value when the connection string does not.
    pub env: Option<&'static str>,
    /// The value must not be shown to anybody.
    pub secret: bool,
}

const fn plain(name: &'static str) -> Keyword {
    Keyword { name, env: None, secret: false }
}

const fn from_env(name: &'static str, env: &'static str) -> Keyword {
    Keyword { name, env: Some(env), secret: false }
}

const fn secret(name: &'static str, env: Option<&'static str>) -> Keyword {
    Keyword { name, env, secret: true }
}

/// All keywords, in the order of the manual.
pub(crate) static KEYWORDS: &[Keyword] = &[
    from_env("host", "PGHOST"),
    from_env("hostaddr", "PGHOSTADDR"),
    from_env("port", "PGPORT"),
    from_env("dbname", "PGDATABASE"),
    from_env("user", "PGUSER"),
    secret("password", Some("PGPASSWORD")),
    from_env("passfile", "PGPASSFILE"),
    from_env("require_auth", "PGREQUIREAUTH"),
    from_env("channel_binding", "PGCHANNELBINDING"),
    from_env("connect_timeout", "PGCONNECT_TIMEOUT"),
    from_env("client_encoding", "PGCLIENTENCODING"),
    from_env("options", "PGOPTIONS"),
    from_env("application_name", "PGAPPNAME"),
    plain("fallback_application_name"),
    plain("keepalives"),
    plain("keepalives_idle"),
    plain("keepalives_interval"),
    plain("keepalives_count"),
    plain("tcp_user_timeout"),
    plain("replication"),
    from_env("gssencmode", "PGGSSENCMODE"),
    from_env("sslmode", "PGSSLMODE"),
    from_env("sslnegotiation", "PGSSLNEGOTIATION"),
    from_env("sslcompression", "PGSSLCOMPRESSION"),
    from_env("sslcert", "PGSSLCERT"),
    from_env("sslkey", "PGSSLKEY"),
    plain("sslkeylogfile"),
    secret("sslpassword", None),
    from_env("sslcertmode", "PGSSLCERTMODE"),
    from_env("sslrootcert", "PGSSLROOTCERT"),
    from_env("sslcrl", "PGSSLCRL"),
    from_env("sslcrldir", "PGSSLCRLDIR"),
    from_env("sslsni", "PGSSLSNI"),
    from_env("requirepeer", "PGREQUIREPEER"),
    from_env("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION"),
    from_env("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION"),
    from_env("min_protocol_version", "PGMINPROTOCOLVERSION"),
    from_env("max_protocol_version", "PGMAXPROTOCOLVERSION"),
    from_env("krbsrvname", "PGKRBSRVNAME"),
    from_env("gsslib", "PGGSSLIB"),
    from_env("gssdelegation", "PGGSSDELEGATION"),
    secret("scram_client_key", None),
    secret("scram_server_key", None),
    from_env("service", "PGSERVICE"),
    from_env("servicefile", "PGSERVICEFILE"),
    from_env("target_session_attrs", "PGTARGETSESSIONATTRS"),
    from_env("load_balance_hosts", "PGLOADBALANCEHOSTS"),
    plain("oauth_issuer"),
    plain("oauth_client_id"),
    secret("oauth_client_secret", None),
    plain("oauth_scope"),
    from_env("oauth_ca_file", "PGOAUTHCAFILE"),
];

/// The row of `name`; keywords are case-sensitive, as libpq's are.
pub(crate) fn find(name: &str) -> Option<&'static Keyword> {
    KEYWORDS.iter().find(|keyword| keyword.name == name)
}

/// The known keyword that `name` most likely means: at most two edits away.
pub(crate) fn nearest(name: &str) -> Option<&'static str> {
    let lower = name.to_ascii_lowercase();
    KEYWORDS
        .iter()
        .map(|keyword| (edit_distance(&lower, keyword.name), keyword.name))
        .min()
        .filter(|(distance, _)| *distance <= 2)
        .map(|(_, name)| name)
}

/// Levenshtein's distance; both texts are short.
fn edit_distance(a: &str, b: &str) -> usize {
    if a.len() > 40 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut left = i + 1;
        let mut diagonal = i;
        let mut next = vec![left];
        for (to, &above) in b.chars().zip(row.iter().skip(1)) {
            left = (diagonal + usize::from(from != to)).min(above + 1).min(left + 1);
            diagonal = above;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_finds_typing_errors_and_nothing_else() {
        assert_eq!(nearest("hots"), Some("host"));
        assert_eq!(nearest("dbnam"), Some("dbname"));
        assert_eq!(nearest("SSLMODE"), Some("sslmode"));
        assert_eq!(nearest("correct-horse"), None);
    }

    #[test]
    fn no_keyword_is_listed_twice() {
        for (i, a) in KEYWORDS.iter().enumerate() {
            assert!(KEYWORDS.iter().skip(i + 1).all(|b| a.name != b.name), "{}", a.name);
        }
    }
}
