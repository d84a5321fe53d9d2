//! Columns that take their values from a sequence without naming it in a way that the catalog links: found where that is
//! certain, and said where it is not. Nothing is called past every id while no column is known.

mod through;

use super::check::Findings;
use super::cutover;
use proto_tests::shadow::Finished;
use proto_tests::sql::connect;
use proto_tests::stage::Stage;
use proto_tests::verb;
use serde_json::Value;

/// One sequence of a `verify --json`.
fn one(finished: &Finished, sequence: &str) -> Value {
    let json = finished.json().unwrap();
    let all = json["sequences"].as_array().unwrap();
    all.iter().find(|one| one["sequence"] == sequence).unwrap_or_else(|| panic!("{}", finished.all())).clone()
}

/// Verdict and columns of one sequence.
fn told(finished: &Finished, sequence: &str) -> (String, Vec<String>) {
    let one = one(finished, sequence);
    let columns = one["columns"].as_array().unwrap_or_else(|| panic!("{one}"));
    let columns = columns.iter().map(|column| column.as_str().unwrap().to_owned()).collect();
    (one["verdict"].as_str().unwrap().to_owned(), columns)
}

fn is(verdict: &str, columns: &[&str]) -> (String, Vec<String>) {
    (verdict.to_owned(), columns.iter().map(|column| (*column).to_owned()).collect())
}

const INDIRECT: &str = "
CREATE SCHEMA \"Größe\"; CREATE SEQUENCE \"Größe\".\"Eine Nr\";
CREATE SEQUENCE of_domain; CREATE DOMAIN number AS bigint DEFAULT nextval('of_domain');
CREATE DOMAIN nested AS number CHECK (VALUE > 0);
CREATE SEQUENCE of_text; CREATE SEQUENCE of_plain_text; CREATE SEQUENCE of_text_domain;
CREATE DOMAIN old AS int DEFAULT nextval('of_text_domain'::text);
CREATE TABLE by_domain (id number PRIMARY KEY, other number DEFAULT 7, third number DEFAULT NULL, note text);
CREATE TABLE by_nested (id nested PRIMARY KEY, note text);
CREATE TABLE by_text (id bigint PRIMARY KEY DEFAULT nextval(('public.of_text'::text)::regclass), note text);
CREATE TABLE by_plain_text (id int PRIMARY KEY DEFAULT nextval('OF_plain_text'::varchar), note text);
CREATE TABLE by_text_domain (id old PRIMARY KEY, note text);
CREATE TABLE by_quoted (id bigint PRIMARY KEY DEFAULT nextval('\"Größe\".\"Eine Nr\"'::text), note text)";

/// The sequence, the tables, and their columns as they are told.
const BY: [(&str, &[&str]); 5] = [
    ("public.of_domain", &["by_domain", "by_nested"]),
    ("public.of_text", &["by_text"]),
    ("public.of_plain_text", &["by_plain_text"]),
    ("public.of_text_domain", &["by_text_domain"]),
    ("\"Größe\".\"Eine Nr\"", &["by_quoted"]),
];

