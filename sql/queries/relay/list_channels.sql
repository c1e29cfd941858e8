-- Every channel that a relay may have to work on, and the seconds until its next attempt. (next_attempt_at is -infinity
-- except after a failure, and an infinite instant cannot be subtracted before PostgreSQL 17.)
select cn.channel_id, cn.store_id, cn.name, cn.kind, cn.cursor, cn.token, md5(cn.settings::text) as version,
       extract(epoch from greatest(cn.next_attempt_at, at) - at)::float8 as wait_seconds,
       exists (select from channel_dead_letters d where d.channel_id = cn.channel_id and d.requeue_at <= at) as requeued
  from channels cn, shoptalk_now() at
 where cn.paused_at is null and cn.disabled_at is null
