-- The metrics of the queue and the channels: the newest sample, which costs the same however long the queue is, and
-- since when the oldest due chat has been due: of the live lane as queue_pressure() finds it, of the held lane by the
-- first entry of its index, and of chats that a locked conversation blocks as of the sample. No row before the first
-- sample.
select extract(epoch from clock.now - t.at)::float8 as sample_age_seconds,
       t.held, t.queued, t.failed, t.sent, t.cancelled,
       coalesce(extract(epoch from clock.now - t.oldest_held), 0)::float8 as held_seconds,
       coalesce(extract(epoch from t.next_release - clock.now), 0)::float8 as next_release_seconds,
       greatest(t.queued_seconds, (select oldest_seconds from queue_pressure()),
                coalesce(extract(epoch from clock.now - (
                    select min(q.due_at) from chat_queue q
                     where q.held_since is not null and q.due_at <= clock.now)), 0)::float8) as queued_seconds,
       (select coalesce(jsonb_agg(c || jsonb_build_object('lag_seconds',
                   coalesce(extract(epoch from clock.now - (c ->> 'behind_since')::timestamptz), 0))), '[]')
          from jsonb_array_elements(t.channels) c) as channels
  from (select shoptalk_now() as now) clock,
       lateral (select * from queue_samples order by at desc limit 1) t
