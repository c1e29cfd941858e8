-- How many seconds the chat that was due first has waited; 0: none is due. For people only: it walks over the dead rows
-- in front.
select coalesce(greatest(0, extract(epoch from clock.now - least(live.due_at, held.due_at))), 0)::float8
           as oldest_seconds
  from (select shoptalk_now() as now) clock,
       lateral (select min(q.due_at) as due_at from chat_queue q where q.held_since is null) live,
       lateral (select min(q.due_at) as due_at from chat_queue q
                 where q.held_since is not null and q.due_at <= clock.now) held
