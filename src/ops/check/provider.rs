//! Who runs a server, as far as its settings and roles tell, and that provider's own ways to change a setting and to
//! give a right: `ALTER SYSTEM` and `pg_hba.conf` are out of reach on a managed service.
//!
//! In: [`Facts`] of a server. Out: its [`Provider`], and a notice that names it.

use super::{Code, Context, Finding, MendFor, Remedy, Severity};
use crate::ops::ask::Side;
use crate::sides::SidesError;
use crate::types::quote_identifier;
use tokio_postgres::Client;

const PROVIDER: Code = Code {
    code: "provider",
    severity: Severity::Notice,
    meaning: "The server seems to be a managed service, on which settings are changed and rights are given in the \
              provider's own way.",
};

/// What this file finds.
pub(super) const CODES: &[Code] = &[PROVIDER];

/// Who runs a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Provider {
    /// No sign of any.
    #[default]
    None,
    Rds,
    Aurora,
    CloudSql,
    Azure,
    Supabase,
    Neon,
}

/// What is asked of a server to know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Facts {
    /// Those of [`ROLES`] that are there.
    roles: Vec<String>,
    /// Those of [`SETTINGS`] that are there.
    settings: Vec<String>,
    /// Whether there is a function `aurora_version`.
    aurora_version: bool,
}

const ROLES: &[&str] = &[
    "rds_superuser",
    "cloudsqlsuperuser",
    "azure_superuser",
    "azure_pg_admin",
    "neon_superuser",
    "supabase_admin",
];

const SETTINGS: &[&str] = &[
    "rds.logical_replication",
    "rds.extensions",
    "cloudsql.logical_decoding",
    "azure.extensions",
    "neon.tenant_id",
    "neon.timeline_id",
];

/// Asks one server. Custom settings are not listed in `pg_settings`, so that each is asked for by name.
///
/// # Errors
/// The server's or the connection's error.
pub(super) async fn of(side: Side, client: &Client) -> Result<Provider, SidesError> {
    let sql = "SELECT ARRAY(SELECT rolname::text FROM pg_roles WHERE rolname = ANY($1)),
                      ARRAY(SELECT s FROM unnest($2::text[]) s WHERE current_setting(s, true) IS NOT NULL),
                      EXISTS (SELECT FROM pg_proc WHERE proname = 'aurora_version')";
    let rows = side.rows(client, sql, &[&ROLES, &SETTINGS]).await?;
    let Some(row) = rows.first() else { return Ok(Provider::None) };
    Ok(recognise(&Facts {
        roles: side.get(row, 0)?,
        settings: side.get(row, 1)?,
        aurora_version: side.get(row, 2)?,
    }))
}

/// Aurora has all that RDS has, and Neon and Supabase may have what the others brought along in a dump of roles: the
/// settings, which no dump brings, come first.
fn recognise(facts: &Facts) -> Provider {
    let has_role = |name: &str| facts.roles.iter().any(|role| role == name);
    let has_setting = |prefix: &str| facts.settings.iter().any(|setting| setting.starts_with(prefix));
    let by_setting = [
        ("rds.", Provider::Rds),
        ("cloudsql.", Provider::CloudSql),
        ("azure.", Provider::Azure),
        ("neon.", Provider::Neon),
    ];
    let by_role = [
        ("rds_superuser", Provider::Rds),
        ("cloudsqlsuperuser", Provider::CloudSql),
        ("azure_superuser", Provider::Azure),
        ("azure_pg_admin", Provider::Azure),
        ("neon_superuser", Provider::Neon),
        ("supabase_admin", Provider::Supabase),
    ];
    if facts.aurora_version {
        return Provider::Aurora;
    }
    let setting = by_setting.into_iter().find(|(prefix, _)| has_setting(prefix));
    let role = by_role.into_iter().find(|(name, _)| has_role(name));
    setting.or(role).map_or(Provider::None, |(_, provider)| provider)
}

