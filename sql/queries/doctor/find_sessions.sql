-- The sessions of Shoptalk's processes in this database, by their application_name.
select application_name as name, count(*) as sessions
  from pg_stat_activity
 where datname = current_database() and application_name like 'shoptalk %'
 group by application_name
 order by application_name
