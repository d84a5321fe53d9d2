-- The tables and publications of scenario.sql.
\set ON_ERROR_STOP on
SELECT :v >= 13 AS v13, :v >= 15 AS v15, :v >= 18 AS v18 \gset
CREATE DOMAIN order_id AS bigint;
CREATE TABLE ids (pk serial PRIMARY KEY, id2 smallint, id4 int, id8 bigint, idn numeric, scaled numeric(12, 3),
  code text, padded char(6), dom order_id);
CREATE SCHEMA "Größe";
CREATE TYPE "Größe".mood AS ENUM ('ok', 'bad');
CREATE TYPE pair AS (a int, b text);
CREATE TABLE "Größe"."a ""b""" ("Id" int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, mood "Größe".mood, pair pair,
  tags text[], doubled int GENERATED ALWAYS AS (7) STORED);
CREATE TABLE dropped_column (gone int, id bigserial PRIMARY KEY, note varchar(10));
ALTER TABLE dropped_column DROP COLUMN gone;
CREATE TABLE no_columns ();
CREATE TABLE r_default (id bigserial PRIMARY KEY, note text, big text);
CREATE TABLE r_full (id bigserial PRIMARY KEY, note text, big text);
ALTER TABLE r_default ALTER big SET STORAGE EXTERNAL;
ALTER TABLE r_full ALTER big SET STORAGE EXTERNAL, REPLICA IDENTITY FULL;
CREATE TABLE r_index (id serial, code text NOT NULL UNIQUE);
ALTER TABLE r_index REPLICA IDENTITY USING INDEX r_index_code_key;
CREATE TABLE r_nothing (id serial, note text);
ALTER TABLE r_nothing REPLICA IDENTITY NOTHING;
CREATE TABLE part (id bigint, region text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE part_eu PARTITION OF part FOR VALUES IN ('eu');
CREATE TABLE part_us (region text NOT NULL, id bigint NOT NULL);
ALTER TABLE part ATTACH PARTITION part_us FOR VALUES IN ('us');
CREATE TABLE parent (id serial PRIMARY KEY);
CREATE TABLE child (id serial PRIMARY KEY, parent_id int REFERENCES parent);
CREATE TABLE bulk (id int);
-- Not published: its rows make transactions large enough to be streamed, and cost no byte of a capture.
CREATE TABLE filler (id int);
CREATE PUBLICATION everything FOR TABLE ids, "Größe"."a ""b""", dropped_column, no_columns, r_default, r_full, r_index,
  part_eu, part_us, parent, child, bulk;
CREATE PUBLICATION inserts FOR TABLE r_nothing WITH (publish = 'insert, truncate');
\if :v13
CREATE PUBLICATION roots FOR TABLE part WITH (publish_via_partition_root);
\endif
\if :v15
CREATE PUBLICATION narrow FOR TABLE r_default (id), ids (pk, id8), part_us (id) WITH (publish = 'insert, truncate');
\endif
