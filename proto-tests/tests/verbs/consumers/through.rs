//! Values that reach a column by a detour: a function behind a function, a domain, a trigger's arguments, a rule, a view; and
//! what ordinary schemas do, of which nothing is to be said.

use super::{is, one, told};
use crate::check::Findings;
use proto_tests::stage::Stage;
use proto_tests::verb;

/// Of each sequence one column is known, and another one takes its values too.
const DETOURS: &str = "
CREATE SCHEMA archive;
CREATE TABLE a1 (id bigserial PRIMARY KEY, note text); CREATE TABLE b1 (no bigint PRIMARY KEY, note text);
CREATE FUNCTION next1() RETURNS bigint LANGUAGE sql AS $$SELECT nextval('public.a1_id_seq')$$;
CREATE FUNCTION number1() RETURNS trigger LANGUAGE plpgsql AS
    $$BEGIN IF NEW.no IS NULL THEN NEW.no := public.next1(); END IF; RETURN NEW; END$$;
CREATE TRIGGER number BEFORE INSERT ON b1 FOR EACH ROW EXECUTE FUNCTION number1();
CREATE TABLE a2 (id bigserial PRIMARY KEY, note text);
CREATE FUNCTION next2() RETURNS bigint LANGUAGE sql AS $$SELECT nextval('public.a2_id_seq')$$;
CREATE FUNCTION middle2() RETURNS bigint LANGUAGE plpgsql AS $$DECLARE v bigint; BEGIN v := public.next2(); RETURN v; END$$;
CREATE FUNCTION outer2() RETURNS bigint LANGUAGE plpgsql AS $$BEGIN RETURN public.middle2(); END$$;
CREATE TABLE b2 (no bigint PRIMARY KEY DEFAULT outer2(), note text);
CREATE TABLE a3 (id bigserial PRIMARY KEY, note text);
CREATE FUNCTION next3() RETURNS bigint LANGUAGE sql AS $$SELECT nextval('public.a3_id_seq')$$;
CREATE DOMAIN number3 AS bigint DEFAULT next3(); CREATE DOMAIN nested3 AS number3;
CREATE TABLE b3 (no nested3 PRIMARY KEY, note text);
CREATE TABLE a4 (id bigserial PRIMARY KEY, note text); CREATE TABLE b4 (no bigint PRIMARY KEY, note text);
CREATE FUNCTION fill() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.no := nextval(TG_ARGV[0]); RETURN NEW; END$$;
CREATE TRIGGER fill BEFORE INSERT ON b4 FOR EACH ROW WHEN (NEW.no IS NULL) EXECUTE FUNCTION fill('public.a4_id_seq');
CREATE TABLE a5 (id bigserial PRIMARY KEY, note text); CREATE TABLE archive.a5 (id bigint PRIMARY KEY, note text);
CREATE FUNCTION to_archive() RETURNS void LANGUAGE plpgsql AS
    $$BEGIN INSERT INTO archive.a5 VALUES (nextval('public.a5_id_seq'), 'x'); END$$;
CREATE TABLE a6 (id bigserial PRIMARY KEY, ref bigint UNIQUE);
CREATE FUNCTION with_ref() RETURNS void LANGUAGE plpgsql AS
    $$BEGIN INSERT INTO a6 (ref) VALUES (nextval('public.a6_id_seq')); END$$;
CREATE TABLE a7 (id bigserial PRIMARY KEY, ref bigint UNIQUE);
CREATE VIEW v7 AS SELECT ref AS id, id AS number FROM a7; ALTER VIEW v7 ALTER id SET DEFAULT nextval('a7_id_seq');
CREATE TABLE a8 (id bigserial PRIMARY KEY, note text); CREATE TABLE b8 (no bigint PRIMARY KEY, note text);
CREATE VIEW v8 AS SELECT note FROM b8;
CREATE RULE v8_in AS ON INSERT TO v8 DO INSTEAD INSERT INTO b8 VALUES (nextval('a8_id_seq'), NEW.note)";