async fn indirect(publisher: u32, subscriber: u32) {
    let stage = Stage::replicating(publisher, subscriber, INDIRECT).await.unwrap();
    stage.pair.grant(&["public", "Größe"]).await.unwrap();
    for table in BY.iter().flat_map(|(_, tables)| *tables) {
        stage
            .on_publisher(&format!(
                "INSERT INTO {table} (note) SELECT 'x' FROM generate_series(1, 50);
                 INSERT INTO {table} (id) VALUES (300)"
            ))
            .await;
    }
    stage.pair.catch_up().await.unwrap();
    let columns = |tables: &[&str]| tables.iter().map(|t| format!("public.{t}.id")).collect::<Vec<_>>();

    let fresh = verb::run(&stage.pair, "verify", &["--json"]).unwrap();
    assert_eq!(fresh.code(), 1, "{}", fresh.all());
    for (sequence, tables) in BY {
        assert_eq!(told(&fresh, sequence), ("behind".to_owned(), columns(tables)), "{}", fresh.all());
        assert_eq!(one(&fresh, sequence)["furthest_id"], 300, "{}", fresh.all());
    }
    let text = verb::run(&stage.pair, "verify", &[]).unwrap();
    assert!(text.stdout.contains("(public.by_text.id)"), "{}", text.all());

    assert_eq!(verb::run(&stage.pair, "sync", &[]).unwrap().code(), 0);
    let synced = verb::run(&stage.pair, "verify", &["--json"]).unwrap();
    assert_eq!(synced.code(), 0, "{}", synced.all());
    for (sequence, tables) in BY {
        assert_eq!(told(&synced, sequence), ("past".to_owned(), columns(tables)), "{}", synced.all());
        let proof = one(&synced, sequence);
        assert_eq!((&proof["reason"], &proof["suspects"]), (&Value::Null, &serde_json::json!([])), "{proof}");
    }
    let findings = Findings::of_pair(&stage.pair).unwrap();
    findings.expect_none_of(&["sequence-not-covered", "sequence-column-unknown"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_domains_default_and_a_name_as_text_are_known() {
    indirect(12, 18).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_domains_default_and_a_name_as_text_are_known_the_other_way_round() {
    indirect(19, 14).await;
}

/// Somebody alters one of the tables: which sequence its default names is known all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_table_hides_no_column() {
    let stage = Stage::replicating(16, 15, INDIRECT).await.unwrap();
    stage.pair.grant(&["public", "Größe"]).await.unwrap();
    assert_eq!(verb::run(&stage.pair, "sync", &[]).unwrap().code(), 0);
    // Else what the publisher's columns show would do.
    stage.on_publisher("REVOKE SELECT ON ALL TABLES IN SCHEMA public FROM shadow").await;
    let locked = connect(&stage.pair.subscriber_conninfo()).await.unwrap();
    locked.batch_execute("BEGIN; LOCK by_text, by_domain IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let verified = verb::run(&stage.pair, "verify", &["--json"]).unwrap();
    assert_eq!(verified.code(), 1, "{}", verified.all());
    assert_eq!(
        told(&verified, "public.of_text"),
        is("unproven", &["public.by_text.id"]),
        "{}",
        verified.all()
    );
    let domains = ["public.by_domain.id", "public.by_nested.id"];
    assert_eq!(told(&verified, "public.of_domain"), is("unproven", &domains), "{}", verified.all());
    assert_eq!(told(&verified, "public.of_plain_text").0, "past", "{}", verified.all());
}

/// Two sequences of one name, and a default that names no schema.
pub const TWO_OF_A_NAME: &str =
    "CREATE SCHEMA one; CREATE SCHEMA two; CREATE SEQUENCE one.no; CREATE SEQUENCE two.no;
CREATE TABLE t (id bigint PRIMARY KEY DEFAULT nextval('no'::text), note text)";

/// A name without a schema means another sequence in each session, so that nobody knows whose ids the column holds: unless
/// the database itself says where to look.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_two_sequences_have_is_not_guessed() {
    let stage = Stage::replicating(15, 16, TWO_OF_A_NAME).await.unwrap();
    stage.pair.grant(&["public", "one", "two"]).await.unwrap();
    let verified = verb::run(&stage.pair, "verify", &["--json"]).unwrap();
    for sequence in ["one.no", "two.no"] {
        assert_eq!(told(&verified, sequence), is("past_publisher", &[]), "{}", verified.all());
        let suspects = one(&verified, sequence)["suspects"].to_string();
        assert!(suspects.contains("public.t.id") && suspects.contains("search_path"), "{suspects}");
    }
    stage.pair.on_both("ALTER DATABASE shop SET search_path = two, public").await.unwrap();
    let verified = verb::run(&stage.pair, "verify", &["--json"]).unwrap();
    assert_eq!(told(&verified, "one.no"), is("past_publisher", &[]), "{}", verified.all());
    assert_eq!(told(&verified, "two.no"), is("past", &["public.t.id"]), "{}", verified.all());
}

const FUNCTIONS: &str = "
CREATE SEQUENCE order_no; CREATE SEQUENCE bill_no; CREATE SEQUENCE atomic_no; CREATE SEQUENCE loose;
CREATE FUNCTION next_order() RETURNS bigint LANGUAGE sql AS $$SELECT nextval('public.order_no')$$;
CREATE FUNCTION number_bill() RETURNS trigger LANGUAGE plpgsql AS
    $$BEGIN NEW.no := nextval('bill_no'); RETURN NEW; END$$;
CREATE FUNCTION next_atomic() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT nextval('atomic_no') + 0; END;
CREATE TABLE orders (id bigint PRIMARY KEY DEFAULT next_order(), note text);
CREATE TABLE bills (no bigint PRIMARY KEY, note text);
CREATE TRIGGER number BEFORE INSERT ON bills FOR EACH ROW EXECUTE FUNCTION number_bill();
CREATE TABLE atoms (id bigint PRIMARY KEY DEFAULT next_atomic(), note text)";

/// The sequence, the function, and who calls it.
const SUSPECTED: [(&str, &str, &str); 3] = [
    ("public.order_no", "public.next_order()", "the default of public.orders.id"),
    ("public.bill_no", "public.number_bill()", "a trigger of public.bills"),
    ("public.atomic_no", "public.next_atomic()", "the default of public.atoms.id"),
];
const UNKNOWN: &str = "no column is known to take its values";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_function_takes_is_said_and_not_called_past_every_id() {
    let stage = Stage::replicating(14, 18, FUNCTIONS).await.unwrap();
    for table in ["orders", "bills", "atoms"] {
        let sql = format!("INSERT INTO {table} (note) SELECT 'x' FROM generate_series(1, 50)");
        stage.on_publisher(&sql).await;
    }
    stage.pair.catch_up().await.unwrap();
    assert_eq!(verb::run(&stage.pair, "sync", &[]).unwrap().code(), 0);
    let verified = verb::run(&stage.pair, "verify", &["--json"]).unwrap();
    // The publisher's own sequences are passed, and no more is said.
    assert_eq!(verified.code(), 0, "{}", verified.all());
    for (sequence, function, caller) in SUSPECTED {
        assert_eq!(told(&verified, sequence), is("past_publisher", &[]), "{}", verified.all());
        let one = one(&verified, sequence);
        let (reason, suspects) = (one["reason"].as_str().unwrap(), one["suspects"].to_string());
        assert!(reason.starts_with(UNKNOWN), "{reason}");
        assert!(suspects.contains(function) && suspects.contains(caller), "{suspects}");
        assert!(reason.contains(function) && reason.contains(caller), "{reason}");
    }
    let loose = one(&verified, "public.loose");
    assert_eq!((&loose["verdict"], &loose["suspects"]), (&"past_publisher".into(), &serde_json::json!([])));
    let reason = loose["reason"].as_str().unwrap();
    assert!(reason.contains("ALTER SEQUENCE public.loose OWNED BY"), "{reason}");

    let text = verb::run(&stage.pair, "verify", &["--all"]).unwrap();
    assert!(!text.stdout.contains("past every id"), "{}", text.all());
    assert!(text.stdout.lines().all(|line| line.chars().count() <= 80), "{}", text.all());
    let words = text.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains(UNKNOWN) && words.contains("public.next_order()"), "{}", text.all());
    assert!(words.contains("past publisher"), "{}", text.all());

    // What it says to do helps.
    stage.on_subscriber("ALTER SEQUENCE bill_no OWNED BY bills.no").await;
    stage.on_subscriber("ALTER TABLE orders ALTER id SET DEFAULT nextval('order_no')").await;
    let named = verb::run(&stage.pair, "verify", &["--json"]).unwrap();
    assert_eq!(told(&named, "public.bill_no"), is("past", &["public.bills.no"]), "{}", named.all());
    assert_eq!(told(&named, "public.order_no"), is("past", &["public.orders.id"]), "{}", named.all());
    assert_eq!(one(&named, "public.order_no")["suspects"], serde_json::json!([]));
    let text = verb::run(&stage.pair, "verify", &[]).unwrap();
    assert!(text.stdout.contains("2 sequences proven: every next value is past every id"), "{}", text.all());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_and_status_say_what_a_function_takes() {
    let stage = Stage::replicating(17, 16, FUNCTIONS).await.unwrap();
    let findings = Findings::of_pair(&stage.pair).unwrap();
    let told = findings.of("sequence-column-unknown");
    assert_eq!(told.len(), SUSPECTED.len(), "{told:#?}");
    for (sequence, function, caller) in SUSPECTED {
        let finding = told.iter().find(|finding| finding.starts_with(sequence)).unwrap();
        assert!(finding.contains(UNKNOWN), "{finding}");
        assert!(finding.contains(function) && finding.contains(caller), "{finding}");
    }
    let mends = [findings.mends("sequence-column-unknown"), findings.advice("sequence-column-unknown")];
    let mends = mends.concat().join("\n");
    assert!(mends.contains("ALTER SEQUENCE public.bill_no OWNED BY public.bills."), "{mends}");
    assert!(
        mends.contains(
            "ALTER TABLE public.orders ALTER COLUMN id SET DEFAULT nextval('public.order_no'::regclass)"
        ),
        "{mends}"
    );
    let not_covered = findings.of("sequence-not-covered");
    assert_eq!(not_covered, [format!("public.loose: is followed by polling: {UNKNOWN}")]);

    let status = verb::run(&stage.pair, "status", &["--json"]).unwrap();
    let reason = one(&status, "public.order_no")["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains(UNKNOWN) && reason.contains("public.next_order()"), "{reason}");
}

/// A column that is known, and whose values cannot be turned back into ids, is no better.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_default_that_cannot_be_inverted_proves_nothing_of_its_column() {
    let ddl = "CREATE SEQUENCE tens; CREATE TABLE t (id bigint PRIMARY KEY DEFAULT nextval('tens') * 10, note text)";
    let stage = Stage::replicating(13, 15, ddl).await.unwrap();
    stage.on_publisher("INSERT INTO t (note) VALUES ('x')").await;
    stage.pair.catch_up().await.unwrap();
    assert_eq!(verb::run(&stage.pair, "sync", &[]).unwrap().code(), 0);
    let verified = verb::run(&stage.pair, "verify", &["--json"]).unwrap();
    assert_eq!(told(&verified, "public.tens"), is("past_publisher", &["public.t.id"]), "{}", verified.all());
    let reason = one(&verified, "public.tens")["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("public.t.id") && reason.contains("cannot be inverted"), "{reason}");
    // Without the publisher's there is nothing that it could be past.
    stage.on_publisher("ALTER TABLE t ALTER id DROP DEFAULT; DROP SEQUENCE tens").await;
    let alone = verb::run(&stage.pair, "verify", &["--json"]).unwrap();
    assert_eq!(told(&alone, "public.tens"), is("unproven", &["public.t.id"]), "{}", alone.all());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_certificate_says_which_columns_are_not_known() {
    let ddl = format!("{FUNCTIONS}; CREATE TABLE plain (id bigserial PRIMARY KEY, note text)");
    let stage = Stage::replicating(15, 17, &ddl).await.unwrap();
    stage.on_publisher("INSERT INTO orders (note) VALUES ('x'); INSERT INTO plain (note) VALUES ('x')").await;
    stage.pair.catch_up().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let cut = cutover::run(&stage.pair, directory.path(), &[]);
    assert_eq!(cut.code(), 0, "{}", cut.all());
    let text = std::fs::read_to_string(directory.path().join("certificate.json")).unwrap();
    let certificate: Value = serde_json::from_str(&text).unwrap();
    let sequences = certificate["databases"][0]["sequences"].as_array().unwrap();
    let certified = |name: &str| sequences.iter().find(|one| one["sequence"] == name).unwrap();
    for (sequence, function, _) in SUSPECTED {
        let one = certified(sequence);
        assert_eq!(one["verdict"], "past_publisher", "{one}");
        let reason = one["reason"].as_str().unwrap();
        assert!(reason.starts_with(UNKNOWN) && reason.contains(function), "{one}");
    }
    let notes = certificate["databases"][0]["notes"].to_string();
    assert!(SUSPECTED.iter().all(|(_, function, _)| notes.contains(function)), "{notes}");
    let plain = certified("public.plain_id_seq");
    assert_eq!(
        (&plain["verdict"], &plain["columns"][0]),
        (&"past".into(), &"public.plain.id".into()),
        "{plain}"
    );
    let words = cut.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        words.contains(
            "YES: 1 sequence of 1 database proven past everything, 4 more past the publisher's own only."
        ),
        "{}",
        cut.all()
    );
}

/// Other takers beside one column that is known.
const BESIDE: &str = "
CREATE SCHEMA one; CREATE SCHEMA two; CREATE SEQUENCE one.no; CREATE SEQUENCE two.no;
CREATE TABLE known (id bigint PRIMARY KEY DEFAULT nextval('one.no'), note text);
CREATE TABLE t (id bigint PRIMARY KEY DEFAULT nextval('no'::text), note text);
CREATE TABLE serials (id bigserial PRIMARY KEY, note text);
CREATE TABLE other (no bigint PRIMARY KEY, note text);
CREATE FUNCTION number_other() RETURNS trigger LANGUAGE plpgsql AS
    $$BEGIN IF NEW.no IS NULL THEN NEW.no := nextval('public.serials_id_seq'); END IF; RETURN NEW; END$$;
CREATE TRIGGER number BEFORE INSERT ON other FOR EACH ROW EXECUTE FUNCTION number_other();
CREATE TABLE audited (id bigserial PRIMARY KEY, note text);
CREATE TABLE audit (id bigint PRIMARY KEY);
CREATE FUNCTION write_audit() RETURNS trigger LANGUAGE plpgsql AS
    $$BEGIN INSERT INTO audit VALUES (nextval('audited_id_seq')); RETURN NEW; END$$;
CREATE TRIGGER note AFTER UPDATE ON audited FOR EACH ROW EXECUTE FUNCTION write_audit();
CREATE TABLE applied (id bigserial PRIMARY KEY, note text);
CREATE TABLE applied_more (id bigint PRIMARY KEY);
CREATE FUNCTION add_more() RETURNS void LANGUAGE sql AS
    $$INSERT INTO applied_more VALUES (nextval('applied_id_seq'))$$;
CREATE TABLE below (id bigint PRIMARY KEY, note text); CREATE TABLE of_view (id bigserial PRIMARY KEY);
CREATE VIEW through AS SELECT id, note FROM below;
ALTER VIEW through ALTER COLUMN id SET DEFAULT nextval('of_view_id_seq')";

/// The sequence, its known column, and what else takes its values.
const OTHERS: [(&str, &str, &str); 5] = [
    ("one.no", "public.known.id", "the default of public.t.id names no without a schema"),
    (
        "public.serials_id_seq",
        "public.serials.id",
        "function public.number_other(), called by a trigger of public.other",
    ),
    (
        "public.audited_id_seq",
        "public.audited.id",
        "function public.write_audit(), called by a trigger of public.audited",
    ),
    ("public.applied_id_seq", "public.applied.id", "function public.add_more()"),
    ("public.of_view_id_seq", "public.of_view.id", "the default of public.through.id, a view"),
];

async fn beside(publisher: u32, subscriber: u32) {
    let stage = Stage::replicating(publisher, subscriber, BESIDE).await.unwrap();
    stage.pair.grant(&["public", "one", "two"]).await.unwrap();
    stage.on_publisher("INSERT INTO serials (note) VALUES ('a'); INSERT INTO other (no) VALUES (400)").await;
    stage.pair.catch_up().await.unwrap();
    assert_eq!(verb::run(&stage.pair, "sync", &[]).unwrap().code(), 0);
    let verified = verb::run(&stage.pair, "verify", &["--json"]).unwrap();
    assert_eq!(verified.code(), 0, "{}", verified.all());
    let findings = Findings::of_pair(&stage.pair).unwrap();
    // More than five are told together.
    let found = findings.of("sequence-column-unknown").join("\n");
    for (sequence, column, what) in OTHERS {
        assert_eq!(told(&verified, sequence), is("past_publisher", &[column]), "{}", verified.all());
        let reason = one(&verified, sequence)["reason"].as_str().unwrap().to_owned();
        assert!(reason.contains(what) && reason.contains(column), "{reason}");
        assert!(found.contains(sequence), "{found}");
    }
    let mends = [findings.mends("sequence-column-unknown"), findings.advice("sequence-column-unknown")];
    let mends = mends.concat().join("\n");
    for mend in [
        "ALTER TABLE public.t ALTER COLUMN id SET DEFAULT nextval('one.no'::regclass);",
        "ALTER TABLE public.t ALTER COLUMN id SET DEFAULT nextval('two.no'::regclass);",
        "ALTER TABLE public.other ALTER COLUMN no SET DEFAULT nextval('public.serials_id_seq'::regclass);",
        "ALTER TABLE public.below ALTER COLUMN id SET DEFAULT nextval('public.of_view_id_seq'::regclass);",
    ] {
        assert!(mends.contains(mend.trim_end_matches(';')), "{mends}");
        stage.on_subscriber(mend).await;
    }
    assert!(mends.contains("nextval('one.no'::regclass), or ALTER TABLE"), "{mends}");
    // The last of the two that t was given is the one that it has.
    let named = verb::run(&stage.pair, "verify", &["--json"]).unwrap();
    assert_eq!(told(&named, "one.no"), is("past", &["public.known.id"]), "{}", named.all());
    for (sequence, columns) in [
        ("two.no", ["public.t.id", ""]),
        ("public.serials_id_seq", ["public.other.no", "public.serials.id"]),
        ("public.of_view_id_seq", ["public.below.id", "public.of_view.id"]),
    ] {
        let (_, found) = told(&named, sequence);
        let columns: Vec<&str> = columns.into_iter().filter(|column| !column.is_empty()).collect();
        assert_eq!(found, columns, "{}", named.all());
        assert_eq!(one(&named, sequence)["suspects"], serde_json::json!([]), "{}", named.all());
    }
    // And its columns count: 400 is in use.
    assert_eq!(told(&named, "public.serials_id_seq").0, "behind", "{}", named.all());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_known_column_does_not_silence_the_others() {
    beside(15, 17).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_known_column_does_not_silence_the_others_the_other_way_round() {
    beside(18, 12).await;
}

/// What only does what is known of the column, and what is called by nobody, is no reason to doubt it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ordinary_function_beside_a_known_column_is_no_suspect() {
    let ddl = "CREATE TABLE a (id bigserial PRIMARY KEY, at timestamptz, note text);
        CREATE FUNCTION number() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
            NEW.at := now(); NEW.id := coalesce(NEW.id, nextval('a_id_seq'::regclass)); RETURN NEW; END$$;
        CREATE TRIGGER number BEFORE INSERT ON a FOR EACH ROW EXECUTE FUNCTION number();
        CREATE TABLE b (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, note text);
        CREATE FUNCTION add_b() RETURNS bigint LANGUAGE plpgsql AS $$DECLARE fresh bigint; BEGIN
            fresh := nextval('public.b_id_seq'); INSERT INTO b VALUES (fresh, 'x'); RETURN fresh; END$$;
        CREATE TABLE c (id bigserial PRIMARY KEY, note text); CREATE VIEW over_c AS SELECT * FROM c;
        ALTER VIEW over_c ALTER COLUMN id SET DEFAULT nextval('c_id_seq');
        CREATE FUNCTION reset() RETURNS bigint LANGUAGE sql AS
            $$SELECT setval('c_id_seq', 7) + nextval('a_id_seq')$$;
        CREATE SCHEMA x; CREATE SCHEMA y; CREATE TABLE x.d (id bigserial PRIMARY KEY);
        CREATE TABLE y.d (id bigserial PRIMARY KEY); CREATE FUNCTION x.n() RETURNS trigger LANGUAGE plpgsql AS
            $$BEGIN NEW.id = nextval('d_id_seq'); RETURN NEW; END$$;
        CREATE TRIGGER number BEFORE INSERT ON x.d FOR EACH ROW EXECUTE FUNCTION x.n()";
    let stage = Stage::replicating(14, 16, ddl).await.unwrap();
    stage.pair.grant(&["public", "x", "y"]).await.unwrap();
    assert_eq!(verb::run(&stage.pair, "sync", &[]).unwrap().code(), 0);
    let verified = verb::run(&stage.pair, "verify", &["--json"]).unwrap();
    for (sequence, column) in [
        ("public.a_id_seq", "public.a.id"),
        ("public.b_id_seq", "public.b.id"),
        ("public.c_id_seq", "public.c.id"),
        ("x.d_id_seq", "x.d.id"),
        ("y.d_id_seq", "y.d.id"),
    ] {
        assert_eq!(told(&verified, sequence), is("past", &[column]), "{}", verified.all());
        assert_eq!(one(&verified, sequence)["suspects"], serde_json::json!([]), "{}", verified.all());
    }
    Findings::of_pair(&stage.pair).unwrap().expect_none_of(&["sequence-column-unknown"]);
}

/// The server cuts a name off after 63 bytes, also where it is looked up at each insert.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_is_too_long_is_known() {
    let long = "q".repeat(70);
    let ddl = format!(
        "CREATE SEQUENCE {long}; CREATE TABLE k (id bigint PRIMARY KEY DEFAULT nextval('{long}'), note text);
         CREATE TABLE t (id bigint PRIMARY KEY DEFAULT nextval('{long}'::text), note text)"
    );
    let stage = Stage::replicating(16, 18, &ddl).await.unwrap();
    let verified = verb::run(&stage.pair, "verify", &["--json"]).unwrap();
    let sequence = format!("public.{}", "q".repeat(63));
    assert_eq!(told(&verified, &sequence).1, ["public.k.id", "public.t.id"], "{}", verified.all());
}

/// What the database says of search_path goes for those roles that neither say something else nor pass a schema over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_search_path_that_is_not_everybodys_decides_nothing() {
    let stage = Stage::replicating(13, 17, TWO_OF_A_NAME).await.unwrap();
    stage.pair.grant(&["public", "one", "two"]).await.unwrap();
    let is_known = async |sql: &str| {
        stage.pair.on_both(sql).await.unwrap();
        let verified = verb::run(&stage.pair, "verify", &["--json"]).unwrap();
        let two = told(&verified, "two.no").1 == ["public.t.id"];
        if !two {
            for sequence in ["one.no", "two.no"] {
                assert_eq!(told(&verified, sequence), is("past_publisher", &[]), "{}", verified.all());
            }
        }
        two
    };
    assert!(is_known("ALTER DATABASE shop SET search_path = two, public").await);
    assert!(!is_known("ALTER ROLE app SET search_path = one, public").await);
    assert!(is_known("ALTER ROLE app SET search_path = two, \"public\"").await);
    assert!(!is_known("ALTER ROLE app IN DATABASE shop SET search_path = ''").await);
    assert!(is_known("ALTER ROLE app IN DATABASE shop RESET ALL; ALTER ROLE app RESET ALL").await);
    // Who may not use two takes no from one.
    assert!(!is_known("ALTER DATABASE shop SET search_path = two, one").await);
    assert!(is_known("GRANT USAGE ON SCHEMA two TO PUBLIC").await);
}
