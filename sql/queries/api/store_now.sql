-- A store, whether it is open, and when it next opens and closes; null where it never does.
with period as (
    select s.store_id, s.timezone, clock.at, p.*
      from stores s, lateral (select shoptalk_now() as at) clock, lateral opening_period(s.store_id, clock.at) p
     where s.store_id = :store_id
)
select p.store_id, p.timezone, p.at >= p.opens_at as open,
       case when isfinite(n.opens_at) then n.opens_at end as opens_at,
       case when isfinite(p.closes_at) then p.closes_at end as closes_at
  from period p
  left join lateral (select case when p.at < p.opens_at then p.opens_at
                                 when isfinite(p.closes_at)
                                 then (opening_period(p.store_id, p.closes_at)).opens_at end as opens_at) n on true
