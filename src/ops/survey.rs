//! One look at everything: where each sequence of the subscriber stands, and the furthest id that any source knows of.
//!
//! In: both servers. Out: a [`Survey`], in which each sequence is judged as the daemon would judge it, without a stream:
//! by the publisher's sequences and by the tables of both sides. It writes nothing.

pub(crate) mod far;
mod own;
mod stamp;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tokio_postgres::Client;

use super::ask::Side;
use crate::catalog::coverage::Coverage;
use crate::catalog::{Catalog, Persistence, Readable, Sequence};
use crate::config::{Outliers, Settings};
use crate::keeper::{Beyond, Hold, Managed};
use crate::plan::{State, outlier};
use crate::publisher::look::{Compared, InTable, LOOK_TIMEOUT, Look, PublisherValue};
use crate::readings::{Reader, Reading};
use crate::sides::{Sides, SidesError};
use crate::sql;
use crate::subscriber::advance::Advancer;
use crate::subscriber::function::load_catalog;
use crate::types::{Lsn, Oid};
use far::Far;
use own::own_tables;

/// When looking into tables took longer, a sequence that seems to be behind them is read again: it may have been moved.
const OLD: Duration = Duration::from_millis(50);

/// How thoroughly tables are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Through an index only: what has none is a gap.
    Indexes,
    /// Columns without an index, and ids inside text, are scanned on the subscriber, however long it takes.
    Scan,
}

/// Looks as often as it is asked to, through connections that stay open.
pub(crate) struct Surveyor<'a> {
    sides: &'a Sides,
    settings: &'a Settings,
    look: Look,
    advancer: Advancer,
    role: String,
    known: Option<Known>,
    cycle_back: bool,
}

/// What one look found.
#[derive(Debug)]
pub struct Survey {
    /// Everything that was committed on the publisher up to here was there to be seen.
    pub tag: Lsn,
    /// Our role on the subscriber.
    pub role: String,
    pub sequences: Vec<Surveyed>,
    /// Publications asked for that are not on the publisher.
    pub missing_publications: Vec<String>,
    /// False where only the subscriber was looked at.
    pub publisher_known: bool,
}

/// One sequence of the subscriber.
#[derive(Debug)]
pub struct Surveyed {
    pub managed: Managed,
    /// Columns whose ids were not looked at, with the reason and what to do.
    pub gaps: Vec<String>,
    /// How many ids are set aside, counted up to 1,001; nothing where not all of them could be counted.
    pub set_aside_count: Option<usize>,
}

impl<'a> Surveyor<'a> {
    /// Opens a connection to the publisher; that to the subscriber is there.
    ///
    /// # Errors
    /// What kept us from connecting, or from reading anything.
    pub(crate) async fn open(sides: &'a Sides, settings: &'a Settings) -> Result<Self, SidesError> {
        let publisher = sides.publisher().await?;
        let look = Look::new(publisher).await.map_err(SidesError::on_publisher)?;
        let client = &sides.subscriber.client;
        let advancer = on_subscriber(Advancer::prepare(client))
            .await?
            .calling(settings.advance_function.as_ref())
            .in_bulk();
        let role = on_subscriber(client.query_one("SELECT current_user::text", &[])).await?;
        let role = role.try_get(0).map_err(SidesError::on_subscriber)?;
        Ok(Surveyor { sides, settings, look, advancer, role, known: None, cycle_back: false })
    }

    /// Whether a CYCLE sequence that is further than the publisher's is to be set back to its state; else it is left.
    pub(crate) fn cycling_back(self, cycle_back: bool) -> Self {
        Surveyor { cycle_back, ..self }
    }

    /// What moves sequences, on the same connection to the subscriber.
    pub(crate) fn advancer(&self) -> &Advancer {
        &self.advancer
    }

    /// The connection to the subscriber.
    pub(crate) fn subscriber(&self) -> &Client {
        &self.sides.subscriber.client
    }

    /// Our session's process id there.
    pub(crate) fn publisher_pid(&self) -> i32 {
        self.look.backend_pid
    }

    /// Which server answers there, for messages.
    pub(crate) fn publisher_peer(&self) -> &str {
        &self.look.peer
    }

    /// Sequences of the publisher that the subscriber lacks.
    pub(crate) fn only_on_publisher(&self) -> Vec<String> {
        let lacking = self
            .look
            .without_counterpart()
            .filter(|one| one.persistence != Persistence::Temporary && !self.settings.excludes(&one.name));
        lacking.map(|one| one.name.to_string()).collect()
    }

    /// What the last look read of the publisher's catalog, and the end of looking.
    pub(crate) fn into_publisher_catalog(self) -> Catalog {
        self.look.publisher
    }

