-- Run by psql on either server, with nothing of seqshadow in it: every column that has a sequence, the furthest id in it,
-- and where its sequence stands.
\set QUIET on
\pset format unaligned
\pset tuples_only on
\pset fieldsep ' '
SELECT format('SELECT %L, coalesce(max(%I), 0), (SELECT last_value FROM %s), (SELECT is_called FROM %s) FROM %I.%I',
              pg_get_serial_sequence(format('%I.%I', n.nspname, c.relname), a.attname), a.attname,
              pg_get_serial_sequence(format('%I.%I', n.nspname, c.relname), a.attname),
              pg_get_serial_sequence(format('%I.%I', n.nspname, c.relname), a.attname),
              n.nspname, c.relname)
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
 WHERE c.relkind = 'r' AND n.nspname = 'public'
   AND pg_get_serial_sequence(format('%I.%I', n.nspname, c.relname), a.attname) IS NOT NULL
 ORDER BY 1 \gexec
