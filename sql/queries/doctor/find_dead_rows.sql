-- Our tables, with the dead rows of each, the number at which autovacuum should come, and whether it is enabled.
select s.relid::regclass::text as name, s.n_dead_tup as dead, greatest(s.last_vacuum, s.last_autovacuum) as vacuumed_at,
       coalesce(o.threshold, current_setting('autovacuum_vacuum_threshold'))::bigint
           + (coalesce(o.scale, current_setting('autovacuum_vacuum_scale_factor'))::float8
              * greatest(c.reltuples, 0))::bigint as due,
       coalesce(o.enabled, 'true')::boolean as is_vacuumed,
       current_setting('autovacuum')::boolean and current_setting('track_counts')::boolean as autovacuum
  from pg_stat_user_tables s
  join pg_class c on c.oid = s.relid,
       lateral (
           select max(option_value) filter (where option_name = 'autovacuum_vacuum_threshold') as threshold,
                  max(option_value) filter (where option_name = 'autovacuum_vacuum_scale_factor') as scale,
                  max(option_value) filter (where option_name = 'autovacuum_enabled') as enabled
             from pg_options_to_table(c.reloptions)
       ) o
 where c.relnamespace = (select relnamespace from pg_class where oid = to_regclass('schema_version'))
 order by s.n_dead_tup desc, name
