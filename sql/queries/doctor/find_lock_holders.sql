-- Sessions for which sessions of this database have waited longer than the given seconds, and sessions that have held a
-- lock on one of our tables for longer, as an open transaction does that has written or locked rows. Waiting sessions
-- of other databases do not count. (The database is that of the session: a lock on a transaction has none in pg_locks.)
with blocked as (
    select w.pid as waiting, unnest(pg_blocking_pids(w.pid)) as pid
      from pg_locks w
      join pg_stat_activity s on s.pid = w.pid and s.datname = current_database()
     where not w.granted and w.waitstart < clock_timestamp() - :seconds * interval '1 second'
), held as (
    select l.pid, string_agg(distinct c.relname, ', ') as tables
      from pg_locks l
      join pg_class c on c.oid = l.relation and c.relkind = 'r'
     where l.granted and l.mode not in ('AccessShareLock', 'ShareUpdateExclusiveLock')
       and l.database = (select oid from pg_database where datname = current_database())
       and c.relnamespace = (select relnamespace from pg_class where oid = to_regclass('schema_version'))
     group by l.pid
)
select a.pid, a.application_name as name, a.state, a.xact_start as since, h.tables,
       (select count(distinct b.waiting) from blocked b where b.pid = a.pid) as waiting,
       format('select pg_terminate_backend(%s)', a.pid) as fix
  from pg_stat_activity a
  left join held h on h.pid = a.pid
 where a.pid <> pg_backend_pid()
   and (a.pid in (select pid from blocked)
        or h.pid is not null and a.xact_start < clock_timestamp() - :seconds * interval '1 second')
 order by waiting desc, since
