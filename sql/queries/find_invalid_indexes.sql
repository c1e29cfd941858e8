-- Indexes of our tables that cost every write and help no query, as a CREATE or REINDEX CONCURRENTLY that failed leaves
-- them; but for those that are being built. Their table is looked at too: of several that a REINDEX makes only one is
-- shown at a time. To whom others' sessions are not shown, any that is being built in this database may be it.
select i.indexrelid::regclass::text as name, i.indrelid::regclass::text as table_name,
       format('drop index concurrently %s', i.indexrelid::regclass)
           || case when c.relname ~ '_cc(new|old)[0-9]*$' then ''
                   else format(', or, where it is wanted: reindex index concurrently %s', i.indexrelid::regclass) end as mend
  from pg_index i
  join pg_class c on c.oid = i.indexrelid
 where not (i.indisvalid and i.indisready and i.indislive)
   and c.relnamespace = (select relnamespace from pg_class where oid = to_regclass('schema_version'))
   and not exists (select from pg_stat_progress_create_index p
                    where p.datname = current_database() and (p.relid = i.indrelid or p.relid is null))
 order by name