impl Provider {
    /// Its name, for people.
    pub(super) fn name(self) -> Option<&'static str> {
        match self {
            Provider::None => None,
            Provider::Rds => Some("Amazon RDS"),
            Provider::Aurora => Some("Amazon Aurora"),
            Provider::CloudSql => Some("Google Cloud SQL"),
            Provider::Azure => Some("Azure Database for PostgreSQL"),
            Provider::Supabase => Some("Supabase"),
            Provider::Neon => Some("Neon"),
        }
    }

    /// How a setting is changed there; `value` as SQL writes it.
    pub(super) fn set(self, name: &str, value: &str) -> Remedy {
        match self {
            // Each on its own: ALTER SYSTEM cannot run in a transaction with anything.
            Provider::None => sql(format!("ALTER SYSTEM SET {name} = {value};\nSELECT pg_reload_conf();")),
            _ => setting(self.assign(name, value)),
        }
    }

    /// The same for a setting that only a restart brings into force.
    pub(super) fn set_and_restart(self, name: &str, value: &str) -> Remedy {
        match self {
            Provider::None => Remedy {
                advice: Some("takes effect with the next start of the server: restart it".to_owned()),
                ..sql(format!("ALTER SYSTEM SET {name} = {value};"))
            },
            Provider::Neon => setting(self.assign(name, value)),
            _ => setting(format!("{}, and restart it", self.assign(name, value))),
        }
    }

    fn assign(self, name: &str, value: &str) -> String {
        let value = value.trim_matches('\'');
        match self {
            Provider::None => format!("{name} = {value}"),
            Provider::Rds => format!("{name} = {value} in the instance's parameter group"),
            Provider::Aurora => format!("{name} = {value} in the cluster's parameter group"),
            Provider::CloudSql => format!("database flag {name} = {value} of the instance"),
            Provider::Azure => format!("server parameter {name} = {value}"),
            Provider::Supabase => format!("supabase postgres-config update --config {name}={value}"),
            Provider::Neon => format!("{name} = {value} is Neon's to set: ask its support"),
        }
    }

    /// How the WAL comes to hold what logical replication needs.
    pub(super) fn logical_wal(self) -> Remedy {
        match self {
            Provider::Rds | Provider::Aurora => self.set_and_restart("rds.logical_replication", "1"),
            Provider::CloudSql => self.set_and_restart("cloudsql.logical_decoding", "on"),
            Provider::Neon => {
                words("enable logical replication in the settings of the Neon project".to_owned())
            }
            _ => self.set_and_restart("wal_level", "logical"),
        }
    }

    /// How `role` comes by the right to replicate.
    pub(super) fn replication_right(self, role: &str) -> Remedy {
        let role = quote_identifier(role);
        let attribute = sql(format!("ALTER ROLE {role} REPLICATION;"));
        let by = |whom: &str| Remedy { advice: Some(format!("run it as {whom}")), ..attribute.clone() };
        match self {
            Provider::None => attribute,
            Provider::Rds | Provider::Aurora => sql(format!("GRANT rds_replication TO {role};")),
            Provider::CloudSql => by("a member of cloudsqlsuperuser"),
            Provider::Azure => by("the server's administrator"),
            Provider::Supabase => by("postgres"),
            Provider::Neon => {
                words(format!("make {role} in the Neon console, not by SQL: such roles may replicate"))
            }
        }
    }

    /// What else there is to know about replication there.
    fn advice(self) -> &'static str {
        match self {
            Provider::None => "",
            Provider::Rds | Provider::Aurora => {
                "; connect to the instance itself, for RDS Proxy cannot replicate"
            }
            Provider::CloudSql | Provider::Azure => "; connect to the server itself, not to its pooler",
            Provider::Supabase => "; use the direct connection string, for the pooler cannot replicate",
            Provider::Neon => {
                "; use the host name without -pooler; it drops slots that nobody reads for some 40 hours"
            }
        }
    }
}

fn sql(text: String) -> Remedy {
    Remedy { mend: Some((MendFor::Psql, text)), advice: None }
}

fn setting(text: String) -> Remedy {
    Remedy { mend: Some((MendFor::Settings, text)), advice: None }
}

fn words(advice: String) -> Remedy {
    Remedy { mend: None, advice: Some(advice) }
}

