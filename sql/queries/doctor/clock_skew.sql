-- The database's clock, and how far the clock of the rules is from it: not at all, unless shoptalk.now is set.
select clock_timestamp() as clock, shoptalk_now() - clock_timestamp() as apart,
       format('alter database %I reset shoptalk.now; alter role all reset shoptalk.now', current_database()) as fix,
       nullif(current_setting('shoptalk.now', true), '') as stopped_at
