
DECLARE
  one record;
  here bigint;
  distance numeric;
  steps numeric;
  goal bigint;
  least_far numeric;
  walked bigint;
  may_walk bigint := 200000;
  seen bigint[];
BEGIN
  IF cardinality(sequences) IS DISTINCT FROM cardinality(targets) THEN
    RAISE EXCEPTION 'each sequence needs a target' USING ERRCODE = 'invalid_parameter_value';
  END IF;
  -- Two that set a sequence at once could take it back: one at a time, whoever calls.
  PERFORM pg_advisory_xact_lock({first_key}, {second_key});
  seen := ARRAY(SELECT pg_sequence_last_value(u.s) FROM unnest(sequences) WITH ORDINALITY AS u (s, nr) ORDER BY nr);
  -- A sequence that somebody draws from fast moves within this time.
  PERFORM pg_sleep(0.01)
    WHERE EXISTS (SELECT FROM unnest(sequences, targets, seen) AS u (s, target, was) JOIN pg_sequence d ON d.seqrelid = u.s
                   WHERE (u.target::numeric - coalesce(u.was, d.seqstart)) / d.seqincrement >= 100000);
  FOR one IN
    SELECT u.s, u.target, u.was, d.seqrelid, d.seqincrement AS step, d.seqmin, d.seqmax, d.seqcache, d.seqcycle
      FROM unnest(sequences, targets, seen) WITH ORDINALITY AS u (s, target, was, nr)
      LEFT JOIN pg_sequence d ON d.seqrelid = u.s ORDER BY u.nr
  LOOP
    IF one.seqrelid IS NULL THEN
      RAISE EXCEPTION '% is no sequence', one.s USING ERRCODE = 'undefined_table';
    ELSIF one.seqcycle THEN
      RAISE EXCEPTION 'sequence % has CYCLE: no value of it is further than another', one.s
        USING ERRCODE = 'object_not_in_prerequisite_state';
    ELSIF one.target IS NULL OR one.target NOT BETWEEN one.seqmin AND one.seqmax THEN
      RAISE EXCEPTION '% is no value of sequence % (% to %)', one.target, one.s, one.seqmin, one.seqmax
        USING ERRCODE = 'numeric_value_out_of_range';
    END IF;
    sequence := one.s;
    is_called := true;
    here := pg_sequence_last_value(one.s);
    IF here IS NULL THEN
      EXECUTE format('SELECT s.last_value FROM %s s', one.s) INTO here;
      IF (one.target::numeric - here) * sign(one.step::numeric) < 0 THEN
        last_value := here;
        is_called := false;
        RETURN NEXT;
        CONTINUE;
      END IF;
      -- The first value keeps the lane that the others are in. A session that has called nextval under CACHE answers
      -- from its memory, and moves nothing.
      DISCARD SEQUENCES;
      PERFORM nextval(one.s);
      here := pg_sequence_last_value(one.s);
      one.was := CASE WHEN one.was IS NULL THEN here END;
    ELSIF here IS DISTINCT FROM one.was THEN
      -- Somebody draws from it: nothing but nextval is safe.
      one.was := NULL;
    END IF;
    distance := (one.target::numeric - here) * sign(one.step::numeric);
    steps := div(distance, abs(one.step::numeric));
    IF steps * abs(one.step::numeric) < distance
       AND here + (steps + 1) * one.step BETWEEN one.seqmin AND one.seqmax THEN
      steps := steps + 1;
    END IF;
    IF distance > 0 AND steps > 0 THEN
      goal := here + steps * one.step;
      least_far := 100000 + (one.seqcache - 1)::numeric * 1000;
      IF steps >= least_far AND one.was = here THEN
        PERFORM setval(one.s, goal, true) WHERE pg_sequence_last_value(one.s) = here;
      ELSE
        walked := least(steps, may_walk);
        may_walk := may_walk - walked;
        DISCARD SEQUENCES;
        PERFORM count(nextval(one.s)) FROM generate_series(1, walked) AS g
          WHERE CASE WHEN g < 1 THEN false
                     WHEN one.step < 0 THEN pg_sequence_last_value(one.s) > goal
                     ELSE pg_sequence_last_value(one.s) < goal END;
      END IF;
    END IF;
    last_value := pg_sequence_last_value(one.s);
    RETURN NEXT;
  END LOOP;
END
