//! `seqshadow check`: everything that could spoil the replication, the sequences or the cutover, found before it does.
//!
//! In: both servers. Out: [`Finding`]s, each with a stable code, the object it is about, and what mends it. One file per
//! topic; each holds its [`Code`]s, which are what `--list` and the manual show. It changes nothing.

mod bundle;
mod columns;
mod contents;
mod create;
mod definitions;
mod drift;
mod failover;
mod headroom;
mod native;
mod one_sided;
mod pooler;
mod provider;
mod publication;
mod relations;
mod replication;
mod rights;
mod schema;
mod sequences;
mod server;
mod subscription;
mod tables;
mod unread;
mod widen;

use std::collections::HashSet;

use serde::Serialize;

use self::provider::Provider;
use super::ask::Side;
use super::survey::{Depth, Survey, Surveyor};
use crate::catalog::{self, Catalog};
use crate::config::Settings;
use crate::conninfo::Environment;
use crate::publisher::look::LOOK_TIMEOUT;
use crate::sides::{Needs, Sides, SidesError};
use crate::sql::{self, Connection, SqlError};
use crate::types::{Lsn, QualifiedName};

/// The name and version of the JSON that is printed.
pub const SCHEMA: &str = "seqshadow.check/1";

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It cannot work, or would lose something: nothing but mending it helps.
    Blocker,
    /// It can spoil a cutover: mend it, or acknowledge it with `--ack`.
    Warning,
    /// Good to know.
    Notice,
}

/// A kind of finding. The code never changes its meaning: scripts acknowledge by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Code {
    /// Lower case words joined by `-`.
    pub code: &'static str,
    pub severity: Severity,
    /// What it means and why it matters, in one or two sentences.
    pub meaning: &'static str,
}

/// Where what mends a finding is to be pasted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MendFor {
    /// SQL, for psql and the server that `side` names.
    Psql,
    /// Commands, in which PUBLISHER and SUBSCRIBER stand for connection strings.
    Shell,
    /// A setting, which the server's provider has a way of its own to change.
    Settings,
}

/// What mends a finding, from whoever knows how it is done on this server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Remedy {
    pub mend: Option<(MendFor, String)>,
    pub advice: Option<String>,
}

/// One thing found. Serialized as it is printed with `--json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub code: &'static str,
    pub severity: Severity,
    /// `publisher` or `subscriber`; nothing where both are meant.
    pub side: Option<&'static str>,
    /// What it is about: a table, a role, a setting.
    pub object: String,
    /// All that it is about by name, where that is too much for a line and `object` is a number of them.
    pub objects: Vec<String>,
    /// What was found, with what was expected.
    pub message: String,
    /// What to do or to decide, in words, where `mend` alone does not tell it.
    pub advice: Option<String>,
    /// What mends it, ready to paste. Of SQL each statement begins at the margin, goes on in indented lines, and ends
    /// with `;`: psql sends them one by one, and none of them is meant for a transaction with the others.
    pub mend: Option<String>,
    /// Where `mend` is to be pasted.
    pub mend_for: Option<MendFor>,
    /// `--ack` named the code.
    pub acknowledged: bool,
}

impl Finding {
    /// On the publisher.
    #[must_use]
    pub fn on_publisher(code: &Code, object: impl Into<String>, message: impl Into<String>) -> Self {
        Finding { side: Some("publisher"), ..Finding::new(code, object, message) }
    }

    /// On the subscriber.
    #[must_use]
    pub fn on_subscriber(code: &Code, object: impl Into<String>, message: impl Into<String>) -> Self {
        Finding { side: Some("subscriber"), ..Finding::new(code, object, message) }
    }

    /// On neither alone.
    #[must_use]
    pub fn new(code: &Code, object: impl Into<String>, message: impl Into<String>) -> Self {
        Finding {
            code: code.code,
            severity: code.severity,
            side: None,
            object: object.into(),
            objects: Vec::new(),
            message: message.into(),
            advice: None,
            mend: None,
            mend_for: None,
            acknowledged: false,
        }
    }

    /// With the SQL that mends it, where there is any.
    #[must_use]
    pub fn mend(self, sql: impl Into<String>) -> Self {
        self.with(MendFor::Psql, sql.into())
    }