    /// Looks at everything.
    ///
    /// # Errors
    /// Where a connection is lost; what concerns one sequence or table only is in its [`Surveyed`].
    pub(crate) async fn survey(&mut self, depth: Depth) -> Result<Survey, SidesError> {
        let known = self.learn(Default::default()).await?;
        self.look_by(&known, depth).await
    }

    /// As [`Self::survey`], for whoever comes back: where no definition has changed on either side since the last call of
    /// this, they are not read again.
    ///
    /// # Errors
    /// As [`Self::survey`].
    pub(crate) async fn survey_again(&mut self, depth: Depth) -> Result<Survey, SidesError> {
        let stamps = self.stamps().await?;
        let known = match self.known.take().filter(|known| known.stamps == stamps) {
            Some(known) => known,
            None => self.learn(stamps).await?,
        };
        let survey = self.look_by(&known, depth).await;
        // What could not be read because of a lock is tried again the next time.
        self.known = Some(known).filter(|known| known.is_whole && !self.look.incomplete);
        survey
    }

    /// Of both sides, see [`stamp`].
    async fn stamps(&self) -> Result<[String; 2], SidesError> {
        let subscriber = &self.sides.subscriber;
        let (there, here) = futures_util::future::join(
            stamp::of(Side::Publisher, &self.look.client, self.look.version),
            stamp::of(Side::Subscriber, &subscriber.client, subscriber.version),
        )
        .await;
        Ok([there?, here?])
    }

    /// Reads the definitions of both sides, which are no older than `stamps`.
    async fn learn(&mut self, stamps: [String; 2]) -> Result<Known, SidesError> {
        let client = &self.sides.subscriber.client;
        let (definitions, catalog) = futures_util::future::join(
            self.look.definitions(&self.sides.publications),
            on_subscriber(load_catalog(client, self.settings.advance_function.as_ref())),
        )
        .await;
        let (definitions, catalog) = (definitions.map_err(SidesError::on_publisher)?, catalog?);
        let renames = self.settings.renames_by_publisher();
        let compared = self.look.compare_with(definitions, &catalog, &renames);
        let mut consumers = catalog.sequences.iter().flat_map(|sequence| &sequence.consumers);
        let is_whole = !consumers.any(|consumer| consumer.readable == Readable::NotNow);
        Ok(Known { stamps, catalog, compared, is_whole })
    }

    /// Looks at values and tables.
    async fn look_by(&self, known: &Known, depth: Depth) -> Result<Survey, SidesError> {
        let tag = on_publisher(self.look.current_lsn()).await?;
        let mut managed = manage(self.settings, &known.catalog);
        for one in &mut managed {
            one.coverage = known.compared.coverage.get(&one.oid()).cloned();
            one.stays_further = !self.cycle_back;
        }
        let names: Vec<Sequence> =
            managed.iter().filter(|m| m.excluded.is_none()).map(|m| m.sequence.clone()).collect();
        let followed: Vec<&Sequence> = names.iter().collect();
        let mut by_oid: HashMap<Oid, usize> = HashMap::new();
        for (index, one) in managed.iter().enumerate() {
            by_oid.insert(one.oid(), index);
        }

        let client = &self.sides.subscriber.client;
        let (values, states) = futures_util::future::join(
            on_publisher(self.look.values(&followed)),
            on_subscriber(self.advancer.reader().read(client, &followed)),
        )
        .await;
        heard(&mut managed, &by_oid, tag, values?);
        for (one, reading) in managed.iter_mut().filter(|one| one.excluded.is_none()).zip(states?) {
            stands(one, reading);
        }
        let read_at = Instant::now();
        let (there, here) = futures_util::future::join(
            self.publisher_tables(&managed, &followed),
            own_tables(client, self.settings, &self.role, &managed, depth),
        )
        .await;
        let (there, here) = (there?, here?);
        for (oid, within, beyond) in there {
            if let Some(one) = by_oid.get(&oid).and_then(|index| managed.get_mut(*index)) {
                take(one, within, beyond, self.settings.outliers, Managed::seen_in_table);
            }
        }
        let mut gaps = here.take(&mut managed, self.settings.outliers);
        // Before an id is set aside the publisher is asked again.
        let asked: Vec<&Sequence> = followed
            .iter()
            .filter(|s| by_oid.get(&s.oid).and_then(|i| managed.get(*i)).is_some_and(Managed::is_asking))
            .copied()
            .collect();
        if !asked.is_empty() {
            let again = on_publisher(self.look.current_lsn()).await?;
            heard(&mut managed, &by_oid, again, on_publisher(self.look.values(&asked)).await?);
            for one in &mut managed {
                one.judge_outlier(self.settings.outliers);
            }
        }
        let far = far::far_ids(client, &mut managed, self.settings.outliers).await?;
        note_restless(&far, &mut gaps);
        if read_at.elapsed() > OLD {
            let behind = managed.iter_mut().filter(|one| one.is_behind());
            read_states(client, self.advancer.reader(), behind).await?;
        }
        let mut sequences = Vec::with_capacity(managed.len());
        for one in managed {
            // The publisher's column does not speak for the subscriber's, which may have rows of its own.
            let mut gaps = gaps.remove(&one.oid()).unwrap_or_default();
            gaps.extend(self.unlogged_here_only(&one));
            let set_aside_count = far.count(&one);
            sequences.push(Surveyed { managed: one, gaps, set_aside_count });
        }
        Ok(Survey {
            tag,
            role: self.role.clone(),
            sequences,
            missing_publications: known.compared.publications.missing.clone(),
            publisher_known: true,
        })
    }

