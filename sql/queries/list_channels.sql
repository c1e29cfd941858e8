-- Every channel that a relay may have to work on, and when at the earliest. (next_attempt_at is -infinity but after a
-- failure, and an infinite instant cannot be subtracted before PostgreSQL 17.)
select channel_id, store_id, name, kind, cursor, token, md5(settings::text) as version,
       extract(epoch from greatest(next_attempt_at, at) - at)::float8 as wait_seconds,
       exists (select from channel_failures f where f.channel_id = c.channel_id and requeue_at <= at) as requeued
  from channels c, shoptalk_now() at
 where paused_at is null and disabled_at is null
