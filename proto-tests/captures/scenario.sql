-- What the recorded streams contain. psql; :v is server_version_num / 10000, from record.sh.
-- Everything is small: the files are committed.
\set ON_ERROR_STOP on
SELECT :v >= 13 AS v13, :v >= 14 AS v14, :v >= 15 AS v15 \gset

-- Kinds of ids, and the extremes of each.
BEGIN;
INSERT INTO ids (id2, id4, id8, idn, scaled, code, padded, dom) VALUES
  (32767, 2147483647, 9223372036854775807, 9223372036854775807, 12.000, 'ORD-000123', '42', 9),
  (-32768, -2147483648, -9223372036854775808, -9223372036854775808, -7.00, 'ORD-7', '-3', -9),
  (0, 0, 0, 0, 0, 'ORD-0', '0', 0),
  (NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
  (1, 10000, 100000000, 99999999999999999999, 1.5, 'free text', '', 10000),
  (2, 2, 2, 'NaN', 10000.0, 'ORD-99', '7', 2);
COMMIT;

-- Types that are not built in, odd names, defaults, a generated column, a dropped one.
INSERT INTO "Größe"."a ""b""" (mood, pair, tags) VALUES ('ok', ROW(1, 'x,"y'), ARRAY['a', NULL]);
INSERT INTO "Größe"."a ""b""" (mood, pair, tags) VALUES ('bad', NULL, '{}');
INSERT INTO dropped_column (note) VALUES ('n');
INSERT INTO no_columns DEFAULT VALUES;

-- Updates and deletes with each replica identity; TOASTed values that stay.
BEGIN;
INSERT INTO r_default (note, big) VALUES ('a', repeat('x', 2100)), ('b', NULL), ('c', 'short');
UPDATE r_default SET note = 'a2' WHERE id = 1;
UPDATE r_default SET id = 1001 WHERE id = 2;
DELETE FROM r_default WHERE id = 3;
INSERT INTO r_full (note, big) VALUES ('a', repeat('y', 2100)), ('b', NULL);
UPDATE r_full SET note = 'a2' WHERE id = 1;
UPDATE r_full SET id = 1002 WHERE id = 2;
DELETE FROM r_full WHERE id = 1;
INSERT INTO r_index (code) VALUES ('p'), ('q');
UPDATE r_index SET id = id + 10 WHERE code = 'p';
UPDATE r_index SET code = 'q2' WHERE code = 'q';
DELETE FROM r_index WHERE code = 'p';
INSERT INTO r_nothing (note) VALUES ('z');
COMMIT;

-- Subtransactions, one rolled back; a table altered inside a transaction; an empty transaction.
BEGIN;
INSERT INTO r_default (note) VALUES ('outer');
SAVEPOINT a;
INSERT INTO r_default (note) VALUES ('rolled back');
ROLLBACK TO a;
ALTER TABLE r_index ADD COLUMN extra int DEFAULT 5;
INSERT INTO r_index (code) VALUES ('altered');
COMMIT;
BEGIN; SELECT 1; COMMIT;
CREATE TABLE unpublished_later (id int); DROP TABLE unpublished_later;

-- Partitions: the leaves, or the root with publish_via_partition_root.
INSERT INTO part (id, region) VALUES (1, 'eu'), (2, 'us');
UPDATE part SET region = 'us' WHERE id = 1;

-- TRUNCATE in all its forms.
INSERT INTO parent DEFAULT VALUES;
INSERT INTO child (parent_id) SELECT id FROM parent;
TRUNCATE r_nothing;
TRUNCATE r_full, r_nothing RESTART IDENTITY;
TRUNCATE parent CASCADE;
BEGIN;
TRUNCATE parent RESTART IDENTITY CASCADE;
INSERT INTO parent DEFAULT VALUES;
COMMIT;

-- Where a transaction came from.
SELECT pg_replication_origin_create('upstream');
SELECT pg_replication_origin_session_setup('upstream');
BEGIN;
SELECT pg_replication_origin_xact_setup('0/ABCDEF', '2026-01-01 00:00:00+00');
INSERT INTO r_default (note) VALUES ('from elsewhere');
COMMIT;
SELECT pg_replication_origin_session_reset();

-- Logical messages (seen from 14 on).
SELECT pg_logical_emit_message(false, 'free', 'at once');
BEGIN;
SELECT pg_logical_emit_message(true, 'bound', E'with\\000zero'::bytea);
INSERT INTO r_default (note) VALUES ('after a message');
COMMIT;

-- Large transactions, streamed from 14 on: subtransactions, one rolled back after it was sent, a TRUNCATE in one
-- that stays and in one that does not, a message, an altered table, a whole one rolled back.
BEGIN;
INSERT INTO bulk SELECT g FROM generate_series(1, 10) g;
INSERT INTO filler SELECT generate_series(1, 1000);
SELECT pg_sleep(0.3);
SAVEPOINT gone;
INSERT INTO bulk SELECT g FROM generate_series(100001, 100010) g;
INSERT INTO filler SELECT generate_series(1, 1000);
TRUNCATE parent RESTART IDENTITY CASCADE;
SELECT pg_sleep(0.3);
ROLLBACK TO gone;
SAVEPOINT kept;
TRUNCATE child RESTART IDENTITY;
INSERT INTO bulk SELECT g FROM generate_series(401, 410) g;
INSERT INTO filler SELECT generate_series(1, 1000);
RELEASE kept;
SELECT pg_logical_emit_message(true, 'streamed', 'm');
CREATE TYPE late AS ENUM ('x');
ALTER TABLE bulk ADD COLUMN more late;
INSERT INTO bulk SELECT g, 'x' FROM generate_series(801, 810) g;
INSERT INTO filler SELECT generate_series(1, 1000);
COMMIT;
BEGIN;
INSERT INTO bulk SELECT g FROM generate_series(200001, 200010) g;
INSERT INTO filler SELECT generate_series(1, 1000);
SELECT pg_sleep(0.3);
ROLLBACK;

-- Prepared transactions: whole at COMMIT PREPARED, or in two steps with two_phase (15 on).
BEGIN; INSERT INTO r_default (note) VALUES ('prepared'); PREPARE TRANSACTION 'gid one';
COMMIT PREPARED 'gid one';
BEGIN; INSERT INTO r_default (note) VALUES ('given up'); PREPARE TRANSACTION 'gid two';
ROLLBACK PREPARED 'gid two';
BEGIN; INSERT INTO bulk SELECT g FROM generate_series(3001, 3010) g;
INSERT INTO filler SELECT generate_series(1, 1000); PREPARE TRANSACTION 'gid three';
SELECT pg_sleep(0.3);
COMMIT PREPARED 'gid three';
BEGIN; INSERT INTO bulk SELECT g FROM generate_series(4001, 4010) g;
INSERT INTO filler SELECT generate_series(1, 1000); PREPARE TRANSACTION 'gid four';
SELECT pg_sleep(0.3);
ROLLBACK PREPARED 'gid four';
INSERT INTO r_default (note) VALUES ('the end');