    /// Reads the sequences of both sides once more, and nothing else: tables and catalogs are as `survey` found them.
    ///
    /// # Errors
    /// As [`Self::survey`].
    pub(crate) async fn look_again(&self, survey: &mut Survey) -> Result<(), SidesError> {
        let tag = on_publisher(self.look.current_lsn()).await?;
        let mut managed: Vec<&mut Managed> = survey
            .sequences
            .iter_mut()
            .map(|one| &mut one.managed)
            .filter(|one| one.excluded.is_none())
            .collect();
        let sequences: Vec<Sequence> = managed.iter().map(|one| one.sequence.clone()).collect();
        let asked: Vec<&Sequence> = sequences.iter().collect();
        let (values, states) = futures_util::future::join(
            on_publisher(self.look.values(&asked)),
            on_subscriber(self.advancer.reader().read(&self.sides.subscriber.client, &asked)),
        )
        .await;
        let values: HashMap<Oid, PublisherValue> = values?.into_iter().collect();
        for one in &mut managed {
            if let Some(value) = values.get(&one.oid()) {
                one.heard_from_publisher(tag, value.clone());
            }
        }
        survey.tag = tag;
        for (one, reading) in managed.into_iter().zip(states?) {
            stands(one, reading);
        }
        Ok(())
    }

    /// A sequence that is left alone because it is unlogged, although the publisher's is in use: what to do.
    fn unlogged_here_only(&self, one: &Managed) -> Option<String> {
        let name = &one.sequence.name;
        let is_left = one.sequence.persistence == Persistence::Unlogged && !self.settings.excludes(name);
        // Before 15 the sequence of an unlogged table is logged all the same: there the publication tells.
        let is_used = self.look.version >= 150_000 || matches!(one.coverage, Some(Coverage::Covered { .. }));
        (is_left && is_used && self.look.is_logged(&one.sequence)).then(|| {
            let mend = set_logged(&one.sequence);
            format!("the publisher's is not, so that nothing follows it here: on the subscriber {mend}")
        })
    }

    /// Looks for what lies in the publisher's tables.
    async fn publisher_tables(
        &self,
        managed: &[Managed],
        followed: &[&Sequence],
    ) -> Result<Vec<InTable>, SidesError> {
        let limits: HashMap<Oid, i64> =
            managed.iter().map(|one| (one.oid(), limit(self.settings, one))).collect();
        let (found, _) = on_publisher(self.look.tables(followed, &limits)).await?;
        Ok(found)
    }
}

/// Takes in where the publisher's sequences stood, at `tag` or later.
fn heard(
    managed: &mut [Managed],
    by_oid: &HashMap<Oid, usize>,
    tag: Lsn,
    values: Vec<(Oid, PublisherValue)>,
) {
    for (oid, value) in values {
        if let Some(one) = by_oid.get(&oid).and_then(|index| managed.get_mut(*index)) {
            one.heard_from_publisher(tag, value);
        }
    }
}

/// The definitions of both sides, as they were when [`stamp`] said so.
struct Known {
    /// The publisher's and the subscriber's.
    stamps: [String; 2],
    catalog: Catalog,
    compared: Compared,
    /// Nothing was left out because of a lock.
    is_whole: bool,
}

fn manage(settings: &Settings, catalog: &Catalog) -> Vec<Managed> {
    let sequences = (0..).zip(&catalog.sequences);
    sequences
        .map(|(slot, sequence)| Managed::new(slot, sequence.clone(), settings.excludes(&sequence.name)))
        .collect()
}

fn limit(settings: &Settings, one: &Managed) -> i64 {
    match one.publisher_value() {
        _ if settings.outliers == Outliers::Follow => one.limit(Outliers::Follow),
        Some(value) => outlier::limit(&one.sequence.definition, &one.bounds, value.state, value.mark),
        None => one.limit(settings.outliers),
    }
}