/// All of it, for a sentence.
fn said(remedy: Remedy) -> String {
    let text = remedy.mend.map(|(_, text)| text.trim_end_matches(';').to_owned());
    match (text, remedy.advice) {
        (Some(text), Some(advice)) => format!("{text} ({advice})"),
        (text, advice) => text.or(advice).unwrap_or_default(),
    }
}

pub(super) fn findings(context: &Context<'_>) -> Vec<Finding> {
    let user = context.sides.publisher_conninfo.user();
    let publisher = context.publisher_provider;
    let subscriber = context.subscriber_provider;
    let mut found = Vec::new();
    if let Some(name) = publisher.name() {
        let message = format!("seems to be it{}", publisher.advice());
        found.push(Finding::on_publisher(&PROVIDER, name, message).advise(format!(
            "for logical WAL: {}; for the right to replicate: {}",
            said(publisher.logical_wal()),
            said(publisher.replication_right(user))
        )));
    }
    if let Some(name) = subscriber.name() {
        let message = "seems to be it: settings are changed in its own way";
        found.push(Finding::on_subscriber(&PROVIDER, name, message));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(roles: &[&str], settings: &[&str]) -> Facts {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Facts { roles: owned(roles), settings: owned(settings), aurora_version: false }
    }

    #[test]
    fn each_provider_is_known_by_its_roles_and_by_its_settings() {
        let known = |roles: &[&str], settings: &[&str]| recognise(&facts(roles, settings));
        assert_eq!(known(&[], &[]), Provider::None);
        assert_eq!(known(&["rds_superuser"], &[]), Provider::Rds);
        assert_eq!(known(&[], &["rds.logical_replication"]), Provider::Rds);
        assert_eq!(known(&["cloudsqlsuperuser"], &[]), Provider::CloudSql);
        assert_eq!(known(&[], &["cloudsql.logical_decoding"]), Provider::CloudSql);
        assert_eq!(known(&["azure_superuser"], &[]), Provider::Azure);
        assert_eq!(known(&["azure_pg_admin"], &["azure.extensions"]), Provider::Azure);
        assert_eq!(known(&["supabase_admin"], &[]), Provider::Supabase);
        assert_eq!(known(&["neon_superuser"], &[]), Provider::Neon);
        assert_eq!(known(&[], &["neon.timeline_id"]), Provider::Neon);
        let aurora = Facts { aurora_version: true, ..facts(&["rds_superuser"], &["rds.extensions"]) };
        assert_eq!(recognise(&aurora), Provider::Aurora);
        // Roles that a dump of another provider's brought along.
        assert_eq!(known(&["rds_superuser"], &["neon.tenant_id"]), Provider::Neon);
    }

    #[test]
    fn every_provider_has_its_own_words_and_none_says_alter_system() {
        let all = [
            Provider::Rds,
            Provider::Aurora,
            Provider::CloudSql,
            Provider::Azure,
            Provider::Supabase,
            Provider::Neon,
        ];
        for provider in all {
            let ways = [provider.set("a", "1"), provider.set_and_restart("a", "1"), provider.logical_wal()];
            let said = ways.map(said).concat();
            assert!(!said.contains("ALTER SYSTEM"), "{said}");
            assert!(provider.name().is_some() && !provider.advice().is_empty(), "{provider:?}");
        }
        assert!(said(Provider::Rds.logical_wal()).contains("rds.logical_replication = 1"));
        assert_eq!(said(Provider::Aurora.replication_right("a b")), "GRANT rds_replication TO \"a b\"");
        assert!(said(Provider::CloudSql.logical_wal()).contains("cloudsql.logical_decoding = on"));
        assert!(said(Provider::Azure.logical_wal()).contains("wal_level = logical"));
        let (place, own) = Provider::None.logical_wal().mend.unwrap();
        assert_eq!((place, own.as_str()), (MendFor::Psql, "ALTER SYSTEM SET wal_level = logical;"));
        let (_, reloaded) = Provider::None.set("a", "1").mend.unwrap();
        assert_eq!(reloaded, "ALTER SYSTEM SET a = 1;\nSELECT pg_reload_conf();");
    }
}
