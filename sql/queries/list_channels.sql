-- Every channel that a relay may have to work on, and when at the earliest.
select channel_id, store_id, name, kind, cursor, token,
       greatest(extract(epoch from next_attempt_at - shoptalk_now()), 0)::float8 as wait_seconds,  -- after a failure
       exists (select from channel_failures f where f.channel_id = c.channel_id and requeue_at <= shoptalk_now())
           as requeued
  from channels c
 where paused_at is null and disabled_at is null