    /// With the commands that mend it.
    #[must_use]
    pub fn command(self, commands: impl Into<String>) -> Self {
        self.with(MendFor::Shell, commands.into())
    }

    fn with(mut self, place: MendFor, text: String) -> Self {
        if !text.is_empty() {
            self.mend = Some(text);
            self.mend_for = Some(place);
        }
        self
    }

    /// With what to do or to decide, where there is anything to say.
    #[must_use]
    pub fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into()).filter(|advice| !advice.is_empty());
        self
    }

    /// With what mends it on this server.
    #[must_use]
    fn remedy(self, remedy: Remedy) -> Self {
        let advised = self.advise(remedy.advice.unwrap_or_default());
        match remedy.mend {
            Some((place, text)) => advised.with(place, text),
            None => advised,
        }
    }

    /// Whether it stands against going on.
    #[must_use]
    pub fn blocks(&self) -> bool {
        match self.severity {
            Severity::Blocker => true,
            Severity::Warning => !self.acknowledged,
            Severity::Notice => false,
        }
    }
}

/// How much of something limited is in use. Serialized as it is printed with `--json`, whether that is good or bad.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fact {
    /// The setting that limits it.
    pub name: &'static str,
    pub side: &'static str,
    pub allowed: i64,
    pub used: i64,
    pub free: i64,
}

/// What every topic may ask.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub settings: &'a Settings,
    pub sides: &'a Sides,
    pub publisher: Connection,
    pub publisher_provider: Provider,
    pub subscriber_provider: Provider,
    /// Empty where `surveyed` is not.
    pub survey: Survey,
    /// The sequences could be looked at.
    pub surveyed: bool,
    /// The publisher's; `None` where it refused to show it, which is said.
    pub catalog: Option<Catalog>,
}

/// The whole answer. Serialized as it is printed with `--json`.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub schema: &'static str,
    /// RFC 3339, UTC.
    pub at: String,
    /// As `server_version_num`.
    pub publisher_version: u32,
    pub subscriber_version: u32,
    /// Nothing stands against going on.
    pub ready: bool,
    /// Numbers that were looked at, also where nothing is wrong with them.
    pub facts: Vec<Fact>,
    pub findings: Vec<Finding>,
}

/// All codes, by topic.
#[must_use]
pub fn codes() -> Vec<Code> {
    [
        unread::CODES,
        server::CODES,
        failover::CODES,
        replication::CODES,
        rights::CODES,
        publication::CODES,
        subscription::CODES,
        native::CODES,
        provider::CODES,
        pooler::CODES,
        sequences::CODES,
        headroom::CODES,
        definitions::CODES,
        schema::CODES,
        drift::CODES,
        one_sided::CODES,
        tables::CODES,
        contents::CODES,
    ]
    .concat()
}

/// Looks at everything. `acknowledged` are codes that a person has taken note of.
///
/// # Errors
/// Where a server cannot be reached, or its connection is lost. What a server refuses to answer is a finding.
pub async fn check(
    settings: &Settings,
    environment: &Environment,
    acknowledged: &[String],
) -> Result<Report, SidesError> {
    let sides = Sides::find(settings, environment, Needs::ADDRESSES).await?;
    let publisher = sides.publisher().await?;
    let mut findings = Vec::new();
    let (survey, catalog, refused) = survey(settings, &sides, &publisher).await?;
    let surveyed = refused.is_empty();
    findings.extend(refused);
    let publisher_provider = provider::of(Side::Publisher, &publisher.client).await;
    let subscriber_provider = provider::of(Side::Subscriber, &sides.subscriber.client).await;
    let context = Context {
        settings,
        sides: &sides,
        publisher,
        publisher_provider: publisher_provider.unwrap_or_default(),
        subscriber_provider: subscriber_provider.unwrap_or_default(),
        survey,
        surveyed,
        catalog,
    };
    let mut facts = Vec::new();
    let told = server::findings(&context, &mut facts).await;
    findings.extend(unread::or_said("the servers' settings", told)?);
    findings.extend(unread::or_said("failover slots", failover::findings(&context).await)?);
    findings.extend(unread::or_said("replication slots", replication::findings(&context).await)?);
    findings.extend(rights::findings(&context));
    findings.extend(unread::or_said("publications", publication::findings(&context).await)?);
    findings.extend(unread::or_said("subscriptions", subscription::findings(&context).await)?);
    findings.extend(unread::or_said("native sequence replication", native::findings(&context).await)?);
    findings.extend(provider::findings(&context));
    findings.extend(unread::or_said("sessions", pooler::findings(&context).await)?);
    findings.extend(sequences::findings(&context));
    let mut coming = Coming::default();
    let told = definitions(&context, &mut coming).await;
    findings.extend(unread::or_said("the publisher's sequences", told)?);
    findings.extend(unread::or_said("the tables", drift(&context, &coming).await)?);
    findings.extend(unread::or_said("the databases", contents::findings(&context).await)?);
    for finding in &mut findings {
        finding.acknowledged = acknowledged.iter().any(|code| code == finding.code);
    }
    // The worst first; within a severity by topic.
    findings.sort_by_key(|finding| finding.severity);
    bundle::once(&mut findings);
    Ok(Report {
        schema: SCHEMA,
        at: super::now(),
        publisher_version: context.publisher.version,
        subscriber_version: sides.subscriber.version,
        ready: !findings.iter().any(Finding::blocks),
        facts,
        findings,
    })
}

