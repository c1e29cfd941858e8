-- The UTC offsets of the time zones that stores and clients use most, each with the instant from which it holds,
-- sampled every six hours.
with zones as (
    select timezone
      from (select timezone from stores union all select timezone from quiet_hours) z
     group by timezone
     order by count(*) desc, timezone
     limit :zones
), offsets as (
    select timezone, at,
           extract(epoch from (at at time zone timezone) - (at at time zone 'UTC'))::integer as offset_seconds
      from zones, generate_series(0, :samples - 1) n,
           lateral (select date_trunc('day', now(), 'UTC') + n * interval '6 hours' as at) a
), steps as (
    select timezone, at, offset_seconds, lag(offset_seconds) over (partition by timezone order by at) as before
      from offsets
)
select timezone, at, offset_seconds
  from steps
 where offset_seconds is distinct from before
 order by timezone, at