/// The sequence's number, and what takes its values beside the known column.
const TAKERS: [(u32, &str); 8] = [
    (1, "function public.number1(), called by a trigger of public.b1"),
    (2, "function public.outer2(), called by the default of public.b2.no"),
    (3, "function public.next3(), called by the default of public.b3.no"),
    (4, "a trigger of public.b4 has its name in its arguments"),
    (5, "function public.to_archive()"),
    (6, "function public.with_ref()"),
    (7, "the default of public.v7.id, a view"),
    (8, "rule v8_in of public.v8"),
];

async fn detours(publisher: u32, subscriber: u32) {
    let stage = Stage::replicating(publisher, subscriber, DETOURS).await.unwrap();
    stage.pair.grant(&["public", "archive"]).await.unwrap();
    assert_eq!(verb::run(&stage.pair, "sync", &[]).unwrap().code(), 0);
    let verified = verb::run(&stage.pair, "verify", &["--json"]).unwrap();
    for (number, taker) in TAKERS {
        let sequence = format!("public.a{number}_id_seq");
        let column = format!("public.a{number}.id");
        assert_eq!(told(&verified, &sequence), is("past_publisher", &[&column]), "{}", verified.all());
        let suspects = one(&verified, &sequence)["suspects"].clone();
        assert_eq!(suspects.as_array().unwrap().len(), 1, "{suspects}");
        assert!(suspects[0].as_str().unwrap().starts_with(taker), "{suspects}");
    }
    // What it says to do helps.
    for mend in [
        "ALTER TABLE public.b1 ALTER COLUMN no SET DEFAULT nextval('public.a1_id_seq'::regclass);",
        "ALTER TABLE public.b3 ALTER COLUMN no SET DEFAULT nextval('public.a3_id_seq'::regclass);",
        "ALTER TABLE public.b4 ALTER COLUMN no SET DEFAULT nextval('public.a4_id_seq'::regclass);",
        "ALTER TABLE public.a7 ALTER COLUMN ref SET DEFAULT nextval('public.a7_id_seq'::regclass);",
        "ALTER TABLE public.b8 ALTER COLUMN no SET DEFAULT nextval('public.a8_id_seq'::regclass);",
    ] {
        let mends = Findings::of_pair(&stage.pair).unwrap().mends("sequence-column-unknown").join("\n");
        assert!(mends.contains(mend), "{mends}");
        stage.on_subscriber(mend).await;
    }
    let named = verb::run(&stage.pair, "verify", &["--json"]).unwrap();
    for number in [1, 4, 7, 8] {
        let sequence = format!("public.a{number}_id_seq");
        assert_eq!(one(&named, &sequence)["suspects"], serde_json::json!([]), "{}", named.all());
        assert_eq!(told(&named, &sequence).1.len(), 2, "{}", named.all());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_that_is_reached_by_a_detour_is_said() {
    detours(15, 18).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_that_is_reached_by_a_detour_is_said_the_other_way_round() {
    detours(19, 12).await;
}

/// What schemas commonly do with the values of a sequence whose column is known.
const ORDINARY: &str = "
CREATE TABLE o1 (id bigserial PRIMARY KEY, note text);
CREATE FUNCTION add1(n text) RETURNS void LANGUAGE sql AS $$INSERT INTO public.o1 (id, note) VALUES (nextval('o1_id_seq'), n)$$;
CREATE TABLE o0 (id bigserial PRIMARY KEY, note text);
CREATE FUNCTION fresh0() RETURNS bigint LANGUAGE sql AS $$SELECT nextval('public.o0_id_seq')$$;
CREATE TABLE o2 (id bigserial PRIMARY KEY, note text);
CREATE FUNCTION add2(n text) RETURNS bigint LANGUAGE plpgsql AS $$DECLARE fresh bigint := nextval('public.o2_id_seq');
    BEGIN INSERT INTO o2 (note, id) VALUES (n, fresh); RAISE NOTICE 'new: %', fresh; RETURN fresh; END$$;
CREATE TABLE o3 (id serial PRIMARY KEY, note text);
CREATE TABLE o3_lines (id bigserial PRIMARY KEY, o3 int REFERENCES o3, at timestamptz);
CREATE FUNCTION add3() RETURNS int LANGUAGE plpgsql AS $$DECLARE fresh int; BEGIN
    SELECT nextval('o3_id_seq') INTO fresh; INSERT INTO o3 VALUES (fresh, 'x');
    INSERT INTO o3_lines (o3, at) VALUES (fresh, now()), (fresh, now()); RETURN fresh; END$$;
CREATE TABLE o4 (id bigserial PRIMARY KEY, note text); CREATE TABLE log (at timestamptz, note text);
CREATE FUNCTION add4() RETURNS void LANGUAGE plpgsql AS $$BEGIN INSERT INTO o4 VALUES (nextval('o4_id_seq'), 'x');
    INSERT INTO log VALUES (now(), 'added'); UPDATE log SET note = 'y' WHERE note = 'x'; END$$;
CREATE TABLE o5 (id bigserial PRIMARY KEY, note text);
CREATE FUNCTION last5() RETURNS bigint LANGUAGE sql AS $$SELECT currval('o5_id_seq') /* not nextval */$$;
CREATE FUNCTION reset5() RETURNS bigint LANGUAGE sql AS $$SELECT setval('o5_id_seq', (SELECT max(id) FROM o5))$$;
CREATE TABLE o6 (id bigserial PRIMARY KEY, note text);
CREATE FUNCTION number6() RETURNS trigger LANGUAGE plpgsql AS
    $$BEGIN IF NEW.id IS NULL THEN NEW.id := nextval('o6_id_seq'); END IF; RETURN NEW; END$$;
CREATE TRIGGER number BEFORE INSERT ON o6 FOR EACH ROW EXECUTE FUNCTION number6();
CREATE TABLE o7 (id bigserial PRIMARY KEY, note text);
CREATE FUNCTION next7() RETURNS bigint LANGUAGE sql AS $$SELECT nextval('o7_id_seq')$$;
CREATE FUNCTION number7() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.id := coalesce(NEW.id, next7()); RETURN NEW; END$$;
CREATE TRIGGER number BEFORE INSERT ON o7 FOR EACH ROW EXECUTE FUNCTION number7();
CREATE SEQUENCE q8; CREATE FUNCTION next8() RETURNS bigint LANGUAGE plpgsql AS $$BEGIN RETURN nextval('q8'); END$$;
CREATE TABLE o8 (id bigint PRIMARY KEY DEFAULT next8(), note text); ALTER SEQUENCE q8 OWNED BY o8.id;
CREATE TABLE o9 (id bigserial PRIMARY KEY, note text); CREATE VIEW v9 AS SELECT note, id FROM o9;
ALTER VIEW v9 ALTER id SET DEFAULT nextval('o9_id_seq');
CREATE TABLE o10 (id serial PRIMARY KEY, note text); CREATE VIEW v10 AS SELECT note AS n FROM o10;
CREATE RULE v10_in AS ON INSERT TO v10 DO INSTEAD INSERT INTO o10 (note, id) VALUES (NEW.n, nextval('o10_id_seq'));
CREATE TABLE o11 (id bigserial PRIMARY KEY, note text);
CREATE FUNCTION fill11() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.id := nextval(TG_ARGV[0]); RETURN NEW; END$$;
CREATE TRIGGER fill BEFORE INSERT ON o11 FOR EACH ROW EXECUTE FUNCTION fill11('o11_id_seq');
CREATE SCHEMA x; CREATE SCHEMA y; CREATE TABLE x.o12 (id bigserial PRIMARY KEY); CREATE TABLE y.o12 (id bigserial PRIMARY KEY);
CREATE FUNCTION x.add12() RETURNS void LANGUAGE plpgsql AS $$BEGIN INSERT INTO o12 VALUES (nextval('o12_id_seq')); END$$;
CREATE FUNCTION y.add12() RETURNS void LANGUAGE sql AS $$INSERT INTO y.o12 VALUES (nextval('y.o12_id_seq'))$$;
CREATE TABLE o13 (id bigserial PRIMARY KEY, note text);
CREATE FUNCTION copy13() RETURNS void LANGUAGE sql AS $$INSERT INTO o13 (id, note) SELECT nextval('o13_id_seq'), note FROM log$$;
CREATE TABLE o14 (id bigserial PRIMARY KEY, note text);
CREATE FUNCTION skip14() RETURNS void LANGUAGE plpgsql AS $$BEGIN PERFORM nextval('o14_id_seq'); END$$;
CREATE TABLE o15 (id bigserial PRIMARY KEY, note text); CREATE VIEW state15 AS SELECT last_value FROM o15_id_seq;
CREATE TABLE o16 (id bigserial PRIMARY KEY, changed timestamptz);
CREATE FUNCTION touch16() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.changed := now(); RETURN NEW; END$$;
CREATE TRIGGER touch BEFORE UPDATE ON o16 FOR EACH ROW EXECUTE FUNCTION touch16('changed');
CREATE TABLE o17 (id bigserial, note text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE o17_1 PARTITION OF o17 DEFAULT;
CREATE FUNCTION add17() RETURNS void LANGUAGE sql AS $$INSERT INTO o17_1 (id) VALUES (nextval('o17_id_seq'))$$;
CREATE TABLE o18 (id bigserial PRIMARY KEY, note text UNIQUE);
CREATE FUNCTION put18(n text) RETURNS void LANGUAGE sql AS $$INSERT INTO o18 AS o (id, note) VALUES (nextval('o18_id_seq'::regclass), n)
    ON CONFLICT (note) DO UPDATE SET note = excluded.note$$;
CREATE TABLE o19 (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, note text);
CREATE FUNCTION add19(p_id bigint) RETURNS bigint LANGUAGE plpgsql AS $$DECLARE n bigint; BEGIN
    INSERT INTO o19 (id) VALUES (coalesce(p_id, nextval('o19_id_seq'))) RETURNING id INTO n; RETURN n; END$$;
CREATE TABLE o20 (id bigserial PRIMARY KEY, note text);
CREATE FUNCTION next20() RETURNS bigint LANGUAGE sql AS $$SELECT nextval('public.o20_id_seq')$$;
CREATE FUNCTION add20() RETURNS void LANGUAGE plpgsql AS $$BEGIN INSERT INTO o20 (id) VALUES (public.next20()); END$$";

async fn ordinary(publisher: u32, subscriber: u32) {
    let stage = Stage::replicating(publisher, subscriber, ORDINARY).await.unwrap();
    stage.pair.grant(&["public", "x", "y"]).await.unwrap();
    assert_eq!(verb::run(&stage.pair, "sync", &[]).unwrap().code(), 0);
    let verified = verb::run(&stage.pair, "verify", &["--json"]).unwrap();
    let json = verified.json().unwrap();
    let all = json["sequences"].as_array().unwrap();
    assert!(all.len() > 20, "{}", verified.all());
    let mut said = all.iter().filter(|one| one["suspects"] != serde_json::json!([])).map(ToString::to_string);
    assert_eq!(said.next(), None);
    // A default by a function is known, and cannot be inverted.
    let past = |one: &serde_json::Value| one["verdict"] == "past" || one["sequence"] == "public.q8";
    assert!(all.iter().all(past), "{}", verified.all());
    Findings::of_pair(&stage.pair).unwrap().expect_none_of(&["sequence-column-unknown"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ordinary_schemas_have_no_suspects() {
    ordinary(14, 17).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ordinary_schemas_have_no_suspects_the_other_way_round() {
    ordinary(18, 13).await;
}
