-- The database's clock, and the one that our rules go by: they differ only where somebody has set shoptalk.now.
select clock_timestamp() as clock, shoptalk_now() - clock_timestamp() as apart,
       format('alter database %I reset shoptalk.now; alter role all reset shoptalk.now', current_database()) as mend,
       nullif(current_setting('shoptalk.now', true), '') as stopped_at
