-- A store, whether it is open, and when it next opens and closes; null for what never comes.
with period as (
    select s.store_id, s.timezone, at, p.*
      from stores s, lateral (select shoptalk_now() as at) clock, lateral opening_period(s.store_id, at) p
     where s.store_id = :store_id
)
select store_id, timezone, at >= period.opens_at as open,
       case when isfinite(n.opens_at) then n.opens_at end as opens_at,
       case when isfinite(period.closes_at) then period.closes_at end as closes_at
  from period
  left join lateral (select case when at < period.opens_at then period.opens_at
                                 when isfinite(period.closes_at)
                                 then (opening_period(store_id, period.closes_at)).opens_at end as opens_at) n on true
