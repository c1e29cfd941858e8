-- Whom others have waited for longer than that, and who has held a lock on a table of ours for longer, as an open
-- transaction that has written or locked rows does. Those who wait are ours: other databases of the server are not our
-- business. (By their sessions: who waits for a transaction has no database in pg_locks.)
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
       format('select pg_terminate_backend(%s)', a.pid) as mend
  from pg_stat_activity a
  left join held h on h.pid = a.pid
 where a.pid <> pg_backend_pid()
   and (a.pid in (select pid from blocked)
        or h.pid is not null and a.xact_start < clock_timestamp() - :seconds * interval '1 second')
 order by waiting desc, since