/// The look at every sequence, and the publisher's catalog that was read for it; an empty one, and a finding, where a
/// server refused it.
async fn survey(
    settings: &Settings,
    sides: &Sides,
    publisher: &Connection,
) -> Result<(Survey, Option<Catalog>, Vec<Finding>), SidesError> {
    let looked = async {
        let mut surveyor = Surveyor::open(sides, settings).await?;
        let survey = surveyor.survey(Depth::Indexes).await?;
        Ok((survey, surveyor.into_publisher_catalog()))
    };
    let mut refused = match looked.await {
        Ok((survey, catalog)) => return Ok((survey, Some(catalog), Vec::new())),
        // A connection to each is open: what was refused is one more.
        Err(SidesError::Sql { side, source: SqlError::Connect(error) }) => {
            vec![unread::not_looked_at(THE_SEQUENCES, side, &error.to_string())]
        }
        Err(error) => unread::or_said(THE_SEQUENCES, Err(error))?,
    };
    let loaded = sql::within(LOOK_TIMEOUT, catalog::load(&publisher.client)).await;
    let (catalog, told) = match loaded {
        Ok(catalog) => (Some(catalog), Vec::new()),
        Err(error) => {
            (None, unread::or_said("the publisher's sequences", Err(SidesError::on_publisher(error)))?)
        }
    };
    refused.extend(told);
    let (role, sequences) = (String::new(), Vec::new());
    let survey =
        Survey { tag: Lsn::ZERO, role, sequences, missing_publications: Vec::new(), publisher_known: true };
    Ok((survey, catalog, refused))
}

const THE_SEQUENCES: &str = "the sequences";

/// Up to five of `names`, and how many more there are.
fn up_to_five(names: &[String]) -> String {
    let shown = names.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(5) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// What the subscriber lacks, and has once its missing sequences are made as their findings say.
#[derive(Debug, Default)]
struct Coming {
    sequences: HashSet<QualifiedName>,
    /// Columns that get their default with them, by table and name.
    filled: HashSet<(QualifiedName, String)>,
}

async fn definitions(context: &Context<'_>, coming: &mut Coming) -> Result<Vec<Finding>, SidesError> {
    let Some(catalog) = context.catalog.as_ref().filter(|_| context.surveyed) else { return Ok(Vec::new()) };
    let counterparts = definitions::Counterparts::of_catalog(context, catalog).await?;
    let mut found = headroom::findings(context, &counterparts).await?;
    found.extend(definitions::findings(context, &counterparts, coming).await?);
    Ok(found)
}

async fn drift(context: &Context<'_>, coming: &Coming) -> Result<Vec<Finding>, SidesError> {
    let both = relations::Both::load(context).await?;
    let mut found = schema::findings(context, &both, coming).await?;
    found.extend(drift::findings(context, &both).await?);
    found.extend(one_sided::findings(context, &both));
    found.extend(tables::findings(context, &both).await?);
    Ok(found)
}
