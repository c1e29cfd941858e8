-- Invalid indexes of our tables, as a failed CREATE or REINDEX CONCURRENTLY leaves them: they slow down every write and
-- help no query. Not those that are being built: these are recognized by their table too, because of the several
-- indexes that one REINDEX builds only one is shown at a time. An account that is not shown the sessions of others does
-- not see the table; then any build in this database excuses them all.
select i.indexrelid::regclass::text as name, i.indrelid::regclass::text as table_name,
       format('drop index concurrently %s', i.indexrelid::regclass)
           || case when c.relname ~ '_cc(new|old)[0-9]*$' then ''
                   else format(', or, to keep it: reindex index concurrently %s', i.indexrelid::regclass) end as fix
  from pg_index i
  join pg_class c on c.oid = i.indexrelid
 where not (i.indisvalid and i.indisready and i.indislive)
   and c.relnamespace = (select relnamespace from pg_class where oid = to_regclass('schema_version'))
   and not exists (select from pg_stat_progress_create_index p
                    where p.datname = current_database() and (p.relid = i.indrelid or p.relid is null))
 order by name
