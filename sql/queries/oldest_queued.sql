-- How long the first chat that may go has waited, in seconds; 0: there is none. For people: it walks the dead rows in front.
select coalesce(greatest(0, extract(epoch from clock.now - least(live.due_at, held.due_at))), 0)::float8 as oldest_seconds
  from (select shoptalk_now() as now) clock,
       lateral (select min(due_at) as due_at from chat_queue where held_since is null) live,
       lateral (select min(due_at) as due_at from chat_queue where held_since is not null and due_at <= clock.now) held
