-- What metrics say of the queue and the channels: the newest sample, which costs the same however much is in the
-- queue, and since when the first chat that may go has been waiting: of the live ones as queue_pressure() looks for it, of
-- those that were held by the first entry of their index, and of those that a locked conversation keeps from going as the
-- sample found it. No row before the first sample.
select extract(epoch from clock.now - s.at)::float8 as sample_age_seconds,
       s.held, s.queued, s.failed, s.sent, s.cancelled,
       coalesce(extract(epoch from clock.now - s.oldest_held), 0)::float8 as held_seconds,
       coalesce(extract(epoch from s.next_release - clock.now), 0)::float8 as next_release_seconds,
       greatest(s.queued_seconds, (select oldest_seconds from queue_pressure()),
                coalesce(extract(epoch from clock.now - (
                    select min(due_at) from chat_queue where held_since is not null and due_at <= clock.now)), 0)::float8)
           as queued_seconds,
       (select coalesce(jsonb_agg(c || jsonb_build_object(
                   'lag_seconds', coalesce(extract(epoch from clock.now - (c ->> 'behind_since')::timestamptz), 0))), '[]')
          from jsonb_array_elements(s.channels) c) as channels
  from (select shoptalk_now() as now) clock,
       lateral (select * from queue_samples order by at desc limit 1) s
