//! Publications and subscriptions as values, turned into the SQL that the servers' majors understand.

use seqshadow::types::{quote_identifier, quote_literal};

/// `CREATE PUBLICATION`. `Publication::all("pub")` publishes every table and every operation.
#[derive(Clone, Debug)]
pub struct Publication {
    /// Its name.
    pub name: String,
    /// Tables as SQL names them, with column list and row filter (`zoo.t (id) WHERE (id > 5)`, 15+); none: all tables.
    pub tables: Vec<String>,
    /// Operations (`insert, truncate`); none: all of them.
    pub publish: Option<String>,
    /// Rows of partitions are published as rows of the root (13+).
    pub via_partition_root: bool,
}

impl Publication {
    /// Everything of the database.
    #[must_use]
    pub fn all(name: &str) -> Self {
        Publication { name: name.to_owned(), tables: Vec::new(), publish: None, via_partition_root: false }
    }

    /// These tables (with column list and filter, if any).
    #[must_use]
    pub fn of(name: &str, tables: &[&str]) -> Self {
        let tables = tables.iter().map(|table| (*table).to_owned()).collect();
        Publication { tables, ..Publication::all(name) }
    }

    /// Only these operations.
    #[must_use]
    pub fn only(mut self, operations: &str) -> Self {
        self.publish = Some(operations.to_owned());
        self
    }

    /// Partitions published as their root.
    #[must_use]
    pub fn via_partition_root(mut self) -> Self {
        self.via_partition_root = true;
        self
    }

    /// The statement.
    #[must_use]
    pub fn sql(&self) -> String {
        let name = quote_identifier(&self.name);
        let what = if self.tables.is_empty() {
            "ALL TABLES".to_owned()
        } else {
            format!("TABLE {}", self.tables.join(", "))
        };
        let publish =
            self.publish.iter().map(|operations| format!("publish = {}", quote_literal(operations)));
        let root = self.via_partition_root.then(|| "publish_via_partition_root = true".to_owned());
        let options: Vec<String> = publish.chain(root).collect();
        let with = if options.is_empty() { String::new() } else { format!(" WITH ({})", options.join(", ")) };
        format!("CREATE PUBLICATION {name} FOR {what}{with}")
    }
}

/// `CREATE SUBSCRIPTION`. What is `None` or empty is left to the server.
#[derive(Clone, Debug, Default)]
pub struct Subscription {
    /// Its name, and its slot's unless `slot` names another.
    pub name: String,
    /// The publications it follows.
    pub publications: Vec<String>,
    /// Whether the rows that are there are copied.
    pub copy_data: Option<bool>,
    /// `on`, `off`, or `parallel` (16+); 14+.
    pub streaming: Option<&'static str>,
    /// 14+.
    pub binary: Option<bool>,
    /// 15+ (`CREATE SUBSCRIPTION` knows it since 15).
    pub two_phase: Option<bool>,
    /// `any` or `none`; 16+.
    pub origin: Option<&'static str>,
    /// 17+.
    pub failover: Option<bool>,
    /// Use the slot of this name, which is there.
    pub slot: Option<String>,
    /// Whether it begins to work at once.
    pub disabled: bool,
}

impl Subscription {
    /// Subscribes to `publications`.
    #[must_use]
    pub fn to(name: &str, publications: &[&str]) -> Self {
        let publications = publications.iter().map(|name| (*name).to_owned()).collect();
        Subscription { name: name.to_owned(), publications, ..Subscription::default() }
    }

    /// The slot on the publisher.
    #[must_use]
    pub fn slot_name(&self) -> &str {
        self.slot.as_deref().unwrap_or(&self.name)
    }

    /// The statement that follows `conninfo`.
    #[must_use]
    pub fn sql(&self, conninfo: &str) -> String {
        let flag = |name: &str, value: Option<bool>| value.map(|value| format!("{name} = {value}"));
        let word = |name: &str, value: Option<&str>| value.map(|value| format!("{name} = {value}"));
        let slot = self.slot.as_ref();
        let options: Vec<String> = [
            flag("copy_data", self.copy_data),
            word("streaming", self.streaming),
            flag("binary", self.binary),
            flag("two_phase", self.two_phase),
            word("origin", self.origin),
            flag("failover", self.failover),
            slot.map(|slot| format!("create_slot = false, slot_name = {}", quote_literal(slot))),
            self.disabled.then(|| "enabled = false".to_owned()),
        ]
        .into_iter()
        .flatten()
        .collect();
        let publications: Vec<String> =
            self.publications.iter().map(|name| quote_identifier(name).clone()).collect();
        let with = if options.is_empty() { String::new() } else { format!(" WITH ({})", options.join(", ")) };
        format!(
            "CREATE SUBSCRIPTION {} CONNECTION {} PUBLICATION {}{with}",
            quote_identifier(&self.name),
            quote_literal(conninfo),
            publications.join(", ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publications_read_as_one_would_write_them() {
        assert_eq!(Publication::all("p").sql(), "CREATE PUBLICATION p FOR ALL TABLES");
        assert_eq!(
            Publication::of("p", &["a (id)", "b"]).only("insert, truncate").via_partition_root().sql(),
            "CREATE PUBLICATION p FOR TABLE a (id), b \
             WITH (publish = 'insert, truncate', publish_via_partition_root = true)"
        );
    }

    #[test]
    fn subscriptions_name_only_what_was_asked_for() {
        assert_eq!(
            Subscription::to("s", &["p"]).sql("host=x"),
            "CREATE SUBSCRIPTION s CONNECTION 'host=x' PUBLICATION p"
        );
        let slot = Subscription {
            slot: Some("made_before".to_owned()),
            streaming: Some("parallel"),
            copy_data: Some(false),
            ..Subscription::to("s", &["p", "Q"])
        };
        assert_eq!(
            slot.sql("host=x"),
            "CREATE SUBSCRIPTION s CONNECTION 'host=x' PUBLICATION p, \"Q\" WITH (copy_data = false, \
             streaming = parallel, create_slot = false, slot_name = 'made_before')"
        );
    }
}
