-- Time zones of stores and clients that the server does not know: removed from its data, or not IANA names.
select z.timezone
  from (select timezone from stores union all select timezone from quiet_hours) z
 where not exists (select from pg_timezone_names n where lower(n.name) = lower(z.timezone))
 group by z.timezone
 order by z.timezone
