//! A pair of which nothing bad can be said.

use proto_tests::stage::Stage;
use proto_tests::verb;

/// Whose silence is tested here; servers, roles and subscriptions have tests of their own.
const TOPICS: [&str; 14] = [
    "sequence-",
    "ids-",
    "table-",
    "column-",
    "primary-key-",
    "extension-",
    "replica-identity",
    "index-",
    "trigger-",
    "constraint-",
    "check-",
    "enum-",
    "prepared-",
    "large-",
];
const MORE: [&str; 2] = ["locked", "not-looked-at"];

const TABLES: &str = "
CREATE TABLE customers (id bigserial PRIMARY KEY, name text NOT NULL, mail text UNIQUE);
CREATE TABLE orders (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer bigint REFERENCES customers,
                     total numeric(12, 2) DEFAULT 0, tax numeric GENERATED ALWAYS AS (total * 0.2) STORED);
CREATE INDEX ON orders (customer);
CREATE SEQUENCE invoice_number START 1000;
CREATE TABLE invoices (no text PRIMARY KEY DEFAULT 'INV-' || nextval('invoice_number'), paid boolean);
CREATE TABLE events (id bigserial, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM ('2020-01-01') TO ('2025-01-01');
CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM ('2025-01-01') TO ('2030-01-01');
CREATE DOMAIN cents AS bigint DEFAULT 0 CHECK (VALUE >= 0);
CREATE TABLE ledger (id serial PRIMARY KEY, amount cents, tags text[], kind varchar(20));
CREATE VIEW open_invoices AS SELECT * FROM invoices WHERE NOT paid;
CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER stamp BEFORE INSERT ON ledger FOR EACH ROW EXECUTE FUNCTION stamp()";

const USE: &str = "
INSERT INTO customers (name, mail) SELECT 'c', n || '@x' FROM generate_series(1, 300) n;
INSERT INTO orders (customer, total) SELECT n, 10 FROM generate_series(1, 300) n;
INSERT INTO invoices (paid) SELECT false FROM generate_series(1, 100);
INSERT INTO events (at) SELECT date '2024-12-01' + n FROM generate_series(1, 100) n;
INSERT INTO ledger (amount) SELECT n FROM generate_series(1, 100) n;
UPDATE orders SET total = 20; DELETE FROM ledger WHERE id > 90";

async fn nothing_bad(publisher: u32, subscriber: u32) {
    let stage = Stage::replicating(publisher, subscriber, TABLES).await.unwrap();
    stage.on_publisher(USE).await;
    stage.pair.catch_up().await.unwrap();
    stage.on_subscriber("ANALYZE").await;
    let report = verb::run(&stage.pair, "check", &["--json"]).unwrap().json().unwrap();
    let is_tested = |code: &str| TOPICS.iter().any(|topic| code.starts_with(topic)) || MORE.contains(&code);
    let findings = report["findings"].as_array().unwrap().iter();
    let bad: Vec<_> =
        findings.filter(|f| f["severity"] != "notice" && is_tested(f["code"].as_str().unwrap())).collect();
    // Nothing but a scan reads ids inside text, on the healthiest pair.
    let [text] = &bad[..] else { panic!("{bad:#?}") };
    assert_eq!(text["code"], "ids-not-looked-at");
    let message = "public.invoices.no was not looked at: its ids are inside text; --full scans it";
    assert_eq!(
        (text["object"].as_str(), text["message"].as_str()),
        (Some("public.invoice_number"), Some(message))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_healthy_pair_of_15_and_18() {
    nothing_bad(15, 18).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_healthy_pair_of_12_and_17() {
    nothing_bad(12, 17).await;
}
