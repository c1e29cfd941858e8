-- What keeps vacuum from removing dead rows of this database, the oldest snapshot first, and the statement that ends
-- it. Sessions of other databases do not. An account without pg_read_all_stats gets neither state nor since of other
-- sessions.
with holders as (
    select 'session' as kind, a.pid, a.application_name as name, a.state, a.xact_start as since,
           greatest(age(a.backend_xmin), age(a.backend_xid)) as age,
           format('select pg_terminate_backend(%s)', a.pid) as fix
      from pg_stat_activity a
     where a.datname = current_database() and a.pid <> pg_backend_pid()
       and coalesce(a.backend_type, 'client backend') = 'client backend'
       -- A vacuum's own snapshot holds nothing back.
       and not exists (select from pg_stat_progress_vacuum v where v.pid = a.pid)
       and not exists (select from pg_stat_replication r where r.pid = a.pid)
    union all
    select 'prepared transaction', null, gid, 'prepared', prepared, age(transaction),
           format('rollback prepared %L', gid)
      from pg_prepared_xacts
     where database = current_database()
    union all
    select 'replication slot', active_pid, slot_name, case when active then 'active' else 'inactive' end, null,
           greatest(age(xmin), age(catalog_xmin)), format('select pg_drop_replication_slot(%L)', slot_name)
      from pg_replication_slots
    union all
    -- A standby with hot_standby_feedback and no slot: a query on the standby holds back.
    select 'standby', r.pid, r.application_name, r.state, null, age(r.backend_xmin), null
      from pg_stat_replication r
)
select kind, pid, name, state, since, age, fix, extract(epoch from clock_timestamp() - since) as seconds
  from holders
 where age is not null or kind = 'replication slot' and state = 'inactive'
 order by age desc nulls last