/// Reads where the subscriber's sequences stand now.
///
/// # Errors
/// Where the connection is lost.
async fn read_states(
    client: &Client,
    reader: &Reader,
    managed: impl IntoIterator<Item = &mut Managed>,
) -> Result<(), SidesError> {
    let followed: Vec<&mut Managed> = managed.into_iter().filter(|one| one.excluded.is_none()).collect();
    let sequences: Vec<&Sequence> = followed.iter().map(|one| &one.sequence).collect();
    let readings = on_subscriber(reader.read(client, &sequences)).await?;
    for (one, reading) in followed.into_iter().zip(readings) {
        stands(one, reading);
    }
    Ok(())
}

/// What makes an unlogged sequence durable: a column's own sequence goes with its table.
pub(crate) fn set_logged(sequence: &Sequence) -> String {
    match sequence.consumers.first() {
        Some(consumer) => format!("ALTER TABLE {} SET LOGGED;", consumer.table),
        None => format!("ALTER SEQUENCE {} SET LOGGED;", sequence.name),
    }
}

/// Takes in where a sequence of the subscriber stands.
fn stands(one: &mut Managed, reading: Reading) {
    one.hold = None;
    match reading {
        Reading::State(state) => one.state = Some(state),
        Reading::Uncalled => {
            one.state = Some(State { last_value: one.sequence.definition.start, is_called: false });
        }
        Reading::Denied => one.hold = Some(Hold::Denied),
        Reading::Locked => one.hold = Some(Hold::Locked),
        Reading::Failed(why) => one.hold = Some(Hold::Failed(why)),
        Reading::Gone => one.hold = Some(Hold::Failed("it was dropped meanwhile".to_owned())),
    }
}

/// Looks at the subscriber alone, for a publisher that is gone: what its own tables hold, and where its sequences stand.
///
/// # Errors
/// Where the connection is lost.
pub(crate) async fn subscriber_alone(
    client: &Client,
    settings: &Settings,
    depth: Depth,
) -> Result<Survey, SidesError> {
    let role = on_subscriber(client.query_one("SELECT current_user::text", &[])).await?;
    let role: String = role.try_get(0).map_err(SidesError::on_subscriber)?;
    let catalog = on_subscriber(load_catalog(client, settings.advance_function.as_ref())).await?;
    let mut managed = manage(settings, &catalog);
    let reader = on_subscriber(Reader::prepare(client)).await?;
    read_states(client, &reader, &mut managed).await?;
    let own = own_tables(client, settings, &role, &managed, depth).await?;
    let mut gaps = own.take(&mut managed, settings.outliers);
    for one in &mut managed {
        // There is nobody to ask about an id far out.
        one.judge_outlier(settings.outliers);
        if one.is_followed_by_ids()
            && let Some(mark) = one.state.and_then(|state| state.mark(&one.sequence.definition))
        {
            // Rows tell of those ids only whose rows are there: a queue's are deleted, and the sequence went on.
            one.seen_in_own_table(mark, Duration::ZERO);
        }
    }
    let far = far::far_ids(client, &mut managed, settings.outliers).await?;
    note_restless(&far, &mut gaps);
    let sequences = managed.into_iter().map(|managed| {
        let gaps = gaps.remove(&managed.oid()).unwrap_or_default();
        let set_aside_count = far.count(&managed);
        Surveyed { managed, gaps, set_aside_count }
    });
    Ok(Survey {
        tag: Lsn::ZERO,
        role,
        sequences: sequences.collect(),
        missing_publications: Vec::new(),
        publisher_known: false,
    })
}

/// Of these it is not known whether an id lies between what is followed and what is set aside.
fn note_restless(far: &Far, gaps: &mut HashMap<Oid, Vec<String>>) {
    for oid in &far.restless {
        let why = "ids far out came within reach one after the other: run it again";
        gaps.entry(*oid).or_default().push(why.to_owned());
    }
}

/// An id within the limit is followed, one past it is asked about.
fn take(
    one: &mut Managed,
    within: Option<i64>,
    beyond: Option<i64>,
    outliers: Outliers,
    seen: impl Fn(&mut Managed, i64, Duration),
) {
    if let Some(id) = within {
        seen(one, id, Duration::ZERO);
    }
    if let Some(id) = beyond
        && one.seen_beyond(id, outliers) == Beyond::Follow
    {
        seen(one, id, Duration::ZERO);
    }
}

async fn on_publisher<T>(
    asked: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, SidesError> {
    sql::within(LOOK_TIMEOUT, asked).await.map_err(SidesError::on_publisher)
}

async fn on_subscriber<T>(
    asked: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, SidesError> {
    sql::within(LOOK_TIMEOUT, asked).await.map_err(SidesError::on_subscriber)
}
